"""Where a repaired model goes, and what lies beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.core.errors import InputError, WorkError
from engine.core.files import remove, remove_leftovers, replace_directory, replace_file
from engine.data.image_set import ImageSet
from engine.localize.weights_file import CSV, write_repaired_labels
from engine.metrics.requirements import Verdict
from engine.models.known_data import REPAIR_FACTS, keep_known_data
from engine.models.load import LoadedModel
from engine.passes.classes import NotNumbersError
from engine.patches.patch import Patch
from engine.patches.save import repaired_path, save_patched

NOT_MET_FILE = "requirements-not-met.txt"


def check_output(output: Path, model: LoadedModel, *, overwrite: bool) -> None:
    """Refuse to replace the input model, or a folder that holds no repaired model."""
    folder = output / "repair"
    found = next(path for path in (folder, *folder.parents) if path.exists())
    if not found.is_dir():
        raise InputError(f"{found} is a file, expected a folder, or none, for the repaired model {folder}")
    origin = model.path.resolve()
    if folder.resolve() in (origin, *origin.parents):
        raise InputError(f"{folder} holds the model to repair, expected another --output-dir")
    if overwrite or found != folder or not any(folder.iterdir()):
        return
    if not any((folder / name).is_file() for name in ("saved_model.pb", "model.h5", "model.keras")):
        raise InputError(
            f"{folder} holds no repaired model, expected another --output-dir, or --overwrite to replace it"
        )


@contextmanager
def measuring(saved: Path) -> Iterator[None]:
    """Measure a repaired model in the body; one whose outputs are not numbers is removed, as it is of no use."""
    try:
        yield
    except NotNumbersError as error:
        remove(saved.parent if saved.is_file() else saved)
        raise WorkError(
            f"loaded again, the repaired model gives row {error.row} of {error.path} outputs that are NaN or "
            "infinite, so it is not kept"
        ) from error


def save_repaired(model: LoadedModel, patch: Patch, output: Path, rows: ImageSet | None = None) -> Path:
    """Save a patched model and return its path; `repair/` is replaced as a whole.

    A model of another format that it held would make it ambiguous. What a killed command left beside it goes. With it
    goes what is known of the rows that the model was made with, see `engine.models.known_data`, or of the `rows` that
    it was repaired with.
    """
    remove_leftovers(
        output, ("repair", "weights", "patch", REPAIR_FACTS.removesuffix(".json"), NOT_MET_FILE.removesuffix(".txt"))
    )
    saved, preprocess = repaired_path(model, output), None if rows is None else rows.preprocess
    if saved == output / "repair":
        save_patched(model, patch, saved, overwrite=True)
        keep_known_data(model, saved, preprocess)
    else:
        with replace_directory(saved.parent) as folder:
            save_patched(model, patch, folder / saved.name)
            keep_known_data(model, folder / saved.name, preprocess)
    return saved


def tell_label_file(path: Path, output: Path, labels: Sequence[int], say: Callable[[str], None]) -> None:
    """Write the weights in an output folder, of some labels, into the `labels.json` that their priorities come from."""
    if (output / CSV).is_file():
        write_repaired_labels(path, output / CSV, labels)
    else:
        say(f"{path} stays as it is: its form has no name for weights of other layers than Dense")


def missed(verdicts: Mapping[str, Sequence[Verdict]]) -> list[str]:
    """A line for each requirement, by split, that is not met."""
    return [
        f"{split}: {verdict.requirement.text}: {100 * verdict.value:.2f} %, "
        f"missed by {-100 * verdict.margin:.2f} points"
        for split, judged in verdicts.items()
        for verdict in judged
        if not verdict.met
    ]


def mark_missing(output: Path, lines: Sequence[str]) -> None:
    """Say beside a model that does not meet its requirements what is missing; without lines nothing is."""
    if not lines:
        remove(output / NOT_MET_FILE)
        return
    with replace_file(output / NOT_MET_FILE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

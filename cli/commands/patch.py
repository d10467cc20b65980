from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared.commands import Commands
from cli.shared.computing import use_one_thread
from cli.shared.console import created, echo, table
from cli.shared.method_options import ARACHNE
from cli.shared.options import OPTIMISER_CHOICE, PATH, flag_of, model_options, option, together
from engine.core.errors import InputError
from engine.core.names import listed, suggestion

if TYPE_CHECKING:
    from engine.models.load import LoadedModel
    from engine.patches.arrow import PlacedPatch
    from engine.patches.patch import Patch

SHOWN = 40
"""Single weights of a patch that are printed."""


csv_model_options = together(
    option("--model-dir", type=PATH, help="The model that a weights.csv was made for; other patches need none."),
    option("--allow-custom-code", type=bool, help="Run code that the model file brings along."),
)

output_options = together(
    option("--output", type=PATH, required=True, help="The patch file to write, FILE.arrow."),
    option("--overwrite", type=bool, help="Replace an existing file."),
)


@click.group(cls=Commands, short_help="Patches, the weights a repair changed: apply, revert, merge, diff, show.")
def command() -> None:
    """The weights that a repair changed, with their old and new values.

    A PATCH is a patch file (.arrow), a weights.csv that `optimize` wrote, or the folder of a run, which stands for the
    patch that its saved model has. RUN:JOB is the patch of one job of a run.

    Example: repair-dist patch apply --model-dir model --output-dir repaired runs/one
    """


@command.command("apply", short_help="Save a model with a patch applied.")
@click.argument("patch")
@model_options
@option("--output-dir", type=PATH, required=True, help="Folder for repair/, the changed model.")
@option("--overwrite", type=bool, help="Replace an output folder that is not a repaired model.")
def apply_command(patch: str, model_dir: Path, allow_custom_code: bool, output_dir: Path, overwrite: bool) -> None:
    """Copy a model with the weights of PATCH changed. A patch made for another model is refused.

    Example: repair-dist patch apply --model-dir model --output-dir repaired undo.arrow
    """
    from cluster.runs.output import check_output, save_repaired
    from engine.models.load import load_model
    from engine.patches.patch import merge

    check_no_run(output_dir, output_dir)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    check_output(output_dir, model, overwrite=overwrite)
    placed = open_patch(patch, model)
    check_fits(placed, model, patch)
    saved = save_repaired(model, placed.patch, output_dir)
    echo(f"{len(merge([placed.patch]))} weights changed")
    created(saved)


@command.command("revert", short_help="Write the patch that takes another back.")
@click.argument("patch")
@csv_model_options
@output_options
def revert_command(patch: str, model_dir: Path | None, allow_custom_code: bool, output: Path, overwrite: bool) -> None:
    """Write the patch that turns the model after PATCH into the model before it.

    Example: repair-dist patch revert runs/one --output undo.arrow
    """
    from engine.patches.arrow import write_placed
    from engine.patches.patch import revert

    check_new_file(output, overwrite)
    placed = open_patch(patch, csv_model([patch], model_dir, allow_custom_code))
    write_placed(output, replace(placed, patch=revert(placed.patch)))
    echo(f"{len(placed.patch)} weights")
    created(output)


@command.command("merge", short_help="Write one patch made of several.")
@click.argument("patches", metavar="PATCH PATCH...", nargs=-1, required=True)
@option(
    "--method",
    type=click.Choice(["union", "weighted"]),
    default="union",
    help="union: the value of the first named; weighted: search how much of each patch is taken, as DistrRep does.",
)
@csv_model_options
@option("--settings", type=PATH, help="weighted: JSON file of what counts, eAI-Repair-Toolkit's dr_setting.json.")
@option("--val-data", type=PATH, help="weighted: image set whose rows are counted.")
@option("--positive-inputs-dir", type=PATH, multiple=True, help="weighted: more such rows; may be repeated.")
@option("--apart", type=bool, help="weighted: a weight that several patches change has a coefficient of its own.")
@option("--optimiser", type=OPTIMISER_CHOICE, help="weighted: what searches [default: PSO].")
@option("--num-particles", type=int, help="weighted: candidates of an iteration [default: 100].")
@option("--num-iterations", type=int, help="weighted: at most [default: 100].")
@option("--seed", type=int, help="weighted: of the search [default: 0].")
@output_options
def merge_command(
    patches: tuple[str, ...],
    method: str,
    model_dir: Path | None,
    allow_custom_code: bool,
    output: Path,
    overwrite: bool,
    **weighted: Any,
) -> None:
    """Write one patch that changes what any of several patches for one model changes.

    Where they disagree, the value of the first named holds. Whole tensors stay whole. A weighted merge is on --val-data
    no worse than the best patch, nor than the model, by the score of the settings.

    Example: repair-dist patch merge runs/one runs/two --output both.arrow

    Example: repair-dist patch merge --method weighted runs/one runs/two --model-dir model --settings dr_setting.json
    --val-data data/val.h5 --output both.arrow
    """
    from cli.commands.patch_weighted import check_options, merge_of_files
    from engine.patches.arrow import merge_placed, write_placed
    from engine.patches.patch import conflicts

    if len(patches) < 2:
        raise InputError(f"{patches[0]}: found one patch, expected at least two to merge")
    given = {flag_of(name): value for name, value in weighted.items()}
    check_options(method, given if method == "union" else {"--model-dir": model_dir, **given})
    check_new_file(output, overwrite, patches)
    if method == "weighted":
        from engine.models.load import load_model

        use_one_thread()
        loaded = load_model(Path(model_dir or ""), allow_custom_code=allow_custom_code)
        named = {name: open_patch(name, loaded) for name in patches}
        if len(named) < len(patches):
            raise InputError(f"{patches[0]}: a patch is named twice, expected each once")
        for name, placed in named.items():
            check_fits(placed, loaded, name)
        defaults = {"optimiser": "PSO", "num_particles": 100, "num_iterations": 100, "seed": 0}
        chosen: dict[str, Any]
        chosen = {name: defaults.get(name) if value is None else value for name, value in weighted.items()}
        write_placed(output, merge_of_files(loaded, named, **chosen))
        created(output)
        return
    model = csv_model(patches, model_dir, allow_custom_code)
    opened = [open_patch(name, model) for name in patches]
    merged = merge_placed(opened)
    write_placed(output, merged)
    disagreed = conflicts([placed.patch for placed in opened])
    echo(f"{len(merged.patch)} weights, on {disagreed} of them the patches disagree")
    created(output)


@command.command("diff", short_help="Show in which weights two models differ.")
@model_options
@option("--other-model-dir", type=PATH, required=True, help="The other model, of the same layers.")
@option("--output", type=PATH, help="Also write FILE.arrow, the patch from the first model to the other.")
@option("--overwrite", type=bool, help="Replace an existing file.")
def diff_command(
    model_dir: Path, allow_custom_code: bool, other_model_dir: Path, output: Path | None, overwrite: bool
) -> None:
    """Show the weights in which two models differ, in any pair of formats.

    A tensor that differs in most of its values is shown, and written, as a whole.

    Example: repair-dist patch diff --model-dir model --other-model-dir repaired/repair
    """
    from engine.models.load import load_model, shapes_of
    from engine.patches.arrow import place, write_placed

    if output is not None:
        check_new_file(output, overwrite)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    other = load_model(other_model_dir, allow_custom_code=allow_custom_code)
    placed = place(difference(model, other), shapes_of(model), str(other.path))
    echo(f"{len(placed.patch.changing())} weights differ")
    list_changes(placed)
    if output is not None:
        write_placed(output, placed)
        created(output)


@command.command("show", short_help="Show what a patch changes.")
@click.argument("patch")
@csv_model_options
def show_command(patch: str, model_dir: Path | None, allow_custom_code: bool) -> None:
    """Show the weights that PATCH changes, a whole tensor on one line.

    Example: repair-dist patch show undo.arrow
    """
    placed = open_patch(patch, csv_model([patch], model_dir, allow_custom_code))
    echo(f"{len(placed.patch.changing())} weights change")
    list_changes(placed)


def list_changes(placed: PlacedPatch) -> None:
    """Print one line for each weight that a patch covers whole, and one for each of the first `SHOWN` other rows."""
    import numpy as np

    from engine.patches.tensors import tensor_changes

    patch = placed.patch
    if placed.whole:
        rows = [
            [
                *(change.weight, "x".join(map(str, change.shape)) or "1", change.changed),
                *(f"{value:.6g}" for value in (change.largest, change.rms)),
            ]
            for change in tensor_changes(patch, placed.whole)
        ]
        echo(table(["weight", "shape", "changed", "largest change", "RMS change"], rows))
    single = np.flatnonzero(~np.isin(patch.part, [patch.paths.index(path) for path in placed.whole]))
    if len(single):
        rows = []
        for row in single[:SHOWN].tolist():
            index, old, new = ",".join(map(str, placed.index[row].as_py())), patch.old[row], patch.new[row]
            rows.append([patch.weight[row], index, old, new, f"{float(new) - float(old):+.6g}"])
        echo(table(["weight", "index", "old", "new", "change"], rows))
    if len(single) > SHOWN:
        echo(f"… and {len(single) - SHOWN} more")


def open_patch(name: str, model: LoadedModel | None) -> PlacedPatch:
    from engine.localize.weights_file import patch_of_weights_csv
    from engine.patches.arrow import place, read_placed

    path = Path(name)
    run, _, job = name.rpartition(":")
    if not path.exists() and run and Path(run).is_dir():
        return patch_of_run(Path(run), job)
    if path.is_dir():
        return patch_of_run(path)
    if not path.exists():
        raise InputError(f"{name}: no such file or folder, expected a patch file, a weights.csv, a run or RUN:JOB")
    if not name.lower().endswith(".csv"):
        return read_placed(path)
    if model is None:
        raise InputError(f"{name}: names weights by the number of their layer, expected --model-dir beside it")
    from engine.models.load import shapes_of  # TensorFlow takes seconds, and other patches can be read without

    return place(patch_of_weights_csv(path, model), shapes_of(model), name)


def _patch_of_method(directory: Path, facts: Mapping[str, Any], job: str | None) -> PlacedPatch:
    """The patch that a run of any method but Arachne left: its tables have none."""
    from engine.patches.arrow import read_placed

    if job is not None:
        raise InputError(
            f"{directory}: a run of {facts['method']} has one patch and none of a job {job!r}, expected {directory}"
        )
    if facts.get("state") != "done":
        raise InputError(f"{directory}: the run has not ended, expected one that has")
    if not (directory / "patch.arrow").is_file():
        raise InputError(f"{directory}: left the model as it was, expected a run with a patch")
    return read_placed(directory / "patch.arrow")


def patch_of_run(directory: Path, job: str | None = None) -> PlacedPatch:
    """The patch of a job of a run: the best by its own fitness, or what a batch ended with."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from cluster.records.store import read_facts, read_table
    from engine.patches.arrow import SCHEMA, placed_of_table

    facts = read_facts(directory)
    if facts.get("method", ARACHNE) != ARACHNE:
        return _patch_of_method(directory, facts, job)
    try:
        patches = read_table(directory, "patches").select(["job", "rank", *SCHEMA.names])
        patches = patches.filter(pc.equal(patches["rank"], 0)).drop_columns(["rank"])
        known = list(dict.fromkeys(patches["job"].to_pylist()))
        jobs = read_table(directory, "jobs")
        chosen = jobs.filter(jobs["chosen"])["job"].to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory}: its records cannot be read, expected a whole run directory") from error
    done = facts.get("state") == "done"
    if done and "mode" in facts:  # a batch, which may end with the model as it was
        known = list(dict.fromkeys([*known, "batch"]))
        chosen = ["batch"]
    if job is None:
        if not done:
            raise InputError(f"{directory}: the run has not ended, expected RUN:JOB{_one_of(known)}")
        if len(chosen) != 1:
            raise InputError(
                f"{directory}: saved the patches of {len(chosen)} jobs, expected RUN:JOB{_one_of(chosen or known)}"
            )
        job = chosen[0]
    if job not in known:
        raise InputError(
            f"{directory}: holds no patch of a job {job!r}{suggestion(job, known)}, expected one{_one_of(known)}"
        )
    rows = patches.filter(pc.equal(patches["job"], job)).drop_columns(["job"])
    return placed_of_table(rows, f"{directory}: job {job!r}")


def _one_of(names: list[str]) -> str:
    """` of a, b`, for the end of a message; empty without names, and no more than ten."""
    return f" of {listed(names, 10)}" if names else ""


def csv_model(names: tuple[str, ...] | list[str], path: Path | None, allow_custom_code: bool) -> LoadedModel | None:
    """The model that a weights.csv among the patches is about; it is loaded only if there is one."""
    if path is None or not any(name.lower().endswith(".csv") for name in names):
        return None
    from engine.models.load import load_model

    return load_model(path, allow_custom_code=allow_custom_code)


def check_fits(placed: PlacedPatch, model: LoadedModel, name: str) -> None:
    """Refuse a patch that was made for another model, before anything is written."""
    import numpy as np

    from engine.models.load import shapes_of
    from engine.models.weight_paths import weight_variables
    from engine.patches.arrow import check_places
    from engine.patches.patch import applied

    check_places(placed, shapes_of(model), name)
    variables = weight_variables(model.model)
    try:
        for path, _ in placed.patch.by_weight():
            applied(placed.patch, path, np.asarray(variables[path]))
    except InputError as error:
        raise InputError(f"{name} does not fit {model.path}: {error}") from None


def difference(model: LoadedModel, other: LoadedModel) -> Patch:
    """The patch from one model to another, in model order; whole tensors where most of the values differ."""
    import numpy as np

    from engine.models.load import shapes_of
    from engine.models.weight_paths import weight_variables
    from engine.patches.patch import merge_rows, patch_between, tensors_patch

    first, second = shapes_of(model), shapes_of(other)
    for path in [*first, *second]:
        if path not in first or path not in second:
            has, lacks = (model, other) if path in first else (other, model)
            raise InputError(f"{lacks.path}: has no weight {path!r}, expected it as in {has.path}")
        if first[path] != second[path]:
            raise InputError(
                f"{other.path}: {path!r} has the shape {second[path]}, expected {first[path]} as in {model.path}"
            )
    others = weight_variables(other.model)
    patches, whole = [], []
    for path, variable in weight_variables(model.model).items():
        old, new = np.asarray(variable), np.asarray(others[path])
        if old.dtype != new.dtype or old.tobytes() != new.tobytes():
            patch = patch_between(path, old, new)
            if 2 * len(patch) > old.size:
                patch = tensors_patch({path: old}, {path: new})
                whole.append(path)
            patches.append(patch)
    return merge_rows(patches, whole)[0]


def check_new_file(path: Path, overwrite: bool, read: Sequence[str] = ()) -> None:
    """Refuse a patch file that cannot be written or would replace something."""
    if path.suffix != ".arrow":
        raise InputError(f"{path}: found the name of no patch file, expected one that ends in .arrow")
    found = next(parent for parent in path.absolute().parents if parent.exists())
    if not found.is_dir():
        raise InputError(f"{found}: is a file, expected a folder, or none, for {path}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file or none")
    check_no_run(path.parent, path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already, expected a new name or --overwrite")
    if path.exists() and any(Path(name).exists() and path.samefile(name) for name in read):
        raise InputError(f"{path}: is one of the patches to merge, expected another --output")


def check_no_run(folder: Path, output: Path) -> None:
    """Refuse an output in the folder of a run, all of whose tables, patch and model are what it found."""
    from cluster.records.schema import SCHEMAS
    from cluster.records.store import CHECKPOINTS

    folder = folder.resolve()
    if folder.name in (*SCHEMAS, CHECKPOINTS):
        folder = folder.parent
    if (folder / "run.json").is_file():
        raise InputError(f"{output}: {folder} is the folder of a run, expected another place")

"""CrossFit on layers before the Dense ones at the end, beside those alone: the same draws and seeds, judged alike.

python benchmarks/any_layer.py [--work-dir FOLDER] [--out FILE]

Models and rows are those of the study (`benchmarks/study.py`), which trains them where they are not there yet. The
requirements are those that `optimize` promises by itself; validation rows join in judging the step, the official test
images judge what is taken and choose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
from common import dataset_option, machine, table
from ledger import Ledger, Line, grouped, out_option, paired_interval
from study import OFFSET, SIZES, SUBJECTS, TINY_EPOCHS, TINY_OFFSET, TINY_SIZES, Source
from unseen import Subject, numbers, words

from cluster.workers.task import layer_inputs
from engine import backend
from engine.backend import keras
from engine.core.plans import run_here
from engine.data.image_set import open_image_set
from engine.methods.mixtures import searched, tuned
from engine.methods.outcome import draw as drawn_rows
from engine.metrics.requirements import default_promises
from engine.models.load import LoadedModel, load_model
from engine.problem.case import SeenRows
from engine.problem.crossfit import CrossFitSettings, crossfit_of, mixed_values
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_tuned

DENSE = "Dense alone"
KEY = ("model", "layers", "rows", "label", "draw")


def _made(tensor: Any) -> Any:
    """The layer that a tensor comes from."""
    return tensor._keras_history.operation


def _last(model: Any, kind: type) -> Any:
    return [layer for layer in model.layers if isinstance(layer, kind)][-1]


def of_resnet(model: Any) -> Mapping[str, Sequence[str]]:
    """Layers under repair by what they are called here: of the last block, behind its second convolution."""
    head = model.layers[-1].name
    norm = _made(_last(model, keras.layers.Add).input[1])
    conv = _made(norm.input)
    return {"the last norm": (norm.name, head), "and its convolution": (conv.name, norm.name, head)}


def of_transformer(model: Any) -> Mapping[str, Sequence[str]]:
    """The norm in front of the mean, and the two layers of the last block behind its attention."""
    head = model.layers[-1].name
    norm = _last(model, keras.layers.LayerNormalization)
    down = _made(_made(norm.input).input[1])
    up = _made(down.input)
    before = _made(up.input)
    block = tuple(layer.name for layer in (before, up, down, norm))
    return {"the last norm": (norm.name, head), "and the last MLP": (*block, head)}


NETWORKS: Mapping[str, Callable[[Any], Mapping[str, Sequence[str]]]] = {
    "resnet": of_resnet,
    "transformer": of_transformer,
}


@click.command()
@click.option(
    "--work-dir",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    default="bench-results/methods",
    show_default=True,
    help="Folder of the study, with its rows and models.",
)
@dataset_option
@click.option("--networks", default=",".join(NETWORKS), callback=words(*NETWORKS), show_default=True, help="Repaired.")
@click.option("--labels", default="4,6", show_default=True, callback=numbers, help="Labels, each repaired alone.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Repair rows of a draw.")
@click.option("--draws", type=int, default=5, show_default=True, help="Draws of each label.")
@click.option("--tiny", is_flag=True, help="Few rows and epochs: whether all of it runs.")
@out_option
def main(
    work_dir: Path,
    dataset_dir: Path,
    networks: tuple[str, ...],
    labels: tuple[int, ...],
    rows: int,
    draws: int,
    tiny: bool,
    out: Path | None,
) -> None:
    """Repair by Dense layers alone and by others too."""
    backend.limit_threads(1)
    click.echo(machine())
    ledger = Ledger(out, KEY)
    where = work_dir, dataset_dir, None
    source = Source(*where, TINY_OFFSET, TINY_SIZES, TINY_EPOCHS) if tiny else Source(*where, OFFSET, dict(SIZES))
    for network in networks:
        subject = next(subject for subject in SUBJECTS if subject.network == network)
        place = source.place(subject)
        loaded = load_model(place.model)
        for layers, names in {DENSE: (), **NETWORKS[network](loaded.model)}.items():
            cells = [(label, draw) for draw in range(draws) for label in labels]
            name = {"model": network, "layers": layers, "rows": rows}
            left = [cell for cell in cells if not ledger.has(**name, label=cell[0], draw=cell[1])]
            rest = known(loaded, names, place.data) if left else None
            for label, draw in left:
                assert rest is not None
                ledger.add(**name, label=label, draw=draw, **repaired(*rest, label, rows, draw))
                click.echo(f"{network}, {layers}: label {label}, draw {draw}")
    click.echo(
        "means over labels and draws, in points on the official test images, at the step that is taken; behind ±:\n"
        "half of the 95 % interval of the paired difference over draws (Student's t: draws share rows, so it is\n"
        "somewhat too narrow); seconds of one thread"
    )
    header = ["model", "layers", "weights", "repairs", "label", "all", "worst other", "fixed", "broken", "promised"]
    header += ["kept", "label, more than Dense", "all, more than Dense", "tunings s", "search s"]
    lines = grouped([line for line in ledger.lines if line["rows"] == rows], "model", "layers")
    click.echo(table(header, [row(key, found, lines.get((key[0], DENSE), [])) for key, found in lines.items()]))


def known(loaded: LoadedModel, names: Sequence[str], data: Path) -> tuple[Subject, SeenRows]:
    """A model with layers under repair, its pool and test rows; and its validation rows."""
    target, chain = resolve_tuned(loaded.model, loaded.loss, loaded.classes, loaded.path, names)
    runner = ModelRunner(loaded.model, target, path=loaded.path)

    def rows_of(name: str) -> SeenRows:
        rows = layer_inputs(runner, open_image_set(data / f"{name}.h5"))
        logits = chain.known_logits(rows.inputs)
        return SeenRows.of(chain.head, rows, logits)

    return Subject(loaded, ", ".join(names), chain, rows_of("repair"), rows_of("test")), rows_of("val")


def repaired(subject: Subject, validation: SeenRows, label: int, rows: int, draw: int) -> dict[str, Any]:
    """What a repair does to the rest of the pool and to test rows."""
    pool = subject.pool
    drawn = drawn_rows(pool.rows.labels, rows, draw, pool.rows.fingerprint)
    assert drawn is not None  # as a number of rows is given
    required = default_promises(None, subject.loaded.classes).limits
    settings = CrossFitSettings()
    begun = time.process_time()
    job = crossfit_of(subject.chain, pool.rows.take(drawn), pool.logits[drawn], (label,), required, settings, draw)
    changes = run_here(tuned(job))
    middle = time.process_time()
    found = run_here(searched(job, changes)).found
    end = time.process_time()
    frontier, _ = job.frontier(changes, found, validation)
    values = mixed_values(job.chain, changes, found, frontier.point.step)
    rest = np.setdiff1d(np.arange(len(pool.before)), drawn)
    return {
        "weights": job.chain.tuned_values,
        "promised": frontier.promised,
        "step": frontier.point.step,
        "tunings": middle - begun,
        "search": end - middle,
        **subject.outcomes(values, rest, label, required),
    }


def row(key: tuple[Any, ...], lines: Sequence[Line], dense: Sequence[Line]) -> list[str]:
    """One line of the table."""
    official = [line["official"] for line in lines]

    def means(name: str, digits: int = 2) -> str:
        return f"{mean(outcome[name] for outcome in official):+.{digits}f}"

    promised = [line for line in lines if line["promised"]]
    kept = sum(line["official"]["kept"] for line in promised)
    seconds = [f"{mean(line[name] for line in lines):.1f}" for name in ("tunings", "search")]
    counts = [f"{mean(outcome[name] for outcome in official):.0f}" for name in ("fixed", "broken")]
    more = ["–", "–"] if key[1] == DENSE else [difference(lines, dense, name) for name in ("label", "all")]
    weights = f"{lines[0]['weights']:,}"
    shares = [f"{len(promised)} of {len(lines)}", f"{kept} of {len(promised)}"]
    changes = [means("label", 1), means("all"), means("worst", 1)]
    return [*map(str, key), weights, str(len(lines)), *changes, *counts, *shares, *more, *seconds]


def difference(lines: Sequence[Line], dense: Sequence[Line], name: str) -> str:
    """How much more is gained than by Dense layers alone; each draw counts once, with its mean over labels."""

    def changes(lines: Sequence[Line]) -> dict[tuple[int, int], float]:
        return {(line["label"], line["draw"]): line["official"][name] for line in lines}

    found = paired_interval(changes(lines), changes(dense))
    return "–" if found is None else f"{found[0]:+.2f} ± {found[1]:.2f}"


if __name__ == "__main__":
    main()

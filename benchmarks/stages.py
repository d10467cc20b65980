"""Where the time of a whole CrossFit repair goes, each stage against the floor that this machine allows.

python benchmarks/stages.py [--model MODEL] [--rows N,N] [--output FOLDER]

The whole `optimize --method CrossFit` command, in this process with one thread and with a one-thread worker for each
core. The floor of a stage is what its results cannot do without: multiply-adds at the rate of a large matrix product,
exponentials at the rate of computing nothing else, and bytes at that of copying memory, whichever takes longer. The
rates are measured with as many threads just before and just after each command.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
from common import (
    COMMAND,
    Aim,
    dataset_option,
    machine,
    model_option,
    output_option,
    prepared_split,
    run_command,
    table,
    write_aims,
    write_images,
)
from costs import Peak, Work, measure_peak
from layers import matrix_values
from optimize import Stopwatch, time_ray
from unseen import mixed_adds, numbers, offset_option, preprocess_option

from cli.main import run
from engine import backend

LABEL = 6
AIM, AIM_ROWS = 0.5, 10_000
"""Multiply-adds of tunings against the rate of a large product, at so many rows: of those given, at the most."""

WAYS = {"one thread": 1, "all cores": os.cpu_count() or 1}
"""Ways to run the command, and the threads that compute at once."""

STAGES = {
    "start": "the interpreter, TensorFlow, Keras, this project and the model",
    "Ray": "import ray, start it",
    "workers": "start the actors",
    "features": "the model over all rows, up to its Dense layers, and over the test rows",
    "tunings": "all recipes without each fold, compiling included",
    "search": "all iterations of the swarm over mixtures, compiling included",
    "step": "the classes of all rows at every step, their chances, and the weights of the step taken",
    "verify": "the patched model saved, loaded again, and run over the test rows",
    "rest": "options, reading and hashing the rows, records, ending Ray and the process",
}


@dataclass(frozen=True)
class Measured:
    """A command.

    Attributes:
        seconds: by stage.
        floors: seconds by stage, of those that have a floor.
        adds: multiply-adds of the tunings.
        moments: seconds of moving the weights and moments of Adam.
        peak: rates beside it.
    """

    seconds: Mapping[str, float]
    floors: Mapping[str, float]
    adds: float
    moments: float
    peak: Peak

    @property
    def rate(self) -> float:
        """Multiply-adds of the tunings in a second, as a share of what the machine does."""
        return self.adds / self.seconds["tunings"] / self.peak.multiply_adds


@click.command()
@model_option
@dataset_option
@preprocess_option
@offset_option
@click.option("--rows", default="1000,10000", show_default=True, callback=numbers, help="Repair rows.")
@click.option("--test-rows", type=int, default=10_000, show_default=True, help="Of the official test images.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Rounds of the medians.")
@output_option
@click.option("--child", type=click.Path(path_type=Path), hidden=True, help="Run one command, or measure rates, here.")
@click.argument("arguments", nargs=-1)
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    offset: int,
    rows: tuple[int, ...],
    test_rows: int,
    rounds: int,
    output: Path | None,
    child: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Time the stages of a repair of one label."""
    if child is not None:
        one_child(child, list(arguments))
        return
    line = machine()
    click.echo(line)
    aims: list[tuple[int, Aim]] = []
    for count in rows:
        with tempfile.TemporaryDirectory(prefix="repair-dist-") as folder:
            directory = Path(folder)
            for name, split, start, most in (("repair", "train", offset, count), ("test", "t10k", 0, test_rows)):
                images = prepared_split(dataset_dir, split, preprocess, start, most)
                write_images(directory / f"{name}.h5", [images], most)
            words = ["target", "--model-dir", model_path, "--data-dir", directory, "--verbose", "0"]
            run_command([sys.executable, "-c", COMMAND, *words], directory)
            found: dict[str, list[Measured]] = defaultdict(list)
            for _ in range(rounds):
                for way in WAYS:
                    found[way].append(measured(model_path, directory, way))
        for way, runs in found.items():
            report(model_path.name, count, way, runs)
            text = f"multiply-adds of tunings, {way}, {count:,} rows, against the rate of a large product"
            aims.append((count, Aim(text, median(run.rate for run in runs), AIM, at_least=True)))
    click.echo("".join(f"{stage}: {what}\n" for stage, what in STAGES.items()))
    write_aims(output, "stages", [aim for count, aim in aims if count == max(rows)], line)


def report(model: str, rows: int, way: str, runs: list[Measured]) -> None:
    """Print the table of one number of rows and one way."""
    peaks = [median(getattr(run.peak, name) for run in runs) for name in ("multiply_adds", "bytes", "exponentials")]
    click.echo(
        f"\n{model}, {rows:,} rows, {way}; medians of {len(runs)} rounds; measured beside them: "
        f"{peaks[0] / 1e9:.0f} G multiply-adds/s, {peaks[1] / 1e9:.1f} GB/s copied, {peaks[2] / 1e9:.2f} G "
        "exponentials/s"
    )
    whole = median(sum(run.seconds.values()) for run in runs)
    lines = []
    for stage in STAGES:
        seconds = median(run.seconds.get(stage, 0.0) for run in runs)
        cells = [stage, f"{seconds:.2f}", f"{100 * seconds / whole:.0f}"]
        if stage in runs[0].floors:
            floor = median(run.floors[stage] for run in runs)
            ratio = median(run.seconds[stage] / run.floors[stage] for run in runs)
            lines.append([*cells, f"{floor:.3f}", f"{ratio:.1f}"])
        else:
            lines.append([*cells, "-", "-"])
    lines.append(["whole", f"{whole:.2f}", "100", "-", "-"])
    click.echo(table(["stage", "seconds", "% of whole", "floor, s", "seconds / floor"], lines))
    moments = median((run.adds / run.peak.multiply_adds + run.moments) / run.seconds["tunings"] for run in runs)
    click.echo(
        f"tunings: {median(run.adds for run in runs) / 1e9:,.1f} G multiply-adds, at "
        f"{median(run.rate for run in runs):.2f} of the rate of a large product (aim at {AIM_ROWS:,} rows: {AIM}); "
        f"with the weights and moments of Adam, moved once in each step, {moments:.2f} of the floor of both"
    )


def measured(model: Path, directory: Path, way: str) -> Measured:
    """Run the command in a process of its own, and measure rates before and after it."""
    threads = WAYS[way]
    before = peak_of(directory, threads)
    words = ["optimize", "--method", "CrossFit", "--model-dir", model]
    words += ["--target-data-dir", directory / "negative" / str(LABEL), "--test-data", directory / "test.h5"]
    words += ["--output-dir", directory / "out", "--run-dir", directory / "run", "--overwrite", "--verbose", 0]
    words += ["--num-workers", 0 if threads == 1 else threads]
    child, result = Path(__file__).absolute(), directory / "stages.json"
    begun = time.time()
    whole = run_command([sys.executable, child, "--child", result, "--", "command", begun, *words], directory)
    facts = json.loads(result.read_text(encoding="utf-8"))
    seconds: dict[str, float] = facts["seconds"]
    seconds["rest"] += whole - sum(seconds.values())
    works = {stage: Work(**work) for stage, work in facts["works"].items()}
    after = peak_of(directory, threads)
    peak = Peak(*(mean(pair) for pair in zip(asdict(before).values(), asdict(after).values(), strict=True)))
    floors = {stage: peak.floor(work) for stage, work in works.items()}
    tunings = works["tunings"]
    return Measured(seconds, floors, tunings.multiply_adds, tunings.bytes / peak.bytes, peak)


def peak_of(directory: Path, threads: int) -> Peak:
    """Rates with so many threads, measured in a process of its own."""
    result = directory / "peak.json"
    run_command([sys.executable, Path(__file__).absolute(), "--child", result, "--", "peak", threads], directory)
    return Peak(**json.loads(result.read_text(encoding="utf-8")))


def one_child(result: Path, arguments: list[str]) -> None:
    """Measure rates here, or run one command with its stages timed; numbers go to a file."""
    kind, first, *words = arguments
    if kind == "peak":
        backend.limit_threads(int(first))
        result.write_text(json.dumps(asdict(measure_peak(int(first)))), encoding="utf-8")
        return
    watch = Stopwatch()
    watch.seconds["start"] = time.time() - float(first)
    with watch.stage("start"):
        import engine.methods.mixtures
        import engine.models.load
        from cluster.compute.works import Works
        from cluster.runs import outcomes, repair
        from cluster.runs.ledger import Ledger
        from engine.problem.crossfit import CrossFit
    if words[words.index("--num-workers") + 1] != "0":
        with watch.stage("Ray"):
            import cluster.ray_cluster.connect  # noqa: F401
        time_ray(watch)
    ended: dict[str, Any] = {}
    for owner, name in ((Ledger, "ended"), (repair, "mixture_rows"), (repair._Run, "_promised")):
        keep(ended, owner, name)
    watch.wrap("start", engine.models.load, "load_model")
    watch.wrap("features", repair, "read_rows")
    for name in ("_here", "_there"):
        watch.wrap("tunings", Works, name)
    watch.wrap("search", Works, "_searched")
    watch.wrap("step", CrossFit, "frontier")
    watch.wrap("step", engine.methods.mixtures, "mixed_values")
    watch.wrap("step", outcomes, "tensors_patch")
    watch.wrap("verify", repair._Run, "_save")
    code = run(words)
    if code not in (0, 3):
        raise click.ClickException(f"{' '.join(words)}: exit code {code}, expected 0 or 3")
    watch.charge()
    (whole, _), (promise, _), (_, searches) = (ended[name] for name in ("_promised", "mixture_rows", "ended"))
    works = works_of(whole, promise.fit.job, max(search.iterations for search in searches))
    facts = {"seconds": watch.seconds, "works": {stage: asdict(work) for stage, work in works.items()}}
    result.write_text(json.dumps(facts), encoding="utf-8")


def keep(ended: dict[str, Any], owner: Any, name: str) -> None:
    """Keep the first argument and the result of a function."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def kept(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        ended[name] = args[0], result
        return result

    setattr(owner, name, kept)


def works_of(run: Any, fit: Any, iterations: int) -> dict[str, Work]:
    """What each stage cannot do without, of a run of a repair."""
    from engine.models.graph import graph_of

    repair = run.work
    chain, rows = fit.chain, len(fit.rows.labels)
    width, first = chain.values[chain.layers[0].kernel].shape
    recipes, folds = len(fit.settings.recipes), fit.rows.folds
    test = sum(images.rows for images in repair.held_out.values())
    steps = graph_of(repair.model.model).steps
    forward = sum(
        matrix_values(step.operation) * math.prod(size or 1 for size in step.shapes[0][1:-1])
        for step in steps
        if hasattr(step.operation, "trainable_variables")
    )
    pixels, read = math.prod(run.rows.pool.rows.shape), sum(images.rows for images in repair.rows)
    of_row = mixed_adds(chain, recipes)
    # Pre-activations of the first layer, as it is and of each tuning.
    kept = Work(4 * rows * (width + (recipes + 1) * first), rows * (recipes + 1) * width * first, 0)
    particles = fit.settings.search.swarm.num_particles
    steered = sum(len(fit._searched(fold)) for fold in range(folds))
    chances = len(fit.settings.steps) - 1
    # The softmax of a loss, its logarithm, and the sigmoid of a soft correctness.
    exponentials = chain.classes + 2
    passes = iterations * particles * steered
    return {
        "features": Work(4 * (pixels * (read + test) + width * read), forward * (read + test), 0),
        "tunings": tuning_work(fit),
        "search": Work(
            kept.bytes + 4 * iterations * steered * (recipes + 1) * first,
            kept.multiply_adds + passes * of_row,
            passes * exponentials,
        ),
        "step": Work(kept.bytes, kept.multiply_adds + chances * rows * of_row, 0),
        "verify": Work(4 * pixels * test, forward * test, 0),
    }


def tuning_work(fit: Any) -> Work:
    """Of all tunings: forward and backward through the layers; weights and both moments read and written by a step."""
    from engine.tuning.recipes import epochs_of
    from engine.tuning.train import BATCH_ROWS

    chain, rows = fit.chain, fit.rows
    batch = min(BATCH_ROWS, rows.fewest)
    adds = 0
    for number, layer in enumerate(chain.layers):
        values = math.prod(chain.values[layer.kernel].shape)
        # Outputs; slopes of the weights; slopes of the inputs, which nothing needs in front of the first layer.
        adds += values * (1 + layer.tuned + (number > 0))
    steps = 0
    for fold in range(rows.folds):
        seen = int(np.count_nonzero(rows.fold != fold))
        for recipe in fit.settings.recipes:
            steps += epochs_of(recipe, rows.fewest) * max(1, seen // batch)
    return Work(4 * 6 * steps * chain.tuned_values, steps * batch * adds, steps * batch * 2 * chain.classes)


if __name__ == "__main__":
    main()

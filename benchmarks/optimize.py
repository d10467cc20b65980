"""The whole `optimize` command on 1,000 images: in process and with two workers, and where its time goes.

python benchmarks/optimize.py [--model MODEL] [--output FOLDER]
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
from common import (
    COMMAND,
    Aim,
    machine,
    model_option,
    output_option,
    run_command,
    shipped_images,
    table,
    write_aims,
    write_images,
)

from cli.main import run
from cluster.compute.placement import JOIN_SECONDS, START_SECONDS

ROWS = 1000
AIM = 1.1
"""The command in process against importing TensorFlow and loading the model."""

IMPORTS_AIM = 1.5
"""Seconds until a new process has workers, beyond those of Ray's own start, against the same."""

IN_PROCESS, ON_WORKERS = "in process", "2 workers, 2 seeds"
KINDS = {IN_PROCESS: ["--num-workers", 0], ON_WORKERS: ["--num-workers", 2, "--seeds", 2]}
"""Ways to run the command, and their options."""

LOADING = (
    "import sys; from pathlib import Path; from engine.models.load import load_model; load_model(Path(sys.argv[1]))"
)

READY = """
import sys, time
begun = time.perf_counter()
from pathlib import Path
from cluster.compute.early import started_early
from cluster.compute.options import ComputeOptions
options = ComputeOptions(num_workers=2)
with started_early(options):
    from cluster.compute.compute import Compute
    with Compute(options, lambda line: None) as compute:
        compute.start()
        Path(sys.argv[1]).write_text(str(time.perf_counter() - begun))
"""

RAY = """
import sys, time
begun = time.perf_counter()
from pathlib import Path
from cluster.ray_cluster.connect import connected
with connected(None, 2, None):
    Path(sys.argv[1]).write_text(str(time.perf_counter() - begun))
"""
"""Each writes the seconds until there are workers, or Ray alone, in a file."""

STAGES = {
    "start": "the interpreter",
    "imports": "TensorFlow, Keras, this project; with workers the command starts Ray meanwhile, these stages do not",
    "model": "load_model",
    "features": "the model up to its last layer on all rows",
    "compile": "row constants and the compiled evaluation, whose cost decides where to search",
    "Ray": "import ray, start it",
    "workers": "start the actors",
    "search": "all iterations; on workers of the longest search, whose first iteration also compiles",
    "save": "the patched container",
    "verify": "load it again, predict all rows",
    "rest": "options, reading and hashing the rows, records, ending Ray and the process",
}
"""What a command's time goes to, and what that is."""


class Stopwatch:
    """Seconds by stage; a stage inside another one takes its time from that."""

    def __init__(self) -> None:
        """Time goes to `rest` until a stage begins."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._stages = ["rest"]
        self._since = time.perf_counter()

    def charge(self) -> None:
        """Give the time since the last change to the current stage."""
        now = time.perf_counter()
        self.seconds[self._stages[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        self.charge()
        self._stages.append(name)
        try:
            yield
        finally:
            self.charge()
            self._stages.pop()

    def wrap(self, name: str, owner: Any, attribute: str) -> None:
        """Time all calls of a function."""
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, timed)


@click.command()
@model_option
@click.option("--rounds", type=int, default=5, show_default=True, help="Rounds of the medians.")
@click.option("--kind", "names", type=click.Choice(list(KINDS)), multiple=True, help="Ways to run it [default: all].")
@output_option
@click.option("--stages", type=click.Path(path_type=Path), hidden=True, help="Run one command here, print its stages.")
@click.argument("arguments", nargs=-1)
def main(
    model_path: Path,
    rounds: int,
    names: tuple[str, ...],
    output: Path | None,
    stages: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Time the command at 100 particles and 100 iterations on 1,000 images."""
    if stages is not None:
        one_command(stages, list(arguments))
        return
    line = machine()
    click.echo(line)
    with tempfile.TemporaryDirectory(prefix="repair-dist-") as folder:
        directory, model = Path(folder), model_path.absolute()
        negatives = prepare(directory, model)
        command = ["optimize", "--model-dir", model, "--target-data-dir", negatives, "--verbose", "0"]
        # No early stop: all 100 iterations are run.
        command += ["--min-iteration-range", 1000, "--overwrite"]
        kinds = {kind: [*command, *KINDS[kind]] for kind in names or KINDS}
        whole: dict[str, list[float]] = defaultdict(list)
        parts: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(rounds):
            whole["load"].append(run_command([sys.executable, "-c", LOADING, model], directory))
            for kind, words in kinds.items():
                whole[kind].append(run_command([sys.executable, "-c", COMMAND, *words], directory))
                parts[kind].append(staged(words, directory))
            if ON_WORKERS in kinds:
                for name, code in (("workers ready", READY), ("Ray alone", RAY)):
                    seconds = directory / "seconds"
                    run_command([sys.executable, "-c", code, seconds], directory)
                    whole[name].append(float(seconds.read_text(encoding="utf-8")))
    write_aims(output, "optimize", report(whole, parts), line)


def prepare(directory: Path, model: Path) -> Path:
    """An image set, its targets and the weights of the label with most failures; returns that label's folder."""
    images, labels = shipped_images(ROWS)
    write_images(directory / "repair.h5", [(images, labels)], ROWS)
    run_command([sys.executable, "-c", COMMAND, "target", "--model-dir", model, "--data-dir", directory], directory)
    folders = [path for path in (directory / "negative").iterdir() if path.is_dir()]
    negatives = max(folders, key=lambda folder: (folder / "repair.h5").stat().st_size)
    words = ["localize", "--model-dir", model, "--target-data-dir", negatives]
    run_command([sys.executable, "-c", COMMAND, *words], directory)
    return negatives


def report(whole: dict[str, list[float]], parts: dict[str, list[dict[str, float]]]) -> list[Aim]:
    """Print both tables; what was to be reached."""
    aims = []
    load = median(whole["load"])
    click.echo(
        f"optimize, 100 particles x 100 iterations, {ROWS} images of the quickstart; medians of {len(whole['load'])} "
        f"rounds, seconds\nloading: a process that imports TensorFlow and loads the model\n"
    )
    rows = [["loading", f"{load:.2f}", "1.00", "-"]]
    for kind in parts:
        seconds = median(whole[kind])
        aim = f"{AIM:g}" if kind == IN_PROCESS else "-"
        if kind == IN_PROCESS:
            aims.append(Aim("optimize in process / importing TensorFlow and loading the model", seconds / load, AIM))
        rows.append([kind, f"{seconds:.2f}", f"{seconds / load:.2f}", aim])
    click.echo(table(["command", "seconds", "/ loading", "aim"], rows))
    click.echo("\nstages of the same command, in the order they run; search: all iterations (aim: below 1 s)\n")
    medians = {
        kind: {stage: median(seconds.get(stage, 0.0) for seconds in runs) for stage in STAGES}
        for kind, runs in parts.items()
    }
    lines = [[stage, *(f"{stages[stage]:.2f}" for stages in medians.values())] for stage in STAGES]
    lines.append(["sum", *(f"{sum(stages.values()):.2f}" for stages in medians.values())])
    click.echo(table(["stage", *medians], lines))
    click.echo("".join(f"\n{stage}: {what}" for stage, what in STAGES.items()))
    if ON_WORKERS not in medians:
        return aims
    workers = medians[ON_WORKERS]
    ready, alone = median(whole["workers ready"]), median(whole["Ray alone"])
    imports = (ready - alone) / load
    click.echo(
        f"\na new process has two workers after {ready:.1f} s and Ray alone after {alone:.1f} s: {imports:.2f} times "
        f"loading later (aim: at most {IMPORTS_AIM:g})"
    )
    aims.append(Aim("workers ready after Ray's own start, in times of loading", imports, IMPORTS_AIM))
    click.echo(
        f"\nstarting Ray {workers['Ray']:.1f} s and its workers {workers['workers']:.1f} s, together "
        f"{workers['Ray'] + workers['workers']:.1f} s; cluster/compute/placement.py assumes {START_SECONDS:g} s for "
        f"both and {JOIN_SECONDS:g} s for the workers"
    )
    return aims


def staged(words: list[Any], directory: Path) -> dict[str, float]:
    """Run a command in a process of its own and return the seconds of its stages."""
    output = directory / "stages.json"
    begun = time.time()
    whole = run_command([sys.executable, Path(__file__).absolute(), "--stages", output, "--", begun, *words], directory)
    stages: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))
    stages["rest"] += whole - sum(stages.values())
    return stages


def one_command(output: Path, words: list[str]) -> None:
    """Run a command here with its functions timed, and write the seconds of each stage."""
    begun, *arguments = words
    watch = Stopwatch()
    watch.seconds["start"] = time.time() - float(begun)
    with watch.stage("imports"):
        import cluster.compute.compute
        import cluster.records.store
        import cluster.runs.optimize
        import cluster.runs.reports
        import engine.models.load
    if arguments[arguments.index("--num-workers") + 1] != "0":
        with watch.stage("Ray"):
            import cluster.ray_cluster.connect
            import cluster.workers.pool
        time_ray(watch)
    watch.wrap("verify", cluster.runs.reports, "load_model")  # before the original below is wrapped
    watch.wrap("model", engine.models.load, "load_model")
    watch.wrap("features", cluster.compute.compute.Compute, "features")
    watch.wrap("verify", cluster.compute.compute.Compute, "predict")
    watch.wrap("save", cluster.runs.optimize, "save_repaired")
    time_search(watch)
    code = run(arguments)
    watch.charge()
    output.write_text(json.dumps(watch.seconds), encoding="utf-8")
    sys.exit(code)


def time_ray(watch: Stopwatch) -> None:
    """Time what starts Ray, and what starts the workers."""
    import cluster.ray_cluster.connect
    import cluster.workers.pool

    connected = cluster.ray_cluster.connect.connected

    @contextlib.contextmanager
    def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            with watch.stage("Ray"):
                resources = stack.enter_context(connected(*args, **kwargs))
            yield resources

    cluster.ray_cluster.connect.connected = timed
    watch.wrap("workers", cluster.workers.pool.WorkerPool, "__init__")
    watch.wrap("workers", cluster.workers.pool.WorkerPool, "wait_for_start")


def time_search(watch: Stopwatch) -> None:
    """Time the searches, which say themselves how long their iterations took."""
    import cluster.compute.compute

    original = cluster.compute.compute.Compute.run_tasks

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        events = original(*args, **kwargs)
        took: dict[str, float] = defaultdict(float)
        while True:
            with watch.stage("compile"):
                event = next(events, None)
            if event is None:
                break
            searched = [search for segment in event.segments for search in segment.searches]
            took[event.worker] += sum(float(search.seconds.sum()) for search in searched)
            yield event
        seconds = max(took.values(), default=0.0)
        watch.seconds["compile"] -= seconds
        watch.seconds["search"] += seconds

    setattr(cluster.compute.compute.Compute, "run_tasks", timed)  # noqa: B010


if __name__ == "__main__":
    main()

"""Every benchmark runs to its end at a tiny size, in a process of its own, and prints numbers."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SHIPPED = ROOT / "cli" / "quickstart_data"
"""The quickstart's 5,000 training and 5,000 test images."""

PLOT, AIMS = "plot", "aims"
"""Draw, and list, what the others left: they are run on the results of each."""

RIVALS = {"EvoX": ("evox", "torch"), "evosax": ("evosax", "jax"), "PySwarms": ("pyswarms",)}


@dataclass(frozen=True)
class Run:
    """A benchmark at a tiny size."""

    script: str
    options: str
    tables: tuple[str, ...]  # some columns of each table that it prints
    shipped: bool = False  # it takes --dataset-dir
    says: str = ""  # what it prints besides
    results: bool = False  # it takes --output
    aims: bool = False  # it leaves its aims there


RUNS = (
    Run(
        "any_layer",
        "--tiny --networks resnet --labels 6 --rows 150 --draws 1 --work-dir w",
        ("model | layers | weights | label | all | worst other | promised | kept",),
        shipped=True,
    ),
    Run(
        "batch",
        "--chunks 2 --rows 200 --seeds 1 --rounds 1 --loop-jobs 2 --commands 1 --empty-jobs 100",
        ("seconds | driver s | repairs/s | / 1 worker | / 2 workers",),
        shipped=True,
        says="100 empty jobs: ",
        aims=True,
    ),
    Run(
        "compare",
        "--draws 1 --rows 150 --pool 300 --val-size 100 --methods offsets,head",
        ("workers | all, s | repairs, s | one worker / this",),
        shipped=True,
        aims=True,
    ),
    Run("costs", "--factor units --rounds 1", ("units | fitness | iteration | floor | fitness / floor",), results=True),
    Run(
        "crossfit",
        "--rows 200 --particles 4 --timed 1 --rounds 1",
        ("Dense layers | iteration | model / iteration | layers / iteration | compiled / iteration",),
        says="multiply-adds of an iteration against a large product",
        aims=True,
    ),
    Run(
        "stages",
        "--rows 200 --offset 0 --test-rows 200 --rounds 1",
        ("stage | seconds | % of whole | floor, s | seconds / floor",),
        shipped=True,
        says="G multiply-adds, at ",
        aims=True,
    ),
    Run("tunings", "--rows 120 --rounds 1", ("rows | tasks | weights | one worker, s | two workers, s",)),
    Run("resplits", "--seeds 1", ("seed | label | promised | step | label + | all | worst",)),
    Run(
        "deep",
        "--offset 0 --chunks 1 --chunk-size 500 --seeds 1 --particles 4 --iterations 2 --target last --target dense",
        ("target | weights chosen by | K | label | all | fixed | broken",),
        shipped=True,
        results=True,
    ),
    Run(
        "engines",
        "--size 200,4,10 --particles 4 --rounds 1",
        ("swarm | fitness | ms | ours / this",),
        results=True,
        aims=True,
    ),
    Run(
        "fitness",
        "--size 916,3,10,3 --rounds 1",
        ("(n, K, C, U) | fitness | iteration | evaluate / fitness",),
        results=True,
    ),
    Run(
        "layers",
        "--target 'hidden Dense' --target 'Conv1D text' --rounds 1",
        ("target | rows | slow | in place | here | floor",),
        results=True,
        aims=True,
    ),
    Run(
        "methods",
        "--tiny --models quickstart,resnet --methods CrossFit,offsets --num-workers 0 --work-dir w --results results",
        (),
        shipped=True,
        says="2 of 2 runs, ",
        aims=True,
    ),
    Run(
        "modes",
        "--chunks 1 --chunk-size 200 --val-size 200 --seeds 1 --fronts 1 --positive-weights 0.15x",
        ("mode | split | runs met | label | all | weights",),
        shipped=True,
    ),
    Run(
        "optimize",
        "--kind '2 workers, 2 seeds' --rounds 1",
        ("command | seconds | / loading", "stage | 2 workers, 2 seeds"),
        says="starting Ray ",
        aims=True,
    ),
    Run("prepare", "--scenes 2 --objects 5 --rounds 1", ("scenes/s cropped | images/s of both",)),
    Run(
        "promise",
        "--offset 4000 --labels 6 --rows 100,300 --draws 1 --layers tail --required A,B --out runs.jsonl",
        (
            "layers | rows | required | runs | promised | enough | at best",
            "from rows | to rows | said for | promise | that step",
        ),
        shipped=True,
    ),
    Run(
        "quality",
        "--offset 4000 --labels 6 --rows 300 --draws 2 --layers last --methods CrossFit,offsets,tail,Arachne --out r",
        ("method | label | all | worst other | fixed | broken | kept | CrossFit before by",),
        shipped=True,
        says="Arachne, best",
    ),
    Run(
        "rows",
        "--rows 500 --rounds 1 --command localize",
        ("seconds | rows/s | times 1 actor", "command | the command | largest other"),
        says="results of 1 and 2 actors are equal bit for bit",
    ),
    Run(
        "pruning",
        "--rows 300 --iterations 3 --particles 4 --range-rows 100",
        ("layer | order of rows | iterations | share",),
        shipped=True,
    ),
    Run(
        "scale",
        "--chunks 1 --rows 200 --driver-tasks 200 --check-tasks 6 --check-workers 1",
        ("workers | measured s | simulated s | error", "workers | of ideal | driver busy"),
        shipped=True,
        aims=True,
    ),
    Run(
        "tiles",
        "--rows 64 --particles 4 --rounds 1",
        ("actors | seconds per iteration | floor",),
        says="results of 1 and 2 actors are equal bit for bit",
        results=True,
    ),
)


@dataclass(frozen=True)
class Table:
    """A table as it was printed."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def test_every_script_has_a_run() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "@click.command" in path.read_text(encoding="utf-8")}
    assert scripts == {run.script for run in RUNS} | {PLOT, AIMS}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.script)
def test_script(run: Run, tmp_path: Path) -> None:
    output, options = tmp_path / "results", shlex.split(run.options)
    if run.shipped:
        options += ["--dataset-dir", str(SHIPPED)]
    if run.results or run.aims:
        options += ["--output", str(output)]
    ended = start(run.script, options, tmp_path)
    if run.script == "engines" and not any(map(installed, RIVALS.values())):
        assert ended.returncode == 2, ended.stdout + ended.stderr
        said = ended.stderr.strip().splitlines()[-1]
        assert said == (
            "Error: none of EvoX, evosax and PySwarms is installed, expected one at least: pip install -e '.[bench]'"
        )
        return
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("machine: ")
    assert run.says in ended.stdout
    printed = tables_of(ended.stdout)
    for columns in run.tables:
        found = [table for table in printed if set(columns.split(" | ")) <= set(table.header)]
        assert found, f"no table with the columns {columns}:\n{ended.stdout}"
        for table in found:
            assert any(re.search(r"\d", "".join(row[1:])) for row in table.rows), ended.stdout
            assert not any(cell in ("nan", "inf") for row in table.rows for cell in row), ended.stdout
    if run.script == "optimize":
        check_stages(printed)
    if run.results:
        with pa.ipc.open_file(output / f"{run.script}.arrow") as results:
            assert results.read_all().num_rows
        drawn = start(PLOT, [str(output)], tmp_path)
        assert drawn.returncode == 0, drawn.stdout + drawn.stderr
        charts = [line.removeprefix("chart: ") for line in drawn.stdout.splitlines() if line.startswith("chart: ")]
        assert charts and all((tmp_path / chart).stat().st_size for chart in charts)
    if run.aims:
        listed = start(AIMS, [str(output)], tmp_path)
        assert listed.returncode == 0, listed.stdout + listed.stderr
        (judged,) = tables_of(listed.stdout)
        assert {row[0].partition("-")[0] for row in judged.rows} == {run.script}
        assert {row[-1] for row in judged.rows} <= {"met", "NOT met"}


def start(script: str, options: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def installed(modules: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def tables_of(output: str) -> list[Table]:
    """The tables in what a script printed: a line of dashes below the header says where the columns are."""
    lines, tables = output.splitlines(), []
    for number, line in enumerate(lines):
        if not re.fullmatch(r"-+( +-+)*", line):
            continue
        spans = [slice(*dashes.span()) for dashes in re.finditer("-+", line)]
        rows = []
        for row in lines[number + 1 :]:
            if len(row) != len(line):
                break
            rows.append(tuple(row[span].strip() for span in spans))
        tables.append(Table(tuple(lines[number - 1][span].strip() for span in spans), tuple(rows)))
    return tables


def check_stages(tables: Sequence[Table]) -> None:
    """Every stage takes some time: the function that is wrapped to time it is the one that the command calls."""
    (stages,) = (table for table in tables if table.header[0] == "stage")
    assert [stage for stage, seconds in stages.rows if float(seconds) <= 0] == []

"""Test with the lowest and the newest versions of all dependencies, on every Python that there is.

    make versions                                                    # all of it, hours
    python -m scripts.tested_versions constraints                    # constraints.txt as of today
    python -m scripts.tested_versions run --only 3.11:lowest         # one cell of the table
    python -m scripts.tested_versions run --python ~/py/bin/python3.12 tests/engine

Needs uv, a package of the extra `versions`. The newest versions are those of constraints.txt, so that CI, which takes
them too, runs what was tested. Each cell has a fresh environment, the fast tests of some rooms (or those given) and the
quickstart. What came out is in docs/tested-versions.json, and as a page in docs/tested-versions.md. A cell that passed
is not run again, unless `--again` asks for it, constraints.txt has changed or a bound of pyproject.toml was raised.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from engine.core.errors import InputError, WorkError
from engine.core.files import remove, replace_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT, CONSTRAINTS = ROOT / "pyproject.toml", ROOT / "constraints.txt"
DATA, PAGE = ROOT / "docs" / "tested-versions.json", ROOT / "docs" / "tested-versions.md"

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ENDS = ("lowest", "newest")

FIRST = "tensorflow"
"""Where not all packages can be the newest, or the lowest, this one is: an older TensorFlow allows a newer h5py."""

WHEELS = ("--resolution", "lowest-direct", "--only-binary", ":all:")
"""How uv takes the lowest versions. Those without a wheel for a Python are no choice: nobody would build TensorFlow."""

ALSO = "keras"
"""Comes with TensorFlow, and is shown: models go through it."""

ROOMS = ("backend", "charts", "data", "datasets", "fitness", "metrics", "models", "patches", "tuning")
"""Of the engine: those that call other packages most."""

FAST = ("-m", "not slow and not long", *(f"tests/engine/{room}" for room in ROOMS), "tests/cluster/records")
"""The tests that are run where none are given; Ray, click and Jinja have the quickstart."""

OLD = ("-W", "ignore::DeprecationWarning")
"""For the lowest versions: an old package that uses what a newer one calls outdated breaks nothing."""

HEAD = """# Tested versions

Python 3.10 to 3.13, each with the lowest versions that `pyproject.toml` allows and that have a wheel for it (their own
dependencies are the newest that fit), and with the newest versions, which are those of `constraints.txt`. Each was
tested with the fast tests of the rooms that call other packages most, and with the quickstart, which uses Ray workers.
CI runs all tests on Python 3.11 with the newest versions. `make versions` updates this page; its numbers are also in
`tested-versions.json`.
"""


@dataclass(frozen=True, order=True)
class Cell:
    """One environment: a Python, as "3.11", and which versions go into it, "lowest" or "newest"."""

    python: str
    which: str

    @staticmethod
    def of(text: str) -> Cell:
        """Read "3.11:lowest".

        Raises:
            InputError: no such cell.
        """
        python, _, which = text.partition(":")
        if python not in PYTHONS or which not in ENDS:
            raise InputError(f"{text!r} is no cell, expected one of {', '.join(PYTHONS)} and :lowest or :newest")
        return Cell(python, which)

    def __str__(self) -> str:
        return f"{self.python}:{self.which}"


CELLS = tuple(Cell(python, which) for python in PYTHONS for which in ENDS)


@dataclass(frozen=True)
class Outcome:
    """What one environment gave.

    Attributes:
        python, which: the cell.
        release: the Python in full, as "3.11.7".
        versions: of each dependency.
        passed, failed, skipped: tests; an error in a fixture is a failure.
        quickstart: whether it came to its end with exit code 0.
        day: as "2026-11-27".
        problem: why there are no numbers; empty if there are.
        tests: what pytest was given, where it was not `FAST`.
    """

    python: str
    which: str
    release: str
    versions: dict[str, str]
    passed: int
    failed: int
    skipped: int
    quickstart: bool
    day: str
    problem: str = ""
    tests: str = ""

    @property
    def cell(self) -> Cell:
        """Where it stands in the table."""
        return Cell(self.python, self.which)

    @property
    def good(self) -> bool:
        """Whether nothing failed, and something was run."""
        return not self.problem and not self.failed and self.passed > 0 and self.quickstart


def requirements(extra: str | None = None) -> list[Requirement]:
    """What pyproject.toml asks for at run time, or what one of its extras adds."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def shown() -> list[str]:
    """Names of the packages that the page has."""
    return sorted({canonicalize_name(line.name) for line in requirements()} | {ALSO})


def constrained(text: str, python: str) -> dict[str, str]:
    """Versions by name that a file of constraints has for a Python on Linux."""
    here = {"python_version": python, "python_full_version": f"{python}.99", "sys_platform": "linux"}
    here |= {"platform_python_implementation": "CPython", "implementation_name": "cpython"}
    lines = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    return {
        canonicalize_name(line.name): str(line.specifier).removeprefix("==")
        for line in lines
        if line.marker is None or line.marker.evaluate(dict(here))
    }


def read_outcomes(path: Path) -> dict[Cell, Outcome]:
    """What was run so far; no file is nothing."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {outcome.cell: outcome for outcome in (Outcome(**row) for row in rows)}


def write_outcomes(path: Path, outcomes: dict[Cell, Outcome]) -> None:
    """As JSON, in the order of the table."""
    rows = [asdict(outcomes[cell]) for cell in CELLS if cell in outcomes]
    with replace_file(path) as file:
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def outdated(outcome: Outcome) -> bool:
    """Whether the project asks for other versions by now: those of constraints.txt, or higher ones."""
    if outcome.which == "newest":
        found = constrained(CONSTRAINTS.read_text(encoding="utf-8"), outcome.python)
        return any(found.get(name) != version for name, version in outcome.versions.items())
    bounds = {canonicalize_name(line.name): line.specifier for line in requirements()}
    return any(name in bounds and not bounds[name].contains(found) for name, found in outcome.versions.items())


def table(rows: Iterable[Sequence[str]], first: int, last: int) -> str:
    """Markdown of rows, the first of which is the head; between the first and the last columns stand numbers."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    columns = head.count("|") - 1
    rule = "| " + " | ".join("---:" if first <= column < columns - last else "---" for column in range(columns)) + " |"
    return "\n".join([head, rule, *body])


def page(outcomes: dict[Cell, Outcome]) -> str:
    """The page of all cells, those that were not run among them."""
    ran = [["Python", "versions", "day", "quickstart", "tests passed", "failed", "skipped", "which"]]
    for cell in CELLS:
        outcome = outcomes.get(cell)
        if outcome is None:
            ran.append([cell.python, cell.which, "not run", *["–"] * 5])
        elif outcome.problem:
            ran.append([outcome.release, cell.which, outcome.day, outcome.problem, *["–"] * 4])
        else:
            quickstart = "passed" if outcome.quickstart else "failed"
            numbers = [str(number) for number in (outcome.passed, outcome.failed, outcome.skipped)]
            told = f"`{outcome.tests}`" if outcome.tests else "as above"
            ran.append([outcome.release, cell.which, outcome.day, quickstart, *numbers, told])
    versions = [["package", *(f"{cell.python} {cell.which}" for cell in CELLS)]]
    for name in shown():
        found = [outcomes[cell].versions.get(name, "–") if cell in outcomes else "not run" for cell in CELLS]
        versions.append([f"`{name}`", *found])
    return f"{HEAD}\n{table(ran, 4, 1)}\n\n{table(versions, 1, 0)}\n"


def current() -> dict[Cell, Outcome]:
    """What was run with versions that still are those to run with; the rest counts as not run."""
    return {cell: outcome for cell, outcome in read_outcomes(DATA).items() if not outdated(outcome)}


def write_page() -> None:
    """The page of what is current."""
    with replace_file(PAGE) as file:
        file.write_text(page(current()), encoding="utf-8")


def version_of(python: Path | str) -> str | None:
    """As "3.11.7"; None if it does not start."""
    words = [str(python), "-c", "import platform; print(platform.python_version())"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def series(version: str) -> str:
    """3.11.7 → 3.11."""
    return ".".join(version.split(".")[:2])


def pythons(given: Sequence[Path]) -> dict[str, Path]:
    """A program for each Python: those given, and the first that starts on PATH for all others.

    Raises:
        InputError: one that was given does not start, or is another Python.
    """
    found: dict[str, Path] = {}
    for path in given:
        version = version_of(path)
        if version is None or series(version) not in PYTHONS:
            what = "no Python that starts" if version is None else f"Python {version}"
            raise InputError(f"{path} is {what}, expected one of {', '.join(PYTHONS)}")
        found[series(version)] = path
    names = [*(f"python{python}" for python in PYTHONS), "python3"]
    for place in (Path(folder) / name for name in names for folder in os.get_exec_path()):
        named = place.name.removeprefix("python")
        version = version_of(place) if named not in found and os.access(place, os.X_OK) else None
        if version and series(version) in PYTHONS:
            found.setdefault(series(version), place)
    return found


def surroundings() -> dict[str, str]:
    """Variables for what is started, without those that name another Python or other versions."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "UV_PYTHON_DOWNLOADS": "never"}


def call(words: Sequence[object], log: Path, folder: Path = ROOT) -> bool:
    """Run a program, what it says goes to the end of a file; whether its exit code is 0."""
    told = [str(word) for word in words]
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(told, cwd=folder, env=surroundings(), stdout=file, stderr=subprocess.STDOUT, check=False)
    return done.returncode == 0


def uv() -> Path:
    """The program, beside this Python or on PATH.

    Raises:
        WorkError: there is none.
    """
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise WorkError("no uv was found, expected it from `pip install uv`")
    return Path(found)


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a JUnit file."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    every, errors, failures, skipped = (int(suite.attrib[key]) for key in ("tests", "errors", "failures", "skipped"))
    return every - errors - failures - skipped, errors + failures, skipped


def resolve(*words: object, asked: str | None = None) -> str:
    """Versions that go together, as lines, of a file or of what is asked.

    Raises:
        WorkError: none do, or uv is missing.
    """
    told = [str(uv()), "pip", "compile", "--no-header", "--no-annotate", "--color", "never", "--quiet"]
    told += [str(word) for word in words]
    done = subprocess.run(told, cwd=ROOT, env=surroundings(), input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"{done.stderr.strip()}, expected versions that go together")
    return done.stdout


def first(*words: object) -> str:
    """The version of the first package, where it alone is asked for, as a line of constraints."""
    (asked,) = (str(line) for line in requirements() if line.name == FIRST)
    (line,) = (line for line in resolve(*words, "-", asked=asked).splitlines() if line.startswith(f"{FIRST}=="))
    return line


def compiled() -> str:
    """The newest versions of everything that the project and its tests need, for all Pythons: lines of constraints."""
    every = ("--universal", "--python-version", PYTHONS[0])
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "first.txt"
        alone.write_text(first(*every), encoding="utf-8")
        return resolve(*every, "--extra", "dev", "--constraint", alone, PROJECT.name)


def install(cell: Cell, python: Path, place: Path, log: Path) -> bool:
    """Make an environment with the versions of a cell, and the project in it; whether that went well."""
    program, constraints = place / "bin" / "python", CONSTRAINTS
    if not call([uv(), "venv", "--python", python, place], log):
        return False
    if cell.which == "lowest":
        constraints = place / "first.txt"
        constraints.write_text(first("--python", program, *WHEELS), encoding="utf-8")
    which = WHEELS if cell.which == "lowest" else ()
    words = [uv(), "pip", "install", "--python", program]
    return call([*words, *which, "--constraint", constraints, "-r", PROJECT, "--extra", "dev"], log) and call(
        [*words, "--no-deps", "--editable", ROOT], log
    )


def installed(program: Path) -> dict[str, str]:
    """Versions by name of all packages in an environment."""
    code = "import importlib.metadata as m; print(*(d.name + '=' + d.version for d in m.distributions()))"
    listed = subprocess.run([program, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {canonicalize_name(name): version for name, _, version in (word.partition("=") for word in listed)}


def run_cell(cell: Cell, python: Path, folder: Path, tests: Sequence[str], keep: bool) -> Outcome:
    """Make the environment, run the tests and the quickstart in it, and take it away; logs stay in the folder."""
    place, log = folder / f"{cell.python}-{cell.which}", folder / f"{cell.python}-{cell.which}.log"
    remove(place)
    remove(log)
    release, day = version_of(python) or cell.python, date.today().isoformat()
    programs, report = place / "bin", place / "tests.xml"
    try:
        try:
            ready = install(cell, python, place, log)
        except WorkError as error:  # no versions for this Python
            ready = False
            log.write_text(f"{error}\n", encoding="utf-8")
        if not ready:
            return Outcome(cell.python, cell.which, release, {}, 0, 0, 0, False, day, "cannot be installed")
        every = installed(programs / "python")
        versions = {name: every[name] for name in shown() if name in every}
        old = OLD if cell.which == "lowest" else ()
        words = [programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        call([*words, *old, *tests], log)
        if not report.exists():
            return Outcome(cell.python, cell.which, release, versions, 0, 0, 0, False, day, "tests do not start")
        ended = call([programs / "repair-dist", "quickstart", "--output-dir", place / "quickstart"], log, folder)
        told = "" if tuple(tests) == FAST else shlex.join(tests)
        return Outcome(cell.python, cell.which, release, versions, *counts(report), ended, day, tests=told)
    finally:
        if not keep:
            remove(place)


@click.group()
def main() -> None:
    """Test with the lowest and the newest versions of all dependencies."""


@main.command()
def constraints() -> None:
    """Write constraints.txt: the newest versions there are today; on the page, what was run with others is not run."""
    head = [
        "# The newest versions that go together on Python 3.10 to 3.13, and that CI runs with.",
        "# Made by: python -m scripts.tested_versions constraints",
    ]
    lines = compiled().splitlines()
    with replace_file(CONSTRAINTS) as file:
        file.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    write_page()


@main.command()
@click.option("--python", "given", multiple=True, type=click.Path(path_type=Path), help="A Python; else those on PATH.")
@click.option("--only", multiple=True, help="One cell, as 3.11:lowest.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "tested-versions")
@click.option("--again", is_flag=True, help="Also cells that were run and passed.")
@click.option("--keep", is_flag=True, help="Leave the environments in the folder.")
@click.argument("tests", nargs=-1)
def run(
    given: tuple[Path, ...], only: tuple[str, ...], folder: Path, again: bool, keep: bool, tests: tuple[str, ...]
) -> None:
    """Run cells of the table and write it after each; TESTS go to pytest."""
    cells = [Cell.of(text) for text in only] or list(CELLS)
    programs = pythons(given)
    if missing := sorted({cell.python for cell in cells if only and cell.python not in programs}):
        raise InputError(f"no Python {', '.join(missing)} was found, expected it on PATH or by --python")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    bad = False
    for cell in cells:
        if cell.python not in programs:
            print(f"{cell}: not run, there is no such Python", flush=True)
            continue
        if not again and cell in (known := current()) and known[cell].good:
            print(f"{cell}: was run before", flush=True)
            continue
        outcome = run_cell(cell, programs[cell.python], folder, tests or FAST, keep)
        write_outcomes(DATA, {**read_outcomes(DATA), cell: outcome})
        write_page()
        print(f"{cell}: {outcome}", flush=True)
        bad |= not outcome.good
    sys.exit(1 if bad else 0)


@main.command("page")
def page_again() -> None:
    """Write the page from the numbers as they are, after a bound of pyproject.toml has changed."""
    write_page()


if __name__ == "__main__":
    main()

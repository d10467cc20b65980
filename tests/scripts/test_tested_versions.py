"""The table of tested versions, which cells of it are run, and that constraints.txt, it and pyproject.toml agree."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from engine.core.errors import InputError, WorkError
from scripts import tested_versions as script
from scripts.tested_versions import PYTHONS, Cell, Outcome

LOWEST = Outcome("3.11", "lowest", "3.11.7", {"numpy": "2.0.0", "click": "8.1.0"}, 1860, 1, 4, True, "2026-11-27")
NEWEST = replace(LOWEST, which="newest", versions={"numpy": "2.4.6"}, failed=0, quickstart=False, tests="tests/cluster")


def stand_in(path: Path, version: str) -> Path:
    """A program that says what a Python says when it is asked for its version."""
    path.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("text", ["3.9:lowest", "3.11", "3.11:oldest", "3.11.7:lowest", ""])
def test_what_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is no cell, expected one of 3\.10, 3\.11, 3\.12, 3\.13 and :lowest or"):
        Cell.of(text)


def test_the_table_of_a_data_file(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    broken = Outcome("3.12", "newest", "3.12.1", {}, 0, 0, 0, False, "2026-11-28", "cannot be installed")
    script.write_outcomes(data, {outcome.cell: outcome for outcome in (broken, NEWEST, LOWEST)})
    assert list(script.read_outcomes(data).values()) == [LOWEST, NEWEST, broken]
    lines = script.page(script.read_outcomes(data)).splitlines()
    assert "| 3.11.7 | lowest | 2026-11-27 | passed | 1860 | 1 | 4 | as above |" in lines
    assert "| 3.11.7 | newest | 2026-11-27 | failed | 1860 | 0 | 4 | `tests/cluster` |" in lines
    assert "| 3.12.1 | newest | 2026-11-28 | cannot be installed | – | – | – | – |" in lines
    for python, which in [("3.10", "lowest"), ("3.10", "newest"), ("3.12", "lowest"), ("3.13", "newest")]:
        assert f"| {python} | {which} | not run | – | – | – | – | – |" in lines
    (numpy,) = (line for line in lines if line.startswith("| `numpy` "))
    assert numpy == "| `numpy` | not run | not run | 2.0.0 | 2.4.6 | not run | – | not run | not run |"


@pytest.mark.parametrize(
    ("changed", "good"),
    [({}, True), ({"failed": 1}, False), ({"passed": 0}, False), ({"quickstart": False}, False)],
)
def test_what_is_good(changed: dict[str, int], good: bool) -> None:
    assert replace(LOWEST, **{"failed": 0, **changed}).good is good  # type: ignore[arg-type]


def test_numbers_of_a_report_of_tests(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text('<testsuites><testsuite tests="12" errors="1" failures="2" skipped="3"/></testsuites>')
    assert script.counts(report) == (6, 3, 3)


@pytest.mark.parametrize("version", ["3.14.0", "3.9.18"])
def test_another_python_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(InputError, match=f"is Python {version}, expected one of 3.10, 3.11, 3.12, 3.13"):
        script.pythons([stand_in(tmp_path / "python", version)])


def test_a_python_that_is_given_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PATH the first that starts is taken: a stand-in of a version manager may not."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    idle = stand_in(tmp_path / "first" / "python3.12", "; exit 1")
    starts = stand_in(tmp_path / "second" / "python3.12", "3.12.9")
    stand_in(tmp_path / "second" / "python3.13", "3.13.1")
    given = stand_in(tmp_path / "mine", "3.13.5")
    monkeypatch.setenv("PATH", f"{idle.parent}:{starts.parent}")
    assert script.pythons([given]) == {"3.12": starts, "3.13": given}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Cells that were run, with environments that take no time; Python 3.10 and 3.11 are there."""
    cells: list[Cell] = []

    def run_cell(cell: Cell, python: Path, folder: Path, tests: Sequence[str], keep: bool) -> Outcome:
        cells.append(cell)
        return replace(LOWEST, python=cell.python, which=cell.which, failed=0, versions={})

    monkeypatch.setattr(script, "run_cell", run_cell)
    monkeypatch.setattr(script, "pythons", lambda given: {"3.10": Path("python3.10"), "3.11": Path("python3.11")})
    monkeypatch.setattr(script, "DATA", tmp_path / "data.json")
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    return cells


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(script.main, ["run", "--folder", str(folder / "made"), *words])


def test_a_cell_that_was_run_is_not_run_again_unless_asked(ran: list[Cell], tmp_path: Path) -> None:
    assert run(tmp_path, "--only", "3.11:lowest").exit_code == 0
    assert ran == [Cell("3.11", "lowest")]
    assert run(tmp_path).exit_code == 0
    assert ran[1:] == [Cell("3.10", "lowest"), Cell("3.10", "newest"), Cell("3.11", "newest")]
    assert "3.12:lowest: not run" in run(tmp_path).output and len(ran) == 4
    run(tmp_path, "--only", "3.11:lowest", "--again")
    assert ran[4:] == [Cell("3.11", "lowest")]
    assert (tmp_path / "page.md").read_text(encoding="utf-8").count("| passed |") == 4


def test_a_cell_that_failed_is_run_again(ran: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(cell: Cell, *_: object) -> Outcome:
        ran.append(cell)
        return replace(LOWEST, failed=1, versions={})

    monkeypatch.setattr(script, "run_cell", failed)
    assert [run(tmp_path, "--only", "3.11:lowest").exit_code for _ in range(2)] == [1, 1]
    assert len(ran) == 2


def test_a_python_without_versions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_go(*_: object) -> bool:
        raise WorkError("no wheel of tensorflow, expected versions that go together")

    monkeypatch.setattr(script, "install", none_go)
    outcome = script.run_cell(Cell("3.13", "lowest"), stand_in(tmp_path / "python", "3.13.1"), tmp_path, (), False)
    assert (outcome.problem, outcome.good) == ("cannot be installed", False)
    assert "no wheel of tensorflow" in (tmp_path / "3.13-lowest.log").read_text(encoding="utf-8")


def test_a_cell_whose_python_is_missing_is_refused(ran: list[Cell], tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "3.13:newest", "--only", "3.11:lowest")
    assert isinstance(done.exception, InputError) and "no Python 3.13 was found" in str(done.exception)
    assert ran == []


def test_the_page_is_that_of_the_data() -> None:
    """What was run with other versions than constraints.txt or pyproject.toml now have is "not run" on it."""
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.current())


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_keep_every_bound(python: str) -> None:
    """Each package that is asked for has one version, and it is allowed; so is that of setuptools, for builds."""
    found = script.constrained(script.CONSTRAINTS.read_text(encoding="utf-8"), python)
    for line in [*script.requirements(), *script.requirements("dev")]:
        if line.marker is None or line.marker.evaluate({"python_version": python}):
            assert line.specifier.contains(found[script.canonicalize_name(line.name)]), line
    assert SpecifierSet(">=77").contains(found["setuptools"])


@pytest.mark.parametrize(
    ("which", "version", "outdated"),
    [("newest", "2.4.6", False), ("newest", "2.4.5", True), ("lowest", "2.4.0", False), ("lowest", "2.3.9", True)],
)
def test_what_is_run_again(
    which: str, version: str, outdated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest must be those of constraints.txt for its Python, the lowest only within the bounds."""
    monkeypatch.setattr(script, "CONSTRAINTS", tmp_path / "constraints.txt")
    script.CONSTRAINTS.write_text(
        "numpy==2.4.5 ; python_full_version < '3.11'\nnumpy==2.4.6 ; python_full_version == '3.11.*'\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(script, "requirements", lambda: [Requirement("numpy>=2.4")])
    assert script.outdated(replace(LOWEST, which=which, versions={"numpy": version})) is outdated

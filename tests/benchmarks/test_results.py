"""What the benchmarks share: their numbers as Arrow files, the charts of those, and runs as lines of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_results_keep_values_units_and_the_machine(module: Any, tmp_path: Path) -> None:
    common = module("common")
    columns = [
        common.column("way", pa.string(), "what was timed"),
        common.column("seconds", pa.float64(), "median", "s"),
        common.column("aim", pa.float64(), "wanted"),
    ]
    rows = [{"way": "a", "seconds": 0.25, "aim": None}, {"way": "b", "seconds": 1e-6, "aim": 4.0}]
    common.write_results(tmp_path / "new" / "folder", "example", columns, rows, "machine: two cores")
    found = common.read_results(tmp_path / "new" / "folder" / "example.arrow")
    assert found.to_pylist() == rows
    assert found.schema.metadata == {b"benchmark": b"example", b"machine": b"machine: two cores"}
    assert found.schema.field("seconds").metadata == {b"description": b"median", b"unit": b"s"}
    assert b"unit" not in found.schema.field("way").metadata
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["example.arrow"]


def test_without_a_folder_nothing_is_written(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = module("common")
    common.write_results(None, "example", [common.column("way", pa.string(), "")], [{"way": "a"}], "machine")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_charts_of_all_results(module: Any, tmp_path: Path) -> None:
    from click.testing import CliRunner

    common, plot = module("common"), module("plot")
    size = {"rows": 1000, "weights": 16, "classes": 10, "units": 8}
    tables = {
        "costs": [
            size
            | {"problem": "last Dense", "factor": factor, "value": value, "fitness": 1e-3 * value}
            | {"iteration": 2e-3 * value, "floor": 1e-4 * value}
            for factor in ("rows", "particles")
            for value in (10, 100)
        ],
        "engines": [
            size | {"problem": "last Dense", "engine": engine, "form": "touched", "seconds": seconds}
            for engine, seconds in (("repair-dist", 1e-3), ("EvoX", 2e-3), ("", 20.0))
        ],
        "fitness": [size | {"way": way, "seconds": 1e-3} for way in ("fitness", "dense")],
        "layers": [
            {"target": "hidden Dense", "layer": "dense", "kind": "Dense", "rows": 10, "weights": 2}
            | {"way": way, "seconds": 0.25, "floor": 0.125}
            for way in ("slow", "here")
        ],
        "tiles": [{"actors": actors, "seconds": 0.5 / actors} for actors in (1, 2)],
        "deep": [{"target": "dense", "way": "pooled", "fixed": fixed, "broken": 7} for fixed in (10, 30)],
        "other": [{"value": 1}],
    }
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    for name, rows in tables.items():
        columns = [common.column(each, kinds[type(value)], "") for each, value in rows[0].items()]
        common.write_results(tmp_path, name, columns, rows, "machine")
    ran = CliRunner().invoke(plot.main, [str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert "other.arrow: there is no chart for it" in ran.output
    charts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    assert sorted(charts) == [
        "costs-last-dense-particles.svg",
        "costs-last-dense-rows.svg",
        "deep.svg",
        "engines.svg",
        "fitness.svg",
        "layers.svg",
        "tiles.svg",
    ]
    assert all(f">{text}<" in charts["engines.svg"] for text in ("EvoX: touched", "fitness alone: touched", "20,000"))
    assert all(f">{text}<" in charts["layers.svg"] for text in ("slow", "here", "floor", "250", "125"))
    assert all(f">{text}<" in charts["tiles.svg"] for text in ("1 actors", "2 actors", "500"))
    assert all(f">{text}<" in charts["deep.svg"] for text in ("dense: pooled", "fixed", "20", "7"))
    assert all(f">{text}<" in charts["costs-last-dense-rows.svg"] for text in ("rows", "floor", "milliseconds"))


def test_a_ledger_goes_on_where_it_was_cut_short(module: Any, tmp_path: Path) -> None:
    ledger, path = module("ledger"), tmp_path / "runs.jsonl"
    first = ledger.Ledger(path, ("label", "draw"))
    for draw in range(3):
        first.add(label=6, draw=draw, gain=0.5 * draw)
    path.write_bytes(path.read_bytes()[:-4])  # the last line is not whole
    again = ledger.Ledger(path, ("label", "draw"))
    assert [again.has(label=6, draw=draw) for draw in range(4)] == [True, True, False, False]
    again.add(label=6, draw=2, gain=9.0)
    assert [line["gain"] for line in ledger.Ledger(path, ("label", "draw")).lines] == [0.0, 0.5, 9.0]


def test_interval_of_a_mean(module: Any) -> None:
    mean, half = module("ledger").mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6))  # Student's t of two degrees of freedom
    assert module("ledger").mean_interval([1.0]) is None

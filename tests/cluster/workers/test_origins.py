"""Methods of other packages on workers: which they are, and that all nodes have the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.workers.origins import foreign_origins, other_methods
from engine.methods.registry import GROUP
from tests.support.plugins import Site

CODE = """
from engine.methods.base import Method, NOTHING, Repair

METHOD = Method("lazy", lambda job: Repair([NOTHING]), "nothing", "rest", "a test")
"""


def test_another_version_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "site", monkeypatch)
    site.install("lazy-repair", {"lazy": "lazy_repair:METHOD"}, CODE, group=GROUP)
    mine = foreign_origins(["CrossFit", "lazy"])
    assert list(mine) == ["lazy"] and mine["lazy"].startswith("lazy-repair 1.0, ")
    assert other_methods({**mine, "CrossFit": ""}) == ""
    later = mine["lazy"].replace("1.0", "1.1")
    why = other_methods({"lazy": later})
    assert why.startswith("on ") and why.endswith(f": method lazy is of {mine['lazy']}, expected {later}")
    (site.folder / "lazy_repair.py").write_text(CODE + "# other bytes", encoding="utf-8")
    assert "method lazy is of lazy-repair 1.0, " in other_methods(mine)
    assert "method gone is not installed here" in other_methods({"gone": ""})

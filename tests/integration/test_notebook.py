from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first-repair.ipynb"


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    copy = tmp_path / NOTEBOOK.name
    shutil.copyfile(NOTEBOOK, copy)
    words = [sys.executable, "-m", "scripts.run_notebook", copy]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = "".join("".join(output["text"]) for output in outputs(copy) if output["output_type"] == "stream")
    assert "promised: True, with 9" in text and "gain of 6 Shirt at least 3 points" in text
    words = text.split("fixed ")[1].split()
    fixed, broken = int(words[0].rstrip(",")), int(words[2])
    assert fixed > broken
    assert sum("image/png" in output.get("data", {}) for output in outputs(copy)) == 2


def test_it_is_stored_with_what_it_printed() -> None:
    kinds = [output["output_type"] for output in outputs(NOTEBOOK)]
    assert kinds.count("display_data") == 2 and "error" not in kinds

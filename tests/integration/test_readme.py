"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cli.main import run

ROOT = Path(__file__).parents[2]


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "cli" / "quickstart_data"
    shutil.copy(shipped / "model.keras", "model.keras")
    prepare = [
        "prepare",
        "fashion-mnist",
        "--input-dir",
        str(shipped),
        "--output-dir",
        "all",
        "--data-ratio",
        "0,0,0,1",
    ]
    assert run(prepare) == 0
    assert run(["split", "all/repair.h5", "--chunk-size", "600", "--chunks", "1", "--output-dir", "chunks"]) == 0
    shutil.move("chunks/0", "data")
    assert run(["target", "--model-dir", "model.keras", "--data-dir", "data", "--num-workers", "0"]) == 0
    assert run(["localize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]) == 0
    capsys.readouterr()
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "-6-w" in capsys.readouterr().out
    assert Path("runs/one/jobs.arrow").is_file()
    assert Path("repaired/repair/model.keras").is_file()

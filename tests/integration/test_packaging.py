"""A user's own `engine.py` beside them does no harm."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_quickstart_among_decoys(tmp_path: Path) -> None:
    """The quickstart with two workers, started where files named like our packages lie, which raise when imported."""
    for name in ("engine", "cluster", "cli"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the decoy was imported')\n", encoding="utf-8")
    command = Path(sys.executable).with_name("repair-dist")
    done = subprocess.run(
        [command, "quickstart", "--seeds", "2", "--output-dir", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "search: on 2 workers" in done.stderr
    before, after = _label_accuracy(done.stdout.strip().splitlines()[-1])
    # The quickstart's promise: its label improves by more than its 95 % interval, and all labels lose at most a point.
    low, high = (float(each) for each in re.findall(r"interval ([\d.]+) - ([\d.]+)", done.stdout)[-1])
    assert after - before > high - low
    overall = [float(each) for each in re.findall(r"all labels: ([\d.]+) % before, ([\d.]+) % after", done.stdout)[-1]]
    assert overall[1] >= overall[0] - 1.0


def _label_accuracy(line: str) -> tuple[float, float]:
    before = re.search(r": ([\d.]+) % \(95", line)
    after = re.search(r"before, ([\d.]+) % after; all", line)
    assert before and after, line
    return float(before[1]), float(after[1])

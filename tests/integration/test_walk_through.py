from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Command, Done
from tests.support.scenes import COMMON, draw_scenes

WALK = (Path(__file__).parents[2] / "docs" / "walk-through.md").read_text(encoding="utf-8")
QUICK = {
    "create_category_dir": ["--num_workers=0"],
    "create_image_subset": ["--num_workers=0"],
    "prepare": ["--num_workers=0"],
    "optimize": ["--num_particles=10", "--num_iterations=5"],
    "evaluate": ["--num_particles=10", "--num_iterations=5", "--num_workers=0"],
    "batch": ["--num-particles=10", "--num-iterations=5", "--num-workers=0", "--fronts=1", "--seeds=2"],
}
"""What keeps the test short: added to the words of a command, the last of a flag counts."""


def scripts() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", WALK, re.DOTALL | re.MULTILINE)


def words_of(script: str) -> list[list[str]]:
    """The commands that a script runs, in order: a shell reads it, with a function in place of the program."""
    reads = "repair-dist() { printf '%s\\0' \"$@\"; printf '\\0'; }\n"
    out = subprocess.check_output(["bash", "-eu", "-c", reads + script], text=True)
    return [call.split("\0") for call in out.split("\0\0") if call]


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`datasets/bdd100k` and the requirements of the walk-through in the current directory."""
    base = tmp_path / "datasets/bdd100k"
    draw_scenes(base, "val", 60, width=320, height=180, frequencies=COMMON | {"bus": 1, "rider": 1})
    train = draw_scenes(base, "train", 30, width=320, height=180, frequencies={"pedestrian": 4, "car": 3})
    frames = train.frames()
    cars = [label for frame in frames for label in frame["labels"] if label["category"] == "car"]
    for label in cars[::2]:
        label["category"] = "pedestrian"  # which no model that knows cars gets right
    train.write(frames)
    (toml,) = re.findall(r"^```toml\n(.*?)^```", WALK, re.DOTALL | re.MULTILINE)
    (tmp_path / "requirements.toml").write_text(toml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_walk_through(downloads: Path, command: Command) -> None:
    ended: list[tuple[list[str], Done]] = []
    for script in scripts():
        for words in words_of(script):
            done = command(*words, *QUICK.get(words[0], []))
            assert done.code == 0 or (done.code == 3 and "--requirements" in words), f"{words}: {done.err}"
            ended.append((words, done))
    names = [words[0] for words, _ in ended]
    assert names.count("create_category_dir") == names.count("prepare") == names.count("batch") == 2
    assert names.count("optimize") >= 3  # one repair, and two chunks at least

    # Accuracy is told alike by `test`, by results.json and by the tables of a batch.
    accuracy = next(done.out for words, done in ended if words[0] == "test")
    base = dict(json.loads(Path("charts/base/results.json").read_text()))
    right = sum(entry["success"] for entry in base.values())
    rows = sum(entry["failure"] for entry in base.values())
    rows += right
    assert f"accuracy: {100 * right / rows:.2f}%" in accuracy
    assert 100 * right / rows > 70, "the model has to know its classes for the rest to mean something"

    # Table 1, of the labels' rows of the test set.
    (table,) = (done.out for words, done in ended if words[0] == "batch" and "chain" in words)
    line = next(line for line in table.splitlines() if line.split()[:2] == ["0", "(base)"])
    assert [float(word) for word in line.split()[2:4]] == [base["6"]["success"], base["6"]["failure"]]

    written = [*Path("charts").rglob("*.png"), Path("evaluated/result.txt"), Path("report.html")]
    assert {path.name for path in written} >= {"radar.png", "before-and-after.png", "result.txt"}
    assert all(path.stat().st_size > 100 for path in written)

"""What the README shows works as it stands there: block after block, in one folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.metrics.requirements import read_requirements
from tests.integration.conftest import SHIPPED, Command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<code>.*?)^```|(?P<words>(?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

SMALL = ["--num-particles=8", "--num-iterations=3", "--num-workers=0"]
QUICK = {
    "train": ["--epochs=2"],
    "optimize": SMALL,
    "batch": [*SMALL, "--fronts=1", "--positive-weights=0.15x", "--seeds=2"],
}
"""What keeps the test short: added to the words of a command, the last of a flag counts."""


def blocks() -> Iterator[tuple[str, str]]:
    """Kind and text of the blocks in their order; `sh` are the commands."""
    for found in BLOCK.finditer(README):
        if found["words"] is None:
            yield found["kind"], found["code"]
        else:
            yield "sh", found["words"].replace("\\\n", " ")


def commands(block: str) -> Iterator[list[str]]:
    for line in block.splitlines():
        if line.strip().startswith("repair-dist "):
            yield shlex.split(line, comments=True)[1:]


def test_every_block_runs_after_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fashion-mnist").symlink_to(SHIPPED)
    ran = []
    for kind, text in blocks():
        if kind == "toml":
            Path("requirements.toml").write_text(text, encoding="utf-8")
            assert len(read_requirements(Path("requirements.toml"), 10, NAMES).limits) == 13
        elif kind == "python":
            capsys.readouterr()
            exec(compile(text, "README.md", "exec"), {})
            assert capsys.readouterr().out.strip()
            ran.append("python")
        elif kind == "sh":
            for words in commands(text):
                done = command(*words, *QUICK.get(words[0], []))
                assert done.code in ((0, 3) if words[0] == "batch" else (0,)), f"{words}: {done.err}"
                ran.append(" ".join(words[:2]) if words[0] == "patch" else words[0])
    assert ran == [
        *(
            "prepare",
            "train",
            "test",
            "split",
            "target",
            "optimize",
            "report",
            "localize",
            "optimize",
            "utils",
            "batch",
        ),
        "report",
        *("target", "localize", "optimize", "python", "python", "python", "python"),
        *("patch apply", "patch revert", "patch merge", "patch diff", "patch show"),
    ]
    assert Path("runs/one/jobs.arrow").is_file()
    assert Path("repaired/repair/model.keras").is_file()


def test_no_block_asks_for_more_workers_than_a_laptop_has() -> None:
    for kind, text in blocks():
        for words in commands(text) if kind == "sh" else ():
            if "--num-workers" in words:
                assert int(words[words.index("--num-workers") + 1]) <= 2, words

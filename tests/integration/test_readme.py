"""What README and docs/ show works as it stands there: page after page, block after block, in one folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.metrics.requirements import read_requirements
from tests.integration.conftest import SHIPPED, Command

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/own-model.md",
    "docs/requirements-and-batches.md",
    "docs/crossfit.md",
    "docs/arachne.md",
    "docs/cluster.md",
    "docs/records.md",
    "docs/comparing.md",
)
"""Pages with blocks, in the order in which they are read; the walk-through has a test of its own."""

BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<code>.*?)^```|(?P<words>(?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

SMALL = ["--num-particles=8", "--num-iterations=3", "--num-workers=0"]
FEW_TUNINGS = ["--recipes=2:epochs=2", "--folds=2"]
QUICK = {
    "train": ["--epochs=2"],
    "optimize": SMALL,
    "batch": SMALL,
    "compare": [*FEW_TUNINGS, "--methods=CrossFit,offsets", "--draws=2", "--rows=200", "--num-workers=0"],
}
"""What keeps the test short: added to the words of a command, the last of a flag counts."""


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Kind and text of a page's blocks in their order; `sh` are the commands."""
    for found in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        kind, text = found["kind"] or "sh", found["code"] or found["words"]
        yield kind, text.replace("\\\n", " ") if kind == "sh" else text


def commands(block: str) -> Iterator[list[str]]:
    for line in block.splitlines():
        if line.strip().startswith("repair-dist "):
            yield shlex.split(line, comments=True)[1:]


def quick(words: list[str]) -> list[str]:
    if "weighted" in words:
        return [*words, *SMALL[:2]]
    more = [*QUICK.get(words[0], []), *(["--chunks=data/repairsets/0"] if "--part" in words else [])]
    if words[0] in ("optimize", "batch") and "CrossFit" in words:
        return [*words, *more, *FEW_TUNINGS]
    return [*words, *more, *(["--fronts=1", "--positive-weights=0.15x", "--seeds=2"] if words[0] == "batch" else [])]


def test_every_block_runs_after_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fashion-mnist").symlink_to(SHIPPED)
    ran: dict[str, list[str]] = {page: [] for page in PAGES}
    for page in PAGES:
        for kind, text in blocks(page):
            if kind == "toml":
                Path("requirements.toml").write_text(text, encoding="utf-8")
                limits = read_requirements(Path("requirements.toml"), 10, NAMES).limits
                assert len(limits) == {"docs/requirements-and-batches.md": 13, "docs/crossfit.md": 12}[page]
            elif kind == "json":
                Path("dr_setting.json").write_text(text, encoding="utf-8")
            elif kind == "python":
                capsys.readouterr()
                exec(compile(text, page, "exec"), {})
                assert capsys.readouterr().out.strip()
                ran[page].append("python")
            elif kind == "sh":
                for words in commands(text):
                    done = command(*quick(words))
                    codes = (0, 3) if "--requirements" in words else (0,)
                    assert done.code in codes, f"{page}: {words}: {done.err}"
                    ran[page].append(" ".join(words[:2]) if words[0] == "patch" else words[0])
    assert ran == {
        "README.md": ["prepare", "train", "target", "optimize", "report", "localize", "python"],
        "docs/own-model.md": ["test", "python", "split", "target"],
        "docs/requirements-and-batches.md": ["batch", "report"],
        "docs/crossfit.md": ["target", "optimize", "report", "batch"],
        "docs/arachne.md": ["localize", "optimize", "utils", "optimize", "target", "localize", "optimize"],
        "docs/cluster.md": ["batch", "batch", "merge-runs"],
        "docs/records.md": [
            *("python", "python", "python"),
            *("patch apply", "patch revert", "patch merge", "patch diff", "patch show", "patch merge"),
        ],
        "docs/comparing.md": ["compare", "report", "python"],
    }
    assert Path("runs/one/jobs.arrow").is_file()
    for folder in ("repaired", "promised", "gained"):
        assert Path(folder, "repair/model.keras").is_file()


def test_no_block_asks_for_more_workers_than_a_laptop_has() -> None:
    for page in PAGES:
        for kind, text in blocks(page):
            for words in commands(text) if kind == "sh" else ():
                if "--num-workers" in words:
                    assert int(words[words.index("--num-workers") + 1]) <= 2, words


def test_no_page_has_blocks_that_are_not_run() -> None:
    apart = {"docs/walk-through.md"}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    for page in sorted(pages - apart - set(PAGES)):
        assert not [text for kind, text in blocks(page) if kind in ("python", "toml") or list(commands(text))], page


def test_every_page_is_linked_and_every_link_leads_to_a_page() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    linked = set()
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            if "://" in path:
                continue
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{page}: {link}"
            if target != page:
                linked.add(target)
            if anchor:
                assert anchor in anchors(target), f"{page}: {link}"
    assert set(pages) - linked <= {ROOT / "README.md"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    found = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_page_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert len(re.findall(r"^\| ?---", text, re.MULTILINE)) == 1 and len(re.findall(r"^\|", text, re.MULTILINE)) <= 8
    (picture,) = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size <= 200_000
    (snippet,) = (block for kind, block in blocks("README.md") if kind == "python")
    assert len([line for line in snippet.splitlines() if line]) <= 10


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


@pytest.mark.slow
def test_the_site(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra asks for it from Python 3.11 on")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {"NO_MKDOCS_2_WARNING": "1"}  # see the Makefile
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **quiet})
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(tmp_path) for path in tmp_path.rglob("*.html")}
    reference = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "reference").rglob("*.html"))
    assert "open_records" in reference and "Raises" in reference

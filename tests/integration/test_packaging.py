"""What users install: a wheel in an environment of its own, started beside files that are named like our packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.records.store import read_facts, read_table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}


def call(words: Sequence[object], **options: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**environment, **QUIET},
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone; the build must have nothing to warn of."""
    source = tmp_path_factory.mktemp("source")
    tracked = call(["git", "ls-files", "-z", "--", "engine", "cluster", "cli", "*.toml", "*.md", "LICENSE"], cwd=ROOT)
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    done = call([sys.executable, "-m", "pip", "wheel", "--no-deps", "--verbose", "--wheel-dir", "out", "."], cwd=source)
    warnings = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if "warning" in line.lower()]
    assert not warnings
    (built,) = (source / "out").glob("*.whl")
    return built


def test_everything_is_packed(wheel: Path) -> None:
    tracked = call(["git", "ls-files", "--", "engine", "cluster", "cli"], cwd=ROOT).stdout.splitlines()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in tracked if (ROOT / name).is_file()}
    assert any(name.endswith(".pyi") for name in packed) and any(name.endswith(".jinja") for name in packed)


def printed_in_readme() -> list[str]:
    """What README says that the quickstart prints, but for the lines that stand for others."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("From its output:")[2].partition("```text\n")[2].partition("```")[0]
    return [line for line in block.splitlines() if line.strip() not in ("", "…")]


def words_of(line: str) -> tuple[str, list[float]]:
    """A line without numbers and widths of columns, and its numbers: the last bits are those of a processor."""
    number = re.compile(r"(?<!\w)[-+]?\d[\d,]*(?:\.\d+)?(?!\w)")
    numbers = [float(found.replace(",", "")) for found in number.findall(line)]
    return " ".join(re.sub("-+", "-", number.sub("#", line)).split()), numbers


def test_quickstart_among_decoys(wheel: Path, tmp_path: Path) -> None:
    """In an environment with the wheel and what it asks for; the decoys raise when they are imported."""
    venv.create(tmp_path / "environment", with_pip=True)
    programs = tmp_path / "environment" / "bin"
    call([programs / "python", "-m", "pip", "install", "--quiet", wheel])
    started = tmp_path / "started"
    started.mkdir()
    for name in ("engine", "cluster", "cli"):
        (started / f"{name}.py").write_text("raise RuntimeError('the decoy was imported')\n", encoding="utf-8")
    done = call([programs / "repair-dist", "quickstart", "--output-dir", "out"], cwd=started)
    assert "on 2 workers" in done.stderr
    assert "promised: with " in done.stdout
    output = done.stdout.replace(f"{started.resolve()}/", "").replace("out/", "outputs/quickstart/")
    printed = dict(map(words_of, output.splitlines()))
    for line in printed_in_readme():
        words, numbers = words_of(line)
        for found, told in zip(printed[words], numbers, strict=True):
            assert found == pytest.approx(told, abs=10 if told.is_integer() else 1.5), line  # images; points
    # The quickstart's promise, on its test images: nothing below what was asked, and more fixed than broken.
    facts = read_facts(started / "out" / "run")
    assert facts["promised"] and facts["exit_code"] == 0
    verdicts = read_table(started / "out" / "run", "verdicts").to_pylist()
    assert all(row["met"] for row in verdicts if row["split"] == "test") and len(verdicts) == 24
    labels = read_table(started / "out" / "run", "labels").to_pylist()
    test = [row for row in labels if (row["stage"], row["split"]) == ("repaired", "test")]
    assert sum(row["repaired"] for row in test) > sum(row["broken"] for row in test)
    assert (started / "out" / "report.html").stat().st_size > 10_000

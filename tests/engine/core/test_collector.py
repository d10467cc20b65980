"""Python's collector while libraries are imported, and where a process is the command's own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.core.collector import WORKER, importing

SCRIPT = """
import gc, sys, tempfile
from pathlib import Path
from engine.core.collector import importing, own_process

class Ring:
    def __init__(self):
        self.me = self
        self.folder = tempfile.TemporaryDirectory(dir=sys.argv[1])

if sys.argv[2] == "own":
    own_process()
with importing():
    ring = Ring()
    inside = gc.isenabled()
stays = gc.get_freeze_count() > 0
del ring
found = gc.collect()
print(inside, gc.isenabled(), stays, found > 0)
"""


FROZEN, COLLECTED = "False True True False", "False True False True"


@pytest.mark.parametrize(
    ("who", "variables", "expected"),
    [("own", {}, FROZEN), ("other", {WORKER: "1"}, FROZEN), ("other", {}, COLLECTED)],
)
def test_what_is_imported(who: str, variables: dict[str, str], expected: str, tmp_path: Path) -> None:
    """In a process of ours it is never looked at again; what is to happen at the end happens."""
    environment = {name: value for name, value in os.environ.items() if name != WORKER} | variables
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path, who], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("on", [True, False])
def test_it_is_left_as_it_was(on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()

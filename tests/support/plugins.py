"""Packages with data sets, as an installer leaves them in a folder of the path."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = Path(__file__).parent / "example_dataset"


class Site:
    """A folder at the front of the path into which packages are installed; what is imported from it is forgotten."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
        self.folder, self._monkeypatch = folder, monkeypatch

    def install(
        self,
        package: str,
        entries: Mapping[str, str],
        code: str = "",
        *,
        group: str | None = None,
        record: Sequence[str] = (),
    ) -> None:
        """A package of one module, called like it with underscores, that declares data sets.

        What it lists as its files is that of `record`, where this is stated.
        """
        module = package.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{group or 'repair_dist.datasets'}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if record:
            (info / "RECORD").write_text("".join(f"{name},,\n" for name in record), encoding="utf-8")
        self._monkeypatch.setitem(sys.modules, module, None)  # whatever is there at the end of the test goes
        del sys.modules[module]

    def install_example(self) -> None:
        """The example package, by its own `pyproject.toml`."""
        project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        ((group, entries),) = project["entry-points"].items()
        self.install(project["name"], entries, group=group)
        shutil.copy(EXAMPLE / "example_dataset.py", self.folder)


def write_shades(folder: Path, random_state: int = 0) -> dict[str, np.ndarray]:
    """`shades.npz` for the example package: noise of 20×24 pixels, 23 images and 7 of a test set; returns it."""
    random = np.random.default_rng(random_state)
    arrays = {
        "images": random.integers(0, 256, (23, 20, 24), np.uint8),
        "labels": random.integers(0, 3, 23),
        "test_images": random.integers(0, 256, (7, 20, 24), np.uint8),
        "test_labels": random.integers(0, 3, 7),
    }
    np.savez(folder / "shades.npz", **arrays)
    return arrays

"""The names that users import: found by `dir`, editors and type checkers, the same whatever was imported before."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import cluster
import engine

ROOT = Path(__file__).parents[1]
FOLDERS = ("engine", "cluster", "cli", "tests", "benchmarks", "scripts", "docs")
PACKAGES = pytest.mark.parametrize("package", [engine, cluster], ids=["engine", "cluster"])


def stub(package: ModuleType) -> dict[str, str]:
    """Module of each name of the stub, relative to the package."""
    tree = ast.parse((Path(package.__path__[0]) / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = [(alias.name, str(node.module)) for node in imports for alias in node.names]
    assert len(dict(names)) == len(names), "a name stands twice"
    return dict(names)


@PACKAGES
def test_every_name_is_listed_and_there(package: ModuleType) -> None:
    found = stub(package)
    assert set(dir(package)) >= set(package.__all__) == set(found)
    for name, module in found.items():
        assert getattr(package, name) is getattr(importlib.import_module(f"{package.__name__}.{module}"), name)


@PACKAGES
def test_every_name_says_what_it_is(package: ModuleType) -> None:
    """Functions and classes that users import, and the public functions of those classes, have a docstring."""
    lacking = []
    for name in package.__all__:
        found = getattr(package, name)
        if not inspect.isclass(found) and not inspect.isfunction(found):
            continue
        own = vars(found).items() if inspect.isclass(found) else ()
        members = {
            f"{name}.{each}": member
            for each, member in own
            if not each.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, property))
            and getattr(member, "__name__", "") != "<lambda>"  # the default of a field
        }
        lacking += [each for each, member in {name: found, **members}.items() if not (member.__doc__ or "").strip()]
    assert not lacking


@PACKAGES
def test_no_name_is_that_of_a_room(package: ModuleType) -> None:
    """Or it would be a function or a module, by the order of imports."""
    rooms = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not rooms & set(package.__all__)


def test_importing_rooms_first_changes_nothing() -> None:
    code = """
import pkgutil, sys, engine, cluster
for package in (engine, cluster):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("._jax"):
            __import__(module.name)
from engine import merge, compare
from cluster import repair, localise
assert all(callable(name) and type(name).__name__ == "function" for name in (merge, compare, repair, localise))
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_everything_at_once() -> None:
    """As `lazy_loader` has it for those who want errors of imports at once."""
    code = "import sys, engine, cluster; assert {'engine.models.load', 'cluster.compute.compute'} <= set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"EAGER_IMPORT": "1"}, check=True)


def test_a_loop_of_numpy_loads_no_tensorflow() -> None:
    code = """
import sys, engine, cluster, engine.search.loop
heavy = {"tensorflow", "keras", "jax", "ray", "matplotlib", "pyarrow", "h5py"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def dotted() -> Iterator[tuple[Path, str]]:
    """Where our modules and what is in them are named in code, comments and documentation."""
    for path in [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in ROOT.glob(f"{name}/**/*.*"))]:
        if path.suffix in (".py", ".md"):
            for name in re.findall(r"`((?:engine|cluster|cli)(?:\.\w+)+)[`(]", path.read_text(encoding="utf-8")):
                if not name.endswith(".py"):
                    yield path, name


def leads_somewhere(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_names_in_texts_lead_somewhere() -> None:
    found = list(dotted())
    assert len(found) > 30
    missing = {(str(path.relative_to(ROOT)), name) for path, name in found if not leads_somewhere(name)}
    assert not missing

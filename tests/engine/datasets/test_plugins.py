from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.core.errors import InputError
from engine.datasets.dataset import Dataset
from engine.datasets.plugins import find_plugins
from tests.support.plugins import Site

GOOD = "from engine import Dataset\nDATASET = Dataset('Good.', print)\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path / "site", monkeypatch)


def test_finding_imports_nothing(site: Site) -> None:
    site.install("good-one", {"set_b": "good_one:DATASET", "set-a": "good_one:DATASET"}, GOOD)
    site.install("other", {"set-c": "other:DATASET"}, GOOD, group="repair_dist.dataset")
    found = find_plugins()
    assert list(found) == ["set-a", "set-b"]
    assert str(found["set-b"]) == "data set set_b of the package good-one"
    assert "good_one" not in sys.modules
    loaded = found["set-b"].load()
    assert isinstance(loaded, Dataset) and loaded.summary == "Good."


@pytest.mark.parametrize(
    ("code", "value", "says"),
    [
        (GOOD, "nowhere.at.all:X", r"from nowhere.at.all:X \(ModuleNotFoundError: No module named 'nowhere'\)"),
        (GOOD, "bad_one:X", r"imported from bad_one:X \(AttributeError: module 'bad_one' has no attribute 'X'\)"),
        ("import torch_of_another_age\n", "bad_one:X", "No module named 'torch_of_another_age'"),
        ("raise RuntimeError('one\\ntwo')\n", "bad_one:X", r"\(RuntimeError: one\), expected a Dataset$"),
        ("raise SystemExit('stop')\n", "bad_one:X", r"\(SystemExit: stop\), expected a Dataset$"),
        ("def f(:\n", "bad_one:X", r"\(SyntaxError: .*\), expected a Dataset$"),
        ("X = len\n", "bad_one:X", r"is a builtin_function_or_method \(bad_one:X\), expected an engine.Dataset$"),
        (GOOD, "bad_one", r"is a module \(bad_one\), expected an engine.Dataset$"),
        (GOOD + "X = Dataset(print, 'Bad.')\n", "bad_one:X", "its summary, a text, and read, a function"),
    ],
)
def test_one_that_cannot_be_had(code: str, value: str, says: str, site: Site) -> None:
    site.install("bad-one", {"bad": value}, code)
    site.install("good-one", {"good": "good_one:DATASET"}, GOOD)
    found = find_plugins()
    with pytest.raises(InputError, match=says) as caught:
        found["bad"].load()
    assert str(caught.value).startswith("data set bad of the package bad-one ")
    assert found["good"].load().summary == "Good."


def test_two_of_one_name(site: Site) -> None:
    site.install("one", {"my-set": "one:DATASET"}, GOOD)
    site.install("two", {"my_set": "two:DATASET"}, GOOD)
    plugin = find_plugins()["my-set"]
    with pytest.raises(InputError) as caught:
        plugin.load()
    assert "of the packages one, two is declared 2 times (one:DATASET, two:DATASET), expected one" in str(caught.value)
    assert not {"one", "two"} & set(sys.modules)


def test_a_package_that_is_on_the_path_twice_is_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("one", {"a": "one:DATASET"}, GOOD)
    again = Site(tmp_path / "again", monkeypatch)
    again.install("one", {"a": "one:DATASET"}, GOOD)
    assert find_plugins()["a"].load().summary == "Good."


def test_a_package_without_a_name_goes_by_its_module(site: Site) -> None:
    site.install("one", {"a": "one.data:DATASET"}, GOOD)
    (site.folder / "one-1.0.dist-info" / "METADATA").unlink()
    assert str(find_plugins()["a"]).startswith("data set a of the package one")


def test_entry_points_that_cannot_be_read(site: Site) -> None:
    site.install("one", {"a": "one:DATASET"}, GOOD)
    (site.folder / "one-1.0.dist-info" / "entry_points.txt").write_text("[repair_dist.datasets]\nno value\n")
    with pytest.raises(InputError, match=r"entry points of the installed packages cannot be read .*, expected them"):
        find_plugins()

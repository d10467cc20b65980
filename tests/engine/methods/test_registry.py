"""Names of methods, and what is known of those of other packages without running them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from engine.core.errors import InputError
from engine.methods.registry import GROUP, METHODS, check_name, method_names, method_of, origin
from tests.support.plugins import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path / "site", monkeypatch)


def write(path: Path, code: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(code, encoding="utf-8")
    importlib.invalidate_caches()


def test_our_own_and_unknown_methods_have_no_origin(site: Site) -> None:
    assert [origin(name) for name in (*METHODS, "nobody")] == [""] * (len(METHODS) + 1)
    site.install("gone", {"gone": "nowhere:METHOD"}, group=GROUP)
    assert origin("gone") == "gone 1.0, no module"


def test_an_origin_is_all_code_that_a_distribution_lists(site: Site) -> None:
    files = ("listed.py", "listed_helper.py", "listed.txt", "left_out.py")
    site.install("listed", {"mine": "listed:METHOD"}, group=GROUP, record=files[:3])
    for name in files[1:]:
        write(site.folder / name, "x = 1")
    before = origin("mine")
    assert before.startswith("listed 1.0, ") and before == origin("mine")
    for name in files[2:]:  # no code, and somebody else's
        write(site.folder / name, "x = 2")
        assert origin("mine") == before
    write(site.folder / "listed_helper.py", "x = 2")
    helped = origin("mine")
    assert helped != before
    write(site.folder / "listed.py", "x = 2")
    assert origin("mine") not in (before, helped)
    (site.folder / "listed_helper.py").unlink()
    assert origin("mine") not in (before, helped, origin("nobody"))


@pytest.mark.parametrize("record", [(), ("__editable__.edited.pth", "__editable___edited_finder.py")])
@pytest.mark.parametrize("above", ["", "shared_namespace/"])
def test_an_editable_install_is_of_its_topmost_package(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: tuple[str, ...], above: str
) -> None:
    """It lists no code of its own; a folder of several distributions is no package."""
    source = tmp_path / "source"
    monkeypatch.syspath_prepend(source)
    package = f"package_of_{len(record)}_{len(above)}"
    for name in (f"{package}/__init__.py", f"{package}/core/__init__.py", f"{package}/core/method.py", "other/a.py"):
        write(source / above / name, "")
    module = f"{above.replace('/', '.')}{package}.core.method"
    site.install("edited", {"mine": f"{module}:METHOD"}, group=GROUP, record=record)
    before = origin("mine")
    write(source / above / "other" / "a.py", "x = 1")
    assert origin("mine") == before
    write(source / above / package / "helper.py", "x = 1")
    assert origin("mine") != before


def test_a_module_alone_is_its_file(site: Site) -> None:
    site.install("lonely", {"mine": "lonely:METHOD"}, "x = 1", group=GROUP)
    before = origin("mine")
    write(site.folder / "beside.py", "x = 1")
    assert origin("mine") == before
    write(site.folder / "lonely.py", "x = 2")
    assert origin("mine") != before


def test_names_of_methods() -> None:
    assert method_names()[: len(METHODS)] == tuple(METHODS)
    with pytest.raises(InputError, match=r"there is no method 'arachnid', expected CrossFit.*did you mean 'Arachne'"):
        check_name("arachnid")
    with pytest.raises(InputError, match="method Unknown is not installed here"):
        method_of("Unknown")


def test_no_package_takes_the_place_of_our_methods(site: Site) -> None:
    names = ("arachne", "HEAD", "CrossFit", "mine")
    site.install("shadows", dict.fromkeys(names, "shadows:METHOD"), group=GROUP)
    assert method_names() == (*METHODS, "mine")
    assert [check_name(name) for name in ("arachne", "HEAD", "MINE")] == ["Arachne", "head", "mine"]
    with pytest.raises(InputError, match="method arachne is not installed here"):
        method_of("arachne")

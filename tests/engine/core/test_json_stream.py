"""Elements of a JSON array, one at a time, are those that the json module reads at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.core.json_stream import iterate_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(items=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 0, 4]), read=st.integers(1, 20))
def test_elements_are_those_of_json(
    tmp_path_factory: pytest.TempPathFactory, items: list, indent: int, read: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "items.json"
    for ascii_only in (True, False):
        text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
        path.write_bytes(text.encode("utf-8", "surrogatepass" if ascii_only else "replace"))
        expected = json.loads(path.read_text(encoding="utf-8"))
        assert list(iterate_items(path, read=read)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "starts with 'nothing'"),
        ('{"frames": []}', "starts with '{'"),
        ("[", "is broken at character 1"),
        ("[1, 2", "is broken at character 5 \\(the array has no end\\)"),
        ("[1 2]", "is broken at character 3 \\(neither"),
        ("[1, 2,]", "is broken at character 6"),
        ('[{"a": 1}, {"a": ]', "is broken at character 17"),
        ('["abc', "is broken at character 1"),
        ("[1] 2", "something follows"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("read", [1, 3, 1000])
def test_broken_files(tmp_path: Path, text: str, says: str, read: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        list(iterate_items(path, read=1 << 20 if len(text) > 1000 else read))
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)


def test_what_comes_before_the_damage_is_given(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"b": 2}, {"c')
    found = []
    with pytest.raises(InputError):
        for item in iterate_items(path):
            found.append(item)  # noqa: PERF402 - what came before the error is looked at
    assert found == [{"a": 1}, {"b": 2}]


def test_no_text_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="no UTF-8 text"):
        list(iterate_items(path))
    with pytest.raises(InputError, match="cannot be read"):
        list(iterate_items(tmp_path / "nowhere.json"))


def test_memory_is_that_of_an_element(tmp_path: Path) -> None:
    """40 MB of text pass through a window of some MB."""
    import tracemalloc

    path = tmp_path / "x.json"
    element = json.dumps({"name": "x" * 20_000})
    path.write_text("[" + ",".join([element] * 2000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in iterate_items(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2000
    assert peak < 8e6

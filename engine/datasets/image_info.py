"""`image_info.json`: what is known of every image of a folder of categories, or of a subset of one."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.core.errors import InputError, reason
from engine.core.json_stream import iterate_items
from engine.core.plain_names import plain_name

FILE_NAME = "image_info.json"

_OURS = "like_toolkit"

Entry = dict[str, Any]
"""`name` of the image file, `label` (its category), and `value_mean` and `area` where the file has them."""


def read_category_info(folder: Path) -> list[Entry]:
    path = folder / FILE_NAME
    if not path.is_file():
        raise InputError(f"{folder} has no {FILE_NAME}, expected a folder that create_category_dir made")
    return [_checked(entry, number, path) for number, entry in enumerate(iterate_items(path))]


def read_subset_info(folder: Path) -> tuple[Mapping[str, Any], list[Entry]]:
    path = folder / FILE_NAME
    if not path.is_file():
        raise InputError(f"{folder} has no {FILE_NAME}, expected a folder that create_image_subset made")
    return read_subset_file(path)


def read_subset_file(path: Path) -> tuple[Mapping[str, Any], list[Entry]]:
    """`args`, with `like_toolkit` that stands beside them where the file has it, and `images`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({reason(error)}), expected the JSON that create_image_subset writes"
        ) from error
    arguments = content.get("args") if isinstance(content, dict) else None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(arguments, dict) or not isinstance(images, list):
        raise InputError(f'{path} has no "args" and "images", expected the JSON that create_image_subset writes')
    if _OURS in content:
        arguments = arguments | {_OURS: content[_OURS]}
    return arguments, [_checked(entry, number, path) for number, entry in enumerate(images)]


def is_subset(folder: Path) -> bool:
    try:
        read_subset_info(folder)
    except InputError:
        return False
    return True


def write_category_info(path: Path, entries: Iterable[Entry]) -> None:
    with path.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for entry in entries:
            file.write(separator + textwrap.indent(json.dumps(entry, indent=4), "    "))
            separator = ",\n"
        file.write("[]" if separator == "[\n" else "\n]")


def write_subset_info(
    path: Path, arguments: Mapping[str, Any], results: Mapping[str, int], entries: list[Entry]
) -> None:
    """`like_toolkit` is no argument of the toolkit's, so it stands beside `args`, and only where it is true."""
    theirs = {name: value for name, value in arguments.items() if name != _OURS}
    ours = {_OURS: True} if arguments.get(_OURS) else {}
    content = {"args": theirs, **ours, "results": dict(results), "images": entries}
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


def _checked(entry: Any, number: int, path: Path) -> Entry:
    for key in ("name", "label"):
        if not isinstance(entry, dict) or key not in entry:
            raise InputError(f"{path}: image {number} has no {key}, expected name and label")
        plain_name(entry[key], f"the {key} of image {number}", path)
    checked: Entry = entry
    return checked

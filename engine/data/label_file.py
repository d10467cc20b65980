"""The `labels.json` of the toolkit: what to do about each label, as `[[label, {…}], …]`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.core.errors import InputError, reason
from engine.core.files import replace_file

MOST = 1e9  # of a priority


def read_json(path: Path, expected: str) -> Any:
    """`expected` ends the sentence about a bad file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}), {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({reason(error)}), {expected}") from error


def read_label_file(path: Path) -> dict[int, dict[str, Any]]:
    """In the order of the file; InputError where there are none."""
    expected = "expected [[label, {…}], …], each label once, as target writes it"
    content = read_json(path, expected)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} holds no list with labels, {expected}")
    entries: dict[int, dict[str, Any]] = {}
    for item in content:
        good = isinstance(item, list) and len(item) == 2 and str(item[0]).isdecimal() and isinstance(item[1], dict)
        if not good or int(item[0]) in entries:
            raise InputError(f"{path} has the entry {json.dumps(item)[:80]}, {expected}")
        entries[int(item[0])] = item[1]
    return entries


def read_priorities(path: Path, key: str, classes: int) -> tuple[tuple[int, float], ...]:
    """Label and `key`, `repair_priority` or `prevent_degradation`; 0 where missing."""
    found = []
    for label, entry in read_label_file(path).items():
        value = entry.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST:
            raise InputError(
                f"{path} has {key} = {json.dumps(value)[:80]} of label {label}, expected a number from 0 to {MOST:g}"
            )
        if label >= classes:
            raise InputError(f"{path} has an entry of label {label}, expected labels from 0 to {classes - 1}")
        found.append((label, float(value)))
    if not any(value > 0 for _, value in found):
        raise InputError(f"{path} gives no label a {key} above 0, expected at least one: edit what target writes")
    return tuple(found)


def write_label_file(path: Path, entries: Mapping[int, Mapping[str, Any]]) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps([[str(label), entry] for label, entry in entries.items()], indent=4))

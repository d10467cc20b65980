"""The methods by name, each imported when it is first asked for, on workers too.

Other packages bring theirs as entry points of the group `repair_dist.methods`, `NAME = "package.module:METHOD"`. Names
are told apart without their case: none of another package takes the place of one of ours.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.entry_points import declared, load
from engine.core.errors import InputError
from engine.core.names import listed, suggestion

if TYPE_CHECKING:
    from engine.methods.base import Method

GROUP = "repair_dist.methods"

REFERENCE = "CrossFit"  # what every other method is compared with

METHODS: Mapping[str, str] = {
    "CrossFit": "engine.methods.mixtures:CROSSFIT",
    "Arachne": "engine.methods.weight_search:ARACHNE",
    "Arachne-worths": "engine.methods.weight_search:ARACHNE_WORTHS",
    "Arachne-v2": "engine.methods.weight_search:ARACHNE_V2",
    "NeuRecover": "engine.methods.neurecover:METHOD",
    "DRWeightMerge": "engine.methods.drweightmerge:METHOD",
    "label-priorities": "engine.methods.weight_search:LABEL_PRIORITIES",
    "head": "engine.methods.mixtures:HEAD",
    "tail": "engine.methods.mixtures:TAIL",
    "WiSE-FT": "engine.methods.mixtures:WISE_FT",
    "offsets": "engine.methods.mixtures:OFFSETS",
}
"""Our own methods in the order of docs and help, as entry points name theirs."""

_WITH_SETTINGS = re.compile(r"([^()]+)\(([^()]+)\)")
_OUTSIDE = re.compile(r",(?![^()]*\))")


def method_names() -> tuple[str, ...]:
    """All methods: ours, then those of other packages by name; nothing is imported."""
    return (*METHODS, *sorted(_plugins()))


def method_of(name: str) -> Method:
    """The method of a name; InputError where there is none or several, or it cannot be imported or is none."""
    from engine.methods.base import Method

    if name in METHODS:
        found = EntryPoint(name, METHODS[name], GROUP).load()
    elif entries := _plugins().get(name):
        found = load(entries, f"method {name}", "Method")
    else:
        raise InputError(f"method {name} is not installed here, expected the package with its entry point of {GROUP}")
    if not isinstance(found, Method):
        raise InputError(f"method {name} is a {type(found).__name__}, expected an engine.methods.base.Method")
    if found.name != name:
        raise InputError(f"method {name} calls itself {found.name!r}, expected the name of its entry point")
    return found


def origin(name: str) -> str:
    """Name and version of the distribution that brings a method, and SHA-256 of its Python files; empty for our own
    methods, and where there is none of this name, or more than one.
    """
    entries = () if name in METHODS else _plugins().get(name, ())
    if len(entries) != 1:
        return ""
    (entry,) = entries
    package = "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"{package}, {_digest(entry)}"


def _digest(entry: EntryPoint) -> str:
    try:
        spec = importlib.util.find_spec(entry.module)
        if spec is None:
            return "no module"
        digest = hashlib.sha256()
        for name, path in sorted(_code(entry, Path(spec.origin or "")).items()):
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()
    except Exception:  # the packages above a module are imported, which may raise anything
        return "no file"


def _code(entry: EntryPoint, module: Path) -> dict[str, Path]:
    """Python files that a method may run, by name: its module, and what its distribution lists beside it.

    An editable install lists what leads to the code, and some installers nothing: then those of the module's topmost
    package.
    """
    found = {entry.module: module}
    if entry.dist is not None and entry.dist.files is not None:
        files = {file.as_posix(): Path(str(entry.dist.locate_file(file))) for file in entry.dist.files}
        if any(path.name == module.name and path.samefile(module) for path in files.values() if path.is_file()):
            return found | {name: path for name, path in files.items() if path.suffix == ".py" and path.is_file()}
    names = list(accumulate(entry.module.split("."), "{}.{}".format))
    specs = (importlib.util.find_spec(name) for name in names)
    top = next(spec for spec in specs if spec is not None and spec.origin)  # namespaces are of many packages
    folders = map(Path, top.submodule_search_locations or ())
    return found | {
        path.relative_to(folder.parent).as_posix(): path for folder in folders for path in folder.rglob("*.py")
    }


def check_name(name: str) -> str:
    """The name of a method as it is spelt here."""
    names = method_names()
    if name in names:
        return name
    known = {found.casefold(): found for found in names}
    if name.casefold() not in known:
        raise InputError(
            f"there is no method {name!r}, expected {listed(list(known.values()))}{suggestion(name, known.values())}"
        )
    return known[name.casefold()]


def read_names(text: str) -> tuple[str, ...]:
    """Names with commas between, as tables have them: spelt as here, without spaces around settings."""
    return tuple(_spelt(part.strip()) for part in _OUTSIDE.split(text) if part.strip())


def parsed(name: str) -> tuple[str, dict[str, str]]:
    """The method of a name, and its settings as text."""
    found = _WITH_SETTINGS.fullmatch(name)
    if found is None or name in method_names():
        return name, {}
    pairs = (part.partition("=") for part in found[2].split(","))
    return found[1].strip(), {key.strip(): value.strip() for key, _, value in pairs}


def _spelt(text: str) -> str:
    if not {"(", ")"} & set(text) or text.casefold() in map(str.casefold, method_names()):
        return check_name(text)
    base, stated = parsed(text)
    if len(stated) <= text.count(",") or not all((*stated, *stated.values())):
        raise InputError(f"method {text!r} cannot be read, expected NAME or NAME(SETTING=VALUE,...), each setting once")
    return f"{check_name(base)}({','.join(f'{key}={value}' for key, value in stated.items())})"


def _plugins() -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points by name, without those that have a name of ours."""
    ours = {name.casefold() for name in METHODS}
    return {name: entries for name, entries in declared(GROUP).items() if name.casefold() not in ours}

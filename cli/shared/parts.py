"""`--part`, and what `merge-runs` has to know of the command that ran a part: its options, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared.method_options import ARACHNE, CROSSFIT, PIPELINES
from cli.shared.options import PLACE, Option, flag_of, option, was_given
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.runs.parts import Part


def of_place(command: click.Command) -> frozenset[str]:
    return frozenset(each.name for each in command.params if isinstance(each, Option) and each.place and each.name)


part_option = option(
    "--part",
    section=PLACE,
    rare=True,
    place=True,
    metavar="I/N",
    help="Do part I of N of a run, as one of N clusters, for `merge-runs` to join: of mode independent some of the "
    "chunks, of CrossFit some of the tunings.",
)


def stated_part(
    text: str | None, method: str, *, mode: str = "", separate: bool = False, dry_run: bool = False
) -> Part | None:
    if text is None:
        return None

    from cluster.runs.parts import read_part

    name = click.get_current_context().info_name or ""
    if method not in PIPELINES:
        owners = CROSSFIT if name == "optimize" else f"{ARACHNE} and {CROSSFIT}"
        raise InputError(f"--part is of {owners} and the method is {method}, expected one without the other")
    part = read_part(text, name, {**given_options(), "method": method})
    if method != CROSSFIT and mode != "independent":
        raise InputError(
            f"--part divides the chunks of mode independent and the mode is {mode}, whose chunks wait for one another, "
            "expected --mode independent"
        )
    if method == CROSSFIT and separate:
        raise InputError("--separate makes a run of each label, expected one of --part and --separate")
    if dry_run:
        raise InputError("--dry-run tells of the whole run, expected it without --part")
    return part


def given_options() -> dict[str, Any]:
    """The options of the current command line by name, as JSON has them, but for those of the place.

    Paths are there where they are defaults too: whoever merges may do so in another folder.
    """
    context = click.get_current_context()
    place = of_place(context.command)
    return {
        name: _plain(value)
        for name, value in context.params.items()
        if name not in place and (was_given(name) or _has_paths(value))
    }


def _has_paths(value: Any) -> bool:
    return any(isinstance(each, Path) for each in (value if isinstance(value, tuple) else (value,)))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def words_of(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        for each in values:
            yield f"{flag_of(name)}={each}"

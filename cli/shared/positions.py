"""Values without a flag, in the order in which eAI-Repair-Toolkit takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class Positional(click.Command):
    """A command whose options may also be given by place: the k-th value without a flag is of the k-th of them.

    As in the toolkit, options that are given by name are passed over.
    """

    def __init__(self, *args: Any, positions: Sequence[str] = (), **settings: Any) -> None:
        """Take values without a flag for these parameters, in this order."""
        super().__init__(*args, **settings)
        self._positions = tuple(positions)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a command line."""
        given, values, _ = self.make_parser(ctx).parse_args(list(args))
        free = [name for name in self._positions if name not in given]
        repeated = {parameter.name for parameter in self.params if parameter.multiple}
        # What follows the value of an option that may be repeated is of a shell's pattern: `--target-data-dir */6`.
        if len(values) > len(free) or (values and repeated & given.keys()):
            return super().parse_args(ctx, args)  # which says what is one too many
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in zip(free, values, strict=False)]
        extra, ctx.allow_extra_args = ctx.allow_extra_args, True
        try:
            super().parse_args(ctx, [*flags, *args])
        finally:
            ctx.allow_extra_args = extra
        ctx.args = []
        return ctx.args

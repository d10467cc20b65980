from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cli.shared.options import DATA, METHOD, OUTPUT, PLACE, SEARCH, flag_of
from engine.core.names import in_words, suggestion

SECTIONS = (DATA, METHOD, SEARCH, PLACE, OUTPUT)

_ALL = "shows all options"


class Commands(click.Group):
    """Commands by their names, with dashes or underscores; for one that is not there the nearest is named."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = {name.replace("_", "-"): name for name in self.list_commands(ctx)}
        return self.found(ctx, known.get(cmd_name.replace("_", "-"), cmd_name))

    def found(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            raise click.UsageError(
                f"No such command '{in_words(name)}'{suggestion(name, self.list_commands(ctx))}.", ctx
            )
        return super().resolve_command(ctx, args)


class Positional(click.Command):
    """A command whose options may also be given by place: the k-th value without a flag is of the k-th of them.

    As in the toolkit, options that are given by name are passed over.
    """

    def __init__(self, *args: Any, positions: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._positions = tuple(positions)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, values, _ = self.make_parser(ctx).parse_args(list(args))
        free = [name for name in self._positions if name not in given]
        repeated = {parameter.name for parameter in self.params if parameter.multiple}
        # What follows the value of an option that may be repeated is of a shell's pattern: `--target-data-dir */6`.
        if len(values) > len(free) or (values and repeated & given.keys()):
            return super().parse_args(ctx, args)  # which says what is one too many
        flags = [f"{flag_of(name)}={value}" for name, value in zip(free, values, strict=False)]
        extra, ctx.allow_extra_args = ctx.allow_extra_args, True
        try:
            super().parse_args(ctx, [*flags, *args])
        finally:
            ctx.allow_extra_args = extra
        ctx.args = []
        return ctx.args


class Sectioned(Positional):
    """A command whose `--help` has sections; `--help --all` shows all of its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--all" in args and any(name in args for name in self.get_help_option_names(ctx)):
            ctx.meta[_ALL] = True
            args = [argument for argument in args if argument != "--all"]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Section by section, the rare options behind the others; what is in none, as `--help` itself, comes last."""
        records = {
            parameter: record
            for parameter in self.get_params(ctx)
            if (record := parameter.get_help_record(ctx)) is not None
        }
        wanted = [each for each in records if ctx.meta.get(_ALL) or not getattr(each, "rare", False)]
        wanted.sort(key=lambda each: getattr(each, "rare", False))
        for title in SECTIONS:
            if mine := [records[each] for each in wanted if getattr(each, "section", OUTPUT) == title]:
                with formatter.section(title):
                    formatter.write_dl(mine)
        if more := len(records) - len(wanted):
            formatter.write_paragraph()
            formatter.write_text(f"--help --all shows {more} more options.")

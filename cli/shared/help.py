"""Help of commands with many options: in named sections, what most people need first, the rest on demand."""

from __future__ import annotations

import click

from cli.shared.options import DATA, METHOD, OUTPUT, PLACE, SEARCH
from cli.shared.positions import Positional

SECTIONS = (DATA, METHOD, SEARCH, PLACE, OUTPUT)

_ALL = "shows all options"


class Sectioned(Positional):
    """A command whose `--help` has sections; `--help --all` shows all of its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--all` away where help is asked for."""
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

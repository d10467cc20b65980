"""Groups of commands."""

from __future__ import annotations

import click

from engine.core.names import in_words, suggestion


class Commands(click.Group):
    """Commands by their names, with dashes or underscores; for one that is not there the nearest is named."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        known = {name.replace("_", "-"): name for name in self.list_commands(ctx)}
        return self.found(ctx, known.get(cmd_name.replace("_", "-"), cmd_name))

    def found(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a name as it is listed."""
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a command line, and what follows it."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            raise click.UsageError(
                f"No such command '{in_words(name)}'{suggestion(name, self.list_commands(ctx))}.", ctx
            )
        return super().resolve_command(ctx, args)

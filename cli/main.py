"""Entry point: finds the command, turns errors into one sentence and an exit code.

Exit codes: 0 done, 1 the work failed, 2 bad input, 3 requirements not met, 4 some jobs failed, 130 interrupted,
143 told to end (SIGTERM).
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from cli.shared.groups import Commands
from engine.core.errors import InputError, WorkError

COMMANDS = {
    "quickstart": "cli.commands.quickstart",
    "create-category-dir": "cli.commands.create_category_dir",
    "create-image-subset": "cli.commands.create_image_subset",
    "create-image-dir": "cli.commands.create_image_dir",
    "prepare": "cli.commands.prepare",
    "split": "cli.commands.split",
    "train": "cli.commands.train",
    "test": "cli.commands.test",
    "target": "cli.commands.target",
    "localize": "cli.commands.localize",
    "optimize": "cli.commands.optimize",
    "evaluate": "cli.commands.evaluate",
    "batch": "cli.commands.batch",
    "patch": "cli.commands.patch",
    "report": "cli.commands.report",
    "watch": "cli.commands.watch",
    "utils": "cli.commands.utils",
}


class LazyGroup(Commands):
    """Imports a command's module only when that command is named, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the workflow."""
        return list(COMMANDS)

    def found(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a name as it is listed."""
        module = COMMANDS.get(name)
        return None if module is None else importlib.import_module(module).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line per command."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, importlib.import_module(module).command.get_short_help_str())
                    for name, module in COMMANDS.items()
                ]
            )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="repair-dist")
def repair_dist() -> None:
    """Repair trained neural networks: find the few weights to blame and search better values for them.

    A traceback is shown only with --debug, which any command takes.

    Example: repair-dist quickstart
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and leave with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    sys.exit(run([argument for argument in arguments if argument != "--debug"], debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run a command line; returns the exit code and prints errors to standard error."""
    told_to_end: list[int] = []
    try:
        with _terminable(told_to_end):
            code: Any = repair_dist.main(arguments, prog_name="repair-dist", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except InputError as error:
        return _fail(str(error), 2, debug)
    except WorkError as error:
        return _fail(str(error), 1, debug)
    except (KeyboardInterrupt, click.Abort):
        return _fail("terminated", 143, debug) if told_to_end else _fail("interrupted", 130, debug)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {str(error).strip() or 'no message'} (--debug shows where)", 1, debug)


@contextlib.contextmanager
def _terminable(told: list[int]) -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does, and be `told`: a cluster's scheduler or a container's runtime sends it.

    Libraries that wait in C make another KeyboardInterrupt of it, so its type could not tell.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"error: {message}", err=True)
    return code

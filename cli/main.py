"""Entry point: finds the command, turns errors into one sentence and an exit code.

Exit codes: 0 done, 1 the work failed, 2 bad input, 3 requirements not met, 4 some jobs failed, 130 interrupted,
143 told to end (SIGTERM).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from cli.shared.commands import Commands
from cli.shared.console import echo
from engine.core import collector
from engine.core.errors import InputError, WorkError, is_interruption
from engine.core.files import disk_is_full
from engine.core.names import escaped

COMMANDS = {
    name: f"cli.commands.{name.replace('-', '_')}"
    for name in (
        *("quickstart", "create-category-dir", "create-image-subset", "create-image-dir", "prepare", "split", "train"),
        *("test", "target", "localize", "optimize", "evaluate", "batch", "compare", "merge-runs", "patch", "report"),
        *("watch", "utils"),
    )
}
"""Modules by command, in the order of the help."""

_UNFIT = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.EINVAL),
)
"""What the system says of paths that cannot be used as they were meant to."""


class LazyGroup(Commands):
    """Imports a command's module only when that command is named, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def found(self, ctx: click.Context, name: str) -> click.Command | None:
        module = COMMANDS.get(name)
        return None if module is None else importlib.import_module(module).command


def _dashed(name: str) -> str:
    """Options as they are written here; with underscores they are known too, as in `--model_dir`."""
    return name.replace("_", "-")


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "token_normalize_func": _dashed,
    },
)
@click.version_option(package_name="repair-dist")
def repair_dist() -> None:
    """Repair trained neural networks: find the few weights to blame and search better values for them.

    A traceback is shown only with --debug, which any command takes.

    Example: repair-dist quickstart
    """


def main(arguments: list[str] | None = None) -> None:
    collector.own_process()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it: not all encodings have all names
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
    except (Exception, KeyboardInterrupt) as error:
        message, code = _in_words(error, told=bool(told_to_end))
        return _fail(message, code, debug)


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


def _in_words(error: BaseException, *, told: bool) -> tuple[str, int]:
    """A sentence about what was interrupted, wrong, or refused by the system or a library, and the exit code."""
    if isinstance(error, click.Abort) or is_interruption(error):
        return ("terminated", 143) if told else ("interrupted", 130)
    if isinstance(error, InputError | WorkError):
        return escaped(str(error)), 2 if isinstance(error, InputError) else 1
    text = escaped(str(error).strip(), keep="\n")
    if isinstance(error, MemoryError):
        return f"memory ran out ({text or 'no message'}), expected less at once or a machine with more", 1
    name = getattr(error, "filename", None)
    where = "output" if name is None else escaped(os.fsdecode(name))
    if disk_is_full(error):
        return f"{where}: cannot be written (the disk is full), expected more free space", 1
    if isinstance(error, OSError) and error.errno in _UNFIT:
        reason = os.strerror(error.errno)
        return f"{where}: cannot be read or written ({reason}), expected a place where that is possible", 2
    return f"{type(error).__name__}: {text or 'no message'} (--debug shows where)", 1


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    echo(f"error: {message}", err=True)
    return code

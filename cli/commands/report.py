"""`report`: what a run did, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path

import click

from cli.run_report.text import summary
from cli.shared.console import created, echo
from cli.shared.options import PATH, option
from engine.core.errors import InputError
from engine.core.files import replace_file

MARK = '<meta name="generator" content="repair-dist report">'
"""By this line in its head a page of ours is known."""

_HEAD_BYTES = 2000


@click.command(short_help="What a run did: tables in the terminal, or a page to look at.")
@click.argument("run", type=PATH, metavar="RUN")
@option("--html", type=PATH, metavar="FILE", help="Write one self-contained page instead of printing tables.")
@option("--overwrite", type=bool, help="Let --html replace a file that is not such a page.")
def command(run: Path, html: Path | None, overwrite: bool) -> None:
    """Report on a run directory: requirements, accuracy before and after, iterations, searches and workers.
    Of `compare`: what each method gains and costs, and which differences can be told from chance.

    Works while the run goes on; then it says how far the run is. Numbers of held-out rows are those of the
    saved model, loaded again. The page needs no network and no other file; it shows the images that were fixed
    and broken if their image set is still where it was.

    Example: repair-dist report runs/batch-20260102-030405-000000 --html report.html
    """
    if html is not None:
        _check_page(html, overwrite=overwrite)

    from cli.run_report.view import read_run

    found = read_run(run)
    if html is None:
        echo(summary(found))
        return

    from cli.run_report.page import render_page

    page = render_page(found)
    with replace_file(html) as temporary:
        temporary.write_text(page, encoding="utf-8")
    created(html)


def _check_page(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is not a page of ours."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path} is no name of a page, expected one that ends in .html")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a page")
    if overwrite or not path.exists():
        return
    with path.open("rb") as file:
        if MARK.encode() not in file.read(_HEAD_BYTES):
            raise InputError(f"{path} is not a page of `report`, expected another name or --overwrite")

"""`report`: what a run did, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path

import click

from cli.run_report.text import summary
from cli.shared.console import created, echo
from cli.shared.options import PATH, option
from engine.core.errors import InputError
from engine.core.files import replace_file

MARK = '<meta name="generator" content="repair-dist report">'  # by which a page of ours is known
_HEAD_BYTES = 2000


@click.command(short_help="What a run did: tables in the terminal, a page to look at, or JSON.")
@click.argument("run", type=PATH, metavar="RUN")
@option("--html", type=PATH, metavar="FILE", help="Write one self-contained page instead of printing tables.")
@option("--json", type=PATH, metavar="FILE", help="Write the numbers as one JSON object instead of printing tables.")
@option("--overwrite", type=bool, help="Let --html and --json replace a file that `report` has not written.")
def command(run: Path, html: Path | None, json: Path | None, overwrite: bool) -> None:
    """Report on a run directory: requirements, accuracy before and after, iterations, searches and workers.
    Of `compare`: what each method gains and costs, and which differences can be told from chance.

    Works while the run goes on; then it says how far the run is. Numbers of held-out rows are those of the
    saved model, loaded again. The page needs no network and no other file; it shows the images that were fixed
    and broken if their image set is still where it was.

    Example: repair-dist report runs/batch-20260102-030405-000000 --html report.html
    """
    if html is not None:
        _check_output(html, "page", (".html", ".htm"), MARK, overwrite=overwrite)
    if json is not None:
        from cli.run_report.as_json import MARK as FIRST_KEY

        _check_output(json, "JSON file", (".json",), FIRST_KEY, overwrite=overwrite)

    from cli.run_report.view import read_run
    from cluster.records.store import read_there

    found = read_there(run, read_run)
    written = {}
    if html is not None:
        from cli.run_report.page import render_page

        written[html] = render_page(found)
    if json is not None:
        from cli.run_report.as_json import render_json

        written[json] = render_json(found)
    for path, text in written.items():
        with replace_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if written:
        created(*written)
    else:
        echo(summary(found))


def _check_output(path: Path, kind: str, suffixes: tuple[str, ...], mark: str, *, overwrite: bool) -> None:
    """Refuse a name of another kind, and to replace what is not a file of ours."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} is no name of a {kind}, expected one that ends in {suffixes[0]}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a {kind}")
    if overwrite or not path.exists():
        return
    with path.open("rb") as file:
        if mark.encode() not in file.read(_HEAD_BYTES):
            raise InputError(f"{path} is not a {kind} of `report`, expected another name or --overwrite")

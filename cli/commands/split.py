from __future__ import annotations

from pathlib import Path

import click

from cli.shared.console import Console, echo
from cli.shared.options import PATH, option


@click.command(short_help="Split a repair.h5 into repairsets/<i>/repair.h5.")
@click.argument("file", type=PATH)
@option("--chunk-size", default=100, help="Rows of a chunk.")
@option("--chunks", default=10, help="Number of chunks at most; 0 takes all rows.")
@option("--output-dir", type=PATH, help="Folder for the chunks [default: repairsets beside FILE].")
@option("--overwrite", type=bool, help="Replace chunks, with the targets and repaired models in them.")
def command(file: Path, chunk_size: int, chunks: int, output_dir: Path | None, overwrite: bool) -> None:
    """Split FILE into numbered chunks of rows, in order.

    Example: repair-dist split data/repair.h5 --chunk-size 1000 --chunks 5
    """
    from engine.data.chunks import split_chunks

    with Console(1) as console:
        files = split_chunks(
            file,
            chunk_size=chunk_size,
            chunks=chunks or None,
            output_dir=output_dir,
            overwrite=overwrite,
            progress=console.rows("split", None),
        )
    for path in files:
        echo(path)

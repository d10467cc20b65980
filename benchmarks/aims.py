"""One table of all aims that the benchmarks of a folder measured, met or not.

python benchmarks/aims.py FOLDER
"""

from __future__ import annotations

from pathlib import Path

import click
from common import AIMS, Aim, read_results, table


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Print what benchmarks left in FOLDER with --output."""
    lines: dict[str, None] = {}
    cells = []
    for path in sorted(folder.glob(f"{AIMS}*.arrow")):
        results = read_results(path)
        lines[results.schema.metadata[b"machine"].decode()] = None
        for row in results.to_pylist():
            aim = Aim(**row)
            sign = "at least" if aim.at_least else "at most"
            measured = [f"{aim.measured:.3g}", f"{sign} {aim.limit:g}", "met" if aim.met else "NOT met"]
            cells.append([path.stem.removeprefix(AIMS), aim.what, *measured])
    click.echo("\n".join(lines))
    click.echo(table(["benchmark", "what", "measured", "aim", ""], cells))


if __name__ == "__main__":
    main()

"""What all charts on paper share: their files, and names of labels that fit; see `engine.charts.scale` for the rest.

Charts are drawn with matplotlib's own defaults, whatever a user's settings are, so that one input gives one file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.errors import InputError
from engine.core.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300

_FORMATS = {".png": "png", ".svg": "svg"}


def chart_path(directory: Path, name: str) -> Path:
    """Where a chart goes; raises InputError where no chart can be written, before anything is computed."""
    path = directory / name
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"filename is {name}, expected a name that ends in {' or '.join(_FORMATS)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file to draw into, or none")
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                raise InputError(f"{folder} is a file, expected a folder for {name}, or none")
            break
    return path


@contextmanager
def chart_settings() -> Iterator[None]:
    """Matplotlib's defaults and ours, for as long as a chart is built and saved."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["text.parse_math"] = False  # names with dollar signs are no formulas
        mpl.rcParams["svg.fonttype"] = "none"  # text stays text
        mpl.rcParams["svg.hashsalt"] = "repair-dist"  # else the names of elements would be random
        yield


def new_figure(width: float, height: float) -> Figure:
    # Imported here: most commands never draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save_chart(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a figure as PNG or SVG, by the suffix of `path`, whole or not at all."""
    kind = _FORMATS[path.suffix.lower()]
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=kind, metadata={"Date": None} if kind == "svg" else None)


def label_texts(labels: Sequence[int], names: Sequence[str] | None, letters: int, lines: int = 1) -> list[str]:
    """What to call labels in a chart: their names, or else numbers, in at most `lines` lines of `letters`."""
    known = dict(enumerate(names or ()))
    full = [" ".join(known.get(label, "").split()) or str(label) for label in labels]
    shown = [_fitted(text, letters, lines) for text in full]
    if len(set(shown)) < len(shown):
        numbered = [text if text == str(label) else f"{label} {text}" for label, text in zip(labels, full, strict=True)]
        shown = [_fitted(text, letters, lines) for text in numbered]
    return shown


def text_size(text: str, points: float) -> tuple[float, float]:
    """Width and height in inches of lines of text of so many points, once `chart_settings` hold."""
    from matplotlib.textpath import TextPath

    lines = text.split("\n")
    widths = [TextPath((0, 0), line, size=points).vertices[:, 0].max() for line in lines if line.strip()]
    width = max(widths, default=0.0)
    return float(width) / 72, 1.2 * points * len(lines) / 72


def _fitted(text: str, letters: int, lines: int) -> str:
    if len(text) <= letters:
        return text
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder="…"))

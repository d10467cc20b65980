"""What charts share: colours (of Okabe and Ito), round numbers on axes, spokes, shares, files and names that fit.

matplotlib is imported when a figure is made, as charts on a page need none of it, and draws with its own defaults, so
that one input gives one file.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Float64, Int64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
GREY = "#555555"
FEW = 14  # up to so many labels there is room: names around a circle lie flat, and cells have numbers
DPI = 300

_FORMATS = {".png": "png", ".svg": "svg"}


def ticks(low: float, high: float, count: int, *, outside: bool = False, whole: bool = False) -> list[float]:
    """About `count` round numbers from `low` to `high`; `outside`: that enclose both."""
    if high <= low:
        high = low + 1
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1, math.ceil(step))
    first = math.floor(low / step + 1e-9) if outside else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if outside else math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def spoke_turns(count: int) -> Float64:
    """Radians (count,), clockwise from the top."""
    turns: Float64 = 2 * np.pi * np.arange(count) / count
    return turns


def spoke_text(turn: float, *, flat: bool) -> tuple[str, float]:
    """Side (`left`, `right` or `middle`) and slope in degrees, clockwise, of a name at a spoke: never upside down."""
    sine = math.sin(turn)
    if flat:
        return "middle" if abs(sine) < 0.1 else "left" if sine > 0 else "right", 0.0
    upright = sine >= -1e-9
    return "left" if upright else "right", math.degrees(turn) - (90 if upright else 270)


def shares_of(counts: Int64, totals: Int64) -> Float64:
    shares: Float64 = counts / np.maximum(totals, 1)
    return shares


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


def save_chart(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG or SVG, by the suffix of `path`, whole or not at all."""
    kind = _FORMATS[path.suffix.lower()]
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=kind, metadata={"Date": None} if kind == "svg" else None)


def draw(path: Path, make: Callable[..., Figure], *given: Any, dpi: int = DPI) -> None:
    with chart_settings():
        save_chart(make(*given), path, dpi)


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
    """Inches, once `chart_settings` hold."""
    from matplotlib.textpath import TextPath

    lines = text.split("\n")
    widths = [TextPath((0, 0), line, size=points).vertices[:, 0].max() for line in lines if line.strip()]
    width = max(widths, default=0.0)
    return float(width) / 72, 1.2 * points * len(lines) / 72


def _fitted(text: str, letters: int, lines: int) -> str:
    if len(text) <= letters:
        return text
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder="…"))

"""Bubble charts: a grid of labels by labels, in which the area of a bubble is a share of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.charts.style import FEW, GREY, new_figure, text_size
from engine.core.types import Float64, Int64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL_AREA = 500.0  # area of a bubble for all rows, in square points
_LEAST = 0.005  # smaller shares have no number
_ASIDE = 0.26  # how far at most a bubble lies from the middle of its cell, in widths of a cell
_SHARES = (0.01, 0.1, 0.5, 1.0)  # what the legend shows the sizes of

# Points: around the figure; a number and its line; a line of the legend, the indent of its text, and that of sizes.
_MARGIN, _NUMBER, _LINE, _ROW, _INDENT, _SIZES = 8.0, 6.5, 7.8, 15.0, 16.0, 24.0


@dataclass(frozen=True, eq=False)
class Bubbles:
    legend: str  # what they are called
    counts: Int64  # (r, c) int64, rows of each cell; cells without rows have no bubble
    shares: Float64  # (r, c) float64, 0 to 1
    colour: str  # colour, marker: of matplotlib
    marker: str = "o"
    solid: bool = True  # filled, or else an outline with a pale fill, for bubbles that lie over each other
    side: int = 0  # -1 to the left, 0 in the middle, 1 to the right, as far as the cell has room
    # where the number stands in the middle of the cell, 0 right below the bubbles; where no kind has another line than
    # 0, each number stands below its own bubble
    line: int = 0


@dataclass(frozen=True)
class Grid:
    rows: Sequence[str]  # rows, columns: names, from the top and from the left
    columns: Sequence[str]
    row_title: str  # row_title, column_title: what the names are
    column_title: str
    totals: Sequence[str]  # a text at the right end of every row, or none
    totals_title: str  # what the texts are
    shaded: Sequence[tuple[int, int]]  # (row, column) of the cells of what is right
    percent: bool  # numbers are the shares in percent, or else the counts
    share_of: str  # what the shares are of


@dataclass(frozen=True)
class _Layout:
    """Points; y goes down."""

    left: float  # left, top, right, bottom: of the grid
    top: float
    right: float
    bottom: float
    width: float  # width, height: of the figure
    height: float
    cell: tuple[float, float]  # (width, height) of a cell
    points: float  # of the names
    every: int  # a name for each so many rows and columns
    raised: float  # how far bubbles lie above the middle of their cell
    turned: bool  # names of columns are turned by 45 degrees


def bubble_area(labels: int) -> float:
    """Square points of a share of 1; less than 500 where a cell of the longer side has no room."""
    return min(FULL_AREA, (0.92 * _side(labels)) ** 2)


def bubble_figure(grid: Grid, series: Sequence[Bubbles]) -> Figure:
    """To be called and saved within `chart_settings`."""
    longest = max(len(grid.rows), len(grid.columns))
    numbered = longest <= FEW
    layout = _layout(grid, series, numbered)
    figure = new_figure(layout.width / 72, layout.height / 72)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, layout.width)
    axes.set_ylim(layout.height, 0)
    _draw_grid(axes, grid, layout)
    _draw_names(axes, grid, layout)
    for bubbles in series:
        _draw_bubbles(axes, layout, bubbles, bubble_area(longest))
        if numbered:
            aside = 0 if any(other.line for other in series) else bubbles.side
            _draw_numbers(axes, layout, bubbles, bubble_area(longest), aside, grid.percent)
    _draw_legend(axes, series, bubble_area(longest), grid.share_of)
    return figure


def _side(labels: int) -> float:
    """Width of a cell in points: 0.6 inches, or less where all have to fit into 9 inches."""
    return 72 * min(0.6, 9 / labels)


def _layout(grid: Grid, series: Sequence[Bubbles], numbered: bool) -> _Layout:
    longest = max(len(grid.rows), len(grid.columns))
    side = _side(longest)
    written = _LINE * (max(bubbles.line for bubbles in series) + 1) if numbered else 0.0
    high = max(side, math.sqrt(bubble_area(longest)) + written + 6) if numbered else side
    points = min(8.5, max(5.0, 0.6 * side))
    every = math.ceil(1.15 * points * math.sqrt(2) / side - 1e-9)
    names = _extent(grid.columns[::every], points)
    turned = names > 0.9 * side
    slanted = math.sqrt(0.5) * (names + 1.2 * points)
    left = _MARGIN + 14 + _extent(grid.rows[::every], points) + 6
    if turned:
        left = max(left, _MARGIN + slanted - side / 2)
    right = left + side * len(grid.columns)
    ending = 6 + _extent([*grid.totals[::every], grid.totals_title], 7) if grid.totals else 0.0
    legend = max(_extent([bubbles.legend for bubbles in series], 8) + _INDENT, _sizes_width(grid.share_of))
    width = max(right + ending, _MARGIN + legend, 2 * _MARGIN + 72 * text_size(grid.column_title, 9)[0]) + _MARGIN
    top = _MARGIN + _ROW * len(series) + _SIZES + 18
    bottom = top + high * len(grid.rows)
    height = bottom + 6 + (slanted if turned else 1.2 * points) + 18 + _MARGIN
    return _Layout(left, top, right, bottom, width, height, (side, high), points, every, written / 2, turned)


def _extent(texts: Sequence[str], points: float) -> float:
    return max((72 * text_size(text, points)[0] for text in texts), default=0.0)


def _centres(layout: _Layout, rows: Int64, columns: Int64) -> tuple[Any, Any]:
    wide, high = layout.cell
    return layout.left + wide * (columns + 0.5), layout.top + high * (rows + 0.5)


def _draw_grid(axes: Any, grid: Grid, layout: _Layout) -> None:
    from matplotlib.patches import Rectangle

    wide, high = layout.cell
    for row, column in grid.shaded:
        place = layout.left + wide * column, layout.top + high * row
        axes.add_patch(Rectangle(place, wide, high, facecolor="#ececec", linewidth=0))
    lines = {"colors": "#d9d9d9", "linewidth": 0.5, "zorder": 1}
    axes.hlines([layout.top + high * row for row in range(len(grid.rows) + 1)], layout.left, layout.right, **lines)
    axes.vlines(
        [layout.left + wide * column for column in range(len(grid.columns) + 1)], layout.top, layout.bottom, **lines
    )


def _draw_names(axes: Any, grid: Grid, layout: _Layout) -> None:
    wide, high = layout.cell
    for row in range(0, len(grid.rows), layout.every):
        y = layout.top + high * (row + 0.5)
        axes.text(layout.left - 5, y, grid.rows[row], fontsize=layout.points, ha="right", va="center")
        if grid.totals:
            axes.text(layout.right + 5, y, grid.totals[row], fontsize=7, color=GREY, va="center")
    if grid.totals:
        axes.text(layout.right + 5, layout.top - 5, grid.totals_title, fontsize=7, color=GREY, va="bottom")
    turn: dict[str, Any] = {"ha": "center"}
    if layout.turned:
        turn = {"ha": "right", "rotation": 45, "rotation_mode": "anchor"}
    for column in range(0, len(grid.columns), layout.every):
        x = layout.left + wide * (column + 0.5)
        axes.text(x, layout.bottom + 5, grid.columns[column], fontsize=layout.points, va="top", **turn)
    middle = max((layout.left + layout.right) / 2, _MARGIN + 36 * text_size(grid.column_title, 9)[0])
    axes.text(middle, layout.height - _MARGIN, grid.column_title, fontsize=9, ha="center", va="bottom")
    turn = {"rotation": 90, "ha": "left", "va": "center"}
    axes.text(_MARGIN, (layout.top + layout.bottom) / 2, grid.row_title, fontsize=9, **turn)


def _draw_bubbles(axes: Any, layout: _Layout, series: Bubbles, area: float) -> None:
    rows, columns = np.nonzero(series.counts)
    x, y = _centres(layout, rows, columns)
    sizes = area * series.shares[rows, columns]
    room = (layout.cell[0] - np.sqrt(sizes)) / 2
    x = x + series.side * np.clip(room, 0, _ASIDE * layout.cell[0])
    look = _look(series) | {"linewidths": np.clip(0.12 * np.sqrt(sizes), 0.3, 0.9)}
    axes.scatter(x, y - layout.raised, s=sizes, **look)


def _draw_numbers(axes: Any, layout: _Layout, series: Bubbles, area: float, aside: int, percent: bool) -> None:
    """Numbers below the middle of the cell, one line for each kind, or below their bubbles."""
    for row, column in zip(*np.nonzero(series.shares >= _LEAST), strict=True):
        x, y = _centres(layout, row, column)
        text = f"{100 * series.shares[row, column]:.1f}" if percent else str(series.counts[row, column])
        y += math.sqrt(area) / 2 + 1.5 - layout.raised + _LINE * series.line
        x += aside * _ASIDE * layout.cell[0]
        axes.text(x, y, text, fontsize=_NUMBER, color=series.colour, ha="center", va="top", zorder=4)


def _draw_legend(axes: Any, series: Sequence[Bubbles], area: float, share_of: str) -> None:
    for at, bubbles in enumerate(series):
        y = _MARGIN + _ROW * (at + 0.5)
        axes.scatter([_MARGIN + 6], [y], s=64, **_look(bubbles))
        axes.text(_MARGIN + _INDENT, y, bubbles.legend, fontsize=8, va="center")
    x, y = _MARGIN, _MARGIN + _ROW * len(series) + _SIZES / 2
    for share in _SHARES:
        axes.scatter([x + _SIZES / 2], [y], s=area * share, facecolors="none", edgecolors=GREY, linewidths=0.8)
        axes.text(x + _SIZES + 2, y, f"{100 * share:g} %", fontsize=8, va="center")
        x += _SIZES + 34
    axes.text(x, y, share_of, fontsize=8, va="center")


def _sizes_width(share_of: str) -> float:
    return (_SIZES + 34) * len(_SHARES) + 72 * text_size(share_of, 8)[0]


def _look(series: Bubbles) -> dict[str, Any]:
    from matplotlib.colors import to_rgba

    face = to_rgba(series.colour, 0.85 if series.solid else 0.15)
    edge = "none" if series.solid else series.colour
    return {"marker": series.marker, "facecolors": [face], "edgecolors": edge, "linewidths": 0.9, "zorder": 3}

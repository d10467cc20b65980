"""Radar charts: the accuracy of every label, of one model or of several laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.charts.style import (
    BLUE,
    FEW,
    GREEN,
    GREY,
    ORANGE,
    draw,
    label_texts,
    new_figure,
    spoke_text,
    spoke_turns,
    text_size,
    ticks,
)
from engine.core.errors import InputError
from engine.metrics.accuracy import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": ORANGE, "marker": "s", "linestyle": "--"},
    {"color": GREEN, "marker": "^", "linestyle": ":"},
)
_MARGIN, _PAD = 0.08, 0.09  # inches
_LYING, _POINTING = 8.0, 7.0  # points of names


@dataclass(frozen=True)
class _Layout:
    """Inches and points of a chart."""

    width: float  # width, height: of the figure
    height: float
    radius: float  # of the circle
    middle: float  # of the circle, from the lower edge
    points: float  # of the names
    every: int  # a name for each so many spokes


def overlay_radar_charts(
    path: Path,
    series: Sequence[tuple[str, Results]],
    *,
    min_lim: float = 0,
    max_lim: float = 100,
    label_names: Sequence[str] | None = None,
) -> None:
    """Results of up to three models, each with what the legend says.

    Spokes come in the order in which the results name their labels, clockwise from the top.
    A line is broken where its model has no rows of a label; scores beyond the limits (percent) lie on them.
    """
    check_limits(min_lim, max_lim)
    if not any(results.labels for _, results in series):
        raise InputError(f"{path} cannot be drawn from 0 labels, expected results of at least one")
    draw(path, radar_figure, series, min_lim, max_lim, label_names)


def check_limits(min_lim: float, max_lim: float) -> None:
    if not (math.isfinite(min_lim) and math.isfinite(max_lim) and min_lim < max_lim):
        raise InputError(f"radial limits {min_lim:g} and {max_lim:g}, expected the first below the second")


def radar_figure(
    series: Sequence[tuple[str, Results]], min_lim: float, max_lim: float, label_names: Sequence[str] | None
) -> Figure:
    labels = list(dict.fromkeys(result.label for _, results in series for result in results.labels))
    few = len(labels) <= FEW
    texts = label_texts(labels, label_names, *((22, 2) if few else (30, 2 if len(labels) <= 50 else 1)))
    scores = np.array([_scores(results, labels) for _, results in series])
    if few and len(series) > 1:
        texts = [f"{text}\n{_change(column)}" for text, column in zip(texts, scores.T, strict=True)]
    legend_lines = 0 if len(series) == 1 else 1 if sum(len(legend) for legend, _ in series) <= 60 else len(series)
    turns = spoke_turns(len(labels))
    layout = _layout(texts, turns, few, 0.24 * legend_lines)

    figure = new_figure(layout.width, layout.height)
    side = 2 * layout.radius
    box = (0.5 - layout.radius / layout.width, (layout.middle - layout.radius) / layout.height)
    axes: Any = figure.add_axes((*box, side / layout.width, side / layout.height), projection="polar")
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_ylim(min_lim, max_lim)
    axes.set_xticks(turns, [])
    axes.grid(color="#cccccc", linewidth=0.5)
    axes.spines["polar"].set_color("#999999")
    closed = np.append(turns, turns[0])
    for style, values in zip(_STYLES, np.clip(scores, min_lim, max_lim), strict=False):
        ring = np.append(values, values[0])
        size, width = (4, 1.2) if few else (2.5, 0.9)
        axes.plot(closed, ring, **style, markersize=size, linewidth=width, clip_on=False, zorder=3)
        if not np.isnan(values).any():
            axes.fill(closed, ring, color=style["color"], alpha=0.2 if len(series) == 1 else 0.08, linewidth=0)
    _write_percents(axes, turns[1] / 2 if len(turns) > 1 else np.pi / 8, min_lim, max_lim)
    for text, turn in list(zip(texts, turns, strict=True))[:: layout.every]:
        _write(figure, layout, text, turn, few)
    if legend_lines:
        words = [legend if len(legend) <= 70 else f"{legend[:69]}…" for legend, _ in series]
        words = [f" {word}" if word.startswith("_") else word for word in words]  # matplotlib would leave it out
        columns = len(series) if legend_lines == 1 else 1
        figure.legend(
            axes.get_lines(), words, loc="lower center", ncols=columns, fontsize=8, frameon=False, handlelength=3
        )
    return figure


def _scores(results: Results, labels: Sequence[int]) -> list[float]:
    known = {result.label: result.score for result in results.labels}
    return [known.get(label, math.nan) for label in labels]


def _write_percents(axes: Any, turn: float, min_lim: float, max_lim: float) -> None:
    """Call the rings by their percent, on them, between the first spokes; matplotlib would call the rim outside it."""
    from matplotlib.patheffects import withStroke

    rings = [ring for ring in ticks(min_lim, max_lim, 5) if min_lim < ring]
    axes.set_yticks(rings, [])
    for ring in rings:
        halo = [withStroke(linewidth=1.5, foreground="white")]
        axes.text(turn, ring, f"{ring:g}", fontsize=6, color=GREY, ha="center", va="center", path_effects=halo)


def _change(scores: Sequence[float]) -> str:
    return " → ".join("–" if math.isnan(score) else f"{score:.1f}" for score in scores) + " %"


def _layout(texts: Sequence[str], turns: Any, few: bool, legend: float) -> _Layout:
    """The largest circle around which all names fit above a legend of this height."""
    width, height = (6.4, 4.8) if few else (8.0, 8.0)
    up, across = (height - legend) / 2 - _MARGIN, width / 2 - _MARGIN
    middle = legend + (height - legend) / 2
    if few:
        room = []
        for text, turn in zip(texts, turns, strict=True):
            wide, high = text_size(text, _LYING)
            sine, cosine = abs(math.sin(turn)), abs(math.cos(turn))
            sideways = wide / 2 if sine < 0.1 else wide
            room.append((across - sideways) / max(sine, 1e-9) - _PAD)
            room.append((up - high / 2) / max(cosine, 1e-9) - _PAD - high / 2)
        return _Layout(width, height, max(0.8, min(up - _PAD, *room)), middle, _LYING, 1)
    lines = max(text.count("\n") + 1 for text in texts)
    longest = max(text_size(text, _POINTING)[0] for text in texts)
    radius = min(up, across) - _PAD - longest
    apart = 2 * math.pi * (radius + _PAD) * 72 / len(texts)  # points from name to name
    points = min(_POINTING, max(5.0, apart / (1.2 * lines)))
    return _Layout(width, height, radius, middle, points, math.ceil(1.2 * lines * points / apart - 1e-9))


def _write(figure: Figure, layout: _Layout, text: str, turn: float, few: bool) -> None:
    sine, cosine = math.sin(turn), math.cos(turn)
    x, y = (layout.radius + _PAD) * sine, (layout.radius + _PAD) * cosine
    side, slope = spoke_text(turn, flat=few)
    if few:
        y += text_size(text, layout.points)[1] / 2 * cosine  # at the top above its place, at the bottom below it
    turned: dict[str, Any] = {"rotation": -slope, "rotation_mode": "anchor"} if slope else {}
    at = 0.5 + x / layout.width, (layout.middle + y) / layout.height
    figure.text(
        *at, text, fontsize=layout.points, ha=side.replace("middle", "center"), va="center", linespacing=1.1, **turned
    )

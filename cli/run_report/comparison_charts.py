"""Charts of comparisons: what each method gains and costs, and intervals; see `cli.run_report.charts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from cli.run_report.comparison_data import ComparisonView, ReadingView
from cli.run_report.svg import LETTER, Scale, axes, cell_bar, chart, percent_of, polyline, scale_of, tag
from cli.run_report.words import points
from engine.charts.scale import ticks
from engine.core.names import shortened
from engine.core.names import width as width_of
from engine.localize.pareto import pareto_front

Cost = Literal["broken", "worst"]

COSTS: dict[Cost, str] = {
    "broken": "test rows broken",
    "worst": "loss of the other label that loses most, points",
}
"""What lies across a frontier, drawn by its square root: a method that breaks a hundred times as much hides nobody."""

AS_IT_IS = "as it is"

_WIDTH, _HEIGHT = 540, 420
_LINE = 15
"""Pixels from one name to the next."""

_NAME = 16


@dataclass(frozen=True)
class _Point:
    """Means over the draws of a reading, and the smallest and largest; costs as the chart counts them."""

    name: str
    reading: str
    cost: float
    gain: float
    costs: tuple[float, float]
    gains: tuple[float, float]
    reference: bool = False


@dataclass(frozen=True)
class _Roots(Scale):
    """Maps values by their square roots, with their sign; `low` and `high` are values."""

    def __call__(self, value: float) -> float:
        low, at, high = (math.copysign(math.sqrt(abs(each)), each) for each in (self.low, value, self.high))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    @staticmethod
    def of(low: float, high: float, start: float, end: float) -> _Roots:
        """A scale that reaches from a value at most 0 to a round number of one at least."""
        return _Roots(min(low, 0.0), ticks(0, max(high, 1.0), 5, outside=True)[-1], start, end)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, with a few smaller ones where roots leave room."""
        whole = ticks(0, self.high, 5)
        return sorted({0.0, whole[1] / 10, whole[1] / 2, *whole})


def frontier(found: ComparisonView, across: Cost) -> Markup | None:
    """Gain of the labels under repair (y, points) against a cost (x), a point for each method and reading.

    Crosses reach over the draws of what is chosen. A line joins the points that no other beats in both; names stand in
    a column of their own, joined to their points. None without any point.
    """
    drawn = [
        point
        for method in found.methods
        for name in found.readings
        if (reading := method.readings.get(name)) is not None
        and (point := _point(method.name, name, reading, across, method.reference)) is not None
    ]
    if not drawn:
        return None
    first = found.readings[0]
    judged = [point for point in drawn if point.reading == first]
    model = _Point(AS_IT_IS, first, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0))
    left, top, bottom = 52, 14, _HEIGHT - 44
    shown = {point.name: shortened(point.name, _NAME) for point in (*judged, model)}
    right = _WIDTH - max(map(width_of, shown.values())) * LETTER - 34
    costs = [0.0, *(cost for point in drawn for cost in (point.cost, *_crossed(point, first, point.costs)))]
    gains = [0.0, *(gain for point in drawn for gain in (point.gain, *_crossed(point, first, point.gains)))]
    y_ticks = ticks(min(gains), max(gains), 6, outside=True)
    x = _Roots.of(min(costs), max(costs), left, right)
    y = scale_of(y_ticks[0], y_ticks[-1], bottom, top)
    body = axes(x, y, x.ticks, y_ticks)
    body.append(tag("line", class_="axis", x1=left, x2=right, y1=y(0), y2=y(0)))
    if x.low < 0:
        body.append(tag("line", class_="axis", x1=x(0), x2=x(0), y1=top, y2=bottom))
    body.append(tag("text", COSTS[across], class_="label middle", x=(left + right) / 2, y=_HEIGHT - 8))
    turn = f"translate(13 {(top + bottom) / 2}) rotate(-90)"
    body.append(tag("text", "gain of what is repaired, points", class_="label middle", transform=turn))
    body += _names(
        [(shown[point.name], x(point.cost), y(point.gain)) for point in (*judged, model)], right, top, bottom
    )
    body += _front((*judged, model), x, y)
    body += [mark for point in drawn if point.reading != first for mark in _other(point, judged, x, y)]
    body += [mark for point in judged for mark in _chosen(point, x, y)]
    body.append(
        tag(
            "circle",
            tag("title", "the model as it is"),
            class_="ring as-it-is",
            cx=x(0),
            cy=y(0),
            r=4,
            data_as_it_is=across,
        )
    )
    described = "Up is better, left is better; the line joins what no other method beats in both."
    return chart(f"frontier-{across}", _WIDTH, _HEIGHT, 460, "Gain against cost of every method", described, body)


def interval_bar(mean: float, low: float | None, high: float | None, largest: float) -> Markup:
    """A difference and its interval from a middle line, for a table cell; half of the cell is `largest`."""

    def place(value: float) -> str:
        return percent_of(0.5 + 0.5 * value / largest if largest else 0.5)

    marks = [tag("line", class_="axis", x1="50%", x2="50%", y1=0, y2=16)]
    if low is not None and high is not None:
        style = "gain" if low > 0 else "loss" if high < 0 else "same"
        marks.append(tag("line", class_=f"move {style}", x1=place(low), x2=place(high), y1=8, y2=8))
    marks.append(tag("circle", class_="dot before", cx=place(mean), cy=8, r=3.5))
    return cell_bar(*marks)


def _point(name: str, reading: str, view: ReadingView, across: Cost, reference: bool) -> _Point | None:
    cost, gain, costs, gains = view.mean(across), view.mean("gain"), view.span(across), view.span("gain")
    if cost is None or gain is None or costs is None or gains is None:
        return None
    if across == "worst":
        cost, costs = -100 * cost, (-100 * costs[1], -100 * costs[0])
    low, high = gains
    return _Point(name, reading, cost + 0.0, 100 * gain, costs, (100 * low, 100 * high), reference)


def _crossed(point: _Point, first: str, ends: tuple[float, float]) -> tuple[float, ...]:
    """What the cross of a point reaches, of which only the first reading has one."""
    return ends if point.reading == first else ()


def _names(places: Sequence[tuple[str, float, float]], right: float, top: float, bottom: float) -> list[Markup]:
    """Names in a column beside the chart, from top to bottom as their points lie, each joined to its point."""
    ordered = sorted(places, key=lambda place: (place[2], place[1]))
    heights: list[float] = []
    for _, _, y in ordered:
        heights.append(max(y, heights[-1] + _LINE if heights else top + 4))
    lowest = bottom
    for at in reversed(range(len(heights))):
        heights[at] = min(heights[at], lowest)
        lowest = heights[at] - _LINE
    marks = []
    for (name, px, py), height in zip(ordered, heights, strict=True):
        turn = [(px, py), (right + 12, height), (right + 22, height)]
        marks.append(tag("polyline", class_="leader", points=polyline(turn)))
        marks.append(tag("text", name, class_="name", x=right + 26, y=height + 4, data_name=name))
    return marks


def _front(judged: Sequence[_Point], x: Scale, y: Scale) -> list[Markup]:
    """The line over the points that no other beats: along each cost the largest gain up to it."""
    gains, costs = np.array([point.gain for point in judged]), np.array([point.cost for point in judged])
    front = sorted((judged[at] for at in pareto_front(gains, -costs)), key=lambda point: (point.cost, point.gain))
    places: list[tuple[float, float]] = []
    for point in front:
        if places:
            places.append((x(point.cost), places[-1][1]))
        places.append((x(point.cost), y(point.gain)))
    names = " ".join(point.name for point in front)
    return [tag("polyline", tag("title", f"no method beats: {names}"), class_="mean", points=polyline(places))]


def _chosen(point: _Point, x: Scale, y: Scale) -> list[Markup]:
    px, py = x(point.cost), y(point.gain)
    marks = [
        tag("line", class_="spread", x1=x(point.costs[0]), x2=x(point.costs[1]), y1=py, y2=py),
        tag("line", class_="spread", x1=px, x2=px, y1=y(point.gains[0]), y2=y(point.gains[1])),
    ]
    data = _data(point)
    if point.reference:
        corners = [(px, py - 7), (px + 7, py), (px, py + 7), (px - 7, py)]
        return [*marks, tag("polygon", _title(point), class_="mean-dot", points=polyline(corners), **data)]
    return [*marks, tag("circle", _title(point), class_="dot chosen", cx=px, cy=py, r=5.5, **data)]


def _other(point: _Point, judged: Sequence[_Point], x: Scale, y: Scale) -> list[Markup]:
    """What is found where nobody chooses: a ring, joined to what is chosen."""
    px, py = x(point.cost), y(point.gain)
    marks = [
        tag("line", class_="limit", x1=px, x2=x(mine.cost), y1=py, y2=y(mine.gain))
        for mine in judged
        if mine.name == point.name and math.hypot(px - x(mine.cost), py - y(mine.gain)) > 6
    ]
    return [*marks, tag("circle", _title(point), class_="ring", cx=px, cy=py, r=4.5, **_data(point))]


def _title(point: _Point) -> Markup:
    gain, low, high = (points(value / 100) for value in (point.gain, *point.gains))
    least, most = point.costs
    said = f"{point.name}, {point.reading}: gain {gain} points ({low} to {high}), cost {point.cost:.4g}"
    return tag("title", f"{said} ({least:.4g} to {most:.4g})")


def _data(point: _Point) -> dict[str, str]:
    return {
        "data_frontier_method": point.name,
        "data_reading": point.reading,
        "data_cost": repr(point.cost),
        "data_gain": repr(point.gain),
    }

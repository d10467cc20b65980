"""Charts of CrossFit runs: what each step does and how sure it is, and what was mixed; see `cli.run_report.charts`."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from cli.run_report.crossfit import PointView
from cli.run_report.svg import HALF, Scale, axes, cell_bar, chart, percent_of, polyline, scale_of, tag
from cli.run_report.words import percent, points
from engine.charts.scale import ticks

_LINES = (
    ("all", "before", "all labels"),
    ("worst", "loss dashed", "the other label that loses most"),
    ("gain", "after", "labels under repair"),
)
"""What is drawn over the steps, by name of the column, the last on top, with its style."""


def frontier(steps: Sequence[PointView], confidence: float) -> Markup:
    """Changes of accuracy over the steps in points, and below them the chance of all requirements in percent.

    A line across both marks the step taken; `steps` are ascending.
    """
    width, height, left, right = HALF, 500, 62, 16
    top, middle, lower, bottom = 28, 292, 322, 454
    changes = [100 * value for point in steps for name, *_ in _LINES if (value := getattr(point, name)) is not None]
    y_ticks = ticks(min(0, *changes), max(0, *changes), 5, outside=True)
    chances = ticks(min(100 * confidence, *(100 * point.chance for point in steps)), 100, 3, outside=True)
    x_ticks = ticks(0, 1, 5)
    x = scale_of(0, 1, left, width - right)
    y = scale_of(y_ticks[0], y_ticks[-1], middle, top)
    low = scale_of(chances[0], 100, bottom, lower)
    body = [*axes(x, y, (), y_ticks, signed=True), *axes(x, low, x_ticks, chances)]
    body.append(tag("line", class_="axis", x1=left, x2=width - right, y1=y(0), y2=y(0)))
    for words, at in (("change, points", (top + middle) / 2), ("chance, %", (lower + bottom) / 2)):
        body.append(tag("text", words, class_="label middle", transform=f"translate(14 {at}) rotate(-90)"))
    body.append(tag("text", "step", class_="label middle", x=(left + width - right) / 2, y=height - 6))
    body += _asked(confidence, low, left, width - right)
    body += [mark for point in steps if point.taken for mark in _taken(point, x(point.step), top, bottom)]
    for name, style, words in _LINES:
        body += _line(steps, name, style, words, x, y)
    body.append(
        tag("polyline", class_="mean", points=polyline([(x(point.step), low(100 * point.chance)) for point in steps]))
    )
    for point in steps:
        said = f"step {point.step:g}: all requirements with {percent(point.chance)} % chance"
        place = {"cx": x(point.step), "cy": low(100 * point.chance), "r": 5 if point.taken else 2.5}
        body.append(tag("circle", tag("title", said), class_="mean-dot", **place, **_mark("chance", point)))
    described = "Above what each step changes, below the chance that new rows keep all requirements."
    return chart("frontier-chart", width, height, 320, "How far to go", described, body)


def mixed_bar(found: float, taken: float, largest: float) -> Markup:
    """A number of the mixture from a middle line, for a table cell: pale as searched, full as taken; see `_cell`."""
    return cell_bar(
        _cell(found, largest, "pale"),
        _cell(taken, largest, "after"),
        tag("line", class_="axis", x1="50%", x2="50%", y1=0, y2=16),
    )


def _cell(value: float, largest: float, style: str) -> Markup:
    """Half of the cell is `largest`; negative numbers lie to the left."""
    size = 0.5 * abs(value) / largest if largest else 0.0
    start = 0.5 if value >= 0 else 0.5 - size
    return tag("rect", class_=style, x=percent_of(start), y=3, width=percent_of(size), height=10, rx=1.5)


def _line(steps: Sequence[PointView], name: str, style: str, words: str, x: Scale, y: Scale) -> list[Markup]:
    known = [(point, getattr(point, name)) for point in steps if getattr(point, name) is not None]
    places = [(x(point.step), y(100 * value)) for point, value in known]
    marks = [tag("polyline", class_=f"line {style}", points=polyline(places))]
    for (point, value), (px, py) in zip(known, places, strict=True):
        said = tag("title", f"step {point.step:g}, {words}: {points(value)} points")
        size = 5 if point.taken else 2.5
        marks.append(tag("circle", said, class_=f"dot {style}", cx=px, cy=py, r=size, **_mark(name, point)))
    return marks


def _mark(name: str, point: PointView) -> dict[str, str]:
    return {
        "data_frontier": name,
        "data_step": repr(point.step),
        "data_value": repr(getattr(point, name)),
    }


def _asked(confidence: float, low: Scale, start: float, end: float) -> list[Markup]:
    at = low(100 * confidence)
    words = f"{100 * confidence:.10g} % asked for"
    return [
        tag("line", class_="limit", x1=start, x2=end, y1=at, y2=at),
        tag("text", words, class_="tick halo", x=start + 6, y=at + 13),
    ]


def _taken(point: PointView, at: float, top: float, bottom: float) -> list[Markup]:
    side = "end" if point.step > 0.85 else "start" if point.step < 0.15 else "middle"
    return [
        tag("line", class_="taken", x1=at, x2=at, y1=top, y2=bottom),
        tag("text", f"step {point.step:g} taken", class_=f"weight halo {side}", x=at, y=top - 10),
    ]

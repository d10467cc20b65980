"""Elements, scales, axes and the frame of a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LETTER = 6.8  # width of an average letter of a name in a chart, in pixels
HALF = 520  # width of charts that share a line with something else; on phones their text is enlarged


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` is written `class`, `data_job` is `data-job`; None leaves an attribute out."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(
        Markup(escape(name)), written, Markup("").join(escape(child) for child in children)
    )


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to pixels [start, end]; with `roots` by the square roots of values, with their sign."""

    low: float
    high: float
    start: float
    end: float
    roots: bool = False

    def __call__(self, value: float) -> float:
        low, at, high = self.low, value, self.high
        if self.roots:
            low, at, high = (math.copysign(math.sqrt(abs(each)), each) for each in (low, at, high))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def scale_of(low: float, high: float, start: float, end: float) -> Scale:
    """A scale of one unit at least: all values may be the same."""
    return Scale(low, high if high > low else low + 1, start, end)


def axes(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    *,
    across: str = "",
    up: str = "",
    signed: bool = False,
) -> list[Markup]:
    """Lines across at `y_ticks`, a line along the bottom, and numbers and words at both; `signed` ones are changes."""
    body = []
    for value in y_ticks:
        at = y(value)
        body.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        body.append(tag("text", _tick_text(value, signed), class_="tick end", x=x.start - 6, y=at + 4))
    body += [
        tag("text", _tick_text(value, signed), class_="tick middle", x=x(value), y=y.start + 16) for value in x_ticks
    ]
    body.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    if across:
        body.append(tag("text", across, class_="label middle", x=(x.start + x.end) / 2, y=y.start + 38))
    if up:
        turned = f"translate(14 {(y.start + y.end) / 2}) rotate(-90)"
        body.append(tag("text", up, class_="label middle", transform=turned))
    return body


def zero_lines(x: Scale, y: Scale) -> list[Markup]:
    """Where both are 0."""
    return [
        tag("line", class_="axis", x1=x(0), x2=x(0), y1=y.end, y2=y.start),
        tag("line", class_="axis", x1=x.start, x2=x.end, y1=y(0), y2=y(0)),
    ]


Dot = tuple[float, float, float, str, Mapping[str, object]]  # place, radius, tooltip and data


def circle(style: str, dot: Dot) -> Markup:
    x, y, r, said, data = dot
    return tag("circle", tag("title", said), class_=style, cx=x, cy=y, r=r, **data)


def line(dots: Sequence[Dot], style: str, dot: str) -> list[Markup]:
    places = polyline([(x, y) for x, y, *_ in dots])
    return [tag("polyline", class_=style, points=places), *(circle(dot, each) for each in dots)]


def _tick_text(value: float, signed: bool) -> str:
    text = f"{value:+g}" if signed and value else f"{value:g}"
    return text.replace("-", "−")


def chart(
    identifier: str,
    width: float,
    height: float,
    narrowest: int | None,
    title: str,
    description: str,
    body: Sequence[Markup],
) -> Markup:
    """An SVG that fills the page up to its own width, and on narrower screens than `narrowest` pixels scrolls."""
    style = f"max-width:{width:.0f}px" + (f";min-width:{narrowest}px" if narrowest else "")
    return tag(
        "svg",
        tag("title", title, id=f"{identifier}-title"),
        tag("desc", description, id=f"{identifier}-desc"),
        *body,
        class_="chart half" if width == HALF else "chart",
        role="img",
        aria_labelledby=f"{identifier}-title {identifier}-desc",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        style=style,
    )


def cell_bar(*marks: Markup) -> Markup:
    """A drawing as wide as its cell; the numbers are in the cells beside it."""
    return tag("svg", *marks, class_="cell-bar", aria_hidden="true")


def percent_of(value: float) -> str:
    return f"{100 * value:.1f}%"


def polyline(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _short(value: object) -> str:
    """Pixels in tenths; everything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)

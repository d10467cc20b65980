"""What every chart of a page is drawn with: elements, scales, axes, and the frame that says what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LETTER = 6.8
"""Width of an average letter of a name in a chart, in pixels."""

HALF = 520
"""Width of charts that share a line with something else; on phones their text is enlarged."""


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
    """Maps [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scale_of(low: float, high: float, start: float, end: float) -> Scale:
    """A scale of one unit at least: all values may be the same."""
    return Scale(low, high if high > low else low + 1, start, end)


def axes(
    x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], *, signed: bool = False
) -> list[Markup]:
    """Lines across at `y_ticks`, a line along the bottom, and numbers at both; `signed` ones are changes."""
    body = []
    for value in y_ticks:
        at = y(value)
        body.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        body.append(tag("text", _tick_text(value, signed), class_="tick end", x=x.start - 6, y=at + 4))
    body += [
        tag("text", _tick_text(value, signed), class_="tick middle", x=x(value), y=y.start + 16) for value in x_ticks
    ]
    body.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    return body


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
    """A share of the width of a cell."""
    return f"{100 * value:.1f}%"


def polyline(places: Sequence[tuple[float, float]]) -> str:
    """Places as the attribute `points`."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _short(value: object) -> str:
    """Pixels in tenths; everything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)

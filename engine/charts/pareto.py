from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.charts.style import BLUE, ORANGE, draw, new_figure
from engine.localize.fronts import Localisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pareto_front(path: Path, found: Localisation) -> None:
    """A PNG of 640 x 480 pixels."""
    draw(path, _figure, found, dpi=100)


def _figure(found: Localisation) -> Figure:
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    axes.scatter(found.gradient_loss, found.forward_impact, s=9, color=BLUE, label="candidates")
    front = found.gradient_loss[found.front], found.forward_impact[found.front]
    axes.plot(*front, "o-", color=ORANGE, markersize=4, label=f"Pareto front ({len(found.front)})")
    axes.set_xlabel("gradient loss")
    axes.set_ylabel("forward impact")
    axes.legend()
    return figure

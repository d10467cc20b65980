"""The chart of a localisation."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.core.files import replace_file
from engine.localize.pareto import Localisation


def draw_pareto_front(path: Path, found: Localisation) -> None:
    """Plot all candidates and the front to a PNG of 640 x 480 pixels, written whole or not at all."""
    figure = Figure(figsize=(6.4, 4.8), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(found.gradient_loss, found.forward_impact, s=9, color="#4477aa", label="candidates")
    axes.plot(
        found.gradient_loss[found.front],
        found.forward_impact[found.front],
        "o-",
        color="#cc3311",
        markersize=4,
        label=f"Pareto front ({len(found.front)})",
    )
    axes.set_xlabel("gradient loss")
    axes.set_ylabel("forward impact")
    axes.legend()
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png")

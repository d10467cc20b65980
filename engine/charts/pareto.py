from __future__ import annotations

from pathlib import Path

from engine.charts.style import BLUE, ORANGE, chart_settings, new_figure, save_chart
from engine.localize.fronts import Localisation


def draw_pareto_front(path: Path, found: Localisation) -> None:
    """A PNG of 640 x 480 pixels."""
    with chart_settings():
        figure = new_figure(6.4, 4.8)
        axes = figure.add_subplot()
        axes.scatter(found.gradient_loss, found.forward_impact, s=9, color=BLUE, label="candidates")
        axes.plot(
            found.gradient_loss[found.front],
            found.forward_impact[found.front],
            "o-",
            color=ORANGE,
            markersize=4,
            label=f"Pareto front ({len(found.front)})",
        )
        axes.set_xlabel("gradient loss")
        axes.set_ylabel("forward impact")
        axes.legend()
        save_chart(figure, path, dpi=100)

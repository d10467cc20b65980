"""Draw the Arrow files that benchmarks wrote with --output: a chart per factor, and bars of what was compared.

python benchmarks/plot.py FOLDER [--format svg|png]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import click
from common import AIMS, read_results

from engine.charts.style import BLUE, GREEN, GREY, ORANGE, chart_settings, new_figure, save_chart

LINES = {
    "iteration": (BLUE, "o-", "iteration"),
    "fitness": (ORANGE, "s-", "fitness"),
    "floor": (GREY, "--", "floor"),
}
HERE = "repair-dist"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "suffix", type=click.Choice(["svg", "png"]), default="svg", show_default=True)
def main(folder: Path, suffix: str) -> None:
    """Draw every file of FOLDER that there is a chart for, beside it."""
    for path in sorted(set(folder.glob("*.arrow")) - set(folder.glob(f"{AIMS}*"))):
        draw = CHARTS.get(path.stem)
        if draw is None:
            click.echo(f"{path.name}: there is no chart for it")
            continue
        rows = read_results(path).to_pylist()
        with chart_settings():
            for name, figure in draw(rows).items():
                target = folder / f"{name}.{suffix}"
                save_chart(figure, target, dpi=150)
                click.echo(f"chart: {target}")


def draw_costs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Time against each factor, with its floor, both on logarithmic axes."""
    charts = {}
    for problem, factor in dict.fromkeys((row["problem"], row["factor"]) for row in rows):
        some = sorted(
            (row for row in rows if (row["problem"], row["factor"]) == (problem, factor)), key=lambda row: row["value"]
        )
        figure = new_figure(5, 3.6)
        axes = figure.add_subplot()
        for what, (colour, style, label) in LINES.items():
            axes.plot(
                [row["value"] for row in some], [1e3 * row[what] for row in some], style, color=colour, label=label
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(factor)
        axes.set_ylabel("milliseconds")
        axes.set_title(problem, fontsize="medium")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
        figure.tight_layout()
        charts[f"costs-{_file_name(problem)}-{factor}"] = figure
    return charts


def draw_engines(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bars of an iteration in every engine, and of the fitness alone, a panel for each problem and size."""

    def label(row: dict[str, Any]) -> tuple[str, str]:
        engine = row["engine"]
        colour = GREY if not engine else ORANGE if engine == HERE else BLUE
        return f"{engine}: {row['form']}" if engine else f"fitness alone: {row['form']}", colour

    return {"engines": _bars(rows, lambda row: f"{row['problem']}, {_size(row)}", label)}


def draw_fitness(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bars of every way to compute the fitness, a panel for each size."""
    here = ("fitness", "iteration")
    return {"fitness": _bars(rows, _size, lambda row: (row["way"], ORANGE if row["way"] in here else GREEN))}


def draw_layers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bars of every way to judge one candidate, and of the floor, a panel for each layer."""
    floors = [{**row, "way": "floor", "seconds": row["floor"]} for row in rows if row["way"] == "here"]
    colours = {"here": ORANGE, "floor": GREY}

    def panel(row: dict[str, Any]) -> str:
        return f"{row['target']} ({row['layer']}, {row['kind']}), n {row['rows']:,}, K {row['weights']}"

    return {"layers": _bars([*rows, *floors], panel, lambda row: (row["way"], colours.get(row["way"], BLUE)))}


def draw_tiles(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bars of an iteration in tiles, by the number of actors."""
    return {"tiles": _bars(rows, lambda _: "one iteration in tiles", lambda row: (f"{row['actors']} actors", ORANGE))}


def draw_deep(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Test images fixed and broken by a repair, on average, of every target and way to choose weights."""
    pairs = list(dict.fromkeys((row["target"], row["way"]) for row in rows))
    figure = new_figure(7, max(2.0, 0.4 * len(pairs)))
    axes = figure.add_subplot()
    for what, colour, shift in (("fixed", GREEN, -0.2), ("broken", ORANGE, 0.2)):
        means = [mean(row[what] for row in rows if (row["target"], row["way"]) == pair) for pair in pairs]
        bars = axes.barh([place + shift for place in range(len(pairs))], means, 0.4, color=colour, label=what)
        axes.bar_label(bars, [f"{value:.0f}" for value in means], padding=2)
    axes.set_yticks(range(len(pairs)), [f"{target}: {way}" for target, way in pairs])
    axes.invert_yaxis()
    axes.set_xlabel("test images per repair")
    axes.legend()
    figure.tight_layout()
    return {"deep": figure}


CHARTS: dict[str, Callable[[list[dict[str, Any]]], dict[str, Any]]] = {
    "costs": draw_costs,
    "deep": draw_deep,
    "engines": draw_engines,
    "fitness": draw_fitness,
    "layers": draw_layers,
    "tiles": draw_tiles,
}
"""By file name, a function from the rows of a table to figures by name."""


def _size(row: dict[str, Any]) -> str:
    return f"n {row['rows']:,}, K {row['weights']}, C {row['classes']}, U {row['units']}"


def _file_name(text: str) -> str:
    return "-".join(text.lower().split())


def _bars(
    rows: list[dict[str, Any]],
    panel: Callable[[dict[str, Any]], str],
    label: Callable[[dict[str, Any]], tuple[str, str]],
) -> Any:
    """Horizontal bars of `seconds` on a logarithmic axis, one panel for all rows of one name."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault(panel(row), []).append(row)
    heights = [len(members) + 1.5 for members in panels.values()]
    figure = new_figure(7, max(2.0, 0.24 * sum(heights)))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    for place, (title, members) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[place])
        names, colours = zip(*map(label, members), strict=True)
        values = [1e3 * row["seconds"] for row in members]
        bars = axes.barh(range(len(members)), values, color=colours)
        axes.bar_label(bars, [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values], padding=2)
        axes.set_yticks(range(len(members)), names)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 4)
        axes.set_title(title, fontsize="medium")
    axes.set_xlabel("milliseconds")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()

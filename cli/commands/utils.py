"""`utils`: charts of results, image sets merged, taken apart and labelled anew, and how often scenes come up."""

from __future__ import annotations

import click

from cli.commands.utils_bubbles import draw_bubble_chart, draw_repaired_result, overlay_bubble_chart
from cli.commands.utils_data import create_gate_class, create_vit_class, extract_images, merge_repair_data
from cli.commands.utils_radar import draw_radar_chart, draw_radar_chart_with_subset, overlay_radar_charts
from cli.commands.utils_risk import risk_calculation_tool
from cli.shared.commands import Commands


@click.group(cls=Commands, short_help="Charts of results; merge and extract image sets.")
def command() -> None:
    """Charts of a model's results, and image sets merged, taken apart and labelled anew.

    Example: repair-dist utils draw_radar_chart --model-dir model --data-dir data
    """


for subcommand in (
    draw_radar_chart,
    overlay_radar_charts,
    draw_radar_chart_with_subset,
    draw_bubble_chart,
    overlay_bubble_chart,
    draw_repaired_result,
    merge_repair_data,
    extract_images,
    create_vit_class,
    create_gate_class,
    risk_calculation_tool,
):
    command.add_command(subcommand)

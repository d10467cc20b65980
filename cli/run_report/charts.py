"""Charts of a report as inline SVG, without scripts: classes get their colours from the style sheet of the page.

Marks that stand for numbers of the tables have them in full precision as `data-` attributes, and in words as tooltips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from cli.run_report.comparison import ComparisonView
from cli.run_report.rows import Row
from cli.run_report.svg import (
    HALF,
    LETTER,
    Dot,
    Scale,
    axes,
    cell_bar,
    chart,
    circle,
    line,
    percent_of,
    polyline,
    scale_of,
    tag,
    zero_lines,
)
from cli.run_report.words import duration, number, percent, points
from engine.charts.style import FEW, shares_of, spoke_text, spoke_turns, ticks
from engine.core.names import shortened
from engine.core.names import width as width_of
from engine.core.types import Float64, Int64
from engine.localize.fronts import pareto_front
from engine.metrics.accuracy import LabelChange

Cost = Literal["broken", "worst"]

COSTS: dict[Cost, str] = {"broken": "test rows broken", "worst": "loss of the other label that loses most, points"}
"""What lies across the frontier of methods, drawn by its square root: large costs do not hide small ones."""

_LINE = 15  # pixels from one name to the next
_NAME = 16


def change_bar(change: LabelChange) -> Markup:
    """For a table cell: accuracy before (ring) and after (dot)."""
    before, after = change.correct_before / change.total, change.correct_after / change.total
    style = "gain" if after > before else "loss" if after < before else "same"
    start, end = percent_of(before), percent_of(after)
    return cell_bar(
        tag("line", class_="track", x1="0%", x2="100%", y1=8, y2=8),
        tag("line", class_=f"move {style}", x1=start, x2=end, y1=8, y2=8),
        tag("circle", class_="ring", cx=start, cy=8, r=3.5),
        tag("circle", class_=f"dot {style}", cx=end, cy=8, r=4.5),
    )


def count_bar(broken: int, fixed: int, largest: int) -> Markup:
    """For a table cell: rows broken to the left, fixed to the right; `largest` fills a side."""
    scale = 0.5 / max(largest, 1)
    left = _cell_rect("loss", 0.5 - broken * scale, broken * scale)
    return cell_bar(left, _cell_rect("gain", 0.5, fixed * scale), _MIDDLE)


def share_bar(value: float, largest: float) -> Markup:
    return cell_bar(_cell_rect("after", 0, value / largest if largest else 0.0))


def mixed_bar(found: float, taken: float, largest: float) -> Markup:
    """For a table cell: a number of the mixture, pale as searched, full as taken; half of the cell is `largest`."""
    marks = []
    for value, style in ((found, "pale"), (taken, "after")):
        size = 0.5 * abs(value) / largest if largest else 0.0
        marks.append(_cell_rect(style, 0.5 if value >= 0 else 0.5 - size, size))
    return cell_bar(*marks, _MIDDLE)


def interval_bar(mean: float, low: float | None, high: float | None, largest: float) -> Markup:
    """For a table cell: a difference and its interval; half of the cell is `largest`."""

    def place(value: float) -> str:
        return percent_of(0.5 + 0.5 * value / largest if largest else 0.5)

    marks = [_MIDDLE]
    if low is not None and high is not None:
        style = "gain" if low > 0 else "loss" if high < 0 else "same"
        marks.append(tag("line", class_=f"move {style}", x1=place(low), x2=place(high), y1=8, y2=8))
    return cell_bar(*marks, tag("circle", class_="dot before", cx=place(mean), cy=8, r=3.5))


_MIDDLE = tag("line", class_="axis", x1="50%", x2="50%", y1=0, y2=16)


def _cell_rect(style: str, start: float, size: float) -> Markup:
    return tag("rect", class_=style, x=percent_of(start), y=3, width=percent_of(size), height=10, rx=1.5)


def radar(identifier: str, spokes: Sequence[Row]) -> Markup:
    """Accuracy (a share) of every label `before` and `after`, from a round percent below the lowest to 100."""
    lowest = min(min(spoke.before, spoke.after) for spoke in spokes)
    floor = max(0.0, math.floor(lowest * 10) / 10 - 0.1)
    many = len(spokes) > FEW
    radius, letters = (205, 26) if many else (160, 16)
    names = [shortened(spoke.name, letters) for spoke in spokes]
    margin = max(map(width_of, names)) * LETTER + 22
    width, height = 2 * (radius + margin), 2 * (radius + (margin if many else 34))
    cx, cy = width / 2, height / 2
    turns = spoke_turns(len(spokes)).tolist()

    def place(at: int, share: float, beyond: float = 0) -> tuple[float, float]:
        r = radius * max(share - floor, 0) / (1 - floor) + beyond
        return cx + r * math.sin(turns[at]), cy - r * math.cos(turns[at])

    body = []
    for ring in ticks(floor, 1, 4):
        if ring > floor:
            corners = [place(at, ring) for at in range(len(spokes))]
            body.append(tag("polygon", class_="grid", points=polyline(corners)))
    for at, (turn, name) in enumerate(zip(turns, names, strict=True)):
        x, y = place(at, 1)
        body.append(tag("line", class_="grid", x1=cx, y1=cy, x2=x, y2=y))
        body.append(_spoke_name(name, *place(at, 1, beyond=12), turn, flat=not many))
    for style in ("before", "after"):
        corners = [place(at, getattr(spoke, style)) for at, spoke in enumerate(spokes)]
        body.append(tag("polygon", class_=f"area {style}", points=polyline(corners)))
        for spoke, (x, y) in zip(spokes, corners, strict=True):
            share = getattr(spoke, style)
            mark = {"data_radar": style, "data_label": spoke.label, "data_value": repr(share)}
            said = f"{spoke.name}, {style}: {percent(share)} %"
            body.append(circle(f"dot {style}", (x, y, 2.2 if many else 3, said, mark)))
    body += [
        tag("text", f"{100 * ring:.0f}", class_="tick halo", x=cx + 4, y=place(0, ring)[1] + 4)
        for ring in ticks(floor, 1, 4)
    ]
    described = f"Accuracy per label; the centre is {100 * floor:.0f} %, the rim 100 %."
    return chart(identifier, width, height, 560 if many else 400, "Accuracy before and after", described, body)


def heat_map(name: str, labels: Sequence[int], names: Sequence[str], counts: Int64, strongest: float) -> Markup:
    """`counts` (k, k) of true by predicted label; the share of errors `strongest` gets the full colour."""
    size = len(labels)
    few = size <= FEW
    cell = 32 if few else max(7, min(14, 430 // size))
    shown = [shortened(label_name, 15 if few else 24) for label_name in names]
    left = max(map(width_of, shown)) * (LETTER if few else 0.82 * LETTER) + 12
    top = left * 0.75 + 8 if few else 24
    shares = shares_of(counts, counts.sum(axis=1, keepdims=True))
    body = []
    for at, text in enumerate(shown):
        y, x = top + (at + 0.5) * cell, left + (at + 0.5) * cell
        body.append(tag("text", text, class_="name end" if few else "small end", x=left - 6, y=y + 4))
        turn = f"translate({x + 4:.1f} {top - 6:.1f}) rotate({-50 if few else -90})"
        body.append(tag("text", text if few else labels[at], class_="name" if few else "small", transform=turn))
    body.append(tag("rect", class_="field", x=left, y=top, width=size * cell, height=size * cell))
    for true, predicted in zip(*np.nonzero(counts), strict=True):
        count = int(counts[true, predicted])
        share = float(shares[true, predicted])
        right = true == predicted
        strength = share if right else min(1.0, share / strongest) if strongest else 0.0
        words = f"{names[true]} predicted as {names[predicted]}: {count} rows, {percent(share)} %"
        x, y = left + predicted * cell, top + true * cell
        mark = {"data_confusion": name, "data_true": labels[true], "data_predicted": labels[predicted]}
        box = {"x": x + 0.5, "y": y + 0.5, "width": cell - 1, "height": cell - 1}
        box |= {"fill_opacity": round(0.12 + 0.88 * strength, 2), "data_value": count}
        body.append(tag("rect", tag("title", words), class_="right" if right else "error", **box, **mark))
        if few:
            on = ("on-blue" if right else "on-orange") if strength > 0.8 else ""
            body.append(tag("text", count, class_=f"count {on}".rstrip(), x=x + cell / 2, y=y + cell / 2 + 4))
    overhang = max(map(width_of, shown)) * LETTER * 0.65 if few else 4
    width, height = left + size * cell + overhang, top + size * cell + 4
    described = "Rows are true labels, columns predicted ones; blue is right, orange is wrong."
    return chart(f"confusion-{name}", width, height, 380 if few else 500, f"Confusions {name}", described, body)


def curves(identifier: str, title: str, drawn: Sequence[tuple[Row, Row]], keep: int, *, wide: bool) -> Markup:
    """Best fitness of some searches, less that at their start, over iterations; `keep` points of each."""
    width, height, left, right, top, bottom = HALF if wide else 320, 260 if wide else 190, 44, 10, 10, 26
    gains = [(job, curve, curve.best - (job.start_fitness or 0.0)) for job, curve in drawn]
    last = max(int(curve.iteration[-1]) for _, curve in drawn)
    highest = max(float(gained[-1]) for *_, gained in gains)
    lowest = min(0.0, *(float(gained[0]) for *_, gained in gains))
    x = scale_of(0, max(last, 1), left, width - right)
    y = scale_of(lowest, highest, height - bottom, top)
    body = axes(x, y, ticks(0, last, 4), ticks(lowest, highest, 4))
    for job, curve, gained in sorted(gains, key=lambda each: each[0].chosen):
        steps = [(int(curve.iteration[at]), float(gained[at])) for at in _kept(curve.best, keep)]
        path = f"M{x(0):.1f} {y(0):.1f}" + "".join(f"H{x(at):.1f}V{y(value):.1f}" for at, value in steps)
        words = f"{job.job}: fitness {number(job.start_fitness)} to {number(float(curve.best[-1]))}"
        words += f" in {int(curve.iteration[-1])} iterations" + (", chosen" if job.chosen else "")
        mark = {"data_curve": job.job, "data_value": repr(float(curve.best[-1])), "data_last": int(curve.iteration[-1])}
        style = "curve chosen" if job.chosen else "curve"
        body.append(tag("path", tag("title", words), class_=style, d=path, **mark))
    return chart(identifier, width, height, None, title, "Gain in fitness over iterations.", body)


def trade_off(jobs: Sequence[Row], means: Sequence[tuple[str, float, float, int]]) -> Markup:
    """A dot for each search; `means` are (positive weight, mean change of all labels, mean gain, searches)."""
    width, height, left, right, top, bottom = HALF, 400, 62, 28, 16, 46
    xs = [100 * job.overall for job in jobs]
    ys = [100 * job.gain for job in jobs]
    x_ticks = ticks(min(0, *xs), max(0, *xs), 6, outside=True)
    y_ticks = ticks(min(0, *ys), max(0, *ys), 6, outside=True)
    x = scale_of(x_ticks[0], x_ticks[-1], left, width - right)
    y = scale_of(y_ticks[0], y_ticks[-1], height - bottom, top)
    across, up = "change of all labels, points", "gain of the label under repair, points"
    body = [*axes(x, y, x_ticks, y_ticks, across=across, up=up, signed=True), *zero_lines(x, y)]
    for job in sorted(jobs, key=lambda job: job.chosen):
        words = f"{job.job}: label {points(job.gain)}, all {points(job.overall)} points"
        mark = {"data_candidate": job.job, "data_gain": repr(job.gain), "data_overall": repr(job.overall)}
        style = "dot chosen" if job.chosen else "dot faint"
        words += ", chosen" if job.chosen else ""
        body.append(circle(style, (x(100 * job.overall), y(100 * job.gain), 5, words, mark)))
    dots: list[Dot] = []
    for weight, overall, gain, count in means:
        words = f"positive weight {weight}, mean of {count}: label {points(gain)}, all {points(overall)} points"
        mark = {"data_weight": weight, "data_gain": repr(gain), "data_overall": repr(overall)}
        dots.append((x(100 * overall), y(100 * gain), 5.5, words, mark))
    body += line(dots, "mean", "mean-dot")
    body += _beside([(px, py) for px, py, *_ in dots], [weight for weight, *_ in means])
    described = "Each faint dot is a search; the line joins the means over the searches of each positive weight."
    return chart("trade-off", width, height, 340, "What repairing costs", described, body)


def accuracy_lines(lines: Sequence[tuple[str, str, Sequence[float]]], word: str) -> Markup:
    """Accuracy over iterations or rounds: name, style and values in percent from step 0 on."""
    width, height, left, right, top, bottom = HALF, 320, 48, 12, 12, 44
    count = max(len(values) for *_, values in lines)
    shown = [value for *_, values in lines for value in values]
    y_ticks = ticks(min(shown), max(shown), 6, outside=True)
    x = scale_of(0, max(count - 1, 1), left, width - right)
    y = scale_of(y_ticks[0], y_ticks[-1], height - bottom, top)
    body = axes(x, y, ticks(0, count - 1, 10, whole=True), y_ticks, across=word)
    for name, style, values in lines:
        dots: list[Dot] = [
            (x(at), y(value), 3.5, f"{name}, {word} {at}: {value:.2f} %", {}) for at, value in enumerate(values)
        ]
        body += line(dots, f"line {style}", f"dot {style}")
    return chart("steps-chart", width, height, 320, "Accuracy as the run went on", "Accuracy in percent.", body)


def frontier(steps: Sequence[Row], confidence: float) -> Markup:
    """Changes of accuracy over the steps of CrossFit, ascending, and below them the chance of all requirements."""
    width, height, left, right = HALF, 500, 62, 16
    top, middle, lower, bottom = 28, 292, 322, 454
    shown = [("all", "before", "all labels"), ("worst", "loss dashed", "the other label that loses most")]
    shown.append(("gain", "after", "labels under repair"))  # the last lies on top
    changes = [100 * value for point in steps for name, *_ in shown if (value := getattr(point, name)) is not None]
    y_ticks = ticks(min(0, *changes), max(0, *changes), 5, outside=True)
    chances = ticks(min(100 * confidence, *(100 * point.chance for point in steps)), 100, 3, outside=True)
    x = scale_of(0, 1, left, width - right)
    y = scale_of(y_ticks[0], y_ticks[-1], middle, top)
    low = scale_of(chances[0], 100, bottom, lower)
    asked = low(100 * confidence)
    body = [
        *axes(x, y, (), y_ticks, up="change, points", signed=True),
        *axes(x, low, ticks(0, 1, 5), chances, across="step", up="chance, %"),
        tag("line", class_="axis", x1=left, x2=width - right, y1=y(0), y2=y(0)),
        tag("line", class_="limit", x1=left, x2=width - right, y1=asked, y2=asked),
        tag("text", f"{100 * confidence:.10g} % asked for", class_="tick halo", x=left + 6, y=asked + 13),
    ]
    for point in steps:
        if point.taken:
            side = "end" if point.step > 0.85 else "start" if point.step < 0.15 else "middle"
            at, words = x(point.step), f"step {point.step:g} taken"
            body.append(tag("line", class_="taken", x1=at, x2=at, y1=top, y2=bottom))
            body.append(tag("text", words, class_=f"weight halo {side}", x=at, y=top - 10))

    def dots(name: str, scale: Scale, words: str) -> list[Dot]:
        return [
            (
                x(point.step),
                scale(100 * value),
                5 if point.taken else 2.5,
                f"step {point.step:g}" + words.format(change=points(value), chance=percent(value)),
                {"data_frontier": name, "data_step": repr(point.step), "data_value": repr(value)},
            )
            for point in steps
            if (value := getattr(point, name)) is not None
        ]

    for name, style, words in shown:
        body += line(dots(name, y, f", {words}: {{change}} points"), f"line {style}", f"dot {style}")
    body += line(dots("chance", low, ": all requirements with {chance} % chance"), "mean", "mean-dot")
    described = "Above what each step changes, below the chance that new rows keep all requirements."
    return chart("frontier-chart", width, height, 320, "How far to go", described, body)


def methods_frontier(found: ComparisonView, cost: Cost) -> Markup | None:
    """Gain (y, points) against a cost (x), a point for each method and reading; None without any.

    Crosses reach over the draws of what is chosen; a line joins the points that no other beats in both.
    """
    drawn = _method_points(found, cost)
    if not drawn:
        return None
    judged = [point for point in drawn if point.first]
    every = [*judged, Row(name="as it is", cost=0.0, gain=0.0)]
    width, height, left, top = 540, 420, 52, 14
    shown = [shortened(point.name, _NAME) for point in every]
    right, bottom = width - max(map(width_of, shown)) * LETTER - 34, height - 44
    costs = [0.0, *(value for point in drawn for value in (point.cost, *(point.costs if point.first else ())))]
    gains = [0.0, *(value for point in drawn for value in (point.gain, *(point.gains if point.first else ())))]
    y_ticks = ticks(min(gains), max(gains), 6, outside=True)
    x = Scale(min(costs), ticks(0, max(*costs, 1.0), 5, outside=True)[-1], left, right, roots=True)
    y = scale_of(y_ticks[0], y_ticks[-1], bottom, top)
    whole = ticks(0, x.high, 5)
    few = sorted({0.0, whole[1] / 10, whole[1] / 2, *whole})  # roots leave room for small ones
    body = axes(x, y, few, y_ticks, across=COSTS[cost], up="gain of what is repaired, points")
    body += zero_lines(x, y)
    body += _names([(name, x(p.cost), y(p.gain)) for name, p in zip(shown, every, strict=True)], right, top, bottom)
    body.append(_front(every, x, y))
    for point in sorted(drawn, key=lambda point: point.first):
        body += _method_mark(point, judged, x, y)
    body.append(circle("ring as-it-is", (x(0), y(0), 4, "the baseline model", {"data_as_it_is": cost})))
    described = "Up is better, left is better; the line joins what no other method beats in both."
    return chart(f"frontier-{cost}", width, height, 460, "Gain against cost of every method", described, body)


def timeline(workers: Sequence[Row]) -> Markup:
    """When each worker was busy with which search."""
    lane = 20 if len(workers) <= 16 else 12 if len(workers) <= 64 else 5
    named = lane >= 10
    left = max(len(worker.name) for worker in workers) * LETTER + 14 if named else 10
    width, top = 1040, 6
    height = top + lane * len(workers) + 40
    jobs = [(row, job) for row, worker in enumerate(workers) for job in worker.jobs if job.ended is not None]
    last = max((job.ended or 0.0 for _, job in jobs), default=1.0)
    x = scale_of(0, last, left, width - 16)
    floor = top + lane * len(workers)
    body = []
    for at in ticks(0, last, 8):
        body.append(tag("line", class_="grid", x1=x(at), x2=x(at), y1=top, y2=floor))
        body.append(tag("text", f"{at:g}", class_="tick middle", x=x(at), y=floor + 15))
    body.append(tag("text", "seconds after the start", class_="label middle", x=(left + width) / 2, y=height - 6))
    if named:
        for row, worker in enumerate(workers):
            body.append(tag("text", worker.name, class_="name end", x=left - 8, y=top + (row + 0.5) * lane + 4))
    free = [math.inf] * len(workers)
    # Searches of one task end together and share its time: they are drawn one before the other.
    for row, job in sorted(jobs, key=lambda row_and_job: (row_and_job[1].ended, row_and_job[1].job), reverse=True):
        ended, seconds = job.ended or 0.0, job.seconds or 0.0
        end = min(ended, free[row])
        free[row] = begun = max(end - seconds, 0.0)
        words = f"{job.job}: {duration(seconds)} up to second {ended:.1f}, {job.state}"
        style = "loss" if job.state == "failed" else "work chosen" if job.chosen else "work"
        mark = {"data_ran": job.job, "data_ended": repr(ended), "data_seconds": repr(seconds)}
        box = {"x": x(begun), "y": top + row * lane + 1.5, "width": max(x(end) - x(begun) - 0.6, 0.8)}
        body.append(tag("rect", tag("title", words), class_=style, height=lane - 3, rx=1.5, **box, **mark))
    return chart("timeline", width, height, 780, "When each worker was busy", "One bar for each search.", body)


def _kept(best: Float64, keep: int) -> list[int]:
    """Positions where the best value rises, thinned evenly to `keep`, and the last."""
    rises = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
    if len(rises) > keep:
        rises = rises[np.linspace(0, len(rises) - 1, keep).round().astype(np.int64)]
    return sorted({*rises.tolist(), len(best) - 1})


def _beside(places: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[Markup]:
    """Texts beside their points, each on the first side where it covers no other point or text."""
    taken = [(x, y, 7.0) for x, y in places]
    written = []
    for (x, y), text in zip(places, texts, strict=True):
        half = len(text) * LETTER / 2
        sides = [(half + 10, -12), (-half - 10, 12), (half + 10, 14), (-half - 10, -12), (0, -20), (0, 22)]

        def free(side: tuple[float, float], x: float = x, y: float = y, half: float = half) -> bool:
            at = x + side[0], y + side[1]
            return all(abs(at[0] - ox) >= half + reach or abs(at[1] - oy) >= 13 for ox, oy, reach in taken)

        dx, dy = next(filter(free, sides), sides[0])
        taken.append((x + dx, y + dy, half))
        written.append(tag("text", text, class_="weight halo middle", x=x + dx, y=y + dy + 4))
    return written


def _spoke_name(name: str, x: float, y: float, turn: float, *, flat: bool) -> Markup:
    side, slope = spoke_text(turn, flat=flat)
    anchor = {"left": "name", "right": "name end", "middle": "name middle"}[side]
    if flat:
        return tag("text", name, class_=anchor, x=x, y=y + 4)
    turned = f"translate({x:.1f} {y:.1f}) rotate({slope:.1f})"
    return tag("text", name, class_=anchor, transform=turned, dy="0.35em")


def _method_points(found: ComparisonView, cost: Cost) -> list[Row]:
    """Mean, smallest and largest over the draws of each reading; gains in points, costs as the chart has them."""
    drawn = []
    scales = {"gain": 100, "worst": -100, "broken": 1}
    for method in found.methods:
        for name in found.readings:
            reading = method.readings.get(name)
            known = {} if reading is None else {of: reading.known(of) for of in ("gain", cost)}
            if reading is None or not all(known.values()):
                continue
            values: dict[str, Any] = {}
            for column, of in (("gain", "gain"), (cost, "cost")):
                scale = scales[column]
                values[of] = scale * (reading.mean(column) or 0.0) + 0.0
                values[f"{of}s"] = sorted((scale * min(known[column]), scale * max(known[column])))
            reference, first = method.reference, name == found.readings[0]  # `first`: of the reading that is judged
            drawn.append(Row(name=method.name, reading=name, reference=reference, first=first, **values))
    return drawn


def _method_mark(point: Row, judged: Sequence[Row], x: Scale, y: Scale) -> list[Markup]:
    """What is chosen, with its cross; or what is found, a ring joined to what is chosen."""
    px, py = x(point.cost), y(point.gain)
    gain, low, high = (points(value / 100) for value in (point.gain, *point.gains))
    said = f"{point.name}, {point.reading}: gain {gain} points ({low} to {high}), cost {point.cost:.4g}"
    said += " ({:.4g} to {:.4g})".format(*point.costs)
    data = {"data_frontier_method": point.name, "data_reading": point.reading}
    data |= {"data_cost": repr(point.cost), "data_gain": repr(point.gain)}
    if not point.first:
        joined = [
            tag("line", class_="limit", x1=px, x2=x(mine.cost), y1=py, y2=y(mine.gain))
            for mine in judged
            if mine.name == point.name and math.hypot(px - x(mine.cost), py - y(mine.gain)) > 6
        ]
        return [*joined, circle("ring", (px, py, 4.5, said, data))]
    cross = [
        tag("line", class_="spread", x1=x(point.costs[0]), x2=x(point.costs[1]), y1=py, y2=py),
        tag("line", class_="spread", x1=px, x2=px, y1=y(point.gains[0]), y2=y(point.gains[1])),
    ]
    if point.reference:
        corners = polyline([(px, py - 7), (px + 7, py), (px, py + 7), (px - 7, py)])
        return [*cross, tag("polygon", tag("title", said), class_="mean-dot", points=corners, **data)]
    return [*cross, circle("dot chosen", (px, py, 5.5, said, data))]


def _names(places: Sequence[tuple[str, float, float]], right: float, top: float, bottom: float) -> list[Markup]:
    """Names in a column beside the chart, in the order of their points, each joined to its point."""
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


def _front(judged: Sequence[Row], x: Scale, y: Scale) -> Markup:
    gains, costs = np.array([point.gain for point in judged]), np.array([point.cost for point in judged])
    front = sorted((judged[at] for at in pareto_front(gains, -costs)), key=lambda point: (point.cost, point.gain))
    places: list[tuple[float, float]] = []
    for point in front:
        if places:
            places.append((x(point.cost), places[-1][1]))
        places.append((x(point.cost), y(point.gain)))
    title = tag("title", f"no method beats: {' '.join(point.name for point in front)}")
    return tag("polyline", title, class_="mean", points=polyline(places))

"""Charts of a report as inline SVG: no scripts, colours by class from the style sheet of the page.

Classes say what is drawn: `before`, `after`, `gain`, `loss`, `error`, `chosen`. Marks that stand for numbers of the
tables carry them as `data-` attributes in full precision, and in words as their tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cli.run_report.data import CandidateView, CurveView, JobView, WorkerView
from cli.run_report.svg import (
    HALF,
    LETTER,
    axes,
    cell_bar,
    chart,
    percent_of,
    polyline,
    scale_of,
    tag,
)
from cli.run_report.words import duration, number, percent, points
from engine.charts.scale import FEW, shares_of, spoke_text, spoke_turns, ticks
from engine.core.names import shortened
from engine.core.names import width as width_of
from engine.core.types import Float64, Int64


@dataclass(frozen=True)
class Spoke:
    """Accuracy of one label before and after, as shares."""

    label: int
    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Line:
    """A line over iterations: values in percent at 0, 1, …; `style` is made of classes."""

    name: str
    style: str
    values: tuple[float, ...]


def change_bar(before: float, after: float) -> Markup:
    """Accuracy from 0 to 1 before (ring) and after (dot) on a track, for a table cell."""
    style = "gain" if after > before else "loss" if after < before else "same"
    start, end = percent_of(before), percent_of(after)
    return cell_bar(
        tag("line", class_="track", x1="0%", x2="100%", y1=8, y2=8),
        tag("line", class_=f"move {style}", x1=start, x2=end, y1=8, y2=8),
        tag("circle", class_="ring", cx=start, cy=8, r=3.5),
        tag("circle", class_=f"dot {style}", cx=end, cy=8, r=4.5),
    )


def count_bar(broken: int, fixed: int, largest: int) -> Markup:
    """Rows broken to the left and fixed to the right of a middle line, for a table cell; `largest` fills a side."""
    scale = 0.5 / max(largest, 1)
    left = percent_of(0.5 - broken * scale)
    return cell_bar(
        tag("rect", class_="loss", x=left, y=3, width=percent_of(broken * scale), height=10, rx=1.5),
        tag("rect", class_="gain", x="50%", y=3, width=percent_of(fixed * scale), height=10, rx=1.5),
        tag("line", class_="axis", x1="50%", x2="50%", y1=0, y2=16),
    )


def share_bar(value: float, largest: float) -> Markup:
    """A bar from the left, for a table cell; `largest` fills it."""
    width = percent_of(value / largest if largest else 0.0)
    return cell_bar(tag("rect", class_="after", x=0, y=3, width=width, height=10, rx=1.5))


def radar(identifier: str, spokes: Sequence[Spoke]) -> Markup:
    """Accuracy of every label before and after on a radar, from a round percent below the lowest to 100."""
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
            text = tag("title", f"{spoke.name}, {style}: {percent(share)} %")
            mark = {"data_radar": style, "data_label": spoke.label, "data_value": repr(share)}
            body.append(tag("circle", text, class_=f"dot {style}", cx=x, cy=y, r=2.2 if many else 3, **mark))
    body += [
        tag("text", f"{100 * ring:.0f}", class_="tick halo", x=cx + 4, y=place(0, ring)[1] + 4)
        for ring in ticks(floor, 1, 4)
    ]
    described = f"Accuracy per label; the centre is {100 * floor:.0f} %, the rim 100 %."
    return chart(identifier, width, height, 560 if many else 400, "Accuracy before and after", described, body)


def heat_map(name: str, labels: Sequence[int], names: Sequence[str], counts: Int64, strongest: float) -> Markup:
    """Confusions: rows of true label by column of predicted label.

    Args:
        name: before or after.
        labels: (k,) class numbers shown.
        names: (k,) of these.
        counts: (k, k) rows.
        strongest: share of a label's rows, among the errors, that gets the full colour.
    """
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
        body.append(
            tag(
                "rect",
                tag("title", words),
                class_="right" if right else "error",
                x=x + 0.5,
                y=y + 0.5,
                width=cell - 1,
                height=cell - 1,
                fill_opacity=round(0.12 + 0.88 * strength, 2),
                data_value=count,
                **mark,
            )
        )
        if few:
            on = ("on-blue" if right else "on-orange") if strength > 0.8 else ""
            body.append(tag("text", count, class_=f"count {on}".rstrip(), x=x + cell / 2, y=y + cell / 2 + 4))
    overhang = max(map(width_of, shown)) * LETTER * 0.65 if few else 4
    width, height = left + size * cell + overhang, top + size * cell + 4
    described = "Rows are true labels, columns predicted ones; blue is right, orange is wrong."
    return chart(f"confusion-{name}", width, height, 380 if few else 500, f"Confusions {name}", described, body)


def curves(identifier: str, title: str, drawn: Sequence[tuple[JobView, CurveView]], keep: int, *, wide: bool) -> Markup:
    """Best fitness of some searches above that of the model as it is, over iterations; `keep` points of each."""
    width, height, left, right, top, bottom = HALF if wide else 320, 260 if wide else 190, 44, 10, 10, 26
    starts = {job.job: job.start_fitness if job.start_fitness is not None else 0.0 for job, _ in drawn}
    last = max(int(curve.iteration[-1]) for _, curve in drawn)
    highest = max(float(curve.best[-1]) - starts[job.job] for job, curve in drawn)
    lowest = min(0.0, *(float(curve.best[0]) - starts[job.job] for job, curve in drawn))
    x = scale_of(0, max(last, 1), left, width - right)
    y = scale_of(lowest, highest if highest > lowest else lowest + 1, height - bottom, top)
    body = axes(x, y, ticks(0, last, 4), ticks(lowest, highest, 4))
    for job, curve in sorted(drawn, key=lambda pair: pair[0].chosen):
        gained = curve.best - starts[job.job]
        steps = [(0, 0.0), *((int(curve.iteration[at]), float(gained[at])) for at in _kept(curve.best, keep))]
        line = "".join(
            f"M{x(at):.1f} {y(value):.1f}" if number == 0 else f"H{x(at):.1f}V{y(value):.1f}"
            for number, (at, value) in enumerate(steps)
        )
        words = f"{job.job}: fitness {number(job.start_fitness)} to {number(float(curve.best[-1]))}"
        words += f" in {int(curve.iteration[-1])} iterations" + (", chosen" if job.chosen else "")
        mark = {"data_curve": job.job, "data_value": repr(float(curve.best[-1])), "data_last": int(curve.iteration[-1])}
        style = "curve chosen" if job.chosen else "curve"
        body.append(tag("path", tag("title", words), class_=style, d=line, **mark))
    return chart(identifier, width, height, None, title, "Gain in fitness over iterations.", body)


def trade_off(candidates: Sequence[CandidateView], means: Sequence[tuple[str, float, float, int]]) -> Markup:
    """Gain of the labels under repair (y) against the change of all labels (x), in points.

    Args:
        candidates: a dot each.
        means: (positive weight, mean change of all labels, mean gain, searches), joined by a line.
    """
    width, height, left, right, top, bottom = HALF, 400, 62, 28, 16, 46
    xs = [100 * candidate.overall for candidate in candidates]
    ys = [100 * candidate.gain for candidate in candidates]
    x_ticks = ticks(min(0, *xs), max(0, *xs), 6, outside=True)
    y_ticks = ticks(min(0, *ys), max(0, *ys), 6, outside=True)
    x = scale_of(x_ticks[0], x_ticks[-1], left, width - right)
    y = scale_of(y_ticks[0], y_ticks[-1], height - bottom, top)
    body = axes(x, y, x_ticks, y_ticks, signed=True)
    body.append(tag("line", class_="axis", x1=x(0), x2=x(0), y1=top, y2=height - bottom))
    body.append(tag("line", class_="axis", x1=left, x2=width - right, y1=y(0), y2=y(0)))
    body.append(tag("text", "change of all labels, points", class_="label middle", x=width / 2, y=height - 8))
    turn = f"translate(14 {height / 2}) rotate(-90)"
    body.append(tag("text", "gain of the label under repair, points", class_="label middle", transform=turn))
    for candidate in sorted(candidates, key=lambda candidate: candidate.job.chosen):
        words = f"{candidate.job.job}: label {points(candidate.gain)}, all {points(candidate.overall)} points"
        mark = {
            "data_candidate": candidate.job.job,
            "data_gain": repr(candidate.gain),
            "data_overall": repr(candidate.overall),
        }
        style = "dot chosen" if candidate.job.chosen else "dot faint"
        title = tag("title", words + (", chosen" if candidate.job.chosen else ""))
        body.append(
            tag("circle", title, class_=style, cx=x(100 * candidate.overall), cy=y(100 * candidate.gain), r=5, **mark)
        )
    places = [(x(100 * overall), y(100 * gain)) for _, overall, gain, _ in means]
    body.append(tag("polyline", class_="mean", points=polyline(places)))
    for (weight, overall, gain, count), (px, py) in zip(means, places, strict=True):
        words = f"positive weight {weight}, mean of {count}: label {points(gain)}, all {points(overall)} points"
        mark = {"data_weight": weight, "data_gain": repr(gain), "data_overall": repr(overall)}
        body.append(tag("circle", tag("title", words), class_="mean-dot", cx=px, cy=py, r=5.5, **mark))
    body += _beside(places, [weight for weight, *_ in means])
    described = "Each faint dot is a search; the line joins the means over the searches of each positive weight."
    return chart("trade-off", width, height, 340, "What repairing costs", described, body)


def accuracy_lines(lines: Sequence[Line], word: str) -> Markup:
    """Accuracy in percent over the iterations of a chain, or rounds."""
    width, height, left, right, top, bottom = HALF, 320, 48, 12, 12, 44
    count = max(len(line.values) for line in lines)
    values = [value for line in lines for value in line.values]
    y_ticks = ticks(min(values), max(values), 6, outside=True)
    x = scale_of(0, max(count - 1, 1), left, width - right)
    y = scale_of(y_ticks[0], y_ticks[-1], height - bottom, top)
    body = axes(x, y, ticks(0, count - 1, 10, whole=True), y_ticks)
    body.append(tag("text", word, class_="label middle", x=(left + width - right) / 2, y=height - 6))
    for line in lines:
        places = [(x(at), y(value)) for at, value in enumerate(line.values)]
        body.append(tag("polyline", class_=f"line {line.style}", points=polyline(places)))
        for at, (value, (px, py)) in enumerate(zip(line.values, places, strict=True)):
            words = tag("title", f"{line.name}, {word} {at}: {value:.2f} %")
            body.append(tag("circle", words, class_=f"dot {line.style}", cx=px, cy=py, r=3.5))
    return chart("steps-chart", width, height, 320, "Accuracy as the run went on", "Accuracy in percent.", body)


def timeline(workers: Sequence[WorkerView]) -> Markup:
    """When each worker was busy with which search, from its end minus its time in iterations to its end."""
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
    """Positions where a best value rises, thinned evenly to `keep`, and the last."""
    rises = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
    if len(rises) > keep:
        rises = rises[np.linspace(0, len(rises) - 1, keep).round().astype(np.int64)]
    return sorted({*rises.tolist(), len(best) - 1})


def _beside(places: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[Markup]:
    """Short texts beside their points, each on the first side where it covers no other point or text."""
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

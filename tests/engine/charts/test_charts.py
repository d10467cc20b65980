from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from engine.charts.bubbles import bubble_area
from engine.charts.confusion import OVERLAY_DPI, confusion_figure, overlay_figure
from engine.charts.radar import overlay_radar_charts, radar_figure
from engine.charts.repair_outcomes import Fates, fates_of, open_leaves, repaired_figure
from engine.charts.style import (
    chart_path,
    chart_settings,
    draw,
    label_texts,
    shares_of,
    spoke_text,
    spoke_turns,
    text_size,
    ticks,
)
from engine.core.errors import InputError
from engine.data.image_set import open_image_set
from engine.data.outcomes import write_targets
from engine.data.writer import write_empty_image_set, write_image_set
from engine.datasets.gtsrb import LABEL_NAMES as SIGNS
from engine.metrics.accuracy import LabelResult, Results, confusion
from tests.engine.metrics.test_accuracy import TUTORIAL


@pytest.fixture
def settings() -> Iterator[None]:
    with chart_settings():
        yield


def results(count: int, seed: int = 0) -> Results:
    right = np.random.default_rng(seed).integers(0, 101, count)
    return Results(tuple(LabelResult(label, int(correct), 100 - int(correct)) for label, correct in enumerate(right)))


def confusions(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """Of rows that are mostly right, of the first `count` of so many classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, count, 40 * count)
    predicted = np.where(random.random(len(labels)) < 0.7, labels, random.integers(0, count, len(labels)))
    return confusion(labels, predicted, classes)


# Files.


def drawings() -> dict[str, Callable[[Path], None]]:
    """One call of every kind of chart, with the label names of traffic signs."""
    two = [("before", results(10)), ("after", results(10, 1))]
    models = [("before", confusions(10, 43)), ("after", confusions(10, 43, 1))]
    one = np.zeros((2, 43), np.int64)
    one[[0, 1], [3, 2]] = 5, 6
    fates = Fates(np.array([3, 8]), one, one[::-1], one, true=True, before_known=True)
    return {
        "radar": lambda path: overlay_radar_charts(path, [("", results(10))], label_names=SIGNS),
        "radars": lambda path: overlay_radar_charts(path, two, label_names=SIGNS),
        "bubble": lambda path: draw(path, confusion_figure, confusions(10, 43), SIGNS),
        "bubbles": lambda path: draw(path, overlay_figure, models, [3], SIGNS, dpi=OVERLAY_DPI),
        "repaired": lambda path: draw(path, repaired_figure, fates, SIGNS),
    }


@pytest.mark.parametrize("kind", drawings())
def test_one_input_gives_one_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a user's settings are; and a chart is whole or not there."""
    drawn = drawings()[kind]
    first = [tmp_path / "one" / f"chart{suffix}" for suffix in (".png", ".svg")]
    again = [tmp_path / "two" / f"chart{suffix}" for suffix in (".png", ".SVG")]
    for path in first:
        drawn(path)
    monkeypatch.setitem(mpl.rcParams, "font.size", 20)
    monkeypatch.setitem(mpl.rcParams, "savefig.bbox", "tight")
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    for path in again:
        drawn(path)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert mpl.rcParams["savefig.bbox"] == "tight"
    assert mpl.rcParams["text.parse_math"] is True
    assert len(list(tmp_path.rglob("*"))) == 6, "nothing else is left"
    with Image.open(first[0]) as image:
        assert round(image.info["dpi"][0]) == (600 if kind == "bubbles" else 300)
        assert kind not in ("radar", "radars") or image.size == (1920, 1440)
        pixels = np.asarray(image.convert("RGB"))
    edges = (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:])
    assert all((edge == 255).all() for edge in edges), "nothing is cut off"
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", first[1].read_text())
    assert any(SIGNS[3] in text for text in texts)
    assert "<dc:date>" not in first[1].read_text()


def test_where_a_chart_goes(tmp_path: Path) -> None:
    assert chart_path(tmp_path / "new" / "folder", "x.svg") == tmp_path / "new" / "folder" / "x.svg"
    assert chart_path(tmp_path, "X.PNG") == tmp_path / "X.PNG"
    for name in ("x.jpg", "x", "x.png.pdf", ".png"):
        with pytest.raises(InputError, match=r"^filename is .*, expected a name that ends in .png or .svg$"):
            chart_path(tmp_path, name)
    (tmp_path / "x.png").mkdir()
    with pytest.raises(InputError, match="is a folder, expected a file"):
        chart_path(tmp_path, "x.png")
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(InputError, match="/file is a file, expected a folder"):
            chart_path(tmp_path / folder, "y.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.png"]


# Names.


def test_label_texts() -> None:
    names = ("car", "", "a name of\n 23   letters!", "car", "truck")
    assert label_texts([4, 0, 1, 7], names, 10) == ["truck", "car", "1", "7"]
    assert label_texts([4, 2], names, 10) == ["truck", "a name of…"]
    assert label_texts([2], names, 12, 2) == ["a name of 23\nletters!"]
    assert label_texts([4, 2], None, 10) == ["4", "2"]
    assert label_texts([0, 1, 3], names, 10) == ["0 car", "1", "3 car"]
    long = [f"one and the same beginning {number}" for number in range(3)]
    assert label_texts(range(3), long, 12) == ["0 one and…", "1 one and…", "2 one and…"]


@pytest.mark.usefixtures("settings")
def test_text_size() -> None:
    figure = Figure(dpi=720)
    text = figure.text(0, 0, "Wild animals\n$crossing$", fontsize=10)
    width, height = text_size("Wild animals\n$crossing$", 10)
    assert width == pytest.approx(text.get_window_extent().width / 720, rel=0.03)
    assert height == pytest.approx(2 * 12 / 72)
    assert text_size("", 10)[0] == text_size(" \n", 10)[0] == 0


# Reading them.

Corners = np.ndarray


def corners(text: Text) -> Corners:
    """The corners (4, 2) of a text in pixels, turned as it is."""
    turn = text.get_rotation()
    anchor = text.get_transform().transform(text.get_position())
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(turn)
    if turn and text.get_rotation_mode() != "anchor":
        box = text.get_window_extent()
        turn = 0
    points = np.array([[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1]])
    angle = math.radians(turn)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (points - anchor) @ matrix.T + anchor


def apart(one: Corners, other: Corners) -> bool:
    """Whether some side of one of the rectangles separates them."""
    for polygon in (one, other):
        for start, end in itertools.pairwise([*polygon, polygon[0]]):
            normal = np.array([end[1] - start[1], start[0] - end[0]])
            mine, its = one @ normal, other @ normal
            if mine.max() <= its.min() + 1e-6 or its.max() <= mine.min() + 1e-6:
                return True
    return False


def texts_of(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def check_texts(figure: Figure) -> None:
    """No text lies over another or leaves the figure, and none is smaller than 5 points."""
    figure.draw_without_rendering()
    texts = texts_of(figure)
    boxes = [corners(text) for text in texts]
    low = np.array([box.min(axis=0) for box in boxes])
    high = np.array([box.max(axis=0) for box in boxes])
    near = ((low[:, None] < high) & (low < high[:, None])).all(axis=2)
    for one, other in np.argwhere(np.triu(near, 1)):
        assert apart(boxes[one], boxes[other]), f"{texts[one].get_text()!r} lies over {texts[other].get_text()!r}"
    width, height = figure.bbox.size
    for text, box in zip(texts, boxes, strict=True):
        assert (box >= 0).all(), text.get_text()
        assert (box <= (width, height)).all(), text.get_text()
        assert text.get_fontsize() >= 5


NAMES = [SIGNS, None, [f"{'long ' * (number % 5)}{number}" for number in range(250)]]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("names", NAMES, ids=("signs", "numbers", "long"))
@pytest.mark.parametrize("count", [1, 5, 14, 43])
def test_texts_do_not_collide(count: int, names: Sequence[str] | None) -> None:
    series = [(f"Inputs ({name})", results(count, seed)) for seed, name in enumerate("abc")]
    figure = radar_figure(series[:1], 0, 100, names)
    assert len(figure.texts) == count
    check_texts(figure)
    check_texts(radar_figure(series, 0, 100, names))
    models = [("a model with a long name", confusions(count, count, seed)) for seed in range(3)]
    figure = confusion_figure(models[0][1], names)
    shown = [text.get_text() for text in texts_of(figure)]
    assert all(shown.count(name) >= 2 for name in label_texts(range(count), names, 40)), "every row and column is named"
    check_texts(figure)
    check_texts(overlay_figure(models, None, names))
    check_texts(overlay_figure(models[:2], [0], names))


@pytest.mark.usefixtures("settings")
def test_a_long_name_at_the_first_column() -> None:
    models = [("before", np.array([[1, 0], [1, 1]])), ("after", np.array([[1, 0], [0, 2]]))]
    check_texts(overlay_figure(models, [1], ["a name far longer than that of the row", "b"]))


def test_names_are_no_formulas(tmp_path: Path) -> None:
    overlay_radar_charts(tmp_path / "x.svg", [("", results(3))], label_names=["$a$", "b_1", "$"])
    assert re.findall(r"<text [^>]*>([^<]*)</text>", (tmp_path / "x.svg").read_text()) == ["$a$", "b_1", "$"]


@pytest.mark.usefixtures("settings")
def test_many_labels() -> None:
    figure = radar_figure([("", results(250))], 0, 100, NAMES[2])
    assert (figure.get_size_inches() * figure.dpi).tolist() == [2400, 2400]
    check_texts(figure)
    check_texts(confusion_figure(confusions(150, 150), NAMES[2]))


@pytest.mark.usefixtures("settings")
def test_kinds_differ_in_more_than_colour() -> None:
    names = ("a", "_b", "c" * 80)
    figure = radar_figure([(name, results(5, seed)) for seed, name in enumerate(names)], 0, 100, None)
    lines = figure.axes[0].get_lines()
    for look in ("marker", "linestyle", "color"):
        assert len({getattr(line, f"get_{look}")() for line in lines}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", " _b", "c" * 69 + "…"]
    check_texts(figure)
    drawn = bubbles_of(overlay_figure([(name, confusions(5, 5)) for name in "abc"], None, None))
    assert len({bubbles.get_paths()[0].vertices.tobytes() for bubbles in drawn[:3]}) == 3
    assert len({to_hex(bubbles.get_edgecolor()[0]) for bubbles in drawn[:3]}) == 3


# Radar charts.


def lines_of(figure: Figure) -> list[np.ndarray]:
    return [line.get_ydata() for line in figure.axes[0].get_lines()]


@pytest.mark.usefixtures("settings")
def test_radar_shows_the_scores_in_the_order_of_the_results() -> None:
    figure = radar_figure([("", TUTORIAL)], 0, 100, None)
    scores = [73.98692810457516, 19.958847736625515, 89.29824561403508, 95.94350185169236, 85.07310438626318]
    assert lines_of(figure)[0].tolist() == [*scores, scores[0]]
    angles = figure.axes[0].get_lines()[0].get_xdata()[:5]
    assert angles == pytest.approx(2 * np.pi * np.arange(5) / 5)
    names = [text.get_text() for text in figure.texts]
    assert names == ["6", "12", "9", "2", "8"]
    # Clockwise from the top, and every name where its spoke ends.
    places = [figure.transFigure.transform(text.get_position()) for text in figure.texts]
    ends = [figure.axes[0].transData.transform((angle, 100)) for angle in angles]
    assert all(np.hypot(*(place - end)) < 105 for place, end in zip(places, ends, strict=True))
    assert places[0][0] == pytest.approx(960)
    assert places[1][0] > 960 > places[4][0]
    assert len(figure.axes[0].patches) == 1
    assert not figure.legends


@pytest.mark.usefixtures("settings")
def test_overlay_of_different_labels() -> None:
    """The spokes are the union of the labels; a line is broken where its results have no rows of one."""
    one = Results((LabelResult(3, 1, 3), LabelResult(0, 2, 2)))
    other = Results((LabelResult(7, 1, 0), LabelResult(3, 1, 1)))
    figure = radar_figure([("one", one), ("other", other)], 0, 100, SIGNS)
    first, second = lines_of(figure)
    assert np.array_equal(first, [25, 50, np.nan, 25], equal_nan=True)
    assert np.array_equal(second, [50, np.nan, 100, 50], equal_nan=True)
    assert [text.get_text().split("\n")[-1] for text in figure.texts] == [
        "25.0 → 50.0 %", "50.0 → – %", "– → 100.0 %"
    ]  # fmt: skip
    assert figure.texts[0].get_text().startswith(SIGNS[3])
    assert not figure.axes[0].patches, "a broken line encloses nothing"


@pytest.mark.usefixtures("settings")
def test_limits() -> None:
    figure = radar_figure([("", TUTORIAL)], 50, 90, None)
    assert lines_of(figure)[0][:5] == pytest.approx([73.98692810457516, 50, 89.29824561403508, 90, 85.07310438626318])
    assert figure.axes[0].get_ylim() == (50, 90)
    for low, high in ((100, 0), (5, 5), (math.nan, 100), (0, math.inf)):
        with pytest.raises(InputError, match=r"radial limits .*, expected the first below the second"):
            overlay_radar_charts(Path("radar.png"), [("", TUTORIAL)], min_lim=low, max_lim=high)
    with pytest.raises(InputError, match="0 labels"):
        overlay_radar_charts(Path("radar.png"), [("", Results(()))])


# Confusions.


def bubbles_of(figure: Figure) -> list[PathCollection]:
    return [collection for collection in figure.axes[0].collections if isinstance(collection, PathCollection)]


def cells_of(figure: Figure, drawn: PathCollection) -> dict[tuple[str, str], float]:
    """Area by (row, column) of the bubbles of one kind, found by the names beside and below them."""
    texts = figure.axes[0].texts
    lines = [collection for collection in figure.axes[0].collections if not isinstance(collection, PathCollection)]
    left, below = lines[1].get_segments()[0][0][0], lines[0].get_segments()[-1][0][1]
    rows = {text.get_text(): text.get_position()[1] for text in texts if text.get_position()[0] == left - 5}
    columns = {text.get_text(): text.get_position()[0] for text in texts if text.get_position()[1] == below + 5}
    found = {}
    for (x, y), area in zip(drawn.get_offsets().tolist(), drawn.get_sizes().tolist(), strict=True):
        row = min(rows, key=lambda name: abs(rows[name] - y))
        column = min(columns, key=lambda name: abs(columns[name] - x))
        assert (row, column) not in found
        found[row, column] = area
    return found


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_confusion_counts(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    counts = confusion(labels, predicted, 5)
    assert counts.shape == (5, 5)
    for true, other in itertools.product(range(5), repeat=2):
        assert counts[true, other] == pairs.count((true, other))


@pytest.mark.usefixtures("settings")
def test_bubble_areas() -> None:
    """500 square points times the share of the true label's rows, of labels that have rows or are predicted."""
    counts = np.zeros((6, 6), np.int64)
    counts[1, [1, 4]] = 3, 1
    counts[2, [2, 1]] = 1, 9
    names = ["no", "one", "two", "no", "four", "no"]
    figure = confusion_figure(counts, names)
    right, wrong = bubbles_of(figure)[:2]
    assert cells_of(figure, right) == pytest.approx({("one", "one"): 375, ("two", "two"): 50})
    assert cells_of(figure, wrong) == pytest.approx({("one", "four"): 125, ("two", "one"): 450})
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in shown if re.fullmatch(r"\d+\.\d", text)] == ["75.0", "10.0", "25.0", "90.0"]
    assert shown.count("four") == 2, "it is predicted, so it has a row, although an empty one"
    assert "no" not in shown
    assert [text for text in shown if text.isdecimal()] == ["4", "10", "0"]


def test_area_with_many_labels() -> None:
    assert [bubble_area(count) for count in (1, 5, 26)] == [500, 500, 500]
    assert bubble_area(43) == pytest.approx((0.92 * 9 * 72 / 43) ** 2)
    assert bubble_area(43) < 500


@pytest.mark.usefixtures("settings")
def test_small_shares_have_no_number() -> None:
    counts = np.array([[996, 4], [5, 995]])
    figure = confusion_figure(counts, None)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in shown if re.fullmatch(r"\d+\.\d", text)] == ["99.6", "99.5", "0.5"]
    assert bubbles_of(figure)[1].get_sizes() == pytest.approx([2, 2.5])


@pytest.mark.usefixtures("settings")
def test_overlay_of_confusions() -> None:
    """Rows are the labels asked for; columns are these and whatever any model takes their rows for."""
    before, after = np.zeros((2, 6, 6), np.int64)
    before[3, [3, 0]] = 1, 3
    after[3, [3, 5]] = 2, 2
    before[1, 4] = after[1, 4] = 4
    figure = overlay_figure([("before", before), ("after", after)], [3], "abcdef")
    first, second = bubbles_of(figure)[:2]
    assert cells_of(figure, first) == pytest.approx({("d", "d"): 125, ("d", "a"): 375})
    assert cells_of(figure, second) == pytest.approx({("d", "d"): 250, ("d", "f"): 250})
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert "b" not in shown
    assert "e" not in shown
    assert [text for text in shown if re.fullmatch(r"\d+\.\d", text)] == ["75.0", "25.0", "50.0", "50.0"]
    figure = overlay_figure([("before", before), ("after", after)], None, "abcdef")
    assert cells_of(figure, bubbles_of(figure)[1]) == pytest.approx({("d", "d"): 250, ("d", "f"): 250, ("b", "e"): 500})
    # Before is to the left of after, within the cell.
    x = [
        bubbles.get_offsets()[list(cells_of(figure, bubbles)).index(("b", "e"))][0]
        for bubbles in bubbles_of(figure)[:2]
    ]
    assert 0 < x[1] - x[0] < 0.6 * 72


# What became of negatives.


def image_set(path: Path, labels: Sequence[int], classes: int = 5) -> Path:
    with write_image_set(path, rows=len(labels), image_shape=(1, 1, 1), classes=classes) as writer:
        writer.append(np.arange(len(labels)).reshape(-1, 1, 1, 1), np.eye(classes)[list(labels)])
    return path


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    labels, before, after = random.integers(0, 5, (3, 200))
    image_set(tmp_path / "repair.h5", labels.tolist())
    write_targets(open_image_set(tmp_path / "repair.h5"), before, tmp_path)
    return tmp_path, labels, before, after


def fates_in(directory: Path, after: np.ndarray, name: str = "repair.h5") -> Fates:
    """As if a model took row k for after[k]; a row is known by its pixel."""
    leaves = open_leaves(directory, name)
    predicted = []
    for leaf in leaves:
        with h5py.File(leaf.images.path) as file:
            predicted.append(after[file["images"][:, 0, 0, 0].astype(int)])
    return fates_of(leaves, predicted, directory)


def slow_counts(rows: Sequence[tuple[int, int]], folders: Sequence[int]) -> list[list[int]]:
    return [[rows.count((folder, predicted)) for predicted in range(5)] for folder in folders]


@pytest.mark.parametrize(
    ("folder", "belongs", "key", "before_known"),
    [
        ("negative", lambda true, before: true != before, 0, True),
        ("negative/2", lambda true, before: true == 2 != before, 1, True),  # folders are what rows were taken for
        ("positive", lambda true, before: true == before, 0, False),
    ],
)
def test_fates(
    folder: str,
    belongs: Callable[[int, int], bool],
    key: int,
    before_known: bool,
    tree: tuple[Path, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    directory, *columns = tree
    rows = [row for row in np.array(columns).T.tolist() if belongs(*row[:2])]  # (true, before, after)
    fates = fates_in(directory / folder, columns[2])
    folders = sorted({row[key] for row in rows})
    assert fates.folders.tolist() == folders
    assert fates.right.tolist() == slow_counts([(r[key], r[2]) for r in rows if r[2] == r[0]], folders)
    same = [r for r in rows if before_known and r[2] == r[1]]
    assert fates.same.tolist() == slow_counts([(r[key], r[2]) for r in same], folders)
    other = [r for r in rows if r[2] != r[0] and r not in same]
    assert fates.other.tolist() == slow_counts([(r[key], r[2]) for r in other], folders)
    assert fates.totals.tolist() == [sum(r[key] == folder for r in rows) for folder in folders]
    assert (fates.true, fates.before_known) == (key == 0, before_known)


def test_trees_that_were_changed(tree: tuple[Path, np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Files without rows and folders of other names are left out; a larger file than its leaves is taken itself."""
    directory, *_, after = tree
    negative = directory / "negative"
    known = fates_in(negative, after)
    (negative / "logs" / "3").mkdir(parents=True)
    (negative / "4" / "5").mkdir()
    write_empty_image_set(negative / "9" / "repair.h5")
    again = fates_in(negative, after)
    assert again.same.tolist() == known.same.tolist()
    image_set(negative / "0" / "repair.h5", [0] * 90)
    changed = fates_in(negative, after)
    assert changed.totals[0] == 90
    assert not changed.before_known
    # Another name below, as of rows that somebody chose.
    image_set(negative / "1" / "some.h5", [1, 1, 1])
    assert fates_in(negative, after, "some.h5").totals.tolist() == [3]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has no rows in label folders, expected repair.h5 in folders negative/<label>"),
        ({"0": [0, 1]}, "0/repair.h5 has rows of other labels than 0"),
        ({"0": [0, 0], "1": [2, 2]}, "1/repair.h5 has rows of other labels than 1"),
        ({"0/2": [0], "1/2": [0]}, "1/2/repair.h5 has rows of other labels than 1"),
        ({"0/2": [1]}, "0/2/repair.h5 has rows of other labels than 0"),
        ({"7": [1]}, "7/repair.h5 labels 5 classes, expected label folders from 0 to 4"),
        ({"0/7": [0]}, "0/7/repair.h5 labels 5 classes"),
    ],
)
def test_trees_of_another_kind(files: dict[str, list[int]], says: str, tmp_path: Path) -> None:
    directory = tmp_path / "negative"
    directory.mkdir()
    for name, labels in files.items():
        image_set(directory / name / "repair.h5", labels)
    with pytest.raises(InputError, match=re.escape(says)):
        fates_in(directory, np.zeros(10, np.int64))
    with pytest.raises(InputError, match="missing is no folder, expected"):
        open_leaves(tmp_path / "missing", "repair.h5")


@pytest.mark.usefixtures("settings")
def test_repaired_figure() -> None:
    right, same, other = np.zeros((3, 2, 6), np.int64)
    right[0, 2], same[0, 1], other[0, 1], other[1, 1] = 5, 3, 2, 4
    fates = Fates(np.array([2, 4]), right, same, other, true=True, before_known=True)
    figure = repaired_figure(fates, "abcdef")
    drawn = bubbles_of(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    columns = {"c": "c (5/10)", "e": "e (0/4)"}
    assert cells_of(figure, drawn[0]) == pytest.approx({("c", columns["c"]): 250})
    assert cells_of(figure, drawn[1]) == pytest.approx({("b", columns["c"]): 150})
    assert cells_of(figure, drawn[2]) == pytest.approx({("b", columns["c"]): 100, ("b", columns["e"]): 500})
    assert {"right now (5 of 14)", "the same mistake as before (3 of 14)", "another mistake (6 of 14)"} <= set(texts)
    check_texts(figure)
    unknown = repaired_figure(Fates(fates.folders, right, same, other, true=True, before_known=False), None)
    assert [bubbles.get_sizes().tolist() for bubbles in bubbles_of(unknown)[:2]] == [[250], pytest.approx([250, 500])]
    assert "wrong now (9 of 14)" in [text.get_text() for text in unknown.axes[0].texts]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("count", [1, 13, 43])
def test_repaired_can_be_read(count: int) -> None:
    random = np.random.default_rng(1)
    right = np.diag(random.integers(0, 50, count))
    same, other = random.integers(0, 30, (2, count, count)) * (random.random((2, count, count)) < 0.3)
    for names, true in ((SIGNS, True), (None, False)):
        fates: Any = Fates(np.arange(count), right, same, other + 1, true=true, before_known=True)
        check_texts(repaired_figure(fates, names))


# What charts on a page share.


def test_ticks_are_round() -> None:
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.3, 1, 4) == [0.4, 0.6, 0.8, 1]
    assert ticks(-3, 12, 6, outside=True) == [-5, -2.5, 0, 2.5, 5, 7.5, 10, 12.5]
    assert ticks(0, 3, 10, whole=True) == [0, 1, 2, 3]
    assert ticks(5, 5, 4) == [5, 5.25, 5.5, 5.75, 6]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(2, 12))
def test_ticks_stay_inside_or_enclose(low: float, span: float, count: int) -> None:
    inside, around = ticks(low, low + span, count), ticks(low, low + span, count, outside=True)
    slack = 1e-6 * max(abs(low), span, 1e-3)
    assert all(low - slack <= at <= low + span + slack for at in inside) and len(inside) <= count + 1
    assert around[0] <= low + slack and around[-1] >= low + span - slack


def test_names_of_spokes_are_never_upside_down() -> None:
    turns = spoke_turns(8)
    np.testing.assert_allclose(np.degrees(turns), [0, 45, 90, 135, 180, 225, 270, 315])
    flat = ["middle", "left", "left", "left", "middle", "right", "right", "right"]
    assert [spoke_text(turn, flat=True)[0] for turn in turns] == flat
    for turn in turns:
        side, slope = spoke_text(turn, flat=False)
        assert -90 - 1e-6 <= slope <= 90 + 1e-6
        outwards = math.radians(slope) if side == "left" else math.radians(slope) + math.pi
        np.testing.assert_allclose(
            [math.cos(outwards), math.sin(outwards)], [math.sin(turn), -math.cos(turn)], atol=1e-9
        )


def test_shares_of_no_rows_are_0() -> None:
    counts = np.array([[3, 1], [0, 0]])
    assert shares_of(counts, counts.sum(axis=1, keepdims=True)).tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize("module", ["cli.run_report.page", "engine.charts.pareto", "engine.charts.radar"])
def test_what_draws_on_paper_is_loaded_when_it_draws(module: str) -> None:
    code = f"import sys, {module}; assert not [name for name in sys.modules if name.startswith('matplotlib')]"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)

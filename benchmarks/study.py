"""What `benchmarks/methods.py` runs: models with the rows that repair, choose and judge, and the cells made of them.

No row that judges was seen by a model, chose anything or repaired. Rows are written once, models trained once; both
stay in the folder of the study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from common import SHIPPED, prepared_split
from networks import checkpoints_beside, quickstart_checkpoints, trained

from engine.core.files import replace_file
from engine.core.types import Float32, Int64
from engine.data.writer import write_image_set
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS, LABEL_NAMES

Images = tuple[Float32, Int64]
"""Images (n, h, w, c) and their classes (n,)."""

FASHION, DIGITS = "fashion", "digits"

OFFSET = 40_000
"""Training images of Fashion-MNIST from here on are new to every model here: the legacy CNN was trained on the first
20,000, the quickstart's on the first 15,000."""


@dataclass(frozen=True)
class Sizes:
    """Rows of the image sets.

    Attributes:
        train: of networks that are trained here, the first training images.
        pool: that draws are taken from.
        validation: that choose within a method.
        test: that judge; None for all.
    """

    train: int
    pool: int
    validation: int
    test: int | None = None


SIZES = {FASHION: Sizes(12_000, 15_000, 5_000), DIGITS: Sizes(200, 900, 250, 447)}
"""Of Fashion-MNIST all official test images judge; scikit-learn's digits are 1,797."""

TINY_SIZES = {name: Sizes(200, 400, 200, 300) for name in SIZES}
TINY_OFFSET, TINY_ROWS, TINY_DRAWS, TINY_EPOCHS = 1000, 150, 2, 2
"""Of a study that only shows whether all of it runs; it fits into the quickstart's images."""


@dataclass(frozen=True)
class Subject:
    """A model of the study.

    Attributes:
        name: short, as folders have it.
        title: in words.
        data: `FASHION` or `DIGITS`.
        rows: of a draw, each a group of cells.
        labels: under repair, each a cell.
        draws: of each cell.
        network: of `networks.NETWORKS`, which is trained here; empty of a model that is there.
    """

    name: str
    title: str
    data: str
    rows: tuple[int, ...]
    labels: tuple[int, ...]
    draws: int
    network: str = ""


SUBJECTS = (
    Subject("legacy", "the small legacy CNN", FASHION, (1000, 5000), (0, 4, 6), 10),
    Subject("quickstart", "the quickstart's model", FASHION, (1000, 5000), (0, 4, 6), 10),
    Subject("vgg16", "VGG-16 at a quarter of its width", FASHION, (1000,), (4, 6), 5, "vgg16"),
    Subject("resnet", "a small ResNet", FASHION, (1000,), (4, 6), 5, "resnet"),
    Subject("transformer", "a small vision transformer", FASHION, (1000,), (4, 6), 5, "transformer"),
    Subject("digits", "scikit-learn's digits, trained on 200 rows", DIGITS, (300,), (1, 9), 10, "digits"),
)


@dataclass(frozen=True)
class Cell:
    """A model, a number of repair rows and a label."""

    subject: Subject
    rows: int
    label: int

    @property
    def name(self) -> str:
        """As folders have it."""
        return f"{self.subject.name}-{self.rows}-label{self.label}"


@dataclass(frozen=True)
class Piece:
    """Some draws of a cell: a run of `compare` with a directory of its own.

    Attributes:
        cell: of the study.
        seed: of the first draw.
        draws: from there on.
    """

    cell: Cell
    seed: int
    draws: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.cell.name}-from{self.seed}"


def cells_of(subjects: Sequence[Subject]) -> list[Cell]:
    """All cells; those of one label of all subjects come before those of the next, so that a cut hits all alike."""
    found = [
        (place, Cell(subject, rows, label))
        for subject in subjects
        for rows in subject.rows
        for place, label in enumerate(subject.labels)
    ]
    return [cell for _, cell in sorted(found, key=lambda each: each[0])]


def pieces_of(cells: Sequence[Cell], rounds: Sequence[int]) -> list[Piece]:
    """Draws in rounds: the first few of every cell, then the next few, as far as a cell has them.

    A run of `compare` is one number of draws from one seed, so every round of a cell is a run of its own.

    Args:
        cells: of the study.
        rounds: draws of each round.
    """
    found, seed = [], 0
    for count in rounds:
        for cell in cells:
            draws = min(count, cell.subject.draws - seed)
            if draws > 0:
                found.append(Piece(cell, seed, draws))
        seed += count
    return found


@dataclass(frozen=True)
class Place:
    """Where a subject lies.

    Attributes:
        model: its file or folder.
        checkpoints: folder of those of its training, or None.
        data: folder with `repair.h5`, `val.h5` and `test.h5`.
    """

    model: Path
    checkpoints: Path | None
    data: Path


@dataclass(frozen=True)
class Source:
    """Where rows and models come from.

    Attributes:
        folder: of the study.
        dataset: with the IDX files of Fashion-MNIST.
        legacy: the legacy CNN, or None.
        offset: see `OFFSET`.
        sizes: by data.
        epochs: of trainings, where fewer than usual.
    """

    folder: Path
    dataset: Path
    legacy: Path | None
    offset: int
    sizes: dict[str, Sizes]
    epochs: int | None = None

    def place(self, subject: Subject) -> Place:
        """Write the rows of a subject and train its model, unless both are there.

        Raises:
            click.ClickException: they cannot be had here, and why.
        """
        data = self.folder / "data" / subject.data
        self._write(data, subject.data)
        if subject.network:
            model = trained(
                subject.network, data / "train.h5", self.folder / "models" / subject.name, epochs=self.epochs
            )
        elif subject.name == "quickstart":
            model = SHIPPED / "model.keras"
            if self.epochs is None:
                return Place(model, quickstart_checkpoints(self.folder / "models" / subject.name, self.dataset), data)
        elif self.legacy is None:
            raise click.ClickException("the legacy CNN is not here, expected --legacy-model")
        else:
            model = self.legacy
        return Place(model, checkpoints_beside(model), data)

    def told(self, kind: str) -> str:
        """Where the rows of a kind come from, in a sentence."""
        sizes = self.sizes[kind]
        judging = "all others" if sizes.test is None else f"{sizes.test:,}"
        if kind == DIGITS:
            return (
                f"Of scikit-learn's digits, {sizes.train:,} train the model, {sizes.pool:,} are the pool, "
                f"{sizes.validation:,} choose and {judging} judge."
            )
        middle, end = self.offset + sizes.pool, self.offset + sizes.pool + sizes.validation
        judging = "all official test images" if sizes.test is None else f"the first {sizes.test:,} official test images"
        new = (
            "No model was trained on any of them." if self.offset >= OFFSET else "Models were trained on some of them."
        )
        return (
            f"Of Fashion-MNIST, repair rows are training images {self.offset:,} to {middle - 1:,}, validation rows "
            f"{middle:,} to {end - 1:,}, and test rows {judging}. {new}"
        )

    def _write(self, folder: Path, kind: str) -> None:
        sizes = self.sizes[kind]
        facts = {"offset": self.offset, "sizes": [sizes.train, sizes.pool, sizes.validation, sizes.test]}
        told = folder / "rows.json"
        if told.exists():
            if json.loads(told.read_bytes()) != facts:
                raise click.ClickException(f"{folder} has other rows than asked for, expected another --work-dir")
            return
        folder.mkdir(parents=True, exist_ok=True)
        names = LABEL_NAMES if kind == FASHION else None
        for name, rows in {FASHION: self._fashion, DIGITS: self._digits}[kind](sizes).items():
            _write_rows(folder / f"{name}.h5", rows(), names)
        with replace_file(told) as temporary:
            temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")

    def _fashion(self, sizes: Sizes) -> dict[str, Callable[[], Images]]:
        def part(split: str, start: int, count: int | None) -> Callable[[], Images]:
            return lambda: prepared_split(self.dataset, split, DEFAULT_PREPROCESS, start, count)

        return {
            "train": part("train", 0, sizes.train),
            "repair": part("train", self.offset, sizes.pool),
            "val": part("train", self.offset + sizes.pool, sizes.validation),
            "test": part("t10k", 0, sizes.test),
        }

    def _digits(self, sizes: Sizes) -> dict[str, Callable[[], Images]]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise click.ClickException(
                "scikit-learn is not installed, expected it for its digits: pip install -e '.[bench]'"
            ) from error
        digits = load_digits()
        images = (digits.images[..., None] / 16).astype(np.float32)
        labels = digits.target.astype(np.int64)
        order = np.random.default_rng(0).permutation(len(labels))
        counts = [sizes.train, sizes.pool, sizes.validation]
        parts = np.split(order, np.cumsum(counts))
        parts[-1] = parts[-1][: sizes.test]

        def part(rows: Int64) -> Callable[[], Images]:
            return lambda: (images[rows], labels[rows])

        return {name: part(rows) for name, rows in zip(("train", "repair", "val", "test"), parts, strict=True)}


def _write_rows(path: Path, rows: Images, names: tuple[str, ...] | None) -> None:
    images, labels = rows
    shape, method = images.shape[1:], DEFAULT_PREPROCESS if names else None
    with write_image_set(
        path, rows=len(images), image_shape=shape, classes=10, label_names=names, preprocess=method
    ) as writer:
        writer.append(images, np.eye(10, dtype=np.uint8)[labels])


def tiny(subjects: Sequence[Subject]) -> list[Subject]:
    """Subjects with few rows, few draws and one label."""
    return [replace(subject, rows=(TINY_ROWS,), labels=subject.labels[-1:], draws=TINY_DRAWS) for subject in subjects]

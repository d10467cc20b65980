"""Models that `benchmarks/methods.py` repairs beside those that are there, trained with a checkpoint of every epoch.

Each is trained once on rows that no repair sees, in minutes on one core, and kept. The same seed, versions and kind of
processor give the same model.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from engine.backend import keras
from engine.data.image_set import open_image_set
from engine.models.checkpoints import FOLDER as CHECKPOINTS
from engine.training.train import FACTS, MODELS, TrainSettings, train, use_gpu

L = keras.layers

ROOT = Path(__file__).resolve().parent.parent

CLASSES = 10

VGG_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Filters and convolutions of each block of VGG-16."""

VGG_DENSE, NARROWER = 4096, 4
"""Units of its two hidden Dense layers, and how many times narrower all layers are here."""


@dataclass(frozen=True)
class Network:
    """A network to train.

    Attributes:
        make: builds it, without weights.
        rate: of Adam's first step; it falls tenfold every ten epochs.
        epochs: of its training.
        batch: rows of one step.
    """

    make: Callable[[], Any]
    rate: float
    epochs: int
    batch: int = 64


def vgg16() -> Any:
    """VGG-16 with a quarter of its filters and units, for 32x32 pixels; without He's start it learns nothing."""
    model = keras.Sequential([keras.Input((32, 32, 3))])
    start = "he_normal"
    for filters, count in VGG_BLOCKS:
        for _ in range(count):
            width = filters // NARROWER
            model.add(L.Conv2D(width, 3, padding="same", activation="relu", kernel_initializer=start))
        model.add(L.MaxPooling2D())
    model.add(L.Flatten())
    for _ in range(2):
        model.add(L.Dense(VGG_DENSE // NARROWER, "relu", kernel_initializer=start))
    model.add(L.Dense(CLASSES, "softmax"))
    return model


def resnet() -> Any:
    """A small ResNet: three stages of one block, of 16, 32 and 64 filters, and a mean over places.

    Statistics of batches are means of some ten steps: in so short a training those of a hundred, Keras' own, stay
    behind the weights, which costs ten points of accuracy.
    """
    image = keras.Input((32, 32, 3))
    settled = partial(L.BatchNormalization, momentum=0.9)
    x = L.ReLU()(settled()(L.Conv2D(16, 3, padding="same", use_bias=False)(image)))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = L.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        y = L.ReLU()(settled()(y))
        y = settled()(L.Conv2D(filters, 3, padding="same", use_bias=False)(y))
        if stride > 1:
            x = settled()(L.Conv2D(filters, 1, stride, use_bias=False)(x))
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(image, L.Dense(CLASSES, "softmax")(L.GlobalAveragePooling2D()(x)))


def transformer() -> Any:
    """A small vision transformer: 64 patches of 4x4 pixels, three blocks of width 48, a mean over patches.

    Places of patches are the biases of a layer that every patch has for itself.
    """
    image = keras.Input((32, 32, 3))
    x = L.Reshape((64, 48))(L.Conv2D(48, 4, 4)(image))
    x = L.EinsumDense("abc,cd->abd", (64, 48), bias_axes="bd")(x)
    for _ in range(3):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(4, 12)(y, y)])
        y = L.Dense(96, "gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(48)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(image, L.Dense(CLASSES, "softmax")(x))


def digits() -> Any:
    """For 8x8 pixels: two hidden Dense layers."""
    dense = [L.Dense(units, "relu") for units in (64, 32)]
    return keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), *dense, L.Dense(CLASSES, "softmax")])


NETWORKS = {
    "vgg16": Network(vgg16, 5e-4, 8),
    "resnet": Network(resnet, 1e-3, 12),
    "transformer": Network(transformer, 1e-3, 8),
    "digits": Network(digits, 3e-3, 10, 8),
}


def trained(name: str, rows: Path, folder: Path, *, epochs: int | None = None, seed: int = 0) -> Path:
    """Train a network, unless that has come to its end before; returns its model.

    Args:
        name: of `NETWORKS`.
        rows: image set; a tenth of them tells when to stop.
        folder: for the model, its facts and its checkpoints; one with another network is refused.
        epochs: fewer than it has.
        seed: of everything random.

    Raises:
        click.ClickException: the folder has another network.
    """
    path = folder / MODELS["keras"]
    network = NETWORKS[name]
    use_gpu(False)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = network.make()
    about = {"name": name, "weights": model.count_params(), "layers": _digest(model), "rate": network.rate}
    if path.exists() and (folder / FACTS).exists():
        if json.loads((folder / FACTS).read_bytes())["model"] != about:
            raise click.ClickException(f"{folder} has another network than {name} is now, expected another --work-dir")
        return path
    model.compile(keras.optimizers.Adam(network.rate), "categorical_crossentropy", metrics=["accuracy"])
    settings = TrainSettings(network.epochs if epochs is None else epochs, network.batch, 0.1, seed)
    found = train(
        model,
        open_image_set(rows),
        folder,
        settings,
        facts={"model": about},
        overwrite=True,
        on_epoch=lambda epoch: click.echo(f"{name}: epoch {epoch.number}, accuracy {epoch.val_accuracy:.3f}", err=True),
    )
    right, count = found.validation
    click.echo(f"{name}: {model.count_params():,} weights; right are {right} of {count} rows apart", err=True)
    return path


def _digest(model: Any) -> str:
    """Of what a network is made of."""
    return hashlib.sha256(model.to_json().encode()).hexdigest()[:16]


def quickstart_checkpoints(folder: Path, dataset: Path) -> Path | None:
    """Checkpoints of the training of the quickstart's model, made by training it again, unless they are in the folder.

    None where it comes out as another model, which is told.
    """
    if not folder.is_dir():
        script = str(ROOT / "scripts" / "make_quickstart.py")
        command = [sys.executable, script, str(dataset), "--checkpoints", str(folder)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            click.echo("the quickstart's model has no checkpoints: trained again it is another", err=True)
            return None
    return folder


def checkpoints_beside(model: Path) -> Path | None:
    """The folder with the checkpoints of a model's training, where it has one."""
    folder = model.parent / CHECKPOINTS
    return folder if folder.is_dir() else None

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cli.shared.commands import Positional
from cli.shared.console import Console, echo
from cli.shared.options import PATH, open_data, option, verbose_option

if TYPE_CHECKING:
    from engine.training.train import Epoch, Trained


@click.command(
    cls=Positional,
    positions=("model", "epochs", "gpu", "data_dir", "output_dir"),
    short_help="Train a model on train.h5.",
)
@option(
    "--model",
    required=True,
    help="base, vgg16, vgg19, or a name of keras.applications such as MobileNetV2; keras_app takes that name from "
    "--model-settings.",
)
@option(
    "--model-settings",
    type=PATH,
    help='JSON file for a network of keras.applications: {"model": …, "optimizer": [class, {…}], "augmentation": '
    '[[class, {…}], …], "layers": [[class, {…}], …]}.',
)
@option(
    "--weights",
    help="Weights to start from: imagenet (downloaded), none (random), or a .h5 file of the network without its top "
    "[default: imagenet; none for base].",
)
@option("--epochs", default=5, help="Epochs at most.")
@option("--data-dir", default=Path("outputs"), help="Folder with the image set.")
@option("--target-data", default="train.h5", help="Name of the image set.")
@option("--output-dir", default=Path("outputs"), help="Folder for the model, training.json and logs/.")
@option(
    "--format",
    type=click.Choice(("keras", "h5")),
    default="keras",
    help="keras writes model.keras; h5 writes model.h5 as Keras 2 does, for TensorFlow 2.15.",
)
@option(
    "--validation-split",
    default=0.2,
    help="Share of the rows, chosen by the seed, that is not trained on: training stops when their loss has not fallen "
    "for 5 epochs.",
)
@option("--batch-size", default=32, help="Rows of one step.")
@option("--seed", "--random-state", default=0, help="Seed of everything random.")
@option("--gpu", type=bool, default=None, help="Train on a GPU or not [default: on a GPU where there is one].")
@option("--overwrite", type=bool, help="Replace a model that `train` did not make.")
@verbose_option
def command(
    model: str,
    model_settings: Path | None,
    weights: str | None,
    epochs: int,
    data_dir: Path,
    target_data: str,
    output_dir: Path,
    format: Literal["keras", "h5"],
    validation_split: float,
    batch_size: int,
    seed: int,
    gpu: bool | None,
    overwrite: bool,
    verbose: int,
) -> None:
    """Train a model, with a checkpoint of every epoch and logs for TensorBoard.

    The same command gives the same model, bit for bit on one kind of CPU. With --verbose 2 the layers are listed.

    Example: repair-dist train --model base --data-dir data --output-dir model

    Example: repair-dist train --model MobileNetV2 --weights none --epochs 20 --data-dir data --output-dir model
    """
    images = open_data(data_dir, target_data)

    from engine.training import architectures
    from engine.training import train as training

    settings = training.TrainSettings(epochs, batch_size, validation_split, seed, format)
    architecture = architectures.choose(model, model_settings, weights)
    training.check_output(output_dir, overwrite=overwrite, kind=format)
    training.split_rows(images.rows, validation_split, seed)
    device = training.use_gpu(gpu)
    with Console(verbose) as console:
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints there what it downloads
            network = architectures.build(architecture, images.image_shape, images.classes, seed)
        if verbose > 1:
            network.summary(print_fn=console.say)
        console.say(f"{architecture.name}: {network.count_params()} weights, trained on {device}")
        trained = training.train(
            network,
            images,
            output_dir,
            settings,
            facts={"model": architectures.describe(architecture)},
            overwrite=overwrite,
            progress=console.rows,
            on_epoch=lambda epoch: console.say(_line(epoch, epochs)),
        )
        if trained.stopped:
            console.say(f"stopped: val_loss has not fallen for {training.PATIENCE} epochs")
        if trained.foreign:
            console.say(f"other commands read this model with --allow-custom-code alone: {trained.foreign}")
    echo(_describe(trained))


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.number} of {epochs}: loss {epoch.loss:.4f}, accuracy {100 * epoch.accuracy:.2f}%, "
        f"val_loss {epoch.val_loss:.4f}, val_accuracy {100 * epoch.val_accuracy:.2f}%, "
        f"learning rate {epoch.learning_rate:.3g}"
    )


def _describe(trained: Trained) -> str:
    lines = []
    for name, (correct, rows) in (("training", trained.training), ("validation", trained.validation)):
        lines.append(f"accuracy on {name} rows: {100 * correct / rows:.2f}% ({correct} of {rows})")
    return "\n".join([*lines, "created files:", *map(str, trained.files)])

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import HERE, MODEL, Command, Refused


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["optimise"], "optimize"),
        (["Localize"], "localize"),
        (["create-category-dirs"], "create-category-dir"),
        (["utils", "draw_radar"], "draw_radar_chart"),
        (["utils", "merge-repair-dat"], "merge_repair_data"),
        (["prepare", "cifar10"], "cifar-10"),
        (["patch", "aply"], "apply"),
    ],
)
def test_commands(words: list[str], meant: str, command: Command) -> None:
    done = command(*words)
    assert done.code == 2
    assert done.err.endswith(f"Error: No such command '{words[-1]}' (did you mean '{meant}'?).\n")
    assert done.out == ""


def test_a_command_like_no_other(command: Command) -> None:
    done = command("qq\x1b[31m")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("Error: No such command 'qq\\x1b[31m'.\n")


def test_layers(workspace: Path, refused: Refused) -> None:
    localize = ["localize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", *HERE]
    says = "target layer Conv2D_1 is no layer of the model (did you mean 'conv2d_1'?), expected all or layers of conv2d"
    refused(*localize, "--target-layer", "Conv2D_1", says=(says,))
    says = "target layer dense_1/kernl is no weight of dense_1 (Dense) (did you mean 'dense_1/kernel'?), expected all"
    refused(*localize, "--target-layer", "dense_1/kernl", says=(says,))
    for number in ("9" * 5000, "--5"):
        refused(*localize, f"--target-layer={number}", says=("is no layer of the model, expected all or layers of",))


def test_labels(workspace: Path, refused: Refused) -> None:
    listed = (
        "expected one of T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot, or an"
    )
    Path("goals.toml").write_text('[[require]]\nlabel = "shirt"\nmin_accuracy = 0.5\n')
    test = ["test", "--model-dir", "model.keras", "--data-dir", "data", "--requirements", "goals.toml", *HERE]
    refused(*test, says=("label = 'shirt' (did you mean 'Shirt'?), ", listed))
    batch = ["batch", "--method", "Arachne", *MODEL, "--chunks", "data", "--val-data", "data/val.h5", "--output-dir=o"]
    refused(*batch, "--labels", "sneakers", *HERE, says=("labels has 'sneakers' (did you mean 'Sneaker'?), ", listed))
    overlay = ["utils", "overlay_bubble_chart", "--model-dir", "model.keras", "--model-dir-overlay", "model.keras"]
    says = ("target_label is Ankle Boot (did you mean 'Ankle boot'?), ", listed)
    refused(*overlay, "--data-dir", "data", "--target-label", "Ankle Boot", *HERE, says=says)

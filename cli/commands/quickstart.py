"""`quickstart`: the whole workflow on shipped images, as the commands a person would type."""

from __future__ import annotations

import shlex
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from cli.shared.computing import use_one_thread
from cli.shared.console import echo
from cli.shared.options import option
from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.names import escaped

REQUIREMENTS = """\
confidence = 0.95      # of all together, on images that nobody has seen

[[require]]            # all images together lose at most one point
max_drop = 0.01

[[require]]            # no label loses more than three
label = "*"
max_drop = 0.03

[[require]]            # the weakest one gains at least three
label = "{name}"
min_gain = 0.03
"""


@click.command(short_help="Repair a shipped model on shipped images, from raw data to the table.")
@option("--output-dir", default=Path("outputs/quickstart"), help="Folder for all files.")
@option("--num-workers", default=2, help="Ray workers.")
@option("--seed", default=0, help="Of folds, tunings and search.")
def command(output_dir: Path, num_workers: int, seed: int) -> None:
    """Find what a small Fashion-MNIST classifier gets wrong, say what its repair must keep, repair it and measure it.

    Every step is printed as the command that does it.

    Example: repair-dist quickstart --output-dir outputs/quickstart
    """
    use_one_thread()
    with as_file(files("cli") / "quickstart_data") as shipped:
        _workflow(shipped, output_dir, num_workers, seed)


def _workflow(shipped: Path, output: Path, workers: int, seed: int) -> None:
    model, data, run = shipped / "model.keras", output / "data", output / "run"
    if output.exists() and any(output.iterdir()) and not (data / "repair.h5").exists():
        raise InputError(f"{output}: holds other files, expected an empty folder or an earlier quickstart")
    _step("prepare", "fashion-mnist", "--input-dir", shipped, "--output-dir", data, "--data-ratio", "0,0.1,0.5,0.4")
    _step("test", "--model-dir", model, "--data-dir", data, "--per-label")
    _step("target", "--model-dir", model, "--data-dir", data)
    label, name = _weakest(data)
    requirements = output / "requirements.toml"
    with replace_file(requirements) as file:
        file.write_text(REQUIREMENTS.format(name=name), encoding="utf-8")
    click.secho(f"\n$ cat {escaped(shlex.quote(str(requirements)))}", bold=True)
    echo(REQUIREMENTS.format(name=name).rstrip())
    arguments = ["optimize", "--method", "CrossFit", "--model-dir", model]
    arguments += ["--target-data-dir", data / "negative" / str(label), "--requirements", requirements]
    arguments += ["--val-data", data / "val.h5", "--test-data", data / "test.h5", "--seed", seed]
    arguments += ["--output-dir", output, "--run-dir", run, "--overwrite", "--num-workers", workers]
    _step(*arguments)
    _step("report", run, "--html", output / "report.html", "--overwrite")


def _step(*arguments: object) -> Any:
    repair_dist: Any = click.get_current_context().find_root().command
    words = [str(argument) for argument in arguments]
    click.secho(f"\n$ repair-dist {escaped(shlex.join(words))}", bold=True)
    return repair_dist.main(words, prog_name="repair-dist", standalone_mode=False)


def _weakest(data: Path) -> tuple[int, str]:
    import numpy as np

    from engine.data.image_set import open_image_set

    images = open_image_set(data / "negative" / "repair.h5")
    label = int(np.bincount(images.labels).argmax())
    return label, images.label_names[label] if images.label_names else str(label)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.shared import options as opts
from cli.shared.commands import Positional
from cli.shared.computing import computing, load_fitting
from cli.shared.console import echo, label_name, table
from cli.shared.options import PATH, option
from cli.shared.verdicts import EXIT_NOT_MET, verdict_table
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from engine.data.image_set import ImageSet
    from engine.metrics.requirements import Requirement


@click.command(
    cls=Positional,
    positions=("verbose", "batch_size", "model_dir", "data_dir", "target_data"),
    short_help="Print a model's accuracy and loss.",
)
@opts.workflow_model_options
@option("--data-dir", default=Path("outputs"), help="Folder with the image set.")
@option("--target-data", default="test.h5", help="Name of the image set.")
@opts.options_of("train", "--model", kind=str)
@option("--per-label", type=bool, help="Print every label as well.")
@option(
    "--requirements",
    type=PATH,
    help="TOML file of requirements to judge the model by; a confidence that it states changes nothing here.",
)
@option("--base-model-dir", type=PATH, help="The model before its repair, for requirements on lost or gained accuracy.")
@opts.compute_options
@opts.verbose_option
def command(
    model_dir: Path,
    allow_custom_code: bool,
    data_dir: Path,
    target_data: str,
    per_label: bool,
    requirements: Path | None,
    base_model_dir: Path | None,
    compute_settings: ComputeOptions,
    verbose: int,
) -> int:
    """Measure a model on an image set, and judge it by requirements.

    The exit code is 3 where one of them is not met.

    Example: repair-dist test --model-dir model --data-dir data

    Example: repair-dist test --model-dir repaired --base-model-dir model --data-dir data --requirements goals.toml
    """
    images = opts.open_data(data_dir, target_data)
    required = _requirements(requirements, base_model_dir, images)

    from engine.metrics.accuracy import compare, label_results, wilson_interval
    from engine.metrics.requirements import check_requirements

    paths = [model_dir] if base_model_dir is None else [model_dir, base_model_dir]
    models = load_fitting(paths, [images], allow_custom_code=allow_custom_code)
    with computing(compute_settings, verbose, model=models[0]) as (console, compute):
        handles = [compute.handle(model) for model in models]
        predicted, losses = compute.predict_with_losses(handles[0], images, console.rows("test", images.rows))
        base = predicted  # without a base model nothing depends on one
        for handle in handles[1:]:
            base = compute.predict(handle, images, console.rows("base model", images.rows))
    results = label_results(images.labels, predicted, images.classes)
    echo(f"accuracy: {100 * results.accuracy:.2f}%\nloss: {losses.mean():.4f}")
    if per_label:
        rows = []
        for result in sorted(results.labels, key=lambda result: result.label):
            low, high = wilson_interval(result.success, result.total)
            interval = f"{100 * low:.1f} - {100 * high:.1f}"
            name = label_name(result.label, images.label_names)
            rows.append([name, result.success, result.failure, f"{result.score:.2f}", interval])
        echo(table(["label", "correct", "incorrect", "accuracy %", "95 % interval"], rows))
    if not required:
        return 0
    verdicts = check_requirements(required, compare(images.labels, base, predicted, images.classes))
    met = sum(verdict.met for verdict in verdicts)
    echo(f"{verdict_table(verdicts)}\nrequirements: {met} of {len(verdicts)} met")
    return 0 if met == len(verdicts) else EXIT_NOT_MET


def _requirements(path: Path | None, base_model_dir: Path | None, images: ImageSet) -> tuple[Requirement, ...]:
    """The requirements of the file, if one is given, once they can be judged by these images and models."""
    if path is None:
        if base_model_dir is not None:
            raise InputError(f"{base_model_dir} is given as base model without requirements, expected --requirements")
        return ()

    import numpy as np

    from engine.metrics.requirements import check_rows, read_requirements

    required = read_requirements(path, images.classes, images.label_names)
    check_rows(required.limits, np.bincount(images.labels, minlength=images.classes), images.path)
    relative = next((requirement for requirement in required.limits if requirement.relative), None)
    if relative is not None and base_model_dir is None:
        raise InputError(f'{path} asks for "{relative.text}" without a model before, expected --base-model-dir')
    return required.limits

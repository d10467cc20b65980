from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared import options as opts
from cli.shared.commands import Sectioned
from cli.shared.computing import computing
from cli.shared.console import created, echo
from cli.shared.method_options import ARACHNE, checkpoint_options, checkpoints_beside
from cli.shared.options import DATA, METHOD, PATH, flag_of, option, was_given
from cli.shared.weights import weights_text
from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.stated import made
from engine.localize.settings import LocalizeSettings

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from engine.core.types import Int64
    from engine.data.image_set import ImageSet
    from engine.models.load import LoadedModel
    from engine.targets.base import Target

NEURECOVER = "NeuRecover"


@click.command(
    cls=Sectioned,
    positions=("method", "model_dir", "target_data_dir", "verbose"),
    short_help="Find the weights to blame for the negative inputs.",
)
@option(
    "--method",
    section=METHOD,
    type=click.Choice([ARACHNE, NEURECOVER]),
    default=ARACHNE,
    help="By the model's gradients, or by what the last step of its training did to its Dense layers.",
)
@opts.workflow_model_options
@opts.target_data_option("Negative inputs, for instance negative/6; gets weights.csv, or weights.arrow.")
@option(
    "--positive-inputs-dir",
    section=DATA,
    rare=True,
    type=PATH,
    help="Positive inputs, which NeuRecover, and layers other than the last Dense one, are judged by too [default: "
    "positive beside negative].",
)
@checkpoint_options
@opts.localize_options(fronts=1)  # the published method
@opts.target_layer_option
@opts.options_of("optimize", *opts.SEARCH_OPTIONS_OF_TOOLKIT)
@opts.compute_options
@opts.silent_option
def command(
    method: str,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Path,
    positive_inputs_dir: Path | None,
    weights_dir: Path | None,
    last: tuple[int, int],
    target_layer: tuple[str, ...],
    compute_settings: ComputeOptions,
    verbose: int,
    **values: Any,
) -> None:
    """Write the weights to blame beside the negative inputs, and Arachne's pareto_front.png.

    Those of the last Dense layer become weights.csv, those of any other layers weights.arrow, and weights.csv too
    where that can say it.

    Example: repair-dist localize --model-dir model --target-data-dir data/repairsets/0/negative/6
    """
    for name, each in opts.options_in().items():
        if was_given(name) and (each.need == "checkpoints" if method == ARACHNE else ARACHNE in each.owners):
            other = NEURECOVER if method == ARACHNE else ARACHNE
            raise InputError(
                f"{flag_of(name)} is of {other} and the method is {method}, expected one without the other"
            )
    settings = made(LocalizeSettings, values)

    from engine.data.outcomes import open_negatives
    from engine.localize.weights_file import ARROW, CSV, FRONT
    from engine.models.load import load_model

    negatives = open_negatives(target_data_dir)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    work = _Work(model, negatives, target_data_dir, positive_inputs_dir, target_layer, compute_settings, verbose)
    if method == NEURECOVER:
        found = _by_checkpoints(work, weights_dir or checkpoints_beside(model_dir), last)
    else:
        found = _by_gradients(work, settings)
    if found is None:
        if verbose:
            echo(f"{target_data_dir}: the label has no failures, there is nothing to localize")
        return
    target, index, positives = found
    kernel = target.kernel
    target.write_localised(target_data_dir, index, kernel[index[:, 0], index[:, 1]])
    if not verbose:
        return
    where, rows = target.title, f"{negatives.rows if negatives else 0} negative"
    if target.pooled:
        where += f" ({', '.join(f'{path} {count}' for path, count in target.counts(index).items())})"
    if positives is not None:
        rows += f" and {positives} positive"
    echo(f"localized {len(index)} of {kernel.size} weights of {where} for {rows} inputs")
    names = (CSV, ARROW, *((FRONT,) if method == ARACHNE else ()))
    created(*(path for name in names if (path := target_data_dir / name).exists()))
    if verbose > 1:
        echo(weights_text(target_data_dir))


@dataclass(frozen=True, eq=False)
class _Work:
    model: LoadedModel  # to blame
    negatives: ImageSet | None  # its failures; None where it has none
    folder: Path  # of those
    positives_in: Path | None  # where its successes are, where that was said
    layers: tuple[str, ...]  # that were asked for
    compute: ComputeOptions  # compute, verbose: as of the command
    verbose: int

    def positives(self) -> ImageSet | None:
        from cli.commands.optimize import chunk_paths
        from engine.data.outcomes import open_positives

        known = [] if self.positives_in is None else [self.positives_in]
        return open_positives(chunk_paths([self.folder], known, None)[0].positives)


_Found = tuple["Target", "Int64", int | None]
"""Weights under repair, places (K, 2) of those to blame, and how many positive inputs there were where they count."""


def _by_gradients(work: _Work, settings: LocalizeSettings) -> _Found | None:
    from cluster.runs.localize import localise
    from engine.charts.pareto import draw_pareto_front
    from engine.localize.weights_file import FRONT
    from engine.models.load import check_fits
    from engine.targets.resolve import resolve_target

    model, negatives = work.model, work.negatives
    target = resolve_target(model.model, model.loss, model.classes, model.path, work.layers)
    positives = None
    if target.pooled:
        if settings.impact != "mean":
            raise InputError(f"forward_impact is {settings.impact}, expected mean for {target.title}")
        positives = work.positives()
    if negatives is None:
        return None
    for images in (negatives, positives):
        if images is not None:
            check_fits(images, model)
    with computing(work.compute, work.verbose, model=model) as (console, compute):
        handle = compute.handle(model, target)
        found = localise(compute, handle, negatives, positives, **vars(settings), on_rows=console.rows)
    draw_pareto_front(work.folder / FRONT, found)
    return target, found.index, (positives.rows if positives else 0) if target.pooled else None


def _by_checkpoints(work: _Work, folder: Path, last: tuple[int, int]) -> _Found | None:
    from cluster.runs.localize import blame_by_checkpoints
    from engine.localize.weights_file import FRONT
    from engine.models.load import check_fits
    from engine.targets.resolve import resolve_chain, resolve_target

    model, negatives, positives = work.model, work.negatives, work.positives()
    target, chain = resolve_chain(model.model, model.loss, model.classes, model.path, work.layers)
    if negatives is None:
        return None
    if positives is None:
        raise InputError(f"{work.folder}: there are no positive inputs, expected some that the training made right")
    for images in (negatives, positives):
        check_fits(images, model)
    with computing(work.compute, work.verbose, model=model) as (console, compute):
        blame = blame_by_checkpoints(
            *(compute, model, target, chain, negatives, positives, folder),
            last=last,
            warn=console.warn,
            on_rows=console.rows,
        )
        console.say(
            f"the step between the checkpoints broke {blame.worse} of {negatives.rows + positives.rows} inputs and "
            f"repaired {blame.better}; looked at: {', '.join(f'{path} {k}' for path, k in blame.looked_at.items())}"
        )
    held = tuple(dict.fromkeys(blame.weights))
    blamed = resolve_target(model.model, model.loss, model.classes, model.path, held)
    remove(work.folder / FRONT)  # an earlier Arachne's, of other weights
    return blamed, blamed.index_of(blame.patch, str(folder)), positives.rows

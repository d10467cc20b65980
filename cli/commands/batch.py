from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands.by_method import batch_by_method
from cli.run_report.text import summary
from cli.run_report.words import duration, plural
from cli.shared import method_options
from cli.shared import options as opts
from cli.shared.commands import Sectioned
from cli.shared.computing import computing
from cli.shared.console import created, echo
from cli.shared.labels import means_all, names_in, parse_labels
from cli.shared.method_options import ARACHNE, CROSSFIT, method_option
from cli.shared.options import DATA, METHOD, PATH, PLACE, SEARCH, data_option, option
from cli.shared.parts import part_option, stated_part
from engine.core.errors import InputError
from engine.localize.settings import LocalizeSettings

if TYPE_CHECKING:
    from cluster.batch.estimate import Expectation
    from cluster.batch.spec import Batch, MergeKind, Mode, Weighting
    from cluster.compute.options import ComputeOptions
    from cluster.runs.parts import Part, Parts
    from engine.localize.fronts import Impact
    from engine.metrics.requirements import Requirement
    from engine.search.loop import SearchSettings

MODES = ("chain", "independent", "rounds")
MAX_ROUNDS = 5
POSITIVE_WEIGHTS = "0.15x,0.3x,0.6x"

_of_arachne = functools.partial(option, section=METHOD, owners=("Arachne",))


@click.command(cls=Sectioned, short_help="Repair many chunks and labels at once, to stated requirements.")
@method_option(None, CROSSFIT)
@opts.model_options
@opts.chunks_option
@option(
    "--labels",
    section=DATA,
    default="all",
    help="Labels to repair, by name or number: 6 or cat,dog or all. CrossFit repairs all that have failures in one go.",
)
@option(
    "--separate",
    section=METHOD,
    owners=("CrossFit",),
    type=bool,
    help="CrossFit: one repair for each label, in label-<number> below --output-dir.",
)
@data_option(
    "--val-data",
    "Image set that no search sees. Arachne needs it to choose between patches; CrossFit judges on its rows too.",
)
@data_option("--test-data", "Image set that only measures and judges the result.")
@opts.shared_rows_option
@method_options.requirements_option
@method_options.crossfit_options
@method_options.checkpoint_options
@_of_arachne(
    "--mode",
    type=click.Choice(MODES),
    default="rounds",
    help="Arachne: chain: each chunk repairs what the one before left; independent: the best single repair; rounds: "
    "all chunks repair the best model so far, and their patches are merged.",
)
@_of_arachne("--max-rounds", rare=True, type=int, help=f"Arachne: of mode rounds [default: {MAX_ROUNDS}].")
@_of_arachne(
    "--merge",
    rare=True,
    type=click.Choice(["greedy", "search"]),
    default="greedy",
    help="Arachne, modes rounds and chain: add patch by patch what improves, or search how much of each is taken.",
)
@_of_arachne(
    "--positive-weights",
    help="Arachne: weight of keeping all positive inputs right, in repaired negative inputs; 0.15x means 0.15 for "
    "each positive input. Several, as in 100,200,400 or 0.1x,0.2x, give as many searches "
    f"[default: {POSITIVE_WEIGHTS}].",
)
@method_options.label_file_options("Arachne, label-priorities")
@option(
    "--seeds",
    section=SEARCH,
    default=1,
    help="Arachne: searches of each chunk, label and weight; CrossFit: of each repair.",
)
@option("--seed", section=SEARCH, default=0, help="First seed.")
@_of_arachne("--offers", rare=True, default=3, help="Arachne: distinct patches each search offers at most.")
@option(
    "--positive-inputs-dir",
    section=DATA,
    rare=True,
    type=PATH,
    multiple=True,
    help="Arachne: more inputs that must stay right, as of `target`; may be repeated. CrossFit takes no rows that were "
    "picked by what the model makes of them; other rows may be a chunk more.",
)
@opts.localize_options(fronts=5)  # meets more requirements on unseen rows: benchmarks/modes.py
@opts.search_options
@opts.target_layer_option
@option("--output-dir", type=PATH, required=True, help="Run directory: records, patch and repaired model.")
@opts.resume_options
@option(
    "--dry-run",
    section=PLACE,
    place=True,
    type=bool,
    help="Print jobs, workers and the time they will take, and stop. Measured in about 10 s once the workers run: what "
    "has not ended then is given up, but for a call of TensorFlow or JAX that has begun.",
)
@part_option
@opts.explain_option("Print what runs where and why, and of CrossFit the memory it needs at most.")
@opts.compute_options
@opts.verbose_option
def command(
    compute_settings: ComputeOptions, verbose: int, method: str | None, part: str | None, **options: Any
) -> int:
    """Repair a model for all chunks and labels of a repair set, and judge the result on rows no search has seen.

    CrossFit pools the rows of all chunks, and says with what chance its requirements hold on new rows; Arachne searches
    every chunk and label and keeps the patches that are best on --val-data.

    Exit code 3: a requirement is not promised, or not met, on test data if given; 4: some chunks could not be read,
    or some repairs failed.

    Example: repair-dist batch --model-dir model --chunks data/repairsets --labels pedestrian --test-data data/test.h5
    --requirements requirements.toml --num-workers 8 --output-dir runs/pedestrian

    Example: repair-dist batch --method Arachne --model-dir model --chunks data/repairsets --labels pedestrian
    --val-data data/val.h5 --seeds 5 --num-workers 8 --output-dir runs/pedestrian
    """
    chosen = method or CROSSFIT
    method_options.refuse_other_methods(chosen)
    opts.check_resume(options)
    options["part"] = stated_part(
        part, chosen, mode=options["mode"], separate=options["separate"], dry_run=options["dry_run"]
    )
    options["parts"] = click.get_current_context().obj  # of `merge-runs`, which runs this command
    if method is None:
        echo(f"method {CROSSFIT}, as none was given (--method {ARACHNE} is the other)", err=True)
    if chosen != ARACHNE:
        return batch_by_method(compute_settings=compute_settings, verbose=verbose, method=chosen, **options)

    from cluster.compute.early import started_early

    with nullcontext() if options["resume"] else started_early(compute_settings):  # a run may have ended
        return batch(compute_settings=compute_settings, verbose=verbose, **options)


def batch(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    output_dir: Path,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    explain: bool = False,
    parts: Parts | None = None,
    **options: Any,
) -> int:
    """The command with Arachne; returns the exit code."""
    output_dir = output_dir.absolute()
    work = make_batch(output_dir=output_dir, **options)

    from cli.run_report.view import read_run
    from cluster.batch.estimate import expect
    from cluster.batch.run import run_recorded
    from cluster.batch.spec import check_batch
    from cluster.records.store import holds_run

    warnings = check_batch(work)
    with computing(compute_settings, verbose, explain=explain) as (console, compute):
        for warning in warnings:
            console.warn(warning)
        if dry_run:
            echo(expectation_text(work, expect(work, compute)))
            return 0
        if resume and not holds_run(output_dir):
            console.say(f"{output_dir} holds no run yet: this is its start")
        told: dict[str, Any] = {"on_rows": console.rows, "on_jobs": console.jobs()}
        code = run_recorded(work, compute, resume=resume, overwrite=overwrite, parts=parts, **told)
    echo(summary(read_run(output_dir)))
    created(output_dir)
    return code


def make_batch(
    *,
    output_dir: Path,
    model_dir: Path,
    allow_custom_code: bool,
    chunks: Path,
    labels: str,
    val_data: Path | None,
    test_data: Path | None,
    requirements: Path | None,
    mode: Mode,
    max_rounds: int | None,
    positive_weights: str | None = None,
    label_file: Path | None = None,
    positive_label_file: Path | None = None,
    seeds: int,
    seed: int,
    offers: int,
    positive_inputs_dir: Sequence[Path],
    num_grad: int | None,
    forward_impact: Impact,
    fronts: int,
    settings: SearchSettings,
    target_layer: tuple[str, ...],
    allow_shared_rows: bool,
    part: Part | None = None,
    merge: MergeKind = "greedy",
    **_: Any,
) -> Batch:
    if val_data is None:
        raise InputError("--val-data is missing and the method is Arachne, expected rows that choose between patches")
    opts.check_seeds(seed, seeds)
    blame = LocalizeSettings(num_grad, forward_impact, fronts)
    for name, value in (("max_rounds", max_rounds), ("offers", offers)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    if max_rounds is not None and mode != "rounds":
        raise InputError(f"max_rounds is {max_rounds} and mode is {mode}, expected mode rounds with it")

    from cluster.batch.spec import Batch, open_chunks
    from engine.data.image_set import open_image_set
    from engine.data.outcomes import open_positives
    from engine.metrics.requirements import default_goals, read_requirements
    from engine.models.load import load_model
    from engine.targets.resolve import resolve_target

    method_options.check_objective([settings], None, label_file, positive_label_file)
    weightings = parse_weights(positive_weights, settings)
    validation = open_image_set(val_data)
    test = open_image_set(test_data) if test_data else None
    positives = [open_positives(folder) for folder in positive_inputs_dir]
    names = names_in((validation, test, *positives))
    chosen = parse_labels(labels, validation.classes, names)
    stated: tuple[Requirement, ...] = ()
    if requirements:
        required = read_requirements(requirements, validation.classes, names)
        opts.refuse_confidence(required, requirements)
        stated = required.limits
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    files = {"requirements": requirements, "label_file": label_file, "positive_label_file": positive_label_file}
    own = method_options.objective_settings(settings, model.classes, names, **files)
    if label_file is not None:
        chosen = method_options.searched_labels(own, chosen, chosen=not means_all(labels, names), source=label_file)
    objective: dict[str, Any] = {name: getattr(own, name) for name in ("objective", "requirements", "priorities")}
    weightings = tuple(replace(each, settings=replace(each.settings, **objective)) for each in weightings)
    return Batch(
        model=model,
        target=resolve_target(model.model, model.loss, model.classes, model.path, target_layer),
        chunks=open_chunks(chunks, model),
        labels=chosen,
        weightings=weightings,
        seeds=range(seed, seed + seeds),
        mode=mode,
        max_rounds=MAX_ROUNDS if max_rounds is None else max_rounds,
        offers=offers,
        num_grad=blame.num_grad,
        impact=blame.impact,
        fronts=blame.fronts,
        requirements=stated or default_goals(chosen, names),
        stated=bool(stated),
        validation=validation,
        test=test,
        positives=tuple(images for images in positives if images is not None),
        output=output_dir,
        allow_shared_rows=allow_shared_rows,
        part=part,
        merge=merge,
    )


def parse_weights(text: str | None, settings: SearchSettings) -> tuple[Weighting, ...]:
    """Positive weights separated by commas: `200`, or `0.15x` for each positive input; None gives the default."""
    from cluster.batch.spec import Weighting

    if settings.objective == "requirements":
        if text is not None:
            raise InputError(
                f"positive_weights is {text!r} and the objective is requirements, which say what positives are worth, "
                "expected one without the other"
            )
        return (Weighting("requirements", settings),)
    found = []
    text = POSITIVE_WEIGHTS if text is None else text
    for word in (part.strip() for part in text.split(",")):
        per_input = word.endswith("x")
        try:
            value = float(word.removesuffix("x"))
        except ValueError:
            raise InputError(
                f"positive_weights has {word!r}, expected numbers as in 100,200 or 0.1x,0.2x (for each positive input)"
            ) from None
        changed = replace(settings, positive_worth=value) if per_input else replace(settings, positive_weight=value)
        text_of = repr(value).removesuffix(".0")
        found.append(Weighting(f"{text_of}{'x' if per_input else ''}", changed))
    if len({weighting.text for weighting in found}) < len(found):
        raise InputError(f"positive_weights is {text!r} and names a weight twice, expected each once")
    return tuple(found)


def expectation_text(work: Batch, found: Expectation) -> str:
    from cluster.batch.spec import too_many_searches

    at_most = "at most " if work.mode == "rounds" else ""
    if found.total is None or found.step is None:
        time = f"nothing was measured: {found.nothing}"
    else:
        passes = "not measured" if found.passes is None else duration(found.passes)
        told = plural(found.searched, "search", "searches")
        if not found.searched:
            told = f"{plural(found.iterations, 'iteration', 'iterations')}, no search ended"
        time = (
            f"{at_most}{duration(found.total)} expected (start {duration(found.start)}, each step "
            f"{duration(found.step)}, held-out rows {passes}; from {told})"
        )
    lines = [
        f"jobs: {found.jobs} in a step ({len(work.chunks)} chunks, {len(work.labels)} labels, "
        f"{len(work.weightings)} positive weights, {len(work.seeds)} seeds; labels without failures are skipped)",
        f"steps: {at_most}{found.steps} ({work.mode})",
        f"computing: {found.resources}",
        f"time: {time}",
    ]
    if too_many := too_many_searches(work):
        lines.append(f"memory: without --dry-run this is refused: {too_many}")
    return "\n".join(lines)

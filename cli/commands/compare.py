from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared import method_options
from cli.shared import options as opts
from cli.shared.commands import Sectioned
from cli.shared.computing import computing, use_one_thread
from cli.shared.console import created, echo
from cli.shared.labels import means_all, names_in, parse_labels
from cli.shared.method_options import CROSSFIT, PRIORITIES
from cli.shared.options import DATA, METHOD, PATH, SEARCH, data_option, flag_of, option, was_given
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.compute.options import ComputeOptions
    from cluster.runs.compare import Comparison

DRAWS = 5


@click.command(cls=Sectioned, short_help="Repair by every method from several draws of rows, and judge them alike.")
@opts.model_options
@opts.chunks_option
@option(
    "--labels",
    section=DATA,
    default="all",
    help="Labels to repair, by name or number: 6 or cat,dog or all that have failures.",
)
@data_option("--val-data", "Image set that chooses among what a method offers.", required=True)
@data_option("--test-data", "Image set that judges, and chooses nothing.", required=True)
@opts.shared_rows_option
@method_options.requirements_option
@option(
    "--methods",
    section=METHOD,
    default="all",
    metavar="NAMES",
    help="Methods with commas between, with settings as in 'Arachne(objective=requirements)', or all. Differences are "
    "to CrossFit, where that is among them.",
)
@option("--draws", section=METHOD, type=int, default=DRAWS, help="Draws of repair rows; each is a seed of its own.")
@option(
    "--rows",
    section=METHOD,
    type=int,
    help="Rows of a draw, out of those of all chunks [default: as many as a chunk has, or half of a single one].",
)
@option("--seed", section=SEARCH, default=0, help="Of the first draw.")
@option(
    "--optimiser",
    section=SEARCH,
    rare=True,
    type=opts.OPTIMISER_CHOICE,
    help="What searches, in every method that does [default: what each method has of its own].",
)
@method_options.crossfit_options
@opts.target_layer_option
@method_options.checkpoint_options
@method_options.label_file_options(PRIORITIES)
@option("--output-dir", type=PATH, required=True, help="Run directory: tables, and what `report` makes a page of.")
@opts.resume_options
@opts.explain_option("Print what runs where and why.")
@opts.compute_options
@opts.verbose_option
def command(compute_settings: ComputeOptions, verbose: int, output_dir: Path, explain: bool, **options: Any) -> int:
    """Repair a model by several methods from several draws of the same rows, to the same requirements, and judge.

    Rows of --val-data choose within a method, those of --test-data judge. A method that cannot run has a line that says
    why, and is no failure of the command. `repair-dist report` makes a page of the result.

    Exit code 4: some chunks could not be read.

    Example: repair-dist compare --model-dir model --chunks data/repairsets --labels pedestrian --val-data data/val.h5
    --test-data data/test.h5 --num-workers 8 --output-dir runs/compared
    """
    opts.check_resume(options)
    output_dir = output_dir.absolute()
    stated = {name: options.pop(name) for name in ("resume", "overwrite")}
    check_words(**options)
    opts.check_run_directory(output_dir, **stated)
    work, unreadable = make_comparison(output_dir=output_dir, **options)

    from cli.run_report.text import comparison_text
    from cluster.records.store import read_facts
    from cluster.runs.compare import check_comparison, run_comparison

    check_comparison(work)
    with computing(compute_settings, verbose, model=work.model, explain=explain, one_thread=True) as (console, compute):
        for why in unreadable:
            console.warn(f"left out: {why}")
        run_comparison(work, compute, **stated, on_rows=console.rows, on_repairs=console.repairs)
    echo(comparison_text(output_dir))
    created(output_dir)
    return 4 if unreadable or read_facts(output_dir).get("left out") else 0


def check_words(*, methods: str, draws: int, rows: int | None, seed: int, **options: Any) -> None:
    """Refuse what cannot be meant, without a library that takes seconds to import."""
    from engine.methods.registry import parsed

    names = parse_methods(methods)
    opts.check_repairs("draws", draws)
    opts.check_seeds(seed, draws)
    if rows is not None and rows < 2:
        raise InputError(f"rows is {rows}, expected at least 2")
    owners = {"recipes": CROSSFIT, "step": CROSSFIT, "label_file": PRIORITIES, "positive_label_file": PRIORITIES}
    for name, owner in owners.items():
        if was_given(name) and owner not in [parsed(one)[0] for one in names]:
            raise InputError(
                f"{flag_of(name)} is of {owner}, which is not among --methods, expected one with the other"
            )
    opts.check_inputs(options)


def make_comparison(
    *,
    model_dir: Path,
    allow_custom_code: bool,
    chunks: Path,
    labels: str,
    val_data: Path,
    test_data: Path,
    allow_shared_rows: bool,
    requirements: Path | None,
    methods: str,
    draws: int,
    rows: int | None,
    seed: int,
    optimiser: str | None,
    target_layer: tuple[str, ...],
    weights_dir: Path | None,
    last: tuple[int, int],
    label_file: Path | None,
    positive_label_file: Path | None,
    output_dir: Path,
    promise_rows: int | None,
    **crossfit: Any,
) -> tuple[Comparison, list[str]]:
    """Open and check what a comparison reads; returns it, and why chunks are left out."""
    names = parse_methods(methods)
    refuse_unused(names)
    use_one_thread()
    folder = method_options.checkpoint_folder(weights_dir, model_dir, names)

    from cluster.batch.spec import open_chunks
    from cluster.runs.compare import Comparison
    from cluster.runs.shared_rows import refuse_one_file
    from engine.data.image_set import open_image_set
    from engine.methods.base import MethodSettings
    from engine.models.load import load_model
    from engine.problem.crossfit import CrossFitSettings
    from engine.search.optimisers import OPTIMISERS
    from engine.targets.resolve import resolve_chain

    validation, test = open_image_set(val_data), open_image_set(test_data)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    files = open_chunks(chunks, model)
    readable = [chunk for chunk in files if chunk.images is not None]
    sets = tuple(chunk.images for chunk in readable if chunk.images is not None)
    if not allow_shared_rows:
        refuse_one_file([validation.path, test.path], [images.path for images in sets])
    label_names = names_in((validation, test, *sets))
    required = method_options.read_promises(requirements, model.classes, label_names)
    crossfit["promise_rows"] = max(1, test.rows // model.classes) if promise_rows is None else promise_rows
    search, swarm = CrossFitSettings().search, None
    if optimiser is not None:
        swarm = OPTIMISERS[optimiser].settings()
        search = replace(search, swarm=replace(swarm, num_particles=search.swarm.num_particles))
    target, chain = resolve_chain(model.model, model.loss, model.classes, model.path, target_layer)
    work = Comparison(
        model=model,
        target=target,
        chain=chain,
        rows=sets,
        names=tuple(chunk.name for chunk in readable),
        repaired=() if means_all(labels, label_names) else parse_labels(labels, model.classes, label_names),
        requirements=required.limits,
        stated=requirements is not None,
        settings=MethodSettings(
            method_options.crossfit_settings(search, required, **crossfit),
            optimiser=swarm,
            priorities=method_options.stated_priorities(label_file, positive_label_file, model.classes),
        ),
        methods=names,
        draws=draws,
        rows_of_draw=rows_of_draw([images.rows for images in sets]) if rows is None else rows,
        seed=seed,
        validation=validation,
        test=test,
        checkpoints=folder,
        last=last,
        output=output_dir,
        allow_shared_rows=allow_shared_rows,
    )
    return work, [chunk.error for chunk in files if chunk.images is None]


def parse_methods(text: str) -> tuple[str, ...]:
    """Methods by name, with settings in parentheses, separated by commas, or `all`."""
    from engine.methods.registry import method_names, read_names

    if text.strip().casefold() == "all":
        return method_names()
    found = read_names(text)
    if not found or len(set(found)) < len(found):
        raise InputError(f"methods is {text!r}, expected names of methods, each once, or all")
    return found


def refuse_unused(names: Sequence[str]) -> None:
    """Refuse options of the current command line that none of the methods uses, which are imported."""
    from engine.methods.given import stated_of

    known = [found for name in names if (found := method_options.imported(name)) is not None]
    if was_given("optimiser") and not any("optimiser" in stated_of(method) for method in known):
        raise InputError(f"--optimiser is of searches and {', '.join(names)} search nothing, expected it without")
    method_options.refuse_unneeded(names, f"the methods are {', '.join(names)}")


def rows_of_draw(sets: Sequence[int]) -> int:
    """Rows of a draw where no number is given: as many as the largest of several chunks has, or half of one."""
    return max(sets) if len(sets) > 1 else max(2, sum(sets) // 2)

"""`evaluate`: repair many times with different seeds, and tell how well that does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands.optimize import chunk_paths, names_of
from cli.shared.commands import Sectioned
from cli.shared.console import Console, echo, table
from cli.shared.method_options import (
    ARACHNE,
    checkpoint_options,
    crossfit_options,
    method_option,
    refuse_other_methods,
    requirements_option,
)
from cli.shared.objective_options import check_objective, objective_settings
from cli.shared.options import (
    DATA,
    PATH,
    SEARCH,
    SWEPT,
    check_seeds,
    compute_options,
    localize_options,
    option,
    positive_weight_option,
    search_options,
    search_settings,
    shared_rows_option,
    silent_option,
    target_data_option,
    target_layer_option,
    workflow_model_options,
)
from engine.core.errors import InputError
from engine.metrics.repair_rates import DATASETS, Rates, run_line, summarise

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from cluster.runs.evaluate import Setting


@click.command(
    cls=Sectioned,
    positions=(
        "dataset",
        "method",
        "model_dir",
        "target_data_dir",
        "positive_inputs_dir",
        "output_dir",
        "num_runs",
        "verbose",
    ),
    short_help="Repair many times with different seeds; repair and break rates.",
)
@option(
    "--dataset", section=DATA, type=click.Choice(list(DATASETS)), help="Named in result.txt, and of no other effect."
)
@method_option(ARACHNE, ARACHNE)
@workflow_model_options
@target_data_option("Negative inputs, for instance negative/6.")
@option(
    "--positive-inputs-dir",
    section=DATA,
    rare=True,
    type=PATH,
    help="Positive inputs [default: positive beside negative].",
)
@option("--output-dir", type=PATH, help="Folder for models and results [default: the --target-data-dir].")
@option(
    "--num-runs", section=SEARCH, type=int, default=10, show_default=True, help="Repairs, each with a seed of its own."
)
@option(
    "--sweep",
    section=SEARCH,
    multiple=True,
    metavar="NAME=VALUE,…",
    help="Evaluate for each of these values of an option, in a folder of its own; several --sweep: for all "
    f"combinations. NAME is {', '.join(SWEPT)}, of these what means something to the method.",
)
@localize_options(fronts=1)  # as localize
@positive_weight_option
@requirements_option
@crossfit_options
@checkpoint_options
@search_options
@option(
    "--seed",
    section=SEARCH,
    type=int,
    default=0,
    show_default=True,
    help="Seed of run 0; run k is what `optimize` does with --seed SEED+k.",
)
@option(
    "--val-data",
    section=DATA,
    reads=True,
    type=PATH,
    help="Image set to measure on that no search sees; with any method but Arachne it also chooses what is taken.",
)
@option("--test-data", section=DATA, reads=True, type=PATH, help="Another one, which only measures.")
@shared_rows_option
@target_layer_option
@option("--resume", type=bool, help="Go on with the interrupted evaluation in --output-dir, or start it.")
@option("--overwrite", type=bool, help="Replace folders repair/ that hold no repaired model.")
@compute_options
@silent_option
def command(compute_settings: ComputeOptions, verbose: int, method: str, **options: Any) -> int:
    """Localize and repair --num-runs times, each with a seed of its own, and print repair and break rates.

    RR is the share of rows to repair that a repaired model gets right, BR the share of rows to keep that it gets wrong:
    of the negative and the positive inputs, and of held-out rows that the baseline model gets wrong (of the label under
    repair, if it is one) and right.

    Exit code 4: some runs failed.

    Example: repair-dist evaluate --dataset fashion-mnist --model-dir model --target-data-dir
    data/repairsets/0/negative/6 --test-data data/test.h5 --output-dir evaluated --num-runs 10
    --sweep num_particles=20,100 --num-workers 8
    """
    refuse_other_methods(method)
    context = click.get_current_context()
    if method != ARACHNE:
        from cli.commands.evaluate_methods import evaluate_by_method

        return evaluate_by_method(
            compute_settings=compute_settings, verbose=verbose, context=context, method=method, **options
        )
    evaluate(compute_settings=compute_settings, verbose=verbose, context=context, method=method, **options)
    return 0


def evaluate(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    context: click.Context,
    dataset: str | None,
    method: str,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Path,
    positive_inputs_dir: Path | None,
    output_dir: Path | None,
    num_runs: int,
    sweep: Sequence[str],
    requirements: Path | None,
    seed: int,
    val_data: Path | None,
    test_data: Path | None,
    allow_shared_rows: bool,
    target_layer: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    **_: Any,
) -> None:
    """The command."""
    if num_runs < 1:
        raise InputError(f"num_runs is {num_runs}, expected at least 1")
    check_seeds(seed, num_runs)
    settings = [make_setting(context.params, swept) for swept in parse_sweeps(sweep, context)]
    check_objective([setting.search for setting in settings], requirements)

    from cluster.compute.compute import Compute
    from cluster.runs.evaluate import Evaluation, check_evaluation
    from cluster.runs.evaluate import evaluate as run
    from engine.data.image_set import open_image_set
    from engine.data.outcomes import open_negatives, open_positives
    from engine.metrics.repair_rates import Given
    from engine.models.load import load_model
    from engine.targets.resolve import resolve_target

    output_dir = output_dir or target_data_dir
    (paths,) = chunk_paths([target_data_dir], [positive_inputs_dir] if positive_inputs_dir else [], output_dir)
    negatives, positives = open_negatives(paths.negatives), open_positives(paths.positives)
    held_out = {split: open_image_set(path) for split, path in (("validation", val_data), ("test", test_data)) if path}
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    names = names_of([paths]) if requirements else None
    settings = [
        replace(each, search=objective_settings(each.search, model.classes, names, requirements=requirements))
        for each in settings
    ]
    target = resolve_target(model.model, model.loss, model.classes, model.path, target_layer)
    if negatives is None:
        if verbose:
            echo(f"{target_data_dir}: the label has no failures, there is nothing to evaluate")
        return
    work = Evaluation(
        model=model,
        target=target,
        paths=paths,
        negatives=negatives,
        positives=positives,
        held_out=held_out,
        settings=tuple(settings),
        seeds=range(seed, seed + num_runs),
        given=Given(
            dataset=DATASETS.get(dataset) if dataset else None,
            method=method,
            model_dir=model_dir,
            target_data_dir=target_data_dir,
            positive_inputs_dir=positive_inputs_dir or paths.positives,
            output_dir=output_dir,
        ),
        overwrite=overwrite,
        allow_shared_rows=allow_shared_rows,
    )
    check_evaluation(work)
    with Console(verbose) as console, Compute(compute_settings, console.say, warn=console.warn) as compute:
        if not model.loss.stated:
            console.say(f"{model.path} stores no loss: {model.loss.name} is assumed")
        limit = max(setting.search.num_iterations for setting in settings)
        tick = console.iterations(num_runs * len(settings), limit)
        found = run(work, compute, resume=resume, on_rows=console.rows, on_iterations=tick)
        if compute.redispatched:
            console.say(f"{compute.redispatched} calls ran again because a worker died")
    if verbose > 1:
        echo(runs_text({one.setting.name: [run.rates["search"] for run in one.runs] for one in found}))
    if verbose:
        told = [Told(one.setting.name, str(one.weights), [run.rates for run in one.runs]) for one in found]
        echo(summary_text(told))
        names = [result.setting.name for result in found]
        echo(f"created files:\n{created_text(output_dir, names, num_runs)}")


def make_setting(options: Mapping[str, Any], swept: Mapping[str, Any]) -> Setting:
    """The setting of the command's options with the values that are swept.

    Raises:
        InputError: values that no search can have.
    """
    from cluster.runs.evaluate import Setting

    chosen: dict[str, Any] = {**options, **swept}
    for name in ("num_grad", "fronts"):
        if chosen[name] is not None and chosen[name] < 1:
            raise InputError(f"{name} is {chosen[name]}, expected at least 1")
    return Setting(
        name=name_of(swept),
        search=replace(search_settings(**chosen), positive_weight=chosen["positive_weight"]),
        num_grad=chosen["num_grad"],
        impact=chosen["forward_impact"],
        fronts=chosen["fronts"],
    )


def parse_sweeps(sweeps: Sequence[str], context: click.Context, swept: Sequence[str] = SWEPT) -> list[dict[str, Any]]:
    """All combinations of the values that are swept, the last one changing fastest; an empty one without any.

    Args:
        sweeps: as given.
        context: of the command.
        swept: options that may be.

    Raises:
        InputError: no such option, a value that it does not take, or something given twice.
    """
    options = {parameter.name: parameter for parameter in context.command.params}
    found: dict[str, list[Any]] = {}
    for sweep in sweeps:
        name, _, values = sweep.partition("=")
        name = name.strip().replace("-", "_")
        if name not in swept:
            raise InputError(f"sweep is {sweep!r}, expected NAME=VALUE,… with NAME one of {', '.join(swept)}")
        given = context.get_parameter_source(name)
        if name in found or given is click.core.ParameterSource.COMMANDLINE:
            raise InputError(f"{name} is given twice, expected one --sweep of it and no --{name.replace('_', '-')}")
        try:
            found[name] = [
                options[name].type.convert(word.strip(), options[name], context) for word in values.split(",")
            ]
        except click.BadParameter as error:
            reason = error.message.rstrip(".")
            raise InputError(f"sweep is {sweep!r}: {reason}, expected values as --{name} takes them") from None
        if len({_text(value) for value in found[name]}) < len(found[name]):
            raise InputError(f"sweep is {sweep!r} and has a value twice, expected each once")
    return [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]


def name_of(swept: Mapping[str, Any]) -> str:
    """Of the folder of a setting; empty where nothing is swept."""
    return ",".join(f"{name}={_text(value)}" for name, value in swept.items())


def _text(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Told:
    """What is told of a setting: its name, the weights of a run in words, and the rates by split of each run."""

    name: str
    weights: str
    rates: Sequence[Mapping[str, Rates]]


def summary_text(found: Sequence[Told]) -> str:
    """A table for each split, with a row for each setting."""
    parts = []
    first = next(rates for result in found for rates in result.rates)
    for split, rates in first.items():
        rows = []
        for result in found:
            cells: list[object] = [result.name or "as given", result.weights, len(result.rates)]
            for name in ("rr", "br"):
                values = [getattr(run[split], name) for run in result.rates]
                told = summarise(values, larger_is_better=name == "rr")
                shares = (told.mean, told.deviation, told.best, told.worst)
                cells += ["-" if math.isnan(share) else f"{share:.2f}" for share in shares]
            rows.append(cells)
        columns = ["mean", "std", "best", "worst"]
        header = ["setting", "weights", "runs", *(f"{rate} {column}" for rate in ("RR", "BR") for column in columns)]
        parts.append(
            f"{split} rows, in %: RR of {rates.wrong} to repair, BR of {rates.right} to keep\n{table(header, rows)}\n"
        )
    return "\n".join(parts)


def runs_text(found: Mapping[str, Sequence[Rates | str]]) -> str:
    """Every run, in the words of the toolkit, by setting: its rates on the rows of the search, or why it failed."""
    lines = []
    for name, runs in found.items():
        lines += ["=" * 17, f"Evaluate results {name}".rstrip(), "RR/BR"]
        lines += [f"    {run_line(number, rates)}\n" for number, rates in enumerate(runs)]
        lines.append("=" * 17)
    return "\n".join(lines)


def created_text(
    output: Path, settings: Sequence[str], runs: int, kinds: Sequence[str] = ("localized_data", "repaired_model")
) -> str:
    """What was written for each setting, one line for the folders of one kind."""
    lines = []
    for name in settings:
        folder = output / name
        more = f" … {runs - 1}" if runs > 1 else ""
        lines += [f"{folder / kind}_0{more}" for kind in kinds]
        lines.append(str(folder / "result.txt"))
    return "\n".join([*lines, f"{output / 'evaluate.arrow'}"])

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands.by_method import method_repair, rows_of_target
from cli.commands.optimize import chunk_paths, names_of
from cli.shared import method_options
from cli.shared import options as opts
from cli.shared.commands import Sectioned
from cli.shared.computing import computing, use_one_thread
from cli.shared.console import echo, table
from cli.shared.method_options import ARACHNE, CROSSFIT, method_option
from cli.shared.options import DATA, PATH, SEARCH, option, was_given
from engine.core.errors import InputError
from engine.metrics.repair_rates import DATASETS, run_line, summarise

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from cluster.runs.evaluation import Evaluated, Evaluation, Setting
    from cluster.runs.repair import MethodRepair
    from engine.methods.base import MethodSettings

_FAILED_RUNS = 4


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
@opts.workflow_model_options
@opts.target_data_option("Negative inputs, for instance negative/6.")
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
    f"combinations. NAME is {', '.join(opts.SWEPT)}, of these what means something to the method.",
)
@opts.localize_options(fronts=1)  # as localize
@opts.positive_weight_option
@method_options.requirements_option
@method_options.crossfit_options
@method_options.checkpoint_options
@opts.search_options
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
@opts.shared_rows_option
@opts.target_layer_option
@option("--resume", type=bool, help="Go on with the interrupted evaluation in --output-dir, or start it.")
@option("--overwrite", type=bool, help="Replace folders repair/ that hold no repaired model.")
@opts.compute_options
@opts.silent_option
def command(
    compute_settings: ComputeOptions, verbose: int, method: str, num_runs: int, seed: int, resume: bool, **options: Any
) -> int:
    """Localize and repair --num-runs times, each with a seed of its own, and print repair and break rates.

    RR is the share of rows to repair that a repaired model gets right, BR the share of rows to keep that it gets wrong:
    of the negative and the positive inputs, and of held-out rows that the baseline model gets wrong (of the label under
    repair, if it is one) and right.

    Exit code 4: some runs failed.

    Example: repair-dist evaluate --dataset fashion-mnist --model-dir model --target-data-dir
    data/repairsets/0/negative/6 --test-data data/test.h5 --output-dir evaluated --num-runs 10
    --sweep num_particles=20,100 --num-workers 8
    """
    method_options.refuse_other_methods(method)
    if method != ARACHNE or num_runs < 1:
        opts.check_repairs("num_runs", num_runs)
    opts.check_seeds(seed, num_runs)
    if method != ARACHNE:
        use_one_thread()
    work = make_evaluation(method, num_runs=num_runs, seed=seed, **options)
    if work is None:
        if verbose:
            echo(f"{options['target_data_dir']}: the label has no failures, there is nothing to evaluate")
        return 0

    from cluster.runs.evaluate import check_evaluation, evaluate

    check_evaluation(work)
    with computing(compute_settings, verbose, model=work.model, one_thread=method != ARACHNE) as (console, compute):
        limit = max(setting.search.num_iterations for setting in work.settings)
        tick = console.iterations(num_runs * len(work.settings), limit) if method == ARACHNE else None
        found = evaluate(
            work, compute, resume=resume, on_rows=console.rows, on_iterations=tick, on_repairs=console.repairs
        )
        for result in found:
            where = f"{result.setting.name}: " if result.setting.name else ""
            for run in result.runs:
                if run.failed:
                    console.warn(f"{where}run {run.number} failed: {run.note}")
    if verbose > 1:
        echo(runs_text(found))
    if verbose:
        tell(work, found)
    return _FAILED_RUNS if any(len(result.ended) < num_runs for result in found) else 0


def tell(work: Evaluation, found: Sequence[Evaluated]) -> None:
    echo(summary_text(found))
    ended = [run for result in found for run in result.ended]
    for note in dict.fromkeys(run.note for run in ended if run.note):
        echo(note)
    if same := sum(run.changed == 0 for run in ended):
        total = len(found) * len(work.seeds)
        echo(f"{same} of {total} runs keep the baseline model: it is copied unchanged")
    output, last = work.given.output_dir, len(work.seeds) - 1
    kinds = ("localized_data", "repaired_model") if work.repair is None else ("repaired_model",)
    more = f" … {last}" if last else ""
    lines = ["created files:"]
    for result in found:
        folder = output / result.setting.name
        lines += [*(f"{folder / kind}_0{more}" for kind in kinds), str(folder / "result.txt")]
    echo("\n".join([*lines, str(output / "evaluate.arrow")]))


def make_evaluation(
    method: str,
    *,
    num_runs: int,
    seed: int,
    dataset: str | None,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Path,
    positive_inputs_dir: Path | None,
    output_dir: Path | None,
    sweep: Sequence[str],
    **options: Any,
) -> Evaluation | None:
    """Open and check what an evaluation reads; None where the label has no failures."""
    context, requirements = click.get_current_context(), options["requirements"]
    swept = parse_sweeps(sweep, context, swept_of(method, sweep))
    settings = [make_setting(context.params, each) for each in swept]
    if method == ARACHNE:
        method_options.check_objective([setting.search for setting in settings], requirements)

    from cluster.runs.evaluation import Evaluation
    from engine.data.image_set import open_image_set
    from engine.data.outcomes import open_negatives, open_positives
    from engine.metrics.repair_rates import Given
    from engine.models.load import load_model
    from engine.targets.resolve import resolve_target

    output_dir = output_dir or target_data_dir
    (paths,) = chunk_paths([target_data_dir], [positive_inputs_dir] if positive_inputs_dir else [], output_dir)
    negatives, positives = open_negatives(paths.negatives), open_positives(paths.positives)
    files = {"validation": options["val_data"], "test": options["test_data"]}
    held_out = {split: open_image_set(path) for split, path in files.items() if path}
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    repair = None
    if method == ARACHNE:
        names = names_of([paths]) if requirements else None
        settings = [
            replace(
                each,
                search=method_options.objective_settings(each.search, model.classes, names, requirements=requirements),
            )
            for each in settings
        ]
        target = resolve_target(model.model, model.loss, model.classes, model.path, options["target_layer"])
    else:
        label, rows = rows_of_target(paths.negatives, [paths.positives])
        options |= {"model_dir": model_dir, "seed": seed, "seeds": num_runs}
        repair = method_repair(method, model, rows, paths.negatives, paths.output, **options)
        repair = replace(repair, repaired=(label,))
        target, held_out = repair.target, repair.held_out
        settings = [
            replace(setting, method=settings_of_method(setting, each, repair))
            for setting, each in zip(settings, swept, strict=True)
        ]
    if negatives is None:
        return None
    given = Given(
        dataset=DATASETS.get(dataset) if dataset else None,
        method=method,
        model_dir=model_dir,
        target_data_dir=target_data_dir,
        positive_inputs_dir=positive_inputs_dir or paths.positives,
        output_dir=output_dir,
    )
    return Evaluation(
        model=model,
        target=target,
        paths=paths,
        negatives=negatives,
        positives=positives,
        held_out=held_out,
        settings=tuple(settings),
        seeds=range(seed, seed + num_runs),
        given=given,
        overwrite=options["overwrite"],
        allow_shared_rows=options["allow_shared_rows"],
        repair=repair,
    )


def swept_of(method: str, sweeps: Sequence[str]) -> tuple[str, ...]:
    """Of the options that `--sweep` takes, those that mean something to a method."""
    if method == ARACHNE:
        return opts.SWEPT

    from engine.methods.given import stated_of
    from engine.methods.registry import method_of

    stated: Collection[str] = stated_of(method_of(method))
    if method == CROSSFIT:
        stated = set(opts.SWEPT).difference(method_options.options_of_method(ARACHNE))
    swept = tuple(name for name in opts.SWEPT if name in stated)
    method_options.refuse_unsearched(method, swept)
    if sweeps and not swept:
        raise InputError(f"sweep is {sweeps[0]!r} and {method} has nothing to sweep, expected it without")
    return swept


def make_setting(options: Mapping[str, Any], swept: Mapping[str, Any]) -> Setting:
    """The setting of the command's options with the values that are swept."""
    from cluster.runs.evaluation import Setting

    chosen: dict[str, Any] = {**options, **swept}
    for name in ("num_grad", "fronts"):
        if chosen[name] is not None and chosen[name] < 1:
            raise InputError(f"{name} is {chosen[name]}, expected at least 1")
    return Setting(
        name=name_of(swept),
        search=replace(opts.search_settings(**chosen), positive_weight=chosen["positive_weight"]),
        num_grad=chosen["num_grad"],
        impact=chosen["forward_impact"],
        fronts=chosen["fronts"],
    )


def settings_of_method(setting: Setting, swept: Mapping[str, Any], repair: MethodRepair) -> MethodSettings:
    """What a setting is to a method other than Arachne."""

    def given(name: str) -> bool:
        return name in swept or was_given(name)

    search = replace(setting.search, positive_weight=None)
    crossfit = replace(repair.settings.crossfit, search=method_options.crossfit_search(search, given))
    return method_options.method_settings(repair.method, crossfit, search, setting.search.positive_weight, given)


def parse_sweeps(
    sweeps: Sequence[str], context: click.Context, swept: Sequence[str] = opts.SWEPT
) -> list[dict[str, Any]]:
    """All combinations of the values of these `--sweep`, the last one changing fastest; an empty one without any."""
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


def summary_text(found: Sequence[Evaluated]) -> str:
    """A table for each split, with a row for each setting, of the runs that did not fail."""
    parts = []
    first = next(run.rates for result in found for run in result.ended)
    for split, rates in first.items():
        rows = []
        for result in found:
            cells: list[object] = [result.setting.name or "as given", _weights(result), len(result.ended)]
            for name in ("rr", "br"):
                values = [getattr(run.rates[split], name) for run in result.ended]
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


def _weights(result: Evaluated) -> str:
    """How many weights Arachne localised, or another method has changed, fewest to most."""
    counts = {run.changed for run in result.ended if run.changed is not None}
    if result.weights is not None:
        counts = {result.weights}
    return "–".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "-"


def runs_text(found: Sequence[Evaluated]) -> str:
    """Every run, in the words of the toolkit, by setting: its rates on the rows of the search, or why it failed."""
    lines = []
    for result in found:
        lines += ["=" * 17, f"Evaluate results {result.setting.name}".rstrip(), "RR/BR"]
        told = [run.note if run.failed else run.rates["search"] for run in result.runs]
        lines += [f"    {run_line(number, rates)}\n" for number, rates in enumerate(told)]
        lines.append("=" * 17)
    return "\n".join(lines)

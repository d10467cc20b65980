"""`evaluate` with any method but Arachne, whose pipeline divides its searches over the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands.evaluate import Told, created_text, name_of, parse_sweeps, runs_text, summary_text
from cli.commands.optimize import chunk_paths
from cli.shared.computing import use_one_thread
from cli.shared.console import Console, echo
from cli.shared.method_options import (
    ARACHNE,
    CROSSFIT,
    crossfit_search,
    method_settings,
    options_of_method,
    refuse_unsearched,
)
from cli.shared.method_repair import method_repair, rows_of_target
from cli.shared.options import SWEPT, check_repairs, check_seeds, search_settings, was_given
from engine.core.errors import InputError
from engine.metrics.repair_rates import DATASETS

if TYPE_CHECKING:
    from cluster.compute.options import ComputeOptions
    from cluster.runs.evaluate_methods import MethodEvaluated, MethodEvaluation, MethodSetting
    from cluster.runs.repair import MethodRepair

_FAILED_RUNS = 4
"""Exit code."""


def evaluate_by_method(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    num_runs: int,
    seed: int,
    resume: bool,
    **options: Any,
) -> int:
    """The command; returns the exit code: 4 where some runs failed."""
    check_repairs("num_runs", num_runs)
    check_seeds(seed, num_runs)
    use_one_thread()
    work = make_method_evaluation(seed=seed, seeds=num_runs, **options)
    if work is None:
        if verbose:
            echo(f"{options['target_data_dir']}: the label has no failures, there is nothing to evaluate")
        return 0

    from cluster.compute.compute import Compute
    from cluster.runs.evaluate_methods import check_method_evaluation, evaluate_method

    check_method_evaluation(work)
    with (
        Console(verbose) as console,
        Compute(replace(compute_settings, threads=1), console.say, warn=console.warn) as compute,
    ):
        model = work.repair.model
        if not model.loss.stated:
            console.say(f"{model.path} stores no loss: {model.loss.name} is assumed")
        found = evaluate_method(work, compute, resume=resume, on_rows=console.rows, on_repairs=console.repairs)
        if compute.redispatched:
            console.say(f"{compute.redispatched} calls ran again because a worker died")
        for result in found:
            where = f"{result.setting.name}: " if result.setting.name else ""
            for run in result.runs:
                if run.failed:
                    console.warn(f"{where}run {run.number} failed: {run.note}")
    if verbose > 1:
        echo(_runs_text(found))
    if verbose:
        echo(summary_text([_told(result) for result in found]))
        for note in dict.fromkeys(run.note for result in found for run in result.ended if run.note):
            echo(note)
        same = sum(run.changed == 0 for result in found for run in result.ended)
        if same:
            echo(f"{same} of {len(found) * num_runs} runs keep the baseline model: it is copied unchanged")
        names = [result.setting.name for result in found]
        output = options["output_dir"] or options["target_data_dir"]
        echo(f"created files:\n{created_text(output, names, num_runs, ('repaired_model',))}")
    return _FAILED_RUNS if any(len(result.ended) < num_runs for result in found) else 0


def make_method_evaluation(
    *,
    context: click.Context,
    dataset: str | None,
    method: str,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Path,
    positive_inputs_dir: Path | None,
    output_dir: Path | None,
    sweep: Sequence[str],
    **options: Any,
) -> MethodEvaluation | None:
    """Open and check what an evaluation reads; None where the label has no failures.

    Raises:
        InputError: something is missing, damaged, or does not fit; or an option means nothing to the method.
    """
    allowed = swept_of(method)
    refuse_unsearched(method, allowed)
    if sweep and not allowed:
        raise InputError(f"sweep is {sweep[0]!r} and {method} has nothing to sweep, expected it without")
    swept = parse_sweeps(sweep, context, allowed)

    from cluster.runs.evaluate_methods import MethodEvaluation
    from engine.data.outcomes import open_negatives, open_positives
    from engine.metrics.repair_rates import Given
    from engine.models.load import load_model

    output = output_dir or target_data_dir
    (paths,) = chunk_paths([target_data_dir], [positive_inputs_dir] if positive_inputs_dir else [], output)
    negatives, positives = open_negatives(paths.negatives), open_positives(paths.positives)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    label, rows = rows_of_target(paths.negatives, [paths.positives])
    repair = method_repair(method, model, rows, paths.negatives, paths.output, model_dir=model_dir, **options)
    repair = replace(repair, repaired=(label,))
    if negatives is None:
        return None
    return MethodEvaluation(
        repair=repair,
        settings=tuple(make_method_setting(context.params, one, repair) for one in swept),
        folders=(paths.negatives, paths.positives),
        negatives=negatives,
        positives=positives,
        given=Given(
            dataset=DATASETS.get(dataset) if dataset else None,
            method=method,
            model_dir=model_dir,
            target_data_dir=target_data_dir,
            positive_inputs_dir=positive_inputs_dir or paths.positives,
            output_dir=output,
        ),
    )


def swept_of(method: str) -> tuple[str, ...]:
    """Of the options that `--sweep` takes, those that mean something to a method.

    Raises:
        InputError: it cannot be imported.
    """
    from engine.methods.given import stated_of
    from engine.methods.registry import method_of

    if method == CROSSFIT:
        return tuple(name for name in SWEPT if name not in options_of_method(ARACHNE))
    stated = stated_of(method_of(method))
    return tuple(name for name in SWEPT if name in stated)


def make_method_setting(options: Mapping[str, Any], swept: Mapping[str, Any], repair: MethodRepair) -> MethodSetting:
    """The setting of the command's options with the values that are swept.

    Raises:
        InputError: values that no search can have.
    """
    from cluster.runs.evaluate_methods import MethodSetting

    chosen: dict[str, Any] = {**options, **swept}

    def given(name: str) -> bool:
        return name in swept or was_given(name)

    search = search_settings(**chosen)
    crossfit = replace(repair.settings.crossfit, search=crossfit_search(search, given))
    mine = method_settings(chosen["method"], crossfit, search, chosen["positive_weight"], given)
    return MethodSetting(name_of(swept), mine)


def _told(result: MethodEvaluated) -> Told:
    counts = sorted({run.changed for run in result.ended if run.changed is not None})
    weights = "-" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return Told(result.setting.name, weights, [run.rates for run in result.ended])


def _runs_text(found: Sequence[MethodEvaluated]) -> str:
    return runs_text(
        {
            result.setting.name: [run.note if run.failed else run.rates["search"] for run in result.runs]
            for result in found
        }
    )

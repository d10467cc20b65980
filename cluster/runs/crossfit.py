"""CrossFit repairs: what they are, what is checked before they run, and how they ended."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.crossfit_rows import RepairRows
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.output import check_output
from cluster.runs.reports import Measured
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.names import listed
from engine.core.types import Float32
from engine.data.image_set import ImageSet
from engine.layers.tail_chain import Chain
from engine.metrics.accuracy import LabelChange
from engine.metrics.promise import Frontier
from engine.metrics.requirements import Requirement, Verdict, check_rows
from engine.models.load import LoadedModel, check_fits
from engine.patches.patch import Patch
from engine.problem.crossfit import CrossFit, CrossFitSettings, crossfit_of
from engine.problem.crossfit_plan import CrossFitPlan, check_plan, plan_of
from engine.targets.base import Target

PATCH = "patch.arrow"


@dataclass(frozen=True, eq=False)
class CrossFitRepair:
    """What to repair with what.

    Attributes:
        model: to repair.
        target: its weights under repair, whose features are cached.
        chain: the same as what is tuned.
        rows: image sets of the repair.
        folder: of those, for the records.
        repaired: labels under repair.
        requirements: of the result.
        stated: the user stated them.
        settings: of the repair.
        seeds: each is a search of its own; the best is kept. Folds and tunings are of the first.
        validation: rows that join in judging, or None.
        test: rows that only measure, or None.
        output: gets the patch and the repaired model.
        overwrite: replace an output folder that is not a repaired model.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
    """

    model: LoadedModel
    target: Target
    chain: Chain
    rows: tuple[ImageSet, ...]
    folder: Path
    repaired: tuple[int, ...]
    requirements: tuple[Requirement, ...]
    stated: bool
    settings: CrossFitSettings
    seeds: Sequence[int]
    validation: ImageSet | None
    test: ImageSet | None
    output: Path
    overwrite: bool = False
    allow_shared_rows: bool = False

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no tuning sees, by split."""
        sets = {"validation": self.validation, "test": self.test}
        return {split: images for split, images in sets.items() if images is not None}

    @property
    def label(self) -> int:
        """Under repair, -1 for several."""
        return self.repaired[0] if len(self.repaired) == 1 else -1

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Of the first set that has some."""
        sets = (*self.rows, *self.held_out.values())
        return next((images.label_names for images in sets if images.label_names), None)


@dataclass(frozen=True, eq=False)
class CrossFitReport:
    """How a repair ended.

    Attributes:
        repair: what was asked.
        model: path of the repaired model.
        patch: what changed; empty where nothing did.
        frontier: all steps with their promises; of the model as it is alone where there was nothing to repair.
        found: (R + C,) of the search; None where there was nothing to repair.
        judged: out of fold, per label, at the step taken.
        measured: the saved model, loaded again, on held-out rows.
        verdicts: on those, by split.
        unreadable: chunks that were left out, and why.
        notes: what else is to be said.
    """

    repair: CrossFitRepair
    model: Path
    patch: Patch
    frontier: Frontier
    found: Float32 | None
    judged: tuple[LabelChange, ...]
    measured: tuple[Measured, ...]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    unreadable: Mapping[Path, str]
    notes: tuple[str, ...]

    @property
    def promised(self) -> bool:
        """The requirements are promised, of the model as it is where there was nothing to repair."""
        return self.frontier.promised

    @property
    def patch_files(self) -> tuple[Path, ...]:
        """The patch as a file, where the repair is a change."""
        return (self.repair.output / PATCH,) if len(self.patch) else ()

    @property
    def exit_code(self) -> int:
        """0 done, 3 what the user requires is not promised or not met on test data, 4 some chunks could not be read."""
        if self.unreadable:
            return 4
        met = self.promised and all(verdict.met for verdict in self.verdicts.get("test", ()))
        return 0 if met or not self.repair.stated else 3


@dataclass(frozen=True, eq=False)
class ReadyRepair:
    """A repair whose rows have been read; nothing is recorded yet.

    Attributes:
        repair: what to do.
        handle: the model, with the weights under repair.
        rows: of the repair, and held out.
        fit: the repair of those rows.
        facts: for `run.json`; `identity` is what a resumed run has to have in common with its beginning.
    """

    repair: CrossFitRepair
    handle: ModelHandle
    rows: RepairRows
    fit: CrossFit
    facts: Mapping[str, Any]


def check_repair(repair: CrossFitRepair) -> None:
    """Refuse what cannot work, before any row is read.

    Raises:
        InputError: there are no rows, sets do not fit the model, or have no rows to judge a requirement by; or the
            output would replace what it must not.
    """
    check_output(repair.output, repair.model, overwrite=repair.overwrite)
    check_sets(repair)


def check_sets(repair: CrossFitRepair) -> None:
    """Refuse image sets that cannot be repaired on.

    Raises:
        InputError: there are no rows, sets do not fit the model, or have no rows to judge a requirement by.
    """
    for images in (*repair.rows, *repair.held_out.values()):
        check_fits(images, repair.model)
    classes = repair.model.classes
    sets = [*repair.rows, *([] if repair.validation is None else [repair.validation])]
    if not any(images.rows for images in repair.rows):
        raise InputError(f"{repair.folder}: holds no rows to repair on, expected some")
    labels = np.concatenate([images.labels for images in sets])
    check_rows(repair.requirements, np.bincount(labels, minlength=classes), repair.folder)
    if repair.test is not None and repair.stated:
        check_rows(repair.requirements, np.bincount(repair.test.labels, minlength=classes), repair.test.path)


def labels_without_rows(repaired: Sequence[int], images: ImageSet) -> list[int]:
    """Labels under repair without a row in a set, ascending."""
    return sorted(set(repaired) - set(np.unique(images.labels).tolist()))


def warn_of_unseen(repaired: Sequence[int], held_out: Mapping[str, ImageSet], warn: Callable[[str], None]) -> None:
    """Say which labels under repair have no row in the held-out sets, by split, which tell nothing of them then."""
    for split, images in held_out.items():
        if lacking := labels_without_rows(repaired, images):
            labels, them = ("labels", "them") if len(lacking) > 1 else ("label", "it")
            warn(
                f"{images.path} has no rows of {labels} {listed(map(str, lacking))}, under repair: {split} rows tell "
                f"nothing of {them}"
            )


def check_memory(repair: CrossFitRepair, compute: Compute) -> None:
    """Say what memory a repair takes, and refuse one that cannot fit, before any row is read."""
    plan = memory_plan(repair)
    for sentence in plan.sentences():
        compute.say(sentence)
    check_plan(plan)


def memory_plan(repair: CrossFitRepair) -> CrossFitPlan:
    """The memory that a repair takes at most."""
    validation = 0 if repair.validation is None else repair.validation.rows
    return plan_of(repair.chain, sum(images.rows for images in repair.rows), validation, repair.settings)


def ready_repair(
    repair: CrossFitRepair,
    rows: RepairRows,
    compute: Compute,
    handle: ModelHandle,
    more: Mapping[str, Any] | None = None,
) -> ReadyRepair:
    """Set up a repair of rows that have been read; `more` joins its identity.

    Raises:
        InputError: there are too few different rows for the folds, none of a label under repair, or none to judge a
            requirement by.
    """
    check_rows(repair.requirements, rows.judged, repair.folder)
    warn_of_unseen(repair.repaired, repair.held_out, compute.warn)
    fit = crossfit_of(
        repair.chain,
        rows.pooled,
        rows.logits,
        repair.repaired,
        repair.requirements,
        repair.settings,
        repair.seeds[0],
    )
    facts = _facts(repair, compute, fit, more or {})
    return ReadyRepair(repair, handle, rows, fit, {**facts, "plan": memory_plan(repair).facts()})


def _changed(chain: Chain) -> tuple[str, ...]:
    """Paths of the weights that a repair changes: what is tuned, and the bias that takes the offsets."""
    return tuple(dict.fromkeys((*chain.tuned, *([] if chain.offsets is None else [chain.offsets]))))


def _facts(repair: CrossFitRepair, compute: Compute, fit: CrossFit, more: Mapping[str, Any]) -> dict[str, Any]:
    settings = asdict(repair.settings)
    identity = {
        "method": "CrossFit",
        "scipy": importlib.metadata.version("scipy"),  # which has the normal distribution
        "labels": list(repair.repaired),
        "settings": settings,
        "seeds": list(repair.seeds),
        "requirements": [requirement.text for requirement in repair.requirements],
        **more,
        "data": fit.data,  # of all of these
        "held-out data": fingerprints({split: images.path for split, images in repair.held_out.items()}),
    }
    return {
        **run_facts(repair.model, compute, dict(repair.held_out), [*repair.held_out.values(), *repair.rows]),
        "identity": identity_of(repair.model, repair.target, compute, identity),
        "method": "CrossFit",
        "arguments": {
            "settings": settings,
            "seeds": list(repair.seeds),
            "rows": [str(images.path) for images in repair.rows],
            "compute": asdict(compute.options),
        },
        "target": {path: list(repair.chain.values[path].shape) for path in _changed(repair.chain)},
        "data": fit.data,
        "labels": list(repair.repaired),
        "requirements": [requirement.text for requirement in repair.requirements],
        "stated": repair.stated,
        "confidence": repair.settings.confidence,
    }

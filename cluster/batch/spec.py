"""What a batch is: chunks, labels, weights and seeds, checked before any work starts, and the tasks that they make."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cluster.runs.ledger import divided, parts_of_groups
from cluster.runs.parts import Part
from cluster.runs.shared_rows import held_out_sets, refuse_one_file
from cluster.workers.passes import ship_rows
from cluster.workers.task import ChunkLabel, RepairTask, SearchJob
from engine.core.errors import InputError
from engine.core.memory import free_memory
from engine.data.image_set import ImageSet, open_image_set
from engine.localize.fronts import Impact
from engine.metrics.requirements import Requirement, check_rows
from engine.models.load import LoadedModel, check_fits
from engine.search.loop import SearchSettings
from engine.targets.base import Target

Mode = Literal["chain", "independent", "rounds"]
MergeKind = Literal["greedy", "search"]

OFFER_BYTES = 800
"""Memory that a patch on offer takes where a run that was interrupted goes on (measured with 41 weights)."""


@dataclass(frozen=True, eq=False)
class ChunkFile:
    """One chunk: its name, its folder, and its rows, or why they cannot be read."""

    name: str
    folder: Path
    images: ImageSet | None
    error: str = ""


@dataclass(frozen=True)
class Weighting:
    """A positive weight as given: `200`, or `0.15x` for each positive input; or `requirements`, which decide then."""

    text: str
    settings: SearchSettings

    @property
    def name(self) -> str:
        """In the names of searches."""
        return self.text if self.settings.objective == "requirements" else f"w{self.text}"


@dataclass(frozen=True, eq=False)
class Batch:
    """What to repair with what.

    Attributes:
        model: to repair.
        target: its weights under repair.
        chunks: repair sets.
        labels: under repair.
        weightings: settings of the searches, one for each positive weight.
        seeds: of the searches.
        mode: how the chunks work together.
        max_rounds: of mode rounds.
        offers: patches that each search offers.
        num_grad: size of the pool of localisation, or None.
        impact: forward impact of localisation.
        fronts: Pareto fronts of localisation.
        requirements: what is asked of the result.
        stated: the user stated them; otherwise they only rank the candidates.
        validation: rows that choose.
        test: rows that only measure, or None.
        positives: further rows that must not break.
        output: the run directory.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
        part: search the chunks of this part alone, and decide nothing; for mode independent.
        merge: how the patches of a step are merged, see `cluster.batch.selection`; not of mode independent.
    """

    model: LoadedModel
    target: Target
    chunks: tuple[ChunkFile, ...]
    labels: tuple[int, ...]
    weightings: tuple[Weighting, ...]
    seeds: Sequence[int]
    mode: Mode
    max_rounds: int
    offers: int
    num_grad: int | None
    impact: Impact
    fronts: int
    requirements: tuple[Requirement, ...]
    stated: bool
    validation: ImageSet
    test: ImageSet | None
    positives: tuple[ImageSet, ...]
    output: Path
    allow_shared_rows: bool = False
    part: Part | None = None
    merge: MergeKind = "greedy"

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no search sees, by split."""
        return held_out_sets(self.validation, self.test)

    @property
    def jobs_per_step(self) -> int:
        """Searches of one step, before chunks without failures are known."""
        chunks = 1 if self.mode == "chain" else len(self.chunks)
        return chunks * len(self.labels) * len(self.weightings) * len(self.seeds)

    @property
    def steps(self) -> int:
        """Steps at most."""
        return {"chain": len(self.chunks), "independent": 1, "rounds": self.max_rounds}[self.mode]


def open_chunks(directory: Path, model: LoadedModel) -> tuple[ChunkFile, ...]:
    """The chunks of a folder: its sub-folders with `repair.h5`, by number and then by name; or the folder itself.

    A numbered folder without a readable `repair.h5` that fits the model is a chunk with an error.

    Raises:
        InputError: there is no chunk.
    """
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "no such folder"
        raise InputError(f"{directory}: {found}, expected a folder of chunks as `split` writes them")
    folders = [
        folder
        for folder in directory.iterdir()
        if folder.is_dir() and (folder.name.isdecimal() or (folder / "repair.h5").exists())
    ]
    folders.sort(key=lambda folder: (0, int(folder.name), "") if folder.name.isdecimal() else (1, 0, folder.name))
    if not folders and (directory / "repair.h5").exists():
        folders = [directory]
    if not folders:
        raise InputError(f"{directory}: found no chunk, expected folders 0, 1, … with a repair.h5 each")
    chunks = [_open_chunk(folder.absolute(), model) for folder in folders]
    if all(chunk.images is None for chunk in chunks):
        raise InputError(chunks[0].error)
    return tuple(chunks)


def _open_chunk(folder: Path, model: LoadedModel) -> ChunkFile:
    try:
        images = open_image_set(folder / "repair.h5")
        check_fits(images, model)
    except InputError as error:
        return ChunkFile(folder.name, folder, None, str(error))
    return ChunkFile(folder.name, folder, images)


def check_batch(batch: Batch) -> list[str]:
    """Refuse what cannot work, before any work starts; returns warnings.

    Raises:
        InputError: held-out rows that do not fit the model, have no rows to judge a requirement by, or are those of a
            chunk; or a merge where none is made.
    """
    model = batch.model
    if batch.merge == "search" and batch.mode == "independent":
        raise InputError("merge is search and mode is independent, which takes one patch alone, expected another mode")
    for images in (batch.validation, batch.test, *batch.positives):
        if images is not None:
            check_fits(images, model)
    held_out = batch.held_out.values()
    if not batch.allow_shared_rows:
        searched = [chunk.images for chunk in batch.chunks if chunk.images is not None]
        refuse_one_file([images.path for images in held_out], [images.path for images in (*searched, *batch.positives)])
    for images in held_out:
        check_rows(batch.requirements, np.bincount(images.labels, minlength=model.classes), images.path)
    origin = model.path.resolve()
    if (batch.output / "repair").resolve() in (origin, *origin.parents):  # which is replaced as a whole
        raise InputError(f"{model.path} is the model to repair, expected another --output-dir")
    sets = [*(chunk.images for chunk in batch.chunks), *batch.positives]
    seen = np.unique(np.concatenate([images.labels for images in sets if images is not None]))
    warnings = []
    for requirement in batch.requirements if batch.stated else ():
        missing = [label for label in requirement.labels or () if label not in seen]
        if missing and not requirement.wildcard:
            warnings.append(
                f'no repair row has label {missing[0]}, so no search can keep to "{requirement.text}"; '
                "more rows may be given with --positive-inputs-dir"
            )
    return warnings


def too_many_searches(batch: Batch) -> str | None:
    """Why a step has more searches than this machine's free memory holds results of; None where it has not."""
    jobs, free = batch.jobs_per_step, free_memory()
    result = OFFER_BYTES * batch.offers
    if jobs * result <= free:
        return None
    most = free // (result * (jobs // len(batch.seeds)))
    fit = f"at most {most} seeds" if most else "fewer chunks, labels, positive weights or offers"
    return (
        f"{len(batch.seeds)} seeds make {jobs} searches in a step, whose results take {jobs * result >> 30} GiB, "
        f"and {free >> 30} GiB are free, expected {fit}"
    )


def tasks_of(
    batch: Batch,
    step: int,
    chunks: Sequence[ChunkFile],
    base: str,
    workers: int,
    ended: Callable[[str], bool] = lambda job: False,
    prefix: str = "",
) -> Iterator[RepairTask]:
    """The tasks of a step on the chunks that can be read, without searches that have ended; made as they are taken.

    A task has all searches of one label of one chunk; where there are fewer of those than two for each worker, their
    searches are divided.
    """
    readable = [chunk for chunk in chunks if chunk.images is not None]
    parts = parts_of_groups(len(readable) * len(batch.labels), workers)
    count = len(batch.weightings) * len(batch.seeds)
    groups = groups_of(batch, step, chunks, prefix)
    for chunk in chunks:
        mine = itertools.islice(groups, len(batch.labels))
        if chunk.images is None:
            deque(mine, maxlen=0)
            continue
        source = ChunkLabel(ship_rows(chunk.images), batch.num_grad, batch.impact, batch.fronts)
        for label, (group, first) in zip(batch.labels, mine, strict=True):
            for name, searches in divided(group, jobs_of(batch, group, first), count, parts, ended):
                yield RepairTask(name, step, chunk.folder, label, searches, base, source, batch.offers)


def groups_of(batch: Batch, step: int, chunks: Sequence[ChunkFile], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Name of each label of each chunk in a step, and the place of its first search in the step."""
    count = len(batch.weightings) * len(batch.seeds)
    pairs = ((chunk, label) for chunk in chunks for label in batch.labels)
    for number, (chunk, label) in enumerate(pairs):
        yield prefix + group_name(step, chunk, label), number * count


def jobs_of(batch: Batch, group: str, first: int = 0) -> Iterator[SearchJob]:
    """The searches of one label of one chunk in a step, where the first has this place."""
    places = itertools.count(first)
    for weighting in batch.weightings:  # there may be more seeds than fit in memory
        for seed in batch.seeds:
            yield SearchJob(f"{group}-{weighting.name}-s{seed}", weighting.settings, seed, next(places))


def group_name(step: int, chunk: ChunkFile, label: int) -> str:
    return f"step{step}-chunk{chunk.name}-label{label}"

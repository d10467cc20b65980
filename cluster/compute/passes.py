"""Rows on workers: blocks of one pass, and whole sets that no model is run on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.workers.bundles import Call
from cluster.workers.model import ModelHandle
from cluster.workers.passes import NOT_VISIBLE, Pass, SetRows, set_rows, ship_rows
from cluster.workers.pool import WorkerPool
from engine.core.errors import InputError
from engine.core.progress import Tick
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet, read_images

SETS_ROWS = 4096  # of the sets of one call, at least: their digests make an answer that Ray brings at once


def pass_on_workers(
    pool: WorkerPool,
    model: ModelHandle,
    images: ImageSet,
    what: Pass,
    features: Int64 | None,
    tick: Tick,
    blocks: Sequence[tuple[int, int]],
    results: list[Any],
    known: Float32 | None = None,
) -> None:
    """Run the blocks of a pass, see `cluster.workers.passes.block_pass`, whose result is None, and fill in a `Block` or
    what was wrong with a row of it; `known` are rows (n, D + C) in place of those of the file.
    """
    shipped, rows = pool.share(model.shipped), ray.put(ship_rows(images))
    calls = [
        Call(
            "run_block",
            (shipped, rows, what, start, stop, features, *(() if known is None else (ray.put(known[start:stop]),))),
            tag=index,
        )
        for index, (start, stop) in enumerate(blocks)
        if results[index] is None
    ]
    for call, value, _ in pool.run(calls, depth=2):
        start, stop = blocks[call.tag]
        if isinstance(value, str) and value == NOT_VISIBLE:
            try:
                pixels = ray.put(read_images(images, start, stop))
            except InputError as error:
                results[call.tag] = error
            else:
                pool.submit(Call("run_block", (*call.args, pixels), tag=call.tag), first=True)
            continue
        results[call.tag] = value
        tick(stop - start)


def sets_on_workers(pool: WorkerPool, sets: Sequence[ImageSet], tick: Tick) -> dict[Path, SetRows | None]:
    """What is known of the rows of some sets, by path; see `cluster.workers.passes.set_rows`."""
    groups: list[list[ImageSet]] = [[]]
    for images in sets:
        if sum(one.rows for one in groups[-1]) >= SETS_ROWS:
            groups.append([])
        groups[-1].append(images)
    calls = [Call("run_sets", (list(map(ship_rows, some)),), tag=some) for some in groups]
    known: dict[Path, SetRows | None] = {}
    for call, answers, _ in pool.run(calls, depth=2):
        for images, rows in zip(call.tag, answers, strict=True):
            known[images.path] = set_rows(images) if isinstance(rows, str) else rows
            tick(images.rows)
    return known

"""Rows that choose or measure must be others than those that are searched, or what they say is too good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.compute.compute import Compute
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.progress import Progress
from engine.core.types import Int64, Uint8
from engine.data.image_set import ImageSet
from engine.data.row_digests import Keys, SharedRows, distinct_rows, rows_among, shared_rows

LIMIT = 0.01
"""Share of the smaller of two sets that they may have in common: pictures of a data set may be in it twice."""


@dataclass(frozen=True, eq=False)
class KnownRows:
    """Rows of one use: the files that hold them, and digests (n, 16) of the rows of each file."""

    digests: Mapping[Path, Uint8]

    @property
    def distinct(self) -> Keys:
        return distinct_rows(np.concatenate(list(self.digests.values())))

    def named(self, keys: Keys) -> str:
        """The files that hold rows with keys (m,)."""
        return " and ".join(str(path) for path, digests in self.digests.items() if rows_among(digests, keys).any())


def held_out_sets(validation: ImageSet | None, test: ImageSet | None) -> dict[str, ImageSet]:
    sets = {"validation": validation, "test": test}
    return {split: images for split, images in sets.items() if images is not None}


def predict_held_out(
    compute: Compute,
    handle: ModelHandle,
    held_out: Mapping[str, ImageSet],
    searched: Sequence[KnownRows],
    on_rows: Progress,
    *,
    allow: bool,
) -> dict[str, Int64]:
    """Classes (n,) that a model predicts for held-out rows, by split."""
    classes, known = {}, []
    for split, images in held_out.items():
        classes[split], digests = compute.predict_and_digest(handle, images, on_rows(split, images.rows))
        known.append(KnownRows({images.path: digests}))
    check_shared_rows(known, searched, allow=allow, warn=compute.warn)
    return classes


def check_shared_rows(
    held_out: Sequence[KnownRows], searched: Iterable[KnownRows], *, allow: bool, warn: Callable[[str], None]
) -> None:
    """Warn of rows that held-out sets share with one another, or with those of a search."""
    keys = [rows.distinct for rows in held_out]
    for number, rows in enumerate(held_out):
        for other in range(number):
            _tell(held_out[other], rows, shared_rows(keys[other], keys[number]), allow, warn)
    for rows in searched:
        mine = rows.distinct
        for number, other_rows in enumerate(held_out):
            _tell(other_rows, rows, shared_rows(keys[number], mine), allow, warn)


def refuse_one_file(held_out: Sequence[Path], searched: Sequence[Path]) -> None:
    """Raise InputError where a file is held out twice, or held out and searched; none of them is read."""
    for number, path in enumerate(held_out):
        for other in [*held_out[:number], *searched]:
            if path.exists() and other.exists() and path.samefile(other):
                raise InputError(
                    f"{path} and {other} are one file, expected rows that no search sees (or --allow-shared-rows)"
                )


def _tell(first: KnownRows, second: KnownRows, shared: SharedRows, allow: bool, warn: Callable[[str], None]) -> None:
    count = len(shared.keys)
    if not count:
        return
    found = (
        f"{first.named(shared.keys)} and {second.named(shared.keys)} share {count} {'rows' if count > 1 else 'row'}, "
        f"{100 * shared.share:.3g} % of the smaller set"
    )
    if shared.share > LIMIT and not allow:
        raise InputError(f"{found}, expected at most {100 * LIMIT:g} % (--allow-shared-rows goes on with them)")
    warn(f"{found}: what is measured on them is too good")

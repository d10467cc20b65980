"""Checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.compute.compute import Compute
from engine.core.progress import Progress
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.methods.base import Checkpoint
from engine.models.load import LoadedModel


def checkpoints_of(
    compute: Compute,
    model: LoadedModel,
    chain: DenseChain,
    folder: Path,
    sets: Sequence[ImageSet],
    last: tuple[int, int],
    on_rows: Progress,
) -> tuple[Checkpoint, ...]:
    return ()

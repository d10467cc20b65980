"""Weights of any layers under repair, which are searched through the tail of the model behind them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.types import Float32, Int64
from engine.fitness.rows import Weights
from engine.fitness.tail import group_weights, held_bytes, kept_bytes, plan_shapes, plan_short
from engine.layers.flat_weights import FlatWeights
from engine.layers.head import Head
from engine.layers.tail import Tail, features_width
from engine.layers.weight_stats import WeightStats
from engine.localize.last_dense import Impact
from engine.localize.pareto import Localisation
from engine.localize.pooled import localize_pooled
from engine.localize.weights_file import ARROW, CSV, check_inside, read_rows, write_weights
from engine.passes.runners import TailRunner, features_pass
from engine.patches.arrow import read_patch, write_patch
from engine.patches.patch import Patch, merge, patch_between
from engine.targets.memory import OVERHEAD, PROCESS, Plan, SearchSize, count_parts, live_bytes


@dataclass(frozen=True, eq=False)
class DeepTarget:
    """Weights of any layers, W numbers in all, as a `Target`.

    Attributes:
        weights: the weights as one flat vector, which is the kernel (W, 1) of the target.
        names: what the user asked for.
        dense: the toolkit's number of the layer, for each path that is a 2-D kernel of a layer of the model's own.
    """

    weights: FlatWeights
    names: tuple[str, ...]
    dense: Mapping[str, int]

    @property
    def head(self) -> Head:
        """How the loss follows from the output of the tail."""
        return self.weights.head

    @functools.cached_property
    def tail(self) -> Tail:
        """The layers of the weights and all behind them, as a function of the weights.

        Weights that are not under repair count as they are when they are first used.
        """
        return Tail(self.weights)

    @property
    def pooled(self) -> bool:
        """True: weights of all layers are in one pool, judged by positive rows too."""
        return True

    @property
    def title(self) -> str:
        """The layers, for messages."""
        return ", ".join(self.names)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight by its path."""
        return self.weights.shapes

    @property
    def kernel(self) -> Float32:
        """The values as they are, (W, 1) float32."""
        return self.weights.values

    def stats(self, kernel: Float32, index: Int64) -> WeightStats:
        """Of the weight that each of K places (K, 2) belongs to; arrays (K,)."""
        return self.weights.stats(kernel, index[:, 0])

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """The patch of K places (K, 2) from old to new values (K,)."""
        weights = self.weights
        part = weights.part(index[:, 0])
        return Patch(tuple(weights.paths[number] for number in part), index[:, 0] - weights.offsets[part], old, new)

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The places (K, 2) that a patch is about.

        Raises:
            InputError: it is about another weight, or a place outside it.
        """
        weights = self.weights
        number = {path: position for position, path in enumerate(weights.paths)}
        for path, flat in zip(patch.weight, patch.flat_index, strict=True):
            if path not in number:
                raise InputError(f"{source}: is about {path!r}, expected weights of {self.title}")
            if not 0 <= flat < weights.sizes[number[path]]:
                raise InputError(
                    f"{source}: has index {flat} in {path!r}, expected 0 to {weights.sizes[number[path]] - 1}"
                )
        flat = np.array([weights.offsets[number[path]] for path in patch.weight], np.int64) + patch.flat_index
        return np.stack([flat, np.zeros_like(flat)], axis=1)

    def patch_between(self, old: Float32, new: Float32) -> Patch:
        """What leads from one kernel (W, 1) to another."""
        weights, patches = self.weights, []
        for (path, shape), start, stop in zip(
            weights.shapes.items(), weights.offsets, weights.offsets[1:], strict=False
        ):
            patches.append(patch_between(path, old[start:stop].reshape(shape), new[start:stop].reshape(shape)))
        return merge(patches)

    def counts(self, index: Int64) -> dict[str, int]:
        """How many of K places (K, 2) are of each weight, by its path; without those that have none."""
        weights = self.weights
        found = np.bincount(weights.part(index[:, 0]), minlength=len(weights.paths)).tolist()
        return {path: count for path, count in zip(weights.paths, found, strict=True) if count}

    def search_weights(self, kernel: Float32, index: Int64) -> tuple[None, Weights]:
        """All features are read, and the weights are named by their places in the vector."""
        return None, Weights(index[:, 0], index[:, 1], kernel[index[:, 0], index[:, 1]])

    def search_kernel(self, kernel: Float32) -> Float32:
        """All of it: the tail is run with the weights that no candidate changes."""
        return kernel

    def features_pass(self, model: Any) -> Callable[[Any], Any]:
        """From what the model takes to the features (n, F)."""
        return features_pass(model, self.weights.cut)

    def layer_passes(self, batch_rows: int) -> TailRunner:
        """The passes of the tail."""
        return TailRunner(self.tail, batch_rows)

    def localise(
        self,
        negative: Any,
        positive: Any,
        kernel: Float32,
        *,
        num_grad: int | None,
        impact: Impact,
        fronts: int,
    ) -> Localisation:
        """The weights to blame; the sums hold the impact, which is always the mean over rows."""
        del kernel, impact
        return localize_pooled(negative, positive, num_grad=num_grad, fronts=fronts)

    def memory_plan(self, weights: Weights, size: SearchSize) -> Plan:
        """Tiles of values of the tail."""
        tail, cut = self.tail, self.weights.cut
        route = plan_short(tail, weights.feature)
        groups = None if route is None else group_weights(route, self.weights, weights.feature)
        shapes = plan_shapes(held_bytes(cut, route, groups), route, tail.folds, size.rows, size.particles, size.tiling)
        kept, width = kept_bytes(cut, route, groups), features_width(cut)
        # Parts of the features while they are put together, then the features and what the tiles keep of them.
        features = size.rows * (2 * (width + size.classes) * 4 + kept) + shapes.places * (width * 4 + 2 * kept)
        before = size.batch_rows * (size.row_values * 4 + live_bytes(cut.before))
        after = size.batch_rows * held_bytes(cut, None)
        model = 4 * sum(
            math.prod(variable.shape) * 4 for step in (*cut.before, *cut.tail) for variable in step.variables
        )
        return Plan(
            searches=size.searches,
            swarm_particles=size.particles,
            all_rows=size.rows,
            particles=shapes.together,
            rows=shapes.rows,
            tiles=count_parts(size.particles, shapes.together) * count_parts(size.rows, shapes.rows),
            tile=shapes.tile_bytes,
            route="weights in place" if route is None else "touched units",
            process=PROCESS,
            model=model + 2 * tail.unfolded_bytes,
            passes=size.block_bytes + int(OVERHEAD * max(before, after)),
            features=features,
            working=int(OVERHEAD * shapes.tile_bytes),
            swarm=size.swarm_bytes(len(weights.old)),
            matrices=size.matrix_bytes(len(weights.old)),
        )

    def write_localised(self, folder: Path, index: Int64, value: Float32, repaired: Float32 | None = None) -> None:
        """Write `weights.arrow`, and `weights.csv` where that can say it too."""
        patch = self.patch(index, value, value if repaired is None else repaired)
        write_patch(folder / ARROW, patch, self.shapes)
        numbers = [self.dense.get(path) for path in patch.weight]
        if any(number is None for number in numbers):
            remove(folder / CSV)
            return
        places = [
            np.unravel_index(flat, self.shapes[path]) for path, flat in zip(patch.weight, patch.flat_index, strict=True)
        ]
        positions = np.array(places, dtype=np.int64).reshape(-1, 2)
        write_weights(folder / CSV, np.array(numbers, dtype=np.int64), positions, value, repaired)

    def read_localised(self, folder: Path) -> Int64:
        """Read `weights.arrow`, or `weights.csv` where it is alone."""
        if (folder / ARROW).is_file() or not (folder / CSV).is_file():
            return self.index_of(read_patch(folder / ARROW), str(folder / ARROW))
        paths = {number: path for path, number in self.dense.items()}
        found = []
        for row, (layer, i, j) in read_rows(folder / CSV):
            if layer not in paths:
                raise InputError(
                    f"{folder / CSV}: row {row} is about layer {layer}, expected kernels of Dense layers of "
                    f"{self.title}"
                )
            path = paths[layer]
            check_inside(folder / CSV, row, (i, j), self.shapes[path], path)
            found.append((path, int(np.ravel_multi_index((i, j), self.shapes[path]))))
        none = np.zeros(len(found), np.float32)
        flat = np.array([flat for _, flat in found], np.int64)
        return self.index_of(Patch(tuple(path for path, _ in found), flat, none, none), str(folder / CSV))

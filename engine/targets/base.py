"""The weights under repair: of any layers, or the kernel of the last Dense layer, whose units are the classes.

Those of the last Dense layer are searched by the logits that they touch; all others through the tail of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.types import Float32, Int64
from engine.fitness.last_dense import UNIT_COUNTS
from engine.fitness.rows import Weights, localised
from engine.fitness.tail import group_weights, held_bytes, kept_bytes, plan_shapes, plan_short
from engine.fitness.tiling import bucket, tile_shape
from engine.layers.head import Head
from engine.layers.space import Space
from engine.layers.tail import Tail, features_width
from engine.layers.weight_stats import WeightStats
from engine.localize.fronts import Impact, Localisation, localize, localize_pooled
from engine.localize.weights_file import ARROW, CSV, check_inside, read_rows, write_weights
from engine.models.graph import GraphCut
from engine.passes.runners import LayerPasses, LayerRunner, TailRunner, features_pass
from engine.patches.arrow import read_patch, write_patch
from engine.targets.memory import OVERHEAD, Plan, SearchSize, count_parts, live_bytes


@dataclass(frozen=True, eq=False)
class Target(Space):
    """Weights under repair.

    Their kernel, see `engine.layers.space.Space`, is (D, C) of the last Dense layer and (W, 1) of any others.

    Attributes:
        head: how scores and loss follow from the logits.
        names: what the user asked for, as `resolve_target` takes it; empty for the last Dense layer.
        numbers: the toolkit's number of the layer, for each path that is a 2-D kernel of a layer of the model's own.
        tail: what follows the weights, as a function of them; None behind the last Dense layer, where `head` is all.
        layer: the last Dense layer of Keras; None of any others.
    """

    head: Head
    names: tuple[str, ...]
    numbers: Mapping[str, int]
    tail: Tail | None = None
    layer: Any = None

    @property
    def path(self) -> str:
        """Of the first weight."""
        return self.paths[0]

    @property
    def number(self) -> int:
        """The toolkit's number of the layer of the first weight."""
        return self.numbers[self.path]

    @property
    def kernel(self) -> Float32:
        """The values as they are, float32."""
        variables = (self.layer.kernel,) if self.tail is None else self.tail.variables
        values = [np.asarray(ops.convert_to_numpy(variable), np.float32) for variable in variables]
        return np.concatenate([value.reshape(-1, self.columns) for value in values])

    @property
    def pooled(self) -> bool:
        """Localisation looks at weights of several layers in one pool, and at positive rows too."""
        return self.tail is not None

    def stats(self, kernel: Float32, index: Int64) -> WeightStats:
        """Of the whole last Dense layer, or of the weight that each of K places (K, 2) belongs to, arrays (K,)."""
        if self.tail is None:
            return WeightStats.of(kernel)
        part, offsets = self.part(index[:, 0]).tolist(), self.offsets
        known = {number: WeightStats.with_room(kernel[offsets[number] : offsets[number + 1]]) for number in set(part)}
        return WeightStats.joined([known[number] for number in part])

    def search_weights(self, kernel: Float32, index: Int64) -> tuple[Int64 | None, Weights]:
        """The features (I,) that K places (K, 2) read, None for all, and the weights of a search over those."""
        if self.tail is None:
            return localised(kernel, index)
        return None, Weights(index[:, 0], index[:, 1], kernel[index[:, 0], index[:, 1]])

    def search_kernel(self, kernel: Float32) -> Float32 | None:
        """What a search that starts from a kernel must bring along: all of it for the tail, else nothing, as the
        logits of the rows say what the rest of the layer does.
        """
        return None if self.tail is None else kernel

    def features_pass(self, model: Any) -> Callable[[Any], Any]:
        """The pass from what the model takes to the features (n, F) before the weights."""
        if self.tail is not None:
            return features_pass(model, self.tail.cut)
        program: Callable[[Any], Any] = backend.model_pass(keras.Model(model.inputs, self.layer.input))
        return program

    def layer_passes(self, batch_rows: int) -> LayerPasses:
        """The passes from those features on."""
        if self.tail is None:
            return LayerRunner(self.head, self.layer, batch_rows)
        return TailRunner(self.tail, batch_rows)

    def localise(
        self, negative: Any, positive: Any, kernel: Float32, *, num_grad: int | None, impact: Impact, fronts: int
    ) -> Localisation:
        """The weights to blame, by the sums of `layer_passes` over negative and, where `pooled`, positive rows.

        `impact` is of the last Dense layer; of any others it is always the mean over rows.
        """
        if self.tail is None:
            return localize(negative, kernel, num_grad=num_grad, impact=impact, fronts=fronts)
        return localize_pooled(negative, positive, num_grad=num_grad, fronts=fronts)

    def memory_plan(self, weights: Weights, size: SearchSize) -> Plan:
        """How the iterations of a search of these weights are cut, and what it holds in memory."""
        if self.tail is None:
            units = bucket(len(set(weights.unit.tolist())), UNIT_COUNTS)
            particles, rows = tile_shape(size.particles, units, size.tiling)
            rows = min(rows, size.rows)
            tile = 4 * particles * rows * units
            name, model, passes, working = "logits", 3 * self.kernel.nbytes, 0, 4 * tile
            features = size.rows * (len(set(weights.feature.tolist())) + size.classes) * 4 * 3
        else:
            tail, cut = self.tail, self.tail.cut
            route = plan_short(tail, weights.feature)
            groups = None if route is None else group_weights(route, self, weights.feature)
            held, kept, width = held_bytes(cut, route, groups), kept_bytes(cut, route, groups), features_width(cut)
            shapes = plan_shapes(held, route, tail.folds, size.rows, size.particles, size.tiling)
            particles, rows, tile = shapes.together, shapes.rows, shapes.tile_bytes
            name, working = "weights in place" if route is None else "touched units", int(OVERHEAD * tile)
            # Parts of the features while they are put together, then the features and what the tiles keep of them.
            features = size.rows * (2 * (width + size.classes) * 4 + kept) + shapes.places * (width * 4 + 2 * kept)
            before = size.batch_rows * (size.row_values * 4 + live_bytes(cut.before))
            passes = int(OVERHEAD * max(before, size.batch_rows * held_bytes(cut, None)))
            variables = (variable for step in (*cut.before, *cut.tail) for variable in step.variables)
            model = 4 * sum(math.prod(variable.shape) * 4 for variable in variables) + 2 * tail.unfolded_bytes
        tiles = count_parts(size.particles, particles) * count_parts(size.rows, rows)
        return Plan(
            "search",
            size.parts(len(weights.old), model, passes, features, working),
            {"particles": particles, "rows": rows, "tiles": tiles, "bytes": tile, "route": name},
        )

    def write_localised(self, folder: Path, index: Int64, value: Float32, repaired: Float32 | None = None) -> None:
        """Write the weights at K places (K, 2), with their new values once there are any, beside the negative inputs.

        `weights.csv` where that can say it, and for any but the last Dense layer `weights.arrow`. A file of an earlier
        target that would say something else is removed.
        """
        patch = self.patch(index, value, value if repaired is None else repaired)
        if self.tail is not None:
            write_patch(folder / ARROW, patch, self.shapes)
        numbers = [self.numbers.get(path) for path in patch.weight]
        if any(number is None for number in numbers):
            remove(folder / CSV)
            return
        places = [
            np.unravel_index(flat, self.shapes[path]) for path, flat in zip(patch.weight, patch.flat_index, strict=True)
        ]
        positions = np.array(places, dtype=np.int64).reshape(-1, 2)
        write_weights(folder / CSV, np.array(numbers, dtype=np.int64), positions, value, repaired)
        if self.tail is None:
            remove(folder / ARROW)

    def read_localised(self, folder: Path) -> Int64:
        """Read the places (K, 2) of the weights to search: from `weights.arrow`, or `weights.csv` where it is alone or
        the last Dense layer is under repair. Values are taken from the model, never from the file.

        Raises:
            InputError: no file is there, or one is damaged or about other weights.
        """
        arrow, csv = folder / ARROW, folder / CSV
        if self.tail is not None and (arrow.is_file() or not csv.is_file()):
            return self.index_of(read_patch(arrow), str(arrow))
        paths = {number: path for path, number in self.numbers.items()}
        expected = f"kernels of Dense layers of {self.title}" if self.tail else f"layer {self.number} ({self.title})"
        found = []
        for row, (layer, i, j) in read_rows(csv):
            if layer not in paths:
                raise InputError(f"{csv}: row {row} is about layer {layer}, expected {expected}")
            path = paths[layer]
            check_inside(csv, row, (i, j), self.shapes[path], path if self.tail else self.title)
            found.append(self.offsets[self.paths.index(path)] + i * self.shapes[path][1] + j)
        return np.stack(np.divmod(np.array(found, np.int64), self.columns), axis=1)


def deep_target(
    head: Head, variables: Mapping[str, Any], cut: GraphCut, names: tuple[str, ...], numbers: Mapping[str, int]
) -> Target:
    """Weights of any layers by path, in front of a head; the graph is cut before the first of their layers."""
    space = Space({path: tuple(variable.shape) for path, variable in variables.items()}, ", ".join(names), 1)
    tail = Tail(head, space, tuple(variables.values()), cut)
    return Target(space.shapes, space.title, space.columns, head, names, numbers, tail)

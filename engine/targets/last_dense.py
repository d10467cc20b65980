"""The last Dense layer under repair, whose units are the classes."""

from __future__ import annotations

from collections.abc import Callable
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
from engine.fitness.tiling import bucket, tile_shape
from engine.layers.head import ELEMENTWISE, Head, head_of
from engine.layers.weight_stats import WeightStats
from engine.localize.last_dense import Impact, localize
from engine.localize.pareto import Localisation
from engine.localize.weights_file import ARROW, CSV, read_weights, write_weights
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import layer_at, layer_number
from engine.passes.runners import LayerRunner
from engine.patches.patch import Patch, patch_between
from engine.targets.memory import PROCESS, Plan, SearchSize, count_parts


@dataclass(frozen=True, eq=False)
class TargetLayer:
    """The last Dense layer, as a `Target`.

    Attributes:
        layer: the Keras Dense layer, D inputs and C units.
        number: the toolkit's number of the layer, the first column of weights.csv.
        path: `<layer name>/kernel`, as patches name it.
        head: what follows the layer.
        names: nothing; `DeepTarget` has what the user asked for there.
    """

    layer: Any
    number: int
    path: str
    head: Head
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The layer, for messages."""
        return str(self.layer.name)

    @property
    def kernel(self) -> Float32:
        """The kernel as it is, (D, C) float32."""
        return np.asarray(ops.convert_to_numpy(self.layer.kernel), dtype=np.float32)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the kernel by its path."""
        return {self.path: tuple(self.layer.kernel.shape)}

    @property
    def tail(self) -> None:
        """There is none: `head` is all that follows."""

    @property
    def pooled(self) -> bool:
        """False: there is one layer, judged by the negative rows."""
        return False

    def stats(self, kernel: Float32, index: Int64) -> WeightStats:
        """Of the kernel (D, C); the same wherever its weights (K, 2) are."""
        del index
        return WeightStats.of(kernel)

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """The patch of K kernel positions (K, 2) from old to new values (K,)."""
        flat = np.ravel_multi_index((index[:, 0], index[:, 1]), tuple(self.layer.kernel.shape)).astype(np.int64)
        return Patch((self.path,) * len(flat), flat, old, new)

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The kernel positions (K, 2) of a patch of this kernel; `source` is for messages of `DeepTarget`."""
        places = np.unravel_index(patch.flat_index, tuple(self.layer.kernel.shape))
        return np.stack(places, axis=1).astype(np.int64).reshape(-1, 2)

    def patch_between(self, old: Float32, new: Float32) -> Patch:
        """What leads from one kernel (D, C) to another."""
        return patch_between(self.path, old, new)

    def counts(self, index: Int64) -> dict[str, int]:
        """All K places (K, 2) are of the kernel."""
        return {self.path: len(index)}

    def search_weights(self, kernel: Float32, index: Int64) -> tuple[Int64 | None, Weights]:
        """The distinct inputs of the layer (I,) that K places (K, 2) read, and the weights over those."""
        return localised(kernel, index)

    def search_kernel(self, kernel: Float32) -> None:
        """Nothing: the logits of the rows say what the rest of the kernel does."""
        del kernel

    def features_pass(self, model: Any) -> Callable[[Any], Any]:
        """From what the model takes to the inputs (n, D) of the layer."""
        program: Callable[[Any], Any] = backend.model_pass(keras.Model(model.inputs, self.layer.input))
        return program

    def layer_passes(self, batch_rows: int) -> LayerRunner:
        """The passes from the inputs of the layer on."""
        return LayerRunner(self.head, self.layer, batch_rows)

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
        """The weights to blame, by the sums over negative rows alone."""
        del positive
        return localize(negative, kernel, num_grad=num_grad, impact=impact, fronts=fronts)

    def memory_plan(self, weights: Weights, size: SearchSize) -> Plan:
        """Tiles of touched logits."""
        units = bucket(len(set(weights.unit.tolist())), UNIT_COUNTS)
        high, wide = tile_shape(size.particles, units, size.tiling)
        wide = min(wide, size.rows)
        tile = 4 * high * wide * units
        return Plan(
            searches=size.searches,
            swarm_particles=size.particles,
            all_rows=size.rows,
            particles=high,
            rows=wide,
            tiles=count_parts(size.particles, high) * count_parts(size.rows, wide),
            tile=tile,
            route="logits",
            process=PROCESS,
            model=3 * self.kernel.nbytes,
            passes=size.block_bytes,
            features=size.rows * (len(set(weights.feature.tolist())) + size.classes) * 4 * 3,
            working=4 * tile,
            swarm=size.swarm_bytes(len(weights.old)),
            matrices=size.matrix_bytes(len(weights.old)),
        )

    def write_localised(self, folder: Path, index: Int64, value: Float32, repaired: Float32 | None = None) -> None:
        """Write `weights.csv`."""
        write_weights(folder / CSV, self.number, index, value, repaired)
        remove(folder / ARROW)

    def read_localised(self, folder: Path) -> Int64:
        """Read `weights.csv`."""
        shape = tuple(self.layer.kernel.shape)
        return read_weights(folder / CSV, self.number, shape, str(self.layer.name))


def find_target(model: Any, loss: TrainingLoss, classes: int, path: Path, number: int | None = None) -> TargetLayer:
    """Find the Dense layer whose units are the classes.

    Args:
        model: Keras model with one output (n, C).
        loss: the training loss of the model.
        classes: C.
        path: of the model, for messages.
        number: the layer the user asked for, in the toolkit's numbering; None finds it.

    Raises:
        InputError: no such layer, a layer without weights, or one that does not produce the class scores.
    """
    # Of a Functional model also the operations that are no layers (x + y).
    steps = getattr(model, "operations", model.layers)
    layers = [step for step in steps if not isinstance(step, keras.layers.InputLayer)]
    found = None
    tail: list[Any] = []
    for layer in reversed(layers):
        if isinstance(layer, keras.layers.Dense):
            found = layer if layer.units == classes else None
            break
        if not isinstance(layer, (keras.layers.Activation, keras.layers.Softmax, keras.layers.Dropout)):
            break
        if not isinstance(layer, keras.layers.Dropout):
            tail.append(layer)
    if number is not None:
        asked = layer_at(model, number)
        if not asked.weights:
            raise InputError(f"{path}: target layer {number} ({asked.name}) has no weights, expected a Dense layer")
        if asked is not found:
            expected = "a final Dense layer" if found is None else f"layer {layer_number(model, found)} ({found.name})"
            raise InputError(
                f"{path}: target layer {number} ({asked.name}) does not give the {classes} class scores, "
                f"expected {expected}"
            )
    if found is None:
        raise InputError(
            f"{path}: the model ends with {layers[-1].name} ({type(layers[-1]).__name__}), expected a Dense layer "
            f"of {classes} units, followed at most by an activation"
        )
    names = [_name(found.activation, path)]
    names += ["softmax" if isinstance(x, keras.layers.Softmax) else _name(x.activation, path) for x in tail]
    steps = [name for name in names if name != "linear"]
    if len(steps) > 1:
        raise InputError(
            f"{path}: {found.name} is followed by several activations ({', '.join(steps)}), expected at most one"
        )
    activation = steps[0] if steps else "linear"
    return TargetLayer(
        layer=found,
        number=layer_number(model, found),
        path=f"{found.name}/kernel",
        head=head_of(activation, loss, path),
    )


def _name(activation: Any, path: Path) -> str:
    name = keras.activations.serialize(activation)
    if not isinstance(name, str) or name not in ELEMENTWISE | {"softmax"}:
        raise InputError(
            f"{path}: the last activation is {name}, expected softmax or an elementwise activation of Keras"
        )
    return name

"""What every step of a repair asks of the weights under repair, whatever layers they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from engine.core.types import Float32, Int64
from engine.fitness.rows import Weights
from engine.layers.head import Head
from engine.layers.tail import Tail
from engine.layers.weight_stats import WeightStats
from engine.localize.last_dense import Impact
from engine.localize.pareto import Localisation
from engine.passes.runners import LayerPasses
from engine.patches.patch import Patch
from engine.targets.memory import Plan, SearchSize


class Target(Protocol):
    """Weights under repair: `TargetLayer` is the last Dense layer, `DeepTarget` all others.

    Their values travel as a matrix, the kernel: (D, C) of the last Dense layer, (W, 1) of any others, one weight after
    the other. An index (K, 2) names places in it.
    """

    @property
    def head(self) -> Head:
        """How scores and loss follow from the logits."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the user asked for, as `resolve_target` takes it; empty for the last Dense layer."""

    @property
    def title(self) -> str:
        """The layers, for messages."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight by its path."""

    @property
    def kernel(self) -> Float32:
        """The values as they are, float32."""

    @property
    def tail(self) -> Tail | None:
        """What follows the weights, as a function of them; None behind the last Dense layer, where `head` is all."""

    @property
    def pooled(self) -> bool:
        """Localisation looks at weights of several layers in one pool, and at positive rows too."""

    def stats(self, kernel: Float32, index: Int64) -> WeightStats:
        """Mean, deviation and range of the weights that K places (K, 2) belong to."""

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """The patch of K places (K, 2) from old to new values (K,)."""

    def patch_between(self, old: Float32, new: Float32) -> Patch:
        """What leads from one kernel to another."""

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The places (K, 2) that a patch is about; raises InputError, naming `source`, where it is about others."""

    def counts(self, index: Int64) -> dict[str, int]:
        """How many of K places (K, 2) are of each weight, by its path."""

    def search_weights(self, kernel: Float32, index: Int64) -> tuple[Int64 | None, Weights]:
        """The features (I,) that K places (K, 2) read, None for all, and the weights of a search over those."""

    def search_kernel(self, kernel: Float32) -> Float32 | None:
        """What a search that starts from a kernel must bring along: nothing (None), or all of it."""

    def features_pass(self, model: Any) -> Callable[[Any], Any]:
        """The pass from what the model takes to the features (n, F) before the weights."""

    def layer_passes(self, batch_rows: int) -> LayerPasses:
        """The passes from those features on."""

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
        """The weights to blame, by the sums of `layer_passes` over negative and, where `pooled`, positive rows."""

    def memory_plan(self, weights: Weights, size: SearchSize) -> Plan:
        """How the iterations of a search of these weights are cut, and what it holds in memory."""

    def write_localised(self, folder: Path, index: Int64, value: Float32, repaired: Float32 | None = None) -> None:
        """Write the weights at K places (K, 2), with their new values once there are any, beside the negative inputs.

        A file of an earlier target that would say something else is removed.
        """

    def read_localised(self, folder: Path) -> Int64:
        """Read the places (K, 2) of the weights to search; values are taken from the model, never from the file.

        Raises:
            InputError: no file is there, or one is damaged or about other weights.
        """

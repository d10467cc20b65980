"""What CrossFit may be told, without the libraries that it runs on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.core.errors import InputError
from engine.core.stated import stated
from engine.search.settings import SearchSettings, SwarmSettings
from engine.tuning.recipes import DEFAULT_RECIPES, Recipe, read_recipes

FOLDS = 5

STEPS = tuple(round(1 - 0.05 * number, 2) for number in range(21))
"""Steps that are tried of the mixture as it was searched: 1, 0.95, ... 0."""


@dataclass(frozen=True)
class CrossFitSettings:
    """How a repair runs.

    Attributes:
        recipes: R, that are mixed.
        folds: K.
        search: of the swarm over mixtures.
        step: 0 to 1, of the mixture that is kept; None takes the largest that keeps the promise.
        promise_rows: new rows of each label that chances are about.
        confidence: joint chance that is asked for.
        temperature: of soft correctness; None follows from the number of rows.
    """

    recipes: tuple[Recipe, ...] = stated(
        read_recipes(DEFAULT_RECIPES),
        "CrossFit: tunings to mix, WEIGHT[:STRENGTH[:kl|focal][:rate=R][:epochs=N]] with commas between: weight of the "
        f"label's rows, strength of the anchor to the baseline model [default: {DEFAULT_RECIPES}].",
        section="Method",
        owners=("CrossFit",),
        metavar="RECIPES",
    )
    folds: int = stated(
        FOLDS,
        f"CrossFit: folds of the repair rows [default: {FOLDS}].",
        section="Method",
        owners=("CrossFit", "others"),
        need="folds",
    )
    search: SearchSettings = field(
        default_factory=lambda: SearchSettings(
            swarm=SwarmSettings(num_particles=32), num_iterations=80, min_iteration_range=20
        )
    )
    step: float | None = stated(
        None,
        "CrossFit: how far to go towards the mixture that was found, 0 to 1 [default: as far as is promised].",
        section="Method",
        owners=("CrossFit",),
    )
    promise_rows: int = stated(
        1000,
        "CrossFit: new rows of each label that chances are about [default: as the test set has, else 1000].",
        section="Method",
        owners=("CrossFit", "others"),
    )
    confidence: float = 0.95
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no repair can run with."""
        if self.step is not None and not 0 <= self.step <= 1:
            raise InputError(f"step is {self.step:g}, expected 0 (the model as it is) to 1 (the mixture as searched)")
        if self.promise_rows < 1:
            raise InputError(f"promise_rows is {self.promise_rows}, expected at least 1")
        if self.folds < 2:
            raise InputError(f"folds are {self.folds}, expected at least 2")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence is {self.confidence:g}, expected a number from 0.5 to below 1")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature:g}, expected a finite number above 0")

    @property
    def steps(self) -> tuple[float, ...]:
        """Steps that are judged, the largest or the wanted one first."""
        return STEPS if self.step is None else tuple(dict.fromkeys((self.step, *STEPS)))

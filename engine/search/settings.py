"""What a search and its optimisers may be told, without the libraries that they run on: help must answer at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from engine.core.errors import InputError
from engine.core.stated import Stated, stated, stated_fields
from engine.fitness.shapes import Tiling

if TYPE_CHECKING:
    from engine.fitness.objective import ObjectiveName
    from engine.fitness.priorities import Priorities
    from engine.metrics.requirements import Requirement

POSITIVE_WORTH = 0.15
"""Default worth of one intact positive, in repaired negatives: the positive weight is this times their number.

Measured on unseen images: a constant worth per positive balances alike for sets of 300 to
5,000 rows and for labels with 5 to 150 negatives, which no constant weight does.
"""


@dataclass(frozen=True)
class PopulationSettings:
    least: ClassVar[int] = 1
    module: ClassVar[str]  # of `engine.search`, where it is

    # P, candidates of an iteration, at least `least`
    num_particles: int = stated(
        100, "Particles of the swarm, candidates of any other optimiser.", shown="100; CrossFit: 32", swept=True
    )
    optimiser: str = field(default="", init=False)  # its name in `engine.search.optimisers.OPTIMISERS`

    def __post_init__(self) -> None:
        if self.num_particles < self.least:
            why = f" of {self.optimiser}" if self.least > 1 else ""
            raise InputError(f"num_particles is {self.num_particles}, expected at least {self.least}{why}")


@dataclass(frozen=True)
class BoxedSettings(PopulationSettings):
    """What optimisers have that can be kept near the weights of the layer."""

    # how many times as far from 0 as the smallest and largest weight of the layer a candidate's may be, at least 1 (2
    # in Arachne v2); None sets no bound. See `box`
    bound: float | None = stated(
        None,
        "DE, random: keep weights within this many times the smallest and largest weight of the layer, at least 1 "
        "[default: anywhere].",
        owners=("Arachne", "others"),
        swept=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound is not None and not 1 <= self.bound < math.inf:
            raise InputError(f"bound is {self.bound}, expected at least 1 and finite")


@dataclass(frozen=True)
class SwarmSettings(PopulationSettings):
    """How the swarm moves.

    Attributes:
        num_particles: P, at least 1; particle 0 starts at the original weights.
        phi: sum of the attraction coefficients, above 4.
        phi_split: True draws rho from U(0, phi/2), False from U(0, phi).
        velocity_floor: True keeps |v| >= wb/5 (Arachne's lower bound).
    """

    module: ClassVar[str] = "swarm"

    optimiser: str = field(default="PSO", init=False)
    phi: float = stated(
        4.1, "PSO: sum of the attraction coefficients, above 4.", name="velocity_phi", shown=True, swept=True
    )
    phi_split: bool = stated(
        True, "PSO: draw each coefficient from (0, phi/2); False from (0, phi).", shown=True, swept=True
    )
    velocity_floor: bool = stated(
        False, "PSO: keep speeds above 1/5 of the range of the layer's weights.", shown=True, swept=True
    )

    def __post_init__(self) -> None:
        """Refuse settings for which the update rule is not defined."""
        super().__post_init__()
        if not 4 < self.phi < math.inf:
            raise InputError(
                f"velocity_phi is {self.phi}, expected more than 4 and finite (the constriction is real only there)"
            )

    @property
    def constriction(self) -> float:
        """chi of the update rule."""
        return 2.0 / (self.phi - 2.0 + math.sqrt(self.phi**2 - 4.0 * self.phi))

    @property
    def attraction(self) -> float:
        """The upper end of rho1 and rho2."""
        return self.phi / 2.0 if self.phi_split else self.phi


@dataclass(frozen=True)
class DifferentialSettings(BoxedSettings):
    """How candidates are made of others.

    Attributes:
        factor: F, above 0 and at most 2; None draws it anew in each iteration.
        crossover: CR, 0 to 1.
    """

    least: ClassVar[int] = 4
    module: ClassVar[str] = "differential_evolution"

    optimiser: str = field(default="DE", init=False)
    factor: float | None = stated(
        None, "DE: F [default: drawn from 0.5 to 1 in each iteration].", name="de_factor", swept=True
    )
    crossover: float = stated(
        0.7, "DE: CR, share of the weights that change [default: 0.7].", name="de_crossover", swept=True
    )

    def __post_init__(self) -> None:
        """Refuse settings for which the rule makes no sense."""
        super().__post_init__()
        if self.factor is not None and not 0 < self.factor <= 2:
            raise InputError(f"de_factor is {self.factor}, expected more than 0 and at most 2")
        if not 0 <= self.crossover <= 1:
            raise InputError(f"de_crossover is {self.crossover}, expected a number from 0 to 1")


@dataclass(frozen=True)
class RandomSettings(BoxedSettings):
    """How candidates are drawn; see `BoxedSettings`."""

    module: ClassVar[str] = "random_search"

    optimiser: str = field(default="random", init=False)


OPTIMISER_SETTINGS: Mapping[str, type[PopulationSettings]] = {
    each.optimiser: each for each in (SwarmSettings, DifferentialSettings, RandomSettings)
}
"""Settings of the optimisers by name; see `engine.search.optimisers`."""


def own_fields(settings: type[PopulationSettings]) -> dict[str, Stated]:
    """What may be stated of an optimiser, by field, but for the number of candidates, which all of them have."""
    return {each: option for each, option in stated_fields(settings).items() if each != "num_particles"}


@dataclass(frozen=True)
class SearchSettings:
    """How one search runs.

    Attributes:
        swarm: which optimiser, and how its candidates move.
        num_iterations: at most this many, at least 1.
        min_iteration_range: stop after this many iterations without gain, at least 1.
        positive_weight: worth of all positives together, in negatives, see `engine.fitness.objective.fitness`; None
            takes `positive_worth` for each.
        positive_worth: worth of one positive, in negatives.
        num_input_pos_sampled: search on this many positives, drawn without replacement; None takes all.
        tiling: shapes of the pieces of an iteration.
        objective: what makes a fitness of positives and negatives, see `engine.fitness.objective`.
        requirements: of the objective `requirements`, what steers; without any, that rows do not get worse together.
        promise_rows: of that objective, new rows of each label that chances are about.
        priorities: of the objective `priorities`, what rows of each label are worth.
    """

    swarm: PopulationSettings = field(default_factory=SwarmSettings)
    num_iterations: int = stated(100, "Iterations at most.", shown="100; CrossFit: 80", swept=True)
    min_iteration_range: int = stated(10, "Stop after this many without gain.", shown="10; CrossFit: 20", swept=True)
    positive_weight: float | None = stated(
        None,
        "Arachne: weight of keeping all positive inputs right, in repaired negative inputs; a low one repairs and "
        f"breaks more [default: {POSITIVE_WORTH} for each].",
        section="Method",
        owners=("Arachne", "others"),
        swept=True,
        rare=False,
    )
    positive_worth: float = POSITIVE_WORTH
    num_input_pos_sampled: int | None = stated(
        None, "Search on so many positive inputs [default: all].", owners=("Arachne",), swept=True
    )
    tiling: Tiling = field(default_factory=Tiling)
    objective: ObjectiveName = stated(  # noqa: RUF009 - a plain field
        "arachne",
        "Arachne's, of counts and mean losses; or the later one's, 1 for each row that is right and 1 / (loss + 1) for "
        "each that is wrong; or gain within --requirements, or else with no label 3 points down.",
        shown=True,
        choices=("arachne", "loss", "requirements"),
        owners=("Arachne",),
        swept=True,
    )
    requirements: tuple[Requirement, ...] = ()
    promise_rows: int = 1000
    priorities: Priorities | None = None

    def __post_init__(self) -> None:
        """Refuse what no search can run with."""
        for name, value, least in (
            ("num_iterations", self.num_iterations, 1),
            ("min_iteration_range", self.min_iteration_range, 1),
            ("num_input_pos_sampled", self.num_input_pos_sampled, 1),
            ("promise_rows", self.promise_rows, 1),
            ("tile_particles", self.tiling.particles, 1),
            ("tile_rows", self.tiling.rows, 1),
            ("tile_bytes", self.tiling.bytes, 1),
        ):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        for name, worth in (("positive_weight", self.positive_weight), ("positive_worth", self.positive_worth)):
            if worth is not None and not 0 <= worth < float("inf"):
                raise InputError(f"{name} is {worth}, expected a number of at least 0")
        if self.objective == "requirements" and self.positive_weight is not None:
            raise InputError(
                f"positive_weight is {self.positive_weight:g} and the objective is requirements, which say what "
                "positives are worth, expected one without the other"
            )
        for name, given, owner in (
            ("requirements", bool(self.requirements), self.objective == "requirements"),
            ("priorities", self.priorities is not None, self.objective == "priorities"),
        ):
            if given and not owner:
                raise InputError(f"{name} are given and the objective is {self.objective}, expected {name}")
        if self.objective == "priorities" and self.priorities is None:
            raise InputError("the objective is priorities and none are given, expected a weight of each label")

    @property
    def optimiser(self) -> str:
        """The name of the optimiser."""
        return self.swarm.optimiser

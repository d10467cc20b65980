"""Recipes of tunings: how the weights under repair are fine-tuned on labelled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from engine.core.errors import InputError

Anchor = Literal["kl", "focal"]

DEFAULT_RECIPES = "1,2,4"  # class weights of the default recipes, each anchored with strength 1
FORM = "WEIGHT[:STRENGTH][:kl|focal][:rate=RATE][:epochs=EPOCHS]"  # of a recipe as a person writes it

MOST_WEIGHT = 100_000  # of a class or an anchor; the square of a slope must be a number
MOST_ROW_EPOCHS = 150_000  # rows times epochs of a tuning at most, unless epochs are stated


@dataclass(frozen=True)
class Recipe:
    """One way to tune.

    Attributes:
        class_weight: of rows whose label is under repair; others weigh 1.
        strength: of the anchor to the model as it is, on rows that it gets right (`kl`) or most on those (`focal`).
        anchor: `kl`: Kullback-Leibler divergence of the scores from those of the model as it is; `focal`: focal
            distillation of logits (Yan et al., "Positive-Congruent Training", CVPR 2021, eq. 5 with alpha 1, beta 5).
        rate: of Adam, at the first step; None follows from the layers, see `rate_of`.
        epochs: passes over the rows; None follows from their number, see `epochs_of`.
    """

    class_weight: float = 2.0
    strength: float = 1.0
    anchor: Anchor = "kl"
    rate: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be tuned with."""
        for name, value in (("class weight", self.class_weight), ("anchor strength", self.strength)):
            if not 0 <= value <= MOST_WEIGHT:
                raise InputError(f"{name} of a recipe is {value:g}, expected 0 to {MOST_WEIGHT:g}")
        if self.rate is not None and not 0 < self.rate <= 1:
            raise InputError(f"rate of a recipe is {self.rate:g}, expected more than 0 and at most 1")
        if self.epochs is not None and not 1 <= self.epochs <= 10_000:
            raise InputError(f"epochs of a recipe are {self.epochs}, expected 1 to 10000")

    @property
    def name(self) -> str:
        """As `--recipes` takes it."""
        more = "" if self.anchor == "kl" else f":{self.anchor}"
        more += "" if self.rate is None else f":rate={_digits(self.rate)}"
        more += "" if self.epochs is None else f":epochs={self.epochs}"
        return f"{_digits(self.class_weight)}:{_digits(self.strength)}{more}"


def read_recipes(text: str) -> tuple[Recipe, ...]:
    """Recipes as a person writes them, each in the `FORM`, with commas between.

    Raises:
        InputError: one cannot be read, or is there twice.
    """
    recipes = tuple(_recipe(part.strip()) for part in text.split(",") if part.strip())
    if not recipes:
        raise InputError(f"recipes are {text!r}, expected at least one, as in {DEFAULT_RECIPES}")
    for number, recipe in enumerate(recipes):
        if recipe in recipes[:number]:
            raise InputError(f"recipe {recipe.name} is there twice, expected each once")
    return recipes


def _recipe(text: str) -> Recipe:
    numbers: list[float] = []
    anchor: Anchor | None = None
    rate, epochs = None, None
    try:
        for part in map(str.strip, text.split(":")):
            key, equals, value = part.partition("=")
            if equals and key == "rate" and rate is None:
                rate = float(value)
            elif equals and key == "epochs" and epochs is None:
                epochs = int(value)
            elif part in get_args(Anchor) and anchor is None:
                anchor = "focal" if part == "focal" else "kl"
            elif not equals and len(numbers) < 2:
                numbers.append(float(part))
            else:
                raise ValueError(part)
    except ValueError:
        raise InputError(f"recipe {text!r} cannot be read, expected {FORM}") from None
    if not numbers:
        raise InputError(f"recipe {text!r} has no class weight, expected {FORM}")
    return Recipe(numbers[0], numbers[1] if len(numbers) > 1 else 1.0, anchor or "kl", rate, epochs)


def _digits(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def rate_of(recipe: Recipe, layers: int) -> float:
    """Adam's rate at the first step: 3e-3 for the last layer alone, 9e-4 for several (measured on unseen images)."""
    return recipe.rate or (3e-3 if layers == 1 else 9e-4)


def epochs_of(recipe: Recipe, rows: int) -> int:
    """Passes over the rows of a tuning: 15 up to 1,000 rows, then ever fewer, 10 at 3,000 and 6 at 10,000."""
    if recipe.epochs is not None:
        return recipe.epochs
    epochs = round(15 * float(min(1.0, (1000 / max(rows, 1)) ** 0.4)))
    return max(1, min(epochs, MOST_ROW_EPOCHS // max(rows, 1)))

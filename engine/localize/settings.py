"""What Arachne's choice of weights may be told, without the libraries that it runs on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from engine.core.errors import InputError
from engine.core.stated import stated

Impact = Literal["mean", "first-row"]

_stated = functools.partial(stated, section="Method", owners=("Arachne",), swept=True)


@dataclass(frozen=True)
class LocalizeSettings:
    """How many weights are chosen, and by what."""

    num_grad: int | None = _stated(
        None, "Weights of largest gradient loss to choose from [default: 20 per negative input]."
    )
    impact: Impact = _stated(  # noqa: RUF009 - a plain field
        "mean",
        "Over all negative inputs, or of the first one alone, as eAI-Repair-Toolkit computes it.",
        name="forward_impact",
        shown=True,
        choices=("mean", "first-row"),
    )
    fronts: int = _stated(
        1, "Pareto fronts, each of what the ones before left: more of them give more weights to search.", shown=True
    )

    def __post_init__(self) -> None:
        """Refuse numbers of which nothing could be chosen."""
        for name in ("num_grad", "fronts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")

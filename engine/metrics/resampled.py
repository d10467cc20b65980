"""Paired differences between two methods over draws of repair rows: their mean, how sure it is, and many at once.

J times rows are drawn, both methods repair from them, and the same test rows give the differences d_1 ... d_J, with
mean d and variance s^2 (of J - 1). Draws share rows, so their differences are correlated, and s^2 / J is too small:
with a correlation c between any two the mean has the variance (1/J + c / (1 - c)) E[s^2]. This is the correction of
Nadeau and Bengio (2003, Inference for the Generalization Error, Machine Learning 52: 239-281). Their c is
n_test / (n_train + n_test), of results on test rows drawn anew each time, so that c / (1 - c) = n_test / n_train. Here
the test rows stay and each draw takes n of the N rows of a pool: two draws have the fraction n / N in common, and that
is their c, exactly so where a difference is a mean over the rows drawn. With it

    e^2 = (1/J + c / (1 - c)) s^2 + v / m,    low, high = d -+ t e,    p = 2 P(T > |d| / e)

where T has J - 1 degrees of freedom. The second part is the sampling of the m test rows, which are one sample for all
draws: v is the variance over them of right(method) - right(reference), averaged over the draws. T stays that of the
draws, which is cautious wherever the test rows have a share in e. So an interval is about new repair rows and new test
rows of the same source, of as many. Where all rows are drawn (c = 1) only seeds differ between draws, and there is
none: nothing at hand tells what other rows would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from engine.core.types import Float64

LEVEL = 0.05
"""Chance of an interval to miss, and of Holm's procedure to tell any two apart that are alike."""

_ROUNDING = 1e-12
"""Differences of shares that are equal come this close to each other."""


@dataclass(frozen=True)
class PairedDifference:
    mean: float | None  # over the draws; None without any
    draws: int  # J
    error: float | None = None  # its standard error e; None where the draws cannot tell
    low: float | None = None  # low, high: ends of the 95 % interval; None without an error, or where it is 0
    high: float | None = None
    # chance of a difference as large where there is none; None without an interval, but 1 where the two are the same in
    # every draw and on every test row
    p: float | None = None
    why: str = ""  # there is no interval, in words; else empty


def paired_difference(differences: Float64, shared: float, rows: Float64 | None) -> PairedDifference:
    """The corrected resampled t interval of a mean difference.

    Args:
        differences: (J,) of the draws; J may be 0.
        shared: c, the fraction of their rows that two draws have in common, 0 to 1.
        rows: (m,) of each test row the difference right(method) - right(reference), averaged over the draws; None
            leaves the sampling of test rows out.
    """
    if not 0 <= shared <= 1:
        raise ValueError(f"draws share {shared} of their rows, expected 0 to 1")
    draws = len(differences)
    if draws == 0:
        return PairedDifference(None, 0, why="no draw has both")
    mean = float(np.mean(differences))
    if draws == 1:
        return PairedDifference(mean, 1, why="one draw tells nothing of others")
    if shared == 1:
        return PairedDifference(mean, draws, why="every draw has all rows: only seeds differ")
    if rows is not None and len(rows) < 2:
        return PairedDifference(mean, draws, why="a single test row tells nothing of others")
    variance = float(np.var(differences, ddof=1)) * (1 / draws + shared / (1 - shared))
    error = math.sqrt(variance + (0.0 if rows is None else float(np.var(rows, ddof=1)) / len(rows)))
    if error < _ROUNDING:
        same = 1.0 if abs(mean) < _ROUNDING else None
        return PairedDifference(mean, draws, 0.0, p=same, why="every draw gives the same")
    reach = error * float(stdtrit(draws - 1, 1 - LEVEL / 2))
    p = 2 * float(stdtr(draws - 1, -abs(mean) / error))
    return PairedDifference(mean, draws, error, mean - reach, mean + reach, p)


def holm(chances: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjust the p-values of several comparisons; one without a value, None, counts as a comparison all the same.

    Of m comparisons with values in ascending order the k-th becomes max over i <= k of (m - i + 1) p_i, at most 1
    (Holm 1979, Scandinavian Journal of Statistics 6: 65-70). It is below a level exactly where the interval of this
    comparison, at the confidence 1 - level / (m - k + 1), excludes 0 and those before it in this order do: with all
    that are told apart so, the chance that any two of them are alike is at most the level.
    """
    known = sorted((chance, at) for at, chance in enumerate(chances) if chance is not None)
    adjusted: list[float | None] = [None] * len(chances)
    highest = 0.0
    for rank, (chance, at) in enumerate(known):
        highest = max(highest, min(1.0, (len(chances) - rank) * chance))
        adjusted[at] = highest
    return tuple(adjusted)

"""Rows of the table `outcomes`, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.runs.outcomes import outcome_rows
from engine.core.plans import Ran
from engine.methods.base import Method, MethodJob, Offer, Repair
from engine.methods.outcome import FOUND, Cell
from tests.support.subjects import LABEL, a_subject, carry_out

SHIFT = Method(
    "shift",
    lambda job: Repair([Offer("shift", {"last/bias": np.array([0, 0, -9], np.float32)}, 0.0)]),
    "a bias",
    "none",
    "a test",
)


def test_without_test_rows_of_the_labels_under_repair_nothing_tells_their_gain() -> None:
    """Null, as 0 would say that the repair changed nothing."""
    whole = a_subject(60)
    assert whole.test is not None
    others = replace(whole, test=whole.test.take(np.flatnonzero(whole.test.labels != LABEL)))
    cell = Cell("one", "shift", 0, 0)
    gains = []
    for subject in (whole, others):
        rows = outcome_rows(subject, cell, carry_out(SHIFT, MethodJob(subject, None, 0)), Ran("process"), 1.0)
        (found,) = (row for row in rows if row["reading"] == FOUND)
        assert found["offer"] == "shift" and found["all"] is not None
        gains.append(found["gain"])
        assert found["worst_label"] not in (LABEL, -1)  # a label under repair loses most here, and is not another one
    assert gains[0] < 0 and gains[1] is None

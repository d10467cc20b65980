"""Rows of the table `outcomes`, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.compute.methods import MethodEvent
from cluster.runs.method_records import outcome_rows
from cluster.workers.methods import MethodTask
from engine.methods.base import Method, MethodJob, Offer, Repair
from engine.methods.outcome import FOUND, carry_out
from tests.support.subjects import LABEL, a_subject

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
    task = MethodTask("one", "shift", 0, 0, None)
    gains = []
    for subject in (whole, others):
        event = MethodEvent(task, carry_out(SHIFT, MethodJob(subject, None, 0)), "process", "")
        (found,) = (row for row in outcome_rows(subject, event, 1.0) if row["reading"] == FOUND)
        assert found["offer"] == "shift" and found["all"] is not None
        gains.append(found["gain"])
    assert gains[0] < 0 and gains[1] is None

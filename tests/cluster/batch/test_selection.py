"""Judging patches on held-out rows, and merging them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.batch import selection
from cluster.batch.selection import Best, HeldOut, merged, ranked, searched
from cluster.workers.harvest import EndedSearch
from cluster.workers.judge import Candidate, Candidates, Judge, Score
from cluster.workers.task import layer_inputs
from engine.core.rng import RngKey
from engine.data.image_set import open_image_set
from engine.data.writer import write_image_set
from engine.metrics.accuracy import Comparison
from engine.metrics.requirements import Requirement, check_requirements, rank
from engine.models.loss import TrainingLoss
from engine.passes.classes import NO_CLASS
from engine.search.loop import SearchSettings
from engine.search.optimisers import OPTIMISERS
from engine.targets.base import Target
from engine.targets.last_dense import find_target
from engine.targets.model_runner import ModelRunner

SOFTMAX = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)

# A row of kind k has input k at 1 and the others at 0, so weight (k, j) moves the score of class j for this kind alone.
LABELS = np.array([0] * 8 + [1] * 8 + [2] * 8)
KINDS = np.array([0] * 6 + [2] * 2 + [1] * 6 + [2] * 2 + [2] * 8)
KERNEL = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
"""Takes every row for class 2, which is right for the eight rows of class 2 only."""


def at_least(label: int, limit: float) -> Requirement:
    return Requirement("min_accuracy", limit, (label,), None, f"accuracy of label {label} at least {limit}")


NO_DROP = Requirement("max_drop", 0.0, None, None, "no drop")
REQUIREMENTS = (at_least(0, 0.75), at_least(1, 0.75), NO_DROP)


@dataclass(frozen=True, eq=False)
class Ranker:
    judge: Judge
    layer: Any

    def measure(self, outcomes: Iterable[EndedSearch]) -> Iterator[tuple[Candidate, Comparison]]:
        for place, found in enumerate(outcomes):
            candidates, changes = self.judge.judged(self.layer, found.job, place, found.index, found.values)
            compared = [self.judge.comparisons(self.layer, one.index, one.values[None])[0] for one in candidates]
            for candidate, comparison in zip(candidates, compared, strict=True):
                assert comparison is not None
                yield candidate, comparison
            if candidates and candidates[0].place == (place, 0):
                assert compared[0] is not None and changes == compared[0].changes()

    def merged(self, candidates: Sequence[Candidate]) -> Candidate:
        return merged(self.judge, self.layer, candidates)

    def searched(self, candidates: Sequence[Candidate], optimiser: str = "PSO") -> Candidate:
        search = SearchSettings(swarm=OPTIMISERS[optimiser].settings(num_particles=10), num_iterations=4)
        return searched(self.judge, self.layer, candidates, search, RngKey(0, "merge", -1))


@dataclass(frozen=True, eq=False)
class Court:
    target: Target
    runner: ModelRunner
    images: np.ndarray
    held_out: HeldOut

    def ranker(self, requirements: Sequence[Requirement] = REQUIREMENTS, kernel: np.ndarray = KERNEL) -> Ranker:
        rows, layer = self.held_out.rows, self.runner.layer
        logits = layer.logits(rows.inputs, kernel)
        return Ranker(Judge(kernel, rows, self.held_out.before, logits, tuple(requirements)), layer)

    def comparison(self, kernel: np.ndarray) -> Comparison:
        variable = self.target.layer.kernel
        old = np.array(variable)
        variable.assign(kernel)
        try:
            return self.held_out.compare(self.runner.predict(self.images))
        finally:
            variable.assign(old)

    def score(self, kernel: np.ndarray) -> Score:
        comparison = self.comparison(kernel)
        return rank(check_requirements(REQUIREMENTS, comparison), comparison)


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Court:
    images = np.zeros((24, 4), np.float32)
    images[np.arange(24), KINDS] = 1
    images = images.reshape(24, 2, 2, 1)
    path = tmp_path_factory.mktemp("court") / "val.h5"
    with write_image_set(path, rows=24, image_shape=(2, 2, 1), classes=3) as writer:
        writer.append(images, np.eye(3, dtype=np.uint8)[LABELS])
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax", use_bias=False)]
    )
    model.set_weights([KERNEL])
    target = find_target(model, SOFTMAX, 3, path)
    runner = ModelRunner(model, target)
    image_set = open_image_set(path)
    before = runner.predict(images)
    assert before.tolist() == [2] * 24
    return Court(target, runner, images, HeldOut(image_set, layer_inputs(runner, image_set), before))


def outcome(job: str, index: list[tuple[int, int]], *values: list[float]) -> EndedSearch:
    return ended(job, np.array(index, dtype=np.int64), np.array(values, dtype=np.float32))


def ended(job: str, index: np.ndarray, values: np.ndarray) -> EndedSearch:
    return EndedSearch(
        job, index, values, fitness=0.0, start_fitness=0.0, patched=0, intact=0, iterations=1, stop="iterations"
    )


def best_first(ranker: Ranker, *outcomes: EndedSearch) -> list[Candidate]:
    return ranked(candidate for candidate, _ in ranker.measure(outcomes))


A = outcome("a", [(0, 0)], [5])
"""Repairs six of the eight rows of label 0."""

B = outcome("b", [(1, 1)], [5])
"""Repairs six of the eight rows of label 1."""


def test_scores_by_hand(court: Court) -> None:
    ranker = court.ranker()
    (first, comparison), (second, _), (third, _) = ranker.measure([A, outcome("c", [(2, 0), (1, 1)], [5, 0], [5, 5])])
    assert (first.jobs, first.score) == (("a",), (2, -0.75, 0))
    assert comparison.fixed.tolist() == [6, 0, 0]
    # Row kind 2 goes to class 0: right for two rows of label 0, wrong for eight of label 2.
    assert second.score == (0, -0.75, -8)
    # As many rows right as before, six of them of label 1; label 0 lacks half of its rows.
    assert third.score == (2, -0.5, -8)
    assert third.values.tolist() == [5, 5]


def test_patches_that_leave_a_row_no_class_are_no_candidates(court: Court) -> None:
    ranker = court.ranker()
    endless = outcome("c", [(1, 1), (3, 2)], [np.inf, 0], [5, 0])
    found = best_first(ranker, A, endless)
    assert sorted((candidate.jobs, candidate.values.tolist()) for candidate in found) == [
        (("a",), [5]),
        (("c",), [5, 0]),
    ]
    bad = Candidate(("d",), endless.index, endless.values[0], (9, 0.0, 0))
    assert ranker.merged([*found, bad]).values.tolist() == ranker.merged(found).values.tolist()
    after = np.full(24, 2)
    after[[0, 1, 20]] = NO_CLASS
    comparison = court.held_out.compare(after)
    assert (comparison.fixed.tolist(), comparison.broken.tolist()) == ([0, 0, 0], [0, 0, 1])


def test_a_merge_that_beats_every_single_patch_is_found(court: Court) -> None:
    ranker = court.ranker()
    candidates = best_first(ranker, A, B, outcome("c", [(2, 0)], [5]))
    assert max(candidate.score for candidate in candidates) == (2, -0.75, 0)
    union = ranker.merged(candidates)
    assert union.score == (3, 0.0, 0)
    assert set(union.jobs) == {"a", "b"}
    kernel = union.applied(KERNEL)
    assert court.score(kernel) == union.score
    changed = np.argwhere(kernel != KERNEL).tolist()
    assert changed == [[0, 0], [1, 1]]
    # The kernel that was given is not changed.
    assert KERNEL[0, 0] == 0


def test_a_merge_goes_on_from_what_it_has(court: Court) -> None:
    """From a kernel that takes the rows of label 2 for label 1, three patches are needed."""
    kernel = KERNEL.copy()
    kernel[2, 1] = 5
    ranker = court.ranker(kernel=kernel)
    union = ranker.merged(best_first(ranker, A, B, outcome("back", [(2, 1)], [0])))
    assert set(union.jobs) == {"a", "b", "back"}
    assert court.score(union.applied(kernel)) == union.score == (3, 0.0, 0)


def test_on_a_weight_that_both_change_the_value_of_the_better_one_holds(court: Court) -> None:
    ranker = court.ranker()
    spoiled = outcome("b", [(0, 0), (1, 1)], [-9, 5])
    better, other = candidates = best_first(ranker, spoiled, outcome("a", [(0, 0), (3, 2)], [5, 0.5]))
    assert better.jobs == ("b",)
    candidates = [other, better]  # as if `a` had been the better one
    union = ranker.merged(candidates)
    assert union.jobs == ("a", "b")
    assert union.score == (3, 0.0, 0)
    values = {tuple(position): value for position, value in zip(union.index.tolist(), union.values, strict=True)}
    assert values == {(0, 0): 5.0, (3, 2): 0.5, (1, 1): 5.0}
    # The other way round class 0 gets nothing: -9 holds.
    assert ranker.merged([better, other]).jobs == ("b",)


def test_an_addition_that_does_not_improve_is_left_out(court: Court) -> None:
    ranker = court.ranker()
    same = outcome("same", [(3, 0)], [0.25])
    worse = outcome("worse", [(2, 1)], [5])
    nothing_new = outcome("nothing new", [(0, 0)], [7])
    union = ranker.merged(best_first(ranker, A, same, worse, nothing_new, B))
    assert union.jobs in (("a", "b"), ("b", "a"))
    # Alone, a candidate is its own merge.
    (only,) = best_first(ranker, worse)
    assert ranker.merged([only]) is only


def test_only_the_best_offers_are_tried(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = court.ranker()
    same = outcome("same", [(3, 0)], [0.25])
    candidates = [*best_first(ranker, A), *best_first(ranker, same), *best_first(ranker, B)]
    assert ranker.merged(candidates).jobs == ("a", "b")
    monkeypatch.setattr(selection, "MERGE_TRIES", 2)
    assert ranker.merged(candidates).jobs == ("a",)


def test_equal_candidates_keep_their_order(court: Court) -> None:
    outcomes = [outcome(str(number), [(number % 2, number % 2)], [2 + number]) for number in range(6)]
    outcomes.insert(3, outcome("worst", [(2, 1)], [5]))
    found = best_first(court.ranker(), *outcomes)
    assert [candidate.jobs[0] for candidate in found] == ["0", "1", "2", "3", "4", "5", "worst"]


def test_many_patches_of_a_search_are_judged_in_order(court: Court) -> None:
    random = np.random.default_rng(0)
    many = ended("many", np.array([(0, 0), (1, 1), (2, 0)]), random.normal(1, 2, (150, 3)).astype(np.float32))
    ranker = court.ranker()
    found = list(ranker.measure([A, many, B]))
    assert [candidate.jobs[0] for candidate, _ in found] == ["a", *["many"] * 150, "b"]
    for (candidate, comparison), values in zip(found[1:-1], many.values, strict=True):
        assert candidate.values.tolist() == values.tolist()
        expected = court.comparison(candidate.applied(KERNEL))
        np.testing.assert_array_equal(comparison.after, expected.after)
        assert candidate.score == court.score(candidate.applied(KERNEL))
    assert len({candidate.score for candidate, _ in found}) > 5


def test_patches_are_judged_against_the_base_model_though_made_of_another_kernel(court: Court) -> None:
    """In later rounds searches start from the best model so far; what it broke still counts."""
    kernel = KERNEL.copy()
    kernel[2, 1] = 5
    ((candidate, comparison),) = court.ranker(kernel=kernel).measure([A])
    assert comparison.broken.tolist() == [0, 0, 8]
    assert comparison.fixed.tolist() == [6, 2, 0]
    assert candidate.score == court.score(candidate.applied(kernel)) == (2, -0.5, -8)


PATCHES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=4, unique=True),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(PATCHES)
def test_a_merge_is_never_worse_and_does_what_it_says(
    court: Court, drawn: list[tuple[list[tuple[int, int]], int]]
) -> None:
    outcomes = [
        outcome(str(number), index, np.random.default_rng(seed).integers(-3, 6, len(index)).tolist())
        for number, (index, seed) in enumerate(drawn)
    ]
    ranker = court.ranker()
    candidates = best_first(ranker, *outcomes)
    assume(candidates)  # all of them may change nothing
    scores = [candidate.score for candidate in candidates]
    assert scores == sorted(scores, reverse=True)
    union = ranker.merged(candidates)
    assert union.score >= scores[0]
    assert union.score == court.score(union.applied(KERNEL))
    assert union.jobs[0] == candidates[0].jobs[0]
    assert len(np.unique(union.index, axis=0)) == len(union.index)
    # Every value comes from the first of its jobs that has the weight.
    by_name = {drawn_outcome.job: drawn_outcome for drawn_outcome in outcomes}
    for position, value in zip(union.index.tolist(), union.values, strict=True):
        source = next(by_name[job] for job in union.jobs if position in by_name[job].index.tolist())
        assert value == source.values[0][source.index.tolist().index(position)]


HALF = outcome("half", [(0, 0), (2, 0)], [5, 1.5])
"""Repairs six rows of label 0, and two more for all of label 2: a part above 1/5 and below 2/3 is better than all."""


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_merge_by_search_takes_a_part_of_a_patch(optimiser: str, court: Court) -> None:
    ranker = court.ranker()
    candidates = best_first(ranker, HALF)
    assert candidates[0].score == ranker.merged(candidates).score == (2, -0.75, -8)
    found = ranker.searched(candidates, optimiser)
    assert found.score == court.score(found.applied(KERNEL)) == (2, -0.75, 0)
    assert found.jobs == ("half",)
    assert 1 < found.applied(KERNEL)[0, 0] < 5 and 0 < found.applied(KERNEL)[2, 0] < 1


def test_a_merge_by_search_may_leave_everything_as_it_is(court: Court) -> None:
    found = court.ranker().searched(
        best_first(court.ranker(), outcome("worse", [(2, 1)], [5]), outcome("no", [(3, 0)], [9]))
    )
    assert found.jobs == () and (found.applied(KERNEL) == KERNEL).all()


def test_a_merge_by_search_has_the_best_offer_of_each_search(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of A three offers would fill the places of two."""
    monkeypatch.setattr(selection, "MERGE_PARTS", 2)
    monkeypatch.setattr(selection, "MERGE_TRIES", 1)  # the greedy merge is the first candidate
    ranker = court.ranker()
    many = outcome("a", [(0, 0)], [5], [6], [7])
    found = ranker.searched(best_first(ranker, many, B))
    assert set(found.jobs) == {"a", "b"} and found.score == (3, 0.0, 0)


@settings(max_examples=15)
@given(PATCHES)
def test_a_merge_by_search_is_never_worse(court: Court, drawn: list[tuple[list[tuple[int, int]], int]]) -> None:
    """Than the greedy merge, the best candidate and the model as it is; and the same every time."""
    outcomes = [
        outcome(str(number), index, np.random.default_rng(seed).integers(-3, 6, len(index)).tolist())
        for number, (index, seed) in enumerate(drawn)
    ]
    ranker = court.ranker()
    candidates = best_first(ranker, *outcomes)
    assume(candidates)
    found, again = ranker.searched(candidates), ranker.searched(candidates)
    assert found.score >= max(ranker.merged(candidates).score, candidates[0].score, court.score(KERNEL))
    assert found.score == court.score(found.applied(KERNEL))
    assert found.values.tobytes() == again.values.tobytes() and found.jobs == again.jobs
    unchanged = {position for position, value in np.ndenumerate(found.applied(KERNEL)) if value == KERNEL[position]}
    allowed = {tuple(place) for one in candidates for place in one.index.tolist()}
    assert set(np.ndindex(KERNEL.shape)) - unchanged <= allowed


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=60), st.integers(1, 9))
def test_only_the_best_are_kept_whatever_order_they_come_in(drawn: list[tuple[int, int]], tries: int) -> None:
    found = [
        Candidate((str(number),), np.empty((0, 2), np.int64), np.empty(0, np.float32), (score, 0.0, 0), (place, number))
        for number, (score, place) in enumerate(drawn)
    ]
    expected = sorted(found, key=lambda one: (-one.score[0], one.place))[:tries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MERGE_TRIES", tries)
        best = Best()
        for number in range(0, len(found), 3):
            best.add(Candidates.of(found[number : number + 3]))
            assert len(best._kept) <= 2 * tries + 3
        assert [one.jobs for one in best.ranked] == [one.jobs for one in expected]

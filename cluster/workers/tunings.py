"""Tunings where they run: pure functions of their arguments, so that they may run anywhere, or twice."""

from __future__ import annotations

from dataclasses import replace

from cluster.workers.lru import Cache
from engine.layers.tail import Tail
from engine.problem.crossfit import TuningTask
from engine.tuning.recipes import Recipe
from engine.tuning.train import Changes, Tuner, TuningJob


class TuningRunner:
    """Runs tunings in this process; keeps what those of one job share."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._tuners: Cache[Tuner] = Cache(1)

    def run(
        self, key: str, job: TuningJob, task: TuningTask, recipes: tuple[Recipe, ...], tail: Tail | None = None
    ) -> Changes:
        """The changes of the recipes of a task, by path (G, ...).

        Args:
            key: names the job.
            job: what all tunings share.
            task: which to run.
            recipes: all of the run.
            tail: of the model, where the job travelled and tunes through it.

        Raises:
            InputError: the weights of a tuning did not stay finite.
        """
        tuner = self._tuners.get(key, lambda: Tuner(replace(job, chain=job.chain.attached(tail))))
        return tuner.run(task.fold, [recipes[number] for number in task.recipes])

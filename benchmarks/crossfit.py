"""One iteration of CrossFit's swarm over mixtures, against setting the mixed weights and predicting, one by one.

python benchmarks/crossfit.py [--model MODEL] [--output FOLDER]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import Aim, machine, model_option, output_option, shipped_images, side_by_side, table, write_aims
from costs import measure_peak
from unseen import LAST, TAIL, Subject, drop, mixed_adds, others_drop, subjects, words

from engine import backend
from engine.backend import keras
from engine.core.plans import run_here
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import DenseChain
from engine.layers.tail_chain import dense_of
from engine.methods.mixtures import tuned
from engine.models.load import LoadedModel, load_model
from engine.models.weight_paths import weight_variables
from engine.problem.crossfit import CrossFit, CrossFitSettings, mixed_values
from engine.problem.problem import prepare
from engine.search import loop
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.tuning.recipes import read_recipes
from engine.tuning.train import Changes

RECIPES = "1:1:epochs=1,2:1:epochs=1,4:1:epochs=1"
"""What an iteration costs does not depend on how long was tuned."""

LABEL, AIM = 6, 100

WIDE, WIDE_UNITS, WIDE_AIM = "wide, made up", (128, 1024, 1024), 0.5
"""A model that nobody trained, with about as many weights as VGG-16 at a quarter of its width; and what an iteration is
to reach of the multiply-adds of a large product."""

NEAR = 1e-4
"""Rows whose two largest scores are as near may be counted differently."""

WAYS = {
    "iteration": "here, with the moves of the swarm",
    "model": "set the weights and model.predict, the whole model on images",
    "layers": "the same of the layers under repair and behind alone, on cached features",
    "compiled": "their plain formula, compiled, on cached features",
}

Predict = Callable[[Mapping[str, Float32], int], Float32]
"""Scores (m, C) of the rows of a fold under values of weights, by path."""


@dataclass(frozen=True, eq=False)
class Slow:
    """One candidate after the other, fold by fold, with mixed weights; scores (M, n, C) of M candidates."""

    job: CrossFit
    changes: tuple[Changes, ...]
    predict: Predict

    def __call__(self, candidates: Float32) -> Float32:
        """Predict all rows."""
        chain, fold = self.job.chain, self.job.rows.fold
        found = np.empty((len(candidates), len(fold), chain.classes), np.float32)
        for number, candidate in enumerate(candidates):
            for group, changes in enumerate(self.changes):
                values = mixed_values(chain, [changes], candidate, 1.0)
                found[number, fold == group] = self.predict({**chain.values, **values}, group)
        return found


@click.command()
@model_option
@click.option("--rows", type=int, default=4000, show_default=True, help="Rows of the search.")
@click.option("--particles", type=int, default=32, show_default=True, help="Particles of the swarm.")
@click.option("--timed", type=int, default=2, show_default=True, help="Particles that the slow ways are timed with.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Rounds of the medians.")
@click.option("--layers", default=f"{TAIL},{LAST}", show_default=True, callback=words(LAST, TAIL), help="Repaired.")
@output_option
def main(
    model_path: Path,
    rows: int,
    particles: int,
    timed: int,
    rounds: int,
    layers: tuple[str, ...],
    output: Path | None,
) -> None:
    """Time one iteration of a swarm over mixtures, side by side with the slow ways."""
    backend.limit_threads(1)
    click.echo(host := machine())
    loaded = load_model(model_path)
    images, labels = shipped_images(rows)
    known = subjects(loaded, (images, labels), (images[:1], labels[:1]), layers)
    known[WIDE] = subjects(wide(loaded, images), (images, labels), (images[:1], labels[:1]), [TAIL])[TAIL]
    click.echo(
        f"{model_path.name}: {len(labels)} rows, {particles} particles, one thread; medians of {rounds} rounds, "
        "milliseconds per iteration of the\nwhole swarm; the slow ways take one particle after the other, with the "
        f"mixed weights of each fold; {timed} particles timed"
    )
    for way, text in WAYS.items():
        click.echo(f"{way}: {text}")
    lines, rates = [], {}
    for name, subject in known.items():
        cells, rates[name] = line(name, subject, images, particles, timed, rounds)
        lines.append(cells)
    ratios = [f"{way} / iteration" for way in WAYS if way != "iteration"]
    header = ["Dense layers", "weights", "recipes", *WAYS, *ratios, "aim of the first two"]
    click.echo(table(header, lines))
    peak = measure_peak(1).multiply_adds
    shares = {name: rate / peak for name, rate in rates.items()}
    told = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    click.echo(f"multiply-adds of an iteration against a large product, {peak / 1e9:.0f} billion a second: {told}")
    units = " and ".join(f"{units:,}" for units in WIDE_UNITS[1:])
    what = f"an iteration over mixtures against a large product, hidden layers of {units} units"
    write_aims(output, "crossfit", [Aim(what, shares[WIDE], WIDE_AIM, at_least=True)], host)


def wide(loaded: LoadedModel, images: Float32) -> LoadedModel:
    """A model with `WIDE_UNITS`, with the shapes and the loss of another."""
    hidden = [keras.layers.Dense(units, activation="relu") for units in WIDE_UNITS]
    last = keras.layers.Dense(loaded.classes, activation="softmax")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(images.shape[1:]), keras.layers.Flatten(), *hidden, last])
    model.compile(loss="categorical_crossentropy")
    with tempfile.TemporaryDirectory() as folder:
        model.save(path := Path(folder) / "wide.keras")
        return load_model(path)


def line(
    name: str, subject: Subject, images: Float32, particles: int, timed: int, rounds: int
) -> tuple[list[str], float]:
    """One line of the table, and multiply-adds of an iteration in a second."""
    known = subject.pool
    requirements = (drop(0.0), *others_drop(0.03, LABEL))
    settings = CrossFitSettings(recipes=read_recipes(RECIPES))
    job = subject.job(np.arange(len(known.before)), LABEL, requirements, 0, settings)
    changes = run_here(tuned(job))
    search = SearchSettings(swarm=SwarmSettings(particles))
    case, problem = job.case(changes, search)
    prepared = prepare(problem, case.rows)
    start = problem.start()
    candidates = start.swarm.position.astype(np.float32)

    def iteration() -> object:
        # Of a time that has passed one iteration is run.
        return loop.advance(search, problem.source, prepared.objective, start, prepared.fitness.evaluate, 0.0)

    pixels = images[known.rows.distinct]  # as the job has its rows
    slow = {way: Slow(job, changes, predict) for way, predict in ways(subject, job, pixels).items()}
    fast = job.predicted(changes, candidates[-1], (1.0,))[0]
    as_it_is = subject.loaded.model.get_weights()
    for way, predict in slow.items():
        check(way, predict(candidates[-1:])[0], fast)
    calls: dict[str, Callable[[], object]] = {"iteration": iteration}
    calls |= {way: partial(predict, candidates[:timed]) for way, predict in slow.items()}
    times = side_by_side(calls, rounds)
    subject.loaded.model.set_weights(as_it_is)
    seconds = {way: times[way] / timed * particles for way in slow}
    ratios = [f"{seconds[way] / times['iteration']:,.0f}" for way in slow]
    milliseconds = [f"{1e3 * times['iteration']:,.1f}", *(f"{1e3 * seconds[way]:,.0f}" for way in slow)]
    cells = [
        name,
        f"{job.chain.tuned_values:,}",
        str(len(settings.recipes)),
        *milliseconds,
        *ratios,
        "-" if name == WIDE else str(AIM),
    ]
    of_row = mixed_adds(dense_of(job.chain), len(settings.recipes))
    return cells, particles * len(case.rows.labels) * of_row / times["iteration"]


def ways(subject: Subject, job: CrossFit, images: Float32) -> dict[str, Predict]:
    """The slow ways, as `WAYS` describes them."""
    chain, folds = dense_of(job.chain), [job.rows.fold == group for group in range(job.rows.folds)]
    features = [np.ascontiguousarray(job.rows.inputs[mine]) for mine in folds]
    pixels = [images[mine] for mine in folds]
    model, behind = subject.loaded.model, alone(chain)
    paths = [path for layer in chain.layers for path in layer.paths]
    of_layers = dict(zip(paths, behind.weights, strict=True))

    def setting(model: Any, variables: Mapping[str, Any], inputs: Sequence[Float32]) -> Predict:
        def predict(values: Mapping[str, Float32], group: int) -> Float32:
            for path, value in values.items():
                variables[path].assign(value)
            found: Float32 = model.predict(inputs[group], batch_size=256, verbose=0)
            return found

        return predict

    program = backend.compiled(chain.logits)
    on_device = [backend.on_device(rows) for rows in features]

    def compiled(values: Mapping[str, Float32], group: int) -> Float32:
        return np.asarray(program(on_device[group], {path: backend.on_device(value) for path, value in values.items()}))

    return {
        "model": setting(model, weight_variables(model), pixels),
        "layers": setting(behind, of_layers, features),
        "compiled": compiled,
    }


def alone(chain: DenseChain) -> Any:
    """The layers of a chain as a Keras model, up to the logits."""
    width = chain.values[chain.layers[0].kernel].shape[0]
    layers = [
        keras.layers.Dense(
            chain.values[layer.kernel].shape[1], activation=layer.activation, use_bias=layer.bias is not None
        )
        for layer in chain.layers
    ]
    return keras.Sequential([keras.Input((width,)), *layers])


def check(way: str, scores: Float32, fast: Int64) -> None:
    """Both ways predict the same classes, but for rows near a tie."""
    second, first = np.sort(scores, axis=1)[:, -2:].T
    differ = int(((scores.argmax(axis=1) != fast) & (first - second > NEAR)).sum())
    if differ:
        raise click.ClickException(f"{way}: {differ} rows are predicted otherwise, expected none")


if __name__ == "__main__":
    main()

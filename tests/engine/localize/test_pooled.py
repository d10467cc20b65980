"""Localisation over layers equals slow formulas, whatever the batches; its pool and the command by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from cli.main import run
from engine import backend
from engine.core.errors import InputError
from engine.data.writer import write_image_set
from engine.localize.fronts import Sums, localize_pooled
from engine.localize.impact import ImpactPasses
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import weight_variables
from engine.patches.arrow import read_patch
from engine.targets.base import Target
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target

SOFTMAX = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
CLASSES = 3


def sums_of(model: Any, names: Sequence[str], rows: np.ndarray, labels: np.ndarray, batch: int = 256) -> dict[str, Any]:
    """Gradient and impact, summed over rows, of every weight by path."""
    target, found = passes(model, names, batch)(rows, labels)
    ends = target.offsets
    return {
        path: tuple(sums[start:stop].reshape(target.shapes[path]) for sums in (found.gradient, found.impact))
        for path, start, stop in zip(target.paths, ends, ends[1:], strict=False)
    }


def passes(model: Any, names: Sequence[str], batch: int) -> Callable[..., tuple[Target, Sums]]:
    target = resolve_target(model, SOFTMAX, CLASSES, Path("model.keras"), names)
    assert target.tail is not None
    runner = ModelRunner(model, target, batch)

    def call(rows: np.ndarray, labels: np.ndarray) -> tuple[Target, Sums]:
        sums = runner.layer.localisation_sums(*runner.features(rows), labels, target.kernel)
        assert sums.first is None and sums.rows == len(labels)
        assert sums.gradient.dtype == sums.impact.dtype == np.float64
        assert sums.gradient.shape == sums.impact.shape == (target.offsets[-1],)
        return target, sums

    return call


def drawn(shape: Sequence[int], rows: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, *shape)).astype(np.float32), random.integers(0, CLASSES, rows)


def spread_weights(model: Any, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    for path, variable in weight_variables(model).items():
        if path.endswith("variance"):
            variable.assign(random.uniform(0.5, 2, variable.shape))
        else:
            variable.assign(random.normal(0, 0.4, variable.shape))
    return model


def array(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value)).astype(np.float64)


def shares(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def same(found: np.ndarray, expected: np.ndarray, scale: float = 0.0) -> None:
    """Equal to the digits that float32 passes have; `scale` is the size of what the values are differences of."""
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * max(np.abs(expected).max(), scale))


def test_a_hidden_dense_layer_by_numpy():
    model = spread_weights(
        keras.Sequential([layers.Input((5,)), layers.Dense(4, "relu", name="hidden"), layers.Dense(3, "softmax")])
    )
    rows, labels = drawn((5,))
    kernel, bias, last, offset = map(array, model.weights)
    inputs = np.concatenate([rows.astype(np.float64), np.ones((6, 1))], axis=1)
    weights = np.concatenate([kernel, bias[None]])
    before = inputs @ weights
    logits = np.maximum(before, 0) @ last + offset
    loss_slope = (before > 0) * ((shares(logits) - np.eye(3)[labels]) @ last.T)
    score_slope = (before > 0) * last[:, logits.argmax(axis=1)].T
    parts = np.abs(inputs[:, :, None] * weights)  # row, input, unit
    impact = (parts / parts.sum(axis=1, keepdims=True) * np.abs(score_slope)[:, None]).sum(axis=0)
    found = sums_of(model, ["hidden/*"], rows, labels)
    same(np.concatenate([found["hidden/kernel"][0], found["hidden/bias"][0][None]]), inputs.T @ loss_slope)
    same(np.concatenate([found["hidden/kernel"][1], found["hidden/bias"][1][None]]), impact)
    # The kernel alone: the bias is an input of its units all the same.
    same(sums_of(model, ["hidden"], rows, labels)["hidden/kernel"][1], impact[:-1])


LINEAR: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "strides": (lambda: layers.Conv2D(3, (2, 3), strides=2, padding="same", activation="tanh"), (5, 6, 2), 3 * 3),
    "groups": (lambda: layers.Conv2D(4, 2, groups=2, dilation_rate=2, activation="tanh"), (4, 5, 4), 2 * 3),
    "causal": (lambda: layers.Conv1D(3, 3, padding="causal", use_bias=False, activation="tanh"), (5, 2), 5),
    "volume": (lambda: layers.Conv3D(2, 2, activation="tanh"), (3, 3, 2, 2), 2 * 2),
    "depthwise": (lambda: layers.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh"), (3, 4, 2), 2 * 3),
    "transposed": (lambda: layers.Conv2DTranspose(2, 3, strides=2, activation="tanh"), (2, 3, 2), 5 * 7),
    "projection": (lambda: layers.EinsumDense("abc,cde->abde", (4, 2, 3), "tanh", bias_axes="de"), (4, 3), 4),
    "by place": (lambda: layers.EinsumDense("abc,bcd->abd", (4, 2), "tanh", bias_axes="d"), (4, 3), 1),
    "sequence": (lambda: layers.Dense(3, "tanh"), (4, 2), 4),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_layers_that_are_linear_in_their_weights(kind):
    """One weight at a time: what it adds to the pre-activation is its input times itself, at every place."""
    make, shape, places = LINEAR[kind]
    layer = make()
    start = keras.Input(shape)
    end = layer(start)
    model = spread_weights(keras.Model(start, layers.Dense(3, "softmax")(layers.Flatten()(end))))
    rows, labels = drawn(shape, rows=4)
    last, offset = map(array, model.layers[-1].weights)
    plain = type(layer).from_config({**layer.get_config(), "activation": None, "name": "plain"})
    alone = keras.Sequential([layers.Input(shape), plain])
    outputs = backend.model_pass(alone)
    added = []  # by weight: (rows, outputs)
    for which, values in enumerate(map(array, layer.weights)):
        for place in np.ndindex(values.shape):
            for other, variable in enumerate(plain.weights):
                single = np.zeros(variable.shape)
                if other == which:
                    single[place] = values[place]
                variable.assign(single)
            added.append(array(outputs(rows)).reshape(len(rows), -1))
    added = np.array(added)
    after = np.tanh(added.sum(axis=0))
    logits = after @ last + offset
    loss_slope = (1 - after**2) * ((shares(logits) - np.eye(3)[labels]) @ last.T)
    score_slope = (1 - after**2) * last[:, logits.argmax(axis=1)].T
    weights = np.concatenate([array(weight).ravel() for weight in layer.weights])
    gradient = (added * loss_slope).sum(axis=(1, 2)) / weights
    impact = (np.abs(added) / np.abs(added).sum(axis=0) * np.abs(score_slope)).sum(axis=(1, 2)) / places
    found = sums_of(model, [f"{layer.name}/*"], rows, labels)
    assert len(found) == len(layer.weights)
    same(np.concatenate([loss.ravel() for loss, _ in found.values()]), gradient)
    same(np.concatenate([force.ravel() for _, force in found.values()]), impact)


def test_a_shared_layer_sums_over_its_calls():
    shared = layers.Dense(4, "tanh", use_bias=False, name="shared")
    start = keras.Input((4,))
    model = spread_weights(keras.Model(start, layers.Dense(3, "softmax")(shared(shared(start)))))
    rows, labels = drawn((4,))
    kernel, last, offset = map(array, model.weights)
    first = np.tanh(rows.astype(np.float64) @ kernel)
    second = np.tanh(first @ kernel)
    logits = second @ last + offset
    gradient = impact = 0
    for slope in ((shares(logits) - np.eye(3)[labels]) @ last.T, last[:, logits.argmax(axis=1)].T):
        late = (1 - second**2) * slope
        early = (1 - first**2) * (late @ kernel.T)
        calls = ((rows.astype(np.float64), early), (first, late))
        gradient, before = sum(inputs.T @ call_slope for inputs, call_slope in calls), gradient
        parts = [(np.abs(inputs[:, :, None] * kernel), call_slope) for inputs, call_slope in calls]
        impact = sum(
            (size / size.sum(axis=1, keepdims=True) * np.abs(call_slope)[:, None]).sum(axis=0)
            for size, call_slope in parts
        )
    found = sums_of(model, ["shared"], rows, labels)
    same(found["shared/kernel"][0], before)
    same(found["shared/kernel"][1], impact)


OTHERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "lstm": (lambda: layers.LSTM(2, return_sequences=True), (4, 2)),
    "gru": (lambda: layers.GRU(2), (3, 2)),
    "batch norm": (layers.BatchNormalization, (3, 2, 2)),
    "layer norm": (layers.LayerNormalization, (3, 4)),
    "attention": (lambda: layers.MultiHeadAttention(2, 3), (3, 4)),
    "separable": (lambda: layers.SeparableConv2D(3, 2), (3, 3, 2)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_layers_by_the_gradient_of_every_row(kind):
    make, shape = OTHERS[kind]
    start, layer = keras.Input(shape), make()
    end = layer(start, start) if kind == "attention" else layer(start)
    flat = end if len(end.shape) == 2 else layers.Flatten()(end)
    model = spread_weights(keras.Model(start, layers.Dense(3, "softmax")(flat)))
    rows, labels = drawn(start.shape[1:], rows=3)
    last = array(model.layers[-1].kernel)
    variables = {path: weight for path, weight in weight_variables(model).items() if path.startswith(f"{layer.name}/")}
    learnt = {path: weight for path, weight in variables.items() if "moving" not in path}
    middle = keras.Model(start, flat)

    def scores(row: np.ndarray, values: Sequence[Any]) -> Any:
        with keras.StatelessScope(list(zip(learnt.values(), values, strict=True))):
            return keras.ops.matmul(middle(row[None]), last.astype(np.float32)) + model.layers[-1].bias

    impact = dict.fromkeys(learnt, 0.0)
    gradient = dict.fromkeys(learnt, 0.0)
    old = [keras.ops.convert_to_tensor(weight) for weight in learnt.values()]
    for row, label in zip(rows, labels, strict=True):
        winner = int(array(scores(row, old))[0].argmax())
        rises = backend.gradient(lambda values: scores(row, values)[0, winner], old)  # noqa: B023
        falls = backend.gradient(lambda values: -keras.ops.log_softmax(scores(row, values))[0, label], old)  # noqa: B023
        output = np.abs(last[:, winner]).reshape(-1, end.shape[-1]).mean(axis=0)  # (units,), mean over the places
        for (path, variable), rise, fall in zip(learnt.items(), map(array, rises), map(array, falls), strict=True):
            size = np.abs(array(variable) * rise)
            if size.ndim > 1 and not path.endswith("bias"):
                units = size.shape[-1]
                unit = np.tile(output, units // len(output)) if units % len(output) == 0 else output.mean()
                size = size / size.sum(axis=tuple(range(size.ndim - 1))) * unit
            impact[path] = impact[path] + size
            gradient[path] = gradient[path] + fall
    found = sums_of(model, [f"{layer.name}/*"], rows, labels)
    assert set(found) == set(learnt)
    # Of the bias of attention's keys both are 0.
    largest = [max(np.abs(total).max() for total in sums.values()) for sums in (gradient, impact)]
    for path, (loss, force) in found.items():
        same(loss, gradient[path], largest[0])
        same(force, impact[path], largest[1])


def test_masks_travel_with_their_rows():
    """Tokens behind the end count nothing: their embedding has neither gradient nor impact."""
    start = keras.Input((5,))
    embedded = layers.Embedding(7, 3, mask_zero=True, name="words")(start)
    model = spread_weights(keras.Model(start, layers.Dense(3, "softmax")(layers.LSTM(2, name="read")(embedded))))
    rows = np.array([[1, 2, 0, 0, 0], [3, 1, 4, 0, 0]], np.float32)
    found = sums_of(model, ["all"], rows, np.array([0, 2]))
    gradient, impact = found["words/embeddings"]
    assert (gradient[[0, 5, 6]] == 0).all() and (impact[[0, 5, 6]] == 0).all()
    assert gradient[1:5].all() and impact[1:5].all()
    short = keras.Input((3,))
    cut = keras.Model(short, model.layers[-1](model.get_layer("read")(model.get_layer("words")(short))))
    shorter = sums_of(cut, ["read"], rows[:, :3], np.array([0, 2]))
    for path, pair in shorter.items():
        for sums, whole in zip(pair, found[path], strict=True):
            same(whole, sums)


def mixed() -> Any:
    return spread_weights(
        keras.Sequential(
            [
                *(layers.Input((4, 4, 2)), layers.Conv2D(3, 2, activation="relu"), layers.BatchNormalization()),
                *(layers.Flatten(), layers.Dense(3, "softmax")),
            ]
        )
    )


def test_batches_change_nothing():
    model = mixed()
    rows, labels = drawn((4, 4, 2), rows=11)
    _, whole = passes(model, ["all"], 256)(rows, labels)
    in_fours = passes(model, ["all"], 4)
    _, cut = in_fours(rows, labels)
    for kind in ("gradient", "impact"):
        one, other = getattr(whole, kind), getattr(cut, kind)
        assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()
        # Equal cuts: the same bits, in another process too, and where blocks of rows are added.
        again = getattr(passes(model, ["all"], 4)(rows, labels)[1], kind)
        assert other.tobytes() == again.tobytes()
    parts = [in_fours(rows[part], labels[part])[1] for part in (slice(0, 4), slice(4, 8), slice(8, 11))]
    joined = parts[0] + parts[1] + parts[2]
    assert joined.rows == 11
    assert joined.gradient.tobytes() == cut.gradient.tobytes() and joined.impact.tobytes() == cut.impact.tobytes()


def test_rows_of_a_pass_are_bounded_by_the_values_it_holds(monkeypatch):
    model = mixed()
    target = resolve_target(model, SOFTMAX, CLASSES, Path("m"), ["all"])
    tail = target.tail
    assert ImpactPasses(tail, 256).rows == 64 and ImpactPasses(tail, 7).rows == 7
    values = 4 * 4 * 2 + 27 + 27 + 27 + 3
    monkeypatch.setattr("engine.localize.impact.PASS_BYTES", 5 * 16 * values + 15)
    assert ImpactPasses(tail, 256).rows == 5
    monkeypatch.setattr("engine.localize.impact.PASS_BYTES", 1)
    assert ImpactPasses(tail, 256).rows == 1


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_costs_and_front_of_two_layers_by_hand():
    """Places 0 to 3 are of one layer, 4 to 6 of another; two negatives, four positives."""
    negative = Sums(column(-8, 4, 2, 0.5, 6, 4, 2), column(2, 4, 8, 90, 1, 4, 6), rows=2)
    positive = Sums(column(12, 0, 0, 0, -4, 0, 0), column(0, 0, 12, 0, 0, 0, 4), rows=4)
    # Gradient costs: 4/(1+3), 2, 1, 0.25, 3/(1+1), 2, 1; impact costs: 1, 2, 4/(1+3), 45, 0.5, 2, 3/(1+1).
    found = localize_pooled(negative, positive)
    np.testing.assert_array_equal(found.row, [1, 5, 4, 0, 2, 6, 3])
    np.testing.assert_array_equal(found.gradient_loss, [2, 2, 1.5, 1, 1, 1, 0.25])
    np.testing.assert_array_equal(found.forward_impact, [2, 2, 0.5, 1, 1, 1.5, 45])
    np.testing.assert_array_equal(found.unit, np.zeros(7))
    np.testing.assert_array_equal(found.row[found.front], [1, 3])  # of 1 and 5, equal in both, the first
    np.testing.assert_array_equal(localize_pooled(negative, positive, fronts=2).front, [0, 1, 6])
    np.testing.assert_array_equal(localize_pooled(negative, positive, num_grad=6).front, [0])
    np.testing.assert_array_equal(localize_pooled(negative, positive, num_grad=4).row, [1, 5, 4, 0])
    alone = localize_pooled(negative, None)
    np.testing.assert_array_equal(alone.row, [0, 4, 1, 5, 2, 6, 3])
    np.testing.assert_array_equal(alone.gradient_loss, [4, 3, 2, 2, 1, 1, 0.25])
    np.testing.assert_array_equal(alone.row[alone.front], [0, 1, 2, 3])


def test_the_pool_has_twenty_weights_for_each_negative():
    random = np.random.default_rng(0)
    gradient, impact = random.integers(-9, 10, 300).astype(float), random.random(300)
    for rows in (1, 4, 30):
        found = localize_pooled(Sums(gradient * rows, impact, rows), None)
        order = np.argsort(-np.abs(gradient), kind="stable")[: 20 * rows]
        np.testing.assert_array_equal(found.row, order)
    for wrong in ({"num_grad": 0}, {"fronts": 0}):
        (name,) = wrong
        with pytest.raises(InputError, match=f"{name} is 0, expected at least 1"):
            localize_pooled(Sums(gradient, impact, 2), None, **wrong)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = spread_weights(
        keras.Sequential(
            [
                layers.Input((6, 6, 1)),
                layers.Conv2D(3, 3, strides=2, activation="relu", name="conv"),
                layers.Flatten(name="flat"),
                layers.Dense(5, "relu", name="hidden"),
                layers.Dense(3, "softmax", name="last"),
            ]
        )
    )
    model.compile(loss="categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    random = np.random.default_rng(4)
    images = random.normal(size=(60, 6, 6, 1)).astype(np.float32)
    labels = array(model(images)).argmax(axis=1)
    labels[:12] = (labels[:12] + 1) % 3
    with write_image_set(tmp_path / "repair.h5", rows=60, image_shape=(6, 6, 1), classes=3) as writer:
        writer.append(images, np.eye(3, dtype=np.uint8)[labels])
    monkeypatch.chdir(tmp_path)
    assert run(["target", "--model-dir", "model.keras", "--data-dir", ".", "--num-workers", "0"]) == 0
    return tmp_path


def localize(*words: str) -> int:
    # The root of the negatives holds those of all labels.
    return run(["localize", "--model-dir", "model.keras", "--target-data-dir=negative", "--num-workers=0", *words])


def test_the_command_writes_what_names_the_weights(folder, capsys):
    negative = folder / "negative"
    kept = sorted(file.name for file in negative.iterdir())
    before = keras.saving.load_model("model.keras")
    values = {path: np.asarray(variable) for path, variable in weight_variables(before).items()}

    assert localize("--target-layer", "conv,2", "--target_layer=last", "--fronts=40") == 0
    out = capsys.readouterr().out
    patch = read_patch(negative / "weights.arrow")
    counts = {path: patch.weight.count(path) for path in ("conv/kernel", "hidden/kernel", "last/kernel")}
    named = ", ".join(f"{path} {count}" for path, count in counts.items() if count)
    assert f"localized {len(patch)} of 102 weights of conv, 2, last ({named}) for 12 negative and 48 positive" in out
    assert counts["conv/kernel"] and sum(counts.values()) == len(patch) > 1
    flat = [values[path].ravel()[place] for path, place in zip(patch.weight, patch.flat_index, strict=True)]
    np.testing.assert_array_equal(patch.old, flat)
    np.testing.assert_array_equal(patch.new, flat)
    assert (negative / "pareto_front.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in negative.iterdir()) == sorted([*kept, "weights.arrow", "pareto_front.png"])

    assert localize("--target-layer", "hidden") == 0
    patch = read_patch(negative / "weights.arrow")
    rows = [re.fullmatch(r"2,(\d+),(\d),(\S+)", line) for line in (negative / "weights.csv").read_text().splitlines()]
    assert [int(row[1]) * 5 + int(row[2]) for row in rows if row] == patch.flat_index.tolist()
    assert [np.float32(row[3]) for row in rows if row] == patch.old.tolist()

    assert localize() == 0
    assert "weights of last for 12 negative inputs" in capsys.readouterr().out
    assert not (negative / "weights.arrow").exists()
    assert (negative / "weights.csv").read_text().startswith("3,")

    assert localize("--target-layer", "conv/*") == 0
    assert not (negative / "weights.csv").exists()


def test_the_command_judges_by_positives(folder, capsys):
    """Positives elsewhere give other costs; a set without rows counts as none."""
    assert localize("--target-layer=hidden", "--num-grad=60", "--fronts=60") == 0
    usual = read_patch(folder / "negative/weights.arrow")
    assert localize("--target-layer=hidden", "--num-grad=60", "--fronts=60", "--positive_inputs_dir=negative") == 0
    other = read_patch(folder / "negative/weights.arrow")
    assert set(usual.flat_index) == set(other.flat_index) and usual.flat_index.tolist() != other.flat_index.tolist()
    (folder / "empty").mkdir()
    (folder / "negative").rename(folder / "empty/negative")
    capsys.readouterr()
    words = ["localize", "--model-dir=model.keras", "--target-data-dir=empty/negative", "--num-workers=0"]
    assert run([*words, "--target-layer=hidden"]) == 2
    assert "empty/positive does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--target-layer=flat"], "target layer flat (flat, Flatten) has no weights"),
        (["--target-layer=conv", "--forward-impact=first-row"], "forward_impact is first-row, expected mean for conv"),
        (["--target-layer=conv", "--positive-inputs-dir=nowhere"], "nowhere does not exist"),
        (["--target-layer=conv", "--fronts=0"], "fronts is 0, expected at least 1"),
    ],
)
def test_the_command_refuses(folder, capsys, words, message):
    before = sorted(file.name for file in (folder / "negative").iterdir())
    assert localize(*words) == 2
    assert message in capsys.readouterr().err
    assert sorted(file.name for file in (folder / "negative").iterdir()) == before

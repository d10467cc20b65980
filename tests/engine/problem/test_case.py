"""A case found from layer inputs is, bit for bit, what target, localize and optimize find through files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.compute.compute import Compute, ComputeOptions
from cluster.runs.chunk import Chunk, ChunkPaths, open_chunk, search_rows
from cluster.workers.task import layer_inputs
from engine.core.progress import unseen
from engine.data.image_set import ImageSet, open_image_set
from engine.data.outcomes import open_negatives, write_targets
from engine.data.preprocess import preprocess_images
from engine.data.row_digests import content_fingerprint
from engine.data.writer import write_image_set
from engine.datasets.fashion_mnist import read_split
from engine.fitness.rows import SearchRows, Weights, localised
from engine.localize.fronts import localize
from engine.localize.weights_file import write_weights
from engine.models.load import load_model
from engine.passes.sizes import PASS_ROWS
from engine.problem.case import LayerInputs, RepairCase, find_case
from engine.targets.last_dense import find_target
from engine.targets.model_runner import ModelRunner
from tests.conftest import QUICKSTART

ROWS, MORE = 1300, 200


def write_rows(path: Path, images: np.ndarray, labels: np.ndarray) -> ImageSet:
    with write_image_set(path, rows=len(images), image_shape=images.shape[1:], classes=10) as writer:
        writer.append(images, np.eye(10, dtype=np.uint8)[labels])
    return open_image_set(path)


@dataclass(frozen=True, eq=False)
class Setting:
    """The shipped model, its kernel, and shipped images as an image set and as the layer sees them."""

    model: Any
    target: Any
    runner: ModelRunner
    kernel: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    image_set: ImageSet
    chunk: LayerInputs
    more: LayerInputs


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("rows")
    images, labels = read_split(QUICKSTART, "train")
    pixels = preprocess_images(images[: ROWS + MORE], "pad")
    labels = labels[: ROWS + MORE].astype(np.int64)
    model = load_model(QUICKSTART / "model.keras")
    target = find_target(model.model, model.loss, model.classes, model.path)
    runner = ModelRunner(model.model, target)
    image_set = write_rows(folder / "repair.h5", pixels[:ROWS], labels[:ROWS])
    more = write_rows(folder / "more.h5", pixels[ROWS:], labels[ROWS:])
    return Setting(
        model=model,
        target=target,
        runner=runner,
        kernel=np.array(target.layer.kernel),
        images=pixels[:ROWS],
        labels=labels[:ROWS],
        image_set=image_set,
        chunk=layer_inputs(runner, image_set),
        more=layer_inputs(runner, more),
    )


def through_files(
    folder: Path, rows: ImageSet, kernel: np.ndarray, label: int, **localisation: Any
) -> tuple[Chunk, Weights, SearchRows]:
    """What the commands do for a model with this kernel, from its images to the rows of the search."""
    model = load_model(QUICKSTART / "model.keras")
    target = find_target(model.model, model.loss, model.classes, model.path)
    target.layer.kernel.assign(kernel)
    negatives, positives = folder / "negative" / str(label), folder / "positive"
    with Compute(ComputeOptions(num_workers=0), lambda line: None) as compute:
        handle = compute.handle(model, target)
        write_targets(rows, compute.predict(handle, rows), folder)
        opened = open_negatives(negatives)
        assert opened is not None
        found = localize(compute.localisation_sums(handle, opened), kernel, **localisation)
        index = found.index
        write_weights(negatives / "weights.csv", target.number, index, kernel[index[:, 0], index[:, 1]])
        chunk = open_chunk(ChunkPaths(negatives, positives, folder / "out"), model, target)
        assert chunk is not None
        columns, weights = localised(kernel, chunk.index)
        return chunk, weights, search_rows(chunk, columns, handle, compute, unseen)


def assert_same_arrays(mine: object, theirs: object) -> None:
    for field in fields(mine):  # type: ignore[arg-type]
        first, second = getattr(mine, field.name), getattr(theirs, field.name)
        if first is None or second is None:
            assert first is second, field.name
            continue
        assert (first.shape, first.dtype) == (second.shape, second.dtype), field.name
        assert first.tobytes() == second.tobytes(), field.name


def assert_same_case(case: RepairCase, chunk: Chunk, weights: Weights, rows: SearchRows) -> None:
    assert (case.label, case.data) == (chunk.label, chunk.data)
    assert case.index.dtype == chunk.index.dtype
    np.testing.assert_array_equal(case.index, chunk.index)
    assert_same_arrays(case.weights, weights)
    assert_same_arrays(case.rows, rows)


def moved(kernel: np.ndarray, seed: int) -> np.ndarray:
    return kernel + np.random.default_rng(seed).normal(0, kernel.std(), kernel.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("label", "seed", "localisation"),
    [(6, None, {}), (4, None, {"fronts": 3, "num_grad": 60}), (6, 1, {"fronts": 2}), (0, 4, {"impact": "first-row"})],
)
def test_a_case_is_what_the_commands_find(
    setting: Setting, tmp_path: Path, label: int, seed: int | None, localisation: dict[str, Any]
) -> None:
    kernel = setting.kernel if seed is None else moved(setting.kernel, seed)
    case = find_case(setting.runner, kernel, setting.chunk, label, **localisation)
    assert case is not None
    assert_same_case(case, *through_files(tmp_path, setting.image_set, kernel, label, **localisation))
    assert case.rows.negative.sum() > 10
    assert (~case.rows.negative).sum() > 100
    # The model itself is as it was: the kernel is an argument.
    np.testing.assert_array_equal(np.array(setting.target.layer.kernel), setting.kernel)


def test_a_case_without_positives_and_with_negatives_of_several_blocks(setting: Setting, tmp_path: Path) -> None:
    """All rows are of label 6, which the kernel never gives: sums over more rows are added up block by block."""
    kernel = setting.kernel.copy()
    kernel[:, 6] = -np.abs(kernel[:, 6])
    kernel[:, 0] = np.abs(kernel[:, 0])
    labels = np.full(ROWS, 6)
    rows = write_rows(tmp_path / "repair.h5", setting.images, labels)
    chunk = LayerInputs(setting.chunk.inputs, labels, setting.chunk.digests, setting.chunk.shape, 10)
    case = find_case(setting.runner, kernel, chunk, 6)
    assert case is not None
    assert case.rows.negative.sum() == ROWS > PASS_ROWS
    files = through_files(tmp_path, rows, kernel, 6)
    assert files[0].positives is None
    assert_same_case(case, *files)


def test_a_label_without_failures_has_no_case(setting: Setting) -> None:
    predicted = setting.runner.layer.predicted(setting.runner.layer.logits(setting.chunk.inputs, setting.kernel))
    right = predicted == setting.labels
    chunk = setting.chunk.take(np.flatnonzero(right | (setting.labels != 6)))
    assert (chunk.labels == 6).sum() > 50
    assert find_case(setting.runner, setting.kernel, chunk, 6) is None
    assert find_case(setting.runner, setting.kernel, chunk, 4) is not None
    # Further positives, right or wrong, make none either.
    assert find_case(setting.runner, setting.kernel, chunk, 6, setting.more) is None
    # A label without any row.
    chunk = setting.chunk.take(np.flatnonzero(setting.labels != 6))
    assert find_case(setting.runner, setting.kernel, chunk, 6) is None


def digest_numbers(digests: np.ndarray) -> np.ndarray:
    """The first half of digests (n, 16), which no two rows share, as numbers (n,)."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


@pytest.mark.parametrize("seed", [None, 1])
def test_more_positives_add_what_the_model_gets_right(setting: Setting, seed: int | None) -> None:
    kernel = setting.kernel if seed is None else moved(setting.kernel, seed)
    layer = setting.runner.layer
    plain = find_case(setting.runner, kernel, setting.chunk, 6)
    case = find_case(setting.runner, kernel, setting.chunk, 6, setting.more)
    assert plain is not None and case is not None
    logits = layer.logits(setting.more.inputs, kernel)
    right = np.flatnonzero(layer.predicted(logits) == setting.more.labels)
    assert 0 < len(right) < MORE
    count = len(plain.rows.labels)
    assert len(case.rows.labels) == count + len(right)
    columns = np.unique(case.index[:, 0])
    added = SearchRows(
        setting.more.inputs[right][:, columns], logits[right], setting.more.labels[right], np.zeros(len(right), bool)
    )
    # What must not break stands by digest, wherever it came from.
    own = np.flatnonzero(layer.predicted(layer.logits(setting.chunk.inputs, kernel)) == setting.labels)
    digests = np.concatenate(
        [np.sort(digest_numbers(setting.chunk.digests[own])), digest_numbers(setting.more.digests[right])]
    )
    failures = int(plain.rows.negative.sum())
    order = np.concatenate([np.arange(failures), failures + np.argsort(digests, kind="stable")])
    for name in ("inputs", "logits", "labels", "negative"):
        known = np.concatenate([getattr(plain.rows, name), getattr(added, name)])
        assert getattr(case.rows, name).tobytes() == known[order].tobytes()
    assert case.rows.neither is None and case.rows.group is None
    # The weights to blame follow from the failures; the random numbers also from what must not break.
    np.testing.assert_array_equal(case.index, plain.index)
    assert case.data != plain.data


def test_more_positives_the_model_gets_wrong_change_nothing(setting: Setting) -> None:
    layer = setting.runner.layer
    logits = layer.logits(setting.more.inputs, setting.kernel)
    wrong = setting.more.take(np.flatnonzero(layer.predicted(logits) != setting.more.labels))
    assert len(wrong.labels) > 0
    plain = find_case(setting.runner, setting.kernel, setting.chunk, 6)
    case = find_case(setting.runner, setting.kernel, setting.chunk, 6, wrong)
    assert plain is not None and case is not None
    assert case.data == plain.data
    assert_same_arrays(case.rows, plain.rows)


@pytest.mark.parametrize("impact", ["mean", "first-row"])
def test_the_order_of_rows_decides_nothing(setting: Setting, impact: str) -> None:
    random = np.random.default_rng(2)
    rows = np.concatenate([np.arange(ROWS), np.arange(0, ROWS, 9)])
    plain = find_case(setting.runner, setting.kernel, setting.chunk.take(rows), 6, setting.more, impact=impact)
    other = find_case(
        setting.runner,
        setting.kernel,
        setting.chunk.take(random.permutation(rows)),
        6,
        setting.more.take(random.permutation(MORE)),
        impact=impact,
    )
    assert plain is not None and other is not None
    assert plain.data == other.data
    np.testing.assert_array_equal(plain.index, other.index)
    assert_same_arrays(plain.weights, other.weights)
    assert_same_arrays(plain.rows, other.rows)


def test_the_fingerprint_of_a_case_tells_rows_and_weights_apart(setting: Setting) -> None:
    chunk = setting.chunk

    def data(rows: LayerInputs, kernel: np.ndarray = setting.kernel, label: int = 6, **more: Any) -> str:
        case = find_case(setting.runner, kernel, rows, label, **more)
        assert case is not None
        return case.data

    plain = data(chunk)
    assert data(chunk) == plain
    assert data(chunk.take(np.arange(ROWS))) == plain
    pixel = chunk.digests.copy()
    pixel[0, 0] ^= 1
    others = [
        data(chunk.take(np.arange(ROWS - 100))),
        data(LayerInputs(chunk.inputs, chunk.labels, pixel, chunk.shape, 10)),
        data(chunk, label=4),
        data(chunk, fronts=2),
        data(chunk, moved(setting.kernel, 1)),
    ]
    assert len({plain, *others}) == 6


def test_rows_have_the_fingerprint_of_a_file_with_them(setting: Setting, tmp_path: Path) -> None:
    assert setting.chunk.fingerprint == content_fingerprint(setting.image_set)
    order = np.random.default_rng(0).permutation(ROWS)[:70]
    written = write_rows(tmp_path / "some.h5", setting.images[order], setting.labels[order])
    assert setting.chunk.take(order).fingerprint == content_fingerprint(written)
    parts = [setting.chunk.take(order[:30]), setting.chunk.take(order[30:31]), setting.chunk.take(order[31:])]
    joined = LayerInputs.joined(parts)
    assert joined.fingerprint == content_fingerprint(written)
    assert joined.inputs.tobytes() == setting.chunk.inputs[order].tobytes()
    assert LayerInputs.joined(parts[:1]) is parts[0]


def test_rows_are_the_same_read_from_their_file_or_sent_along(setting: Setting) -> None:
    again = layer_inputs(setting.runner, setting.image_set, setting.images)
    assert again.inputs.tobytes() == setting.chunk.inputs.tobytes()
    assert again.digests.tobytes() == setting.chunk.digests.tobytes()
    assert again.fingerprint == setting.chunk.fingerprint

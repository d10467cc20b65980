"""The engine on Keras' other backend, JAX, beside TensorFlow; both in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import QUICKSTART

ROOT = Path(__file__).parents[3]

SUMS = """
import numpy as np
from pathlib import Path
from engine import backend
from engine.problem.case import LayerInputs, find_case
from engine.datasets.fashion_mnist import read_split
from engine.targets.resolve import resolve_target
from engine.models.load import load_model
from engine.data.preprocess import preprocess_images
from engine.problem.problem import prepare, problem_of
from engine.targets.model_runner import ModelRunner
from engine.search.loop import SearchSettings
from engine.core.rng import RngKey
from engine.search.swarm import SwarmSettings

folder, out, *layers = sys.argv[1:]
loaded = load_model(Path(folder) / "model.keras")
images, labels = read_split(Path(folder), "t10k")
images, labels = preprocess_images(images[:300], "pad"), labels[:300].astype(np.int64)
settings = SearchSettings(SwarmSettings(20))
found = {}
for layer in layers:
    target = resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path, [layer])
    runner = ModelRunner(loaded.model, target)
    inputs, logits = runner.features(images)
    rows = LayerInputs(inputs, labels, np.zeros((300, 16), np.uint8), images.shape[1:], loaded.classes)
    case = find_case(runner, target.kernel, rows, 6)
    key = RngKey(0, "it", 6)
    problem = problem_of(target, target.kernel, case.index, case.weights, name="it", source=key, settings=settings)
    candidates = problem.start().swarm.position.astype(np.float32)
    found[f"{layer} index"] = case.index
    found[f"{layer} sums"] = prepare(problem, case.rows, target.tail).fitness.evaluate(candidates)
print(backend.name)
np.savez(out, **found)
"""


def run(backend: str, *words: object, barred: str = "") -> subprocess.CompletedProcess[str]:
    bar = f"sys.modules[{barred!r}] = None; " if barred else ""
    start = [sys.executable, "-c", f"import sys; {bar}exec(sys.argv.pop(1))", *words]
    environment = os.environ | {"KERAS_BACKEND": backend}
    return subprocess.run(
        [str(word) for word in start], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


COMMAND = "from cli.main import main; main(sys.argv[1:])"


@pytest.mark.slow
def test_both_backends_blame_the_same_weights_and_agree_on_candidates(tmp_path):
    layers, found = ("dense_1", "dense", "conv2d_2"), []
    for name in ("tensorflow", "jax"):
        done = run(name, SUMS, QUICKSTART, tmp_path / f"{name}.npz", *layers)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [name]
        found.append(np.load(tmp_path / f"{name}.npz"))
    first, second = found
    for layer in layers:
        assert len(first[f"{layer} index"]) > 1
        np.testing.assert_array_equal(first[f"{layer} index"], second[f"{layer} index"])
        sums = first[f"{layer} sums"], second[f"{layer} sums"]
        np.testing.assert_array_equal(sums[0][:, 2:], sums[1][:, 2:])
        np.testing.assert_allclose(sums[0][:, :2], sums[1][:, :2], rtol=1e-5)


@pytest.mark.slow
def test_the_suite_passes_on_jax():
    """Some of its tests that compute; all that do can be run like this."""
    chosen = [
        "tests/engine/backend/test_calls.py::test_an_array_that_changes_later_is_not_seen",
        "tests/engine/search/test_swarm.py",
        "tests/engine/search/test_resident.py",
        "tests/engine/targets/test_memory.py",
        "tests/engine/localize/test_last_dense.py::test_gradients_are_those_of_the_models_own_loss[quickstart]",
        "tests/engine/fitness/test_layer_kinds.py::test_equals_the_slow_formula[separable2d]",
        "tests/engine/fitness/test_layer_kinds.py::test_equals_the_slow_formula[batch normalisation]",
        "tests/engine/fitness/test_layer_kinds.py::test_equals_the_slow_formula[dense]",
        "tests/engine/fitness/test_layer_kinds.py::test_equals_the_slow_formula[conv2d, groups]",
        "tests/engine/fitness/test_layer_kinds.py::test_equals_the_slow_formula[depthwise2d]",
        "tests/engine/fitness/test_layer_kinds.py::test_projections_of_attention[query]",
        "tests/engine/fitness/test_model_kinds.py::test_graphs[names9-False]",
        "tests/engine/fitness/test_model_kinds.py::test_subclassed[names1]",
        "tests/engine/tuning/test_train.py::test_a_few_steps_equal_the_formula[two-matrices]",
        "tests/engine/tuning/test_train.py::test_a_few_steps_equal_the_formula[two-tail]",
        "tests/engine/fitness/test_mixture.py::test_equals_the_slow_formula[three, second frozen]",
        "tests/engine/fitness/test_mixture.py::test_equals_the_slow_formula[any, convolution]",
        "tests/engine/problem/test_crossfit.py::test_the_saved_model_is_the_mean_mixture[1.0-two]",
    ]
    code = "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    done = run("jax", code, *chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(("name", "other"), [("tensorflow", "jax"), ("jax", "tensorflow")])
def test_a_backend_does_not_import_the_other(name, other):
    done = run(
        name, f"import engine.models.load, engine.targets.model_runner; print({other!r} in sys.modules); import {other}"
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_another_backend_is_refused(tmp_path):
    done = run("torch", COMMAND, "quickstart", "--output-dir", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: KERAS_BACKEND is 'torch', expected tensorflow or jax"


def test_a_backend_that_is_not_installed(tmp_path):
    done = run("jax", COMMAND, "quickstart", "--output-dir", tmp_path / "out", barred="jax")
    assert done.returncode == 2
    assert "KERAS_BACKEND is 'jax', which is not installed, expected one that is" in done.stderr


def test_what_needs_tensorflow_beside_jax():
    folder = os.environ.get("REPAIR_DIST_LEGACY_MODELS")
    if folder is None:
        pytest.skip("REPAIR_DIST_LEGACY_MODELS names no folder with the large legacy models")
    model = f"{folder}/fashion-cnn-savedmodel"
    code = (
        "from pathlib import Path\nfrom engine.models.load import load_model\n"
        "from engine.core.errors import InputError\n"
        "try:\n    load_model(Path(sys.argv[1]))\nexcept InputError as error:\n    print(error)"
    )
    with_it = run("jax", code, model)
    assert with_it.stdout == "", with_it.stdout
    without = run("jax", code, model, barred="tensorflow")
    assert without.stdout == (
        f"{model}: a SavedModel of Keras 2 needs TensorFlow, which is not installed, expected it beside Keras "
        "(pip install tensorflow)\n"
    )

"""Programs that TensorFlow compiled, kept between processes: the same bits, and never an error."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import backend
from engine.backend import _programs, environment
from engine.core.kept import Kept

ROOT = Path(__file__).parents[3]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    kept = Kept(tmp_path / "programs")
    monkeypatch.setattr(_programs, "_kept", lambda: kept)
    return kept


def compiled(seed: float) -> Any:
    """A program of its own for each seed."""
    return backend.compiled(lambda x, y: (x @ y + seed, None if seed < 0 else x - y))


def test_a_program_is_kept_under_its_content(kept: Kept) -> None:
    square = np.float32([[1, 2], [3, 4]])
    function = compiled(0.125)
    first, second = function(square, square)
    np.testing.assert_array_equal(first, square @ square + 0.125)
    np.testing.assert_array_equal(second, np.zeros((2, 2)))
    assert kept.folder is not None
    assert len(list(kept.folder.iterdir())) == 1
    compiled(0.125)(square, square)  # the same program
    assert len(list(kept.folder.iterdir())) == 1
    compiled(0.25)(square, square)
    wide = np.ones((3, 3), np.float32)
    np.testing.assert_array_equal(function(wide, wide)[0], np.full((3, 3), 3.125))
    assert len(list(kept.folder.iterdir())) == 3


@pytest.mark.parametrize("content", [b"", b"no line", b"some.pb\nno program", b"../some.pb\nno program"])
def test_what_is_no_program_is_dropped(kept: Kept, content: bytes) -> None:
    square = np.float32([[1, 2], [3, 4]])
    function = compiled(1.0 + len(content))
    key = _programs._key(function.program((square, square))._name)
    kept.put(key, content)
    np.testing.assert_array_equal(function(square, square)[0], square @ square + 1 + len(content))
    assert kept.get(key) != content


def test_what_tensorflow_refuses_is_dropped(kept: Kept) -> None:
    square = np.float32([[1, 2], [3, 4]])
    compiled(-1.0)(square, square)
    assert kept.folder is not None
    (path,) = kept.folder.iterdir()
    content = kept.get(path.stem)
    assert content is not None
    function = compiled(-2.0)
    program = function.program((square, square))
    key = _programs._key(program._name)

    def refuse(tensors: Any) -> Any:
        raise _programs.tf.errors.InvalidArgumentError(None, None, "Serialized cache key does not match.")

    kept.put(key, content)
    program._call = refuse
    assert function(square, square)[1] is None
    np.testing.assert_array_equal(function(square, square)[0], square @ square - 2)
    assert kept.get(key) is None


def doubled(least: float) -> Any:
    """A program with loops, one in the other: doubled until the sum is no less, then once more."""
    ops = backend.ops

    def more(x: Any) -> Any:
        return ops.while_loop(lambda y: ops.sum(y) < least, lambda y: (y * 2,), (x,))[0]

    return backend.compiled(lambda x: ops.fori_loop(0, 2, lambda _, y: 2 * more(y), x))


def test_programs_with_loops_are_kept(kept: Kept) -> None:
    """Named by what the loops do, not by how many there were before."""
    ones = np.ones((2, 2), np.float32)
    function, other = doubled(9.0), doubled(33.0)
    np.testing.assert_array_equal(function(ones), ones * 16)
    np.testing.assert_array_equal(other(ones), ones * 64)
    assert kept.folder is not None
    assert len(list(kept.folder.iterdir())) == 2
    again = doubled(9.0)
    assert again.program((ones,))._name == function.program((ones,))._name != other.program((ones,))._name
    np.testing.assert_array_equal(again(ones), ones * 16)
    assert len(list(kept.folder.iterdir())) == 2
    del function, other, again
    gc.collect()  # what a program calls must not go before it
    np.testing.assert_array_equal(doubled(9.0)(ones), ones * 16)


def test_a_program_without_a_name_leaves_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_programs, "from_function_def", None)
    loop, ones = doubled(9.0), np.ones((2, 2), np.float32)
    assert loop.program((ones,))._name == ""
    np.testing.assert_array_equal(loop(ones), ones * 16)
    monkeypatch.undo()
    monkeypatch.setattr(_programs, "_kept", lambda: kept)
    assert not _programs.tf.io.gfile.glob(f"{_programs.PROGRAMS_FOLDER}/*")
    assert not kept.folder.exists()
    # Nor does what somebody else left become another program's.
    with _programs.tf.io.gfile.GFile(f"{_programs.PROGRAMS_FOLDER}/other.pb", "wb") as file:
        file.write(b"other")
    function = compiled(0.5)
    function(ones, ones)
    content = kept.get(_programs._key(function.program((ones, ones))._name))
    assert content is not None
    assert not content.startswith(b"other.pb\n")


def test_the_name_tells_what_comes_out_how() -> None:
    one = np.float32([1])
    names = [
        backend.compiled(function).program((one,))._name
        for function in (lambda x: (x + 1, x), lambda x: [x + 1, x], lambda x: (x + 1, x))
    ]
    assert "" not in names
    assert names[0] == names[2] != names[1]


def test_programs_of_another_processor_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = set()
    for number, flags in enumerate(("fma avx2", "fma avx2 avx512f", "fma avx2")):
        info = tmp_path / str(number)
        info.write_text(f"vendor_id\t: it\ncpu MHz\t: {number}\nmodel\t: 1\nflags\t: {flags}\n\nprocessor\t: 1\n")
        monkeypatch.setattr(environment, "CPU", info)
        known.add(_programs._environment.__wrapped__())
    assert len(known) == 2
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    known.add(_programs._environment.__wrapped__())
    assert len(known) == 3


COUNTED = """
import hashlib, sys
import numpy as np
from engine.core.kept import Kept

put = Kept.put
written = []
Kept.put = lambda self, name, content: (written.append(name), put(self, name, content))
"""

SEARCHED = f"""
{COUNTED}
from engine.fitness.last_dense import TiledFitness
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tiling import Tiling
from engine.layers.head import Head

random = np.random.default_rng(0)
inputs, logits = random.normal(size=(300, 9)).astype("f"), random.normal(size=(300, 10)).astype("f")
rows = SearchRows(inputs, logits, np.arange(300) % 10, np.arange(300) < 30)
for units in (int(word) for word in sys.argv[1:]):
    random = np.random.default_rng(units)
    weights = Weights(np.arange(9), np.sort(np.arange(9) % units), random.normal(size=9).astype("f"))
    fitness = TiledFitness(Head("log_softmax", "linear"), rows, weights, 20, Tiling())
    print(hashlib.sha256(fitness.evaluate(random.normal(size=(50, 9)).astype("f")).tobytes()).hexdigest())
print(len(written))
"""


TUNED = f"""
{COUNTED}
from engine.tuning.recipes import read_recipes
from engine.tuning.train import FoldRows, Tuner, TuningJob
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head

random = np.random.default_rng(0)
inputs, labels = random.normal(size=(300, 7)).astype("f"), np.arange(300) % 3
rows = FoldRows(inputs, labels, np.arange(300) % 2, "rows")
for units in (int(word) for word in sys.argv[1:]):
    random = np.random.default_rng(units)
    shapes = dict(a=(7, units), b=(units,), c=(units, 3), d=(3,))
    values = dict((name, random.normal(size=shape).astype("f")) for name, shape in shapes.items())
    layers = (DenseLayer("a", "b", "relu"), DenseLayer("c", "d", "linear"))
    tuner = Tuner(TuningJob(DenseChain(Head("log_softmax", "linear"), layers, values), rows, (0,), 0))
    changes = tuner.run(0, read_recipes("1,2:1:focal"))
    print(hashlib.sha256(b"".join(value.tobytes() for value in changes.values())).hexdigest())
print(len(written))
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [SEARCHED, TUNED], ids=["search", "tuning"])
@pytest.mark.parametrize("name", backend.BACKENDS)
def test_another_process_takes_them_and_finds_the_same_bits(name: str, script: str, tmp_path: Path) -> None:
    def run(cache: str, *units: int) -> list[str]:
        environment = os.environ | {"REPAIR_DIST_CACHE": cache, "KERAS_BACKEND": name}
        words = [sys.executable, "-c", script, *map(str, units)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    *without, none = run("off", 3, 5)
    *cold, written = run(str(tmp_path), 3, 5)
    *warm, again = run(str(tmp_path), 5, 3)  # found by what they are, not by how many came before
    assert (none, again) == ("0", "0") and int(written) >= 2
    assert without == cold == warm[::-1]
    for path in (tmp_path / "programs").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert run(str(tmp_path), 3, 5) == [*cold, written]


REFUSED = """
import numpy as np
from engine import backend
from engine.backend import _jax

def refuse(*arguments):
    calls.append(arguments)
    raise RuntimeError("no symbol of this name")

x, calls = np.float32([1, 2]), []
function = backend.compiled(lambda x: x * 2)
assert not isinstance(backend.for_shapes(function, (x,)), _jax._Loaded)
kept = backend.for_shapes(function, (x,))
assert isinstance(kept, _jax._Loaded)
assert kept(x).tolist() == kept(x).tolist() == [2, 4]
load, _jax._load = _jax._load, lambda content, lowered: refuse
program = backend.for_shapes(function, (x,))
assert program(x).tolist() == program(x).tolist() == [2, 4]
assert len(calls) == 1
_jax._load = load
again = backend.for_shapes(function, (x,))
assert isinstance(again, _jax._Loaded)  # what was compiled instead is kept
assert again(x).tolist() == [2, 4]
"""


@pytest.mark.slow
def test_what_jax_cannot_call_is_compiled(tmp_path: Path) -> None:
    environment = os.environ | {"REPAIR_DIST_CACHE": str(tmp_path), "KERAS_BACKEND": "jax"}
    words = [sys.executable, "-c", REFUSED]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

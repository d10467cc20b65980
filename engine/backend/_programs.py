"""Programs that TensorFlow compiles with XLA for the CPU: named by their content, and kept between processes.

TensorFlow can keep what it compiles in a folder of its own. That folder is in memory here (`ram://`), and holds no
more than what one program needs while it is first called: what was kept of it before, checked, is put there, and what
TensorFlow leaves is kept. So neither a damaged file nor a full disk can reach TensorFlow.

A program is found by its name, the digest of its graph, and by all else that could change its code. TensorFlow's own
names count the functions of a process; with those no two processes would have a program in common.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

import tensorflow as tf

from engine.backend.environment import PROGRAMS_FOLDER, cores, keeps_programs, processor
from engine.core.kept import Kept, kept_folder

try:
    from tensorflow.python.eager.polymorphic_function.atomic_function import from_function_def
except ImportError:  # it is not public; programs are then compiled by every process
    from_function_def = None

_lock = threading.RLock()
_named: WeakValueDictionary[str, Any] = WeakValueDictionary()


class Compiled:
    """A function of tensors, compiled with XLA: one program per combination of shapes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._programs: dict[Any, Program] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Call it on tensors, nested in tuples, lists and dictionaries; None stands for a tensor that is not there."""
        return self.program(arguments)(*flat(arguments))

    def program(self, example: tuple[Any, ...]) -> Program:
        """The program for tensors shaped like `example`; it takes them as `flat` gives them."""
        leaves = tf.nest.flatten(example)
        tensors = [None if leaf is None else tf.convert_to_tensor(leaf) for leaf in leaves]
        shapes = [None if tensor is None else (tensor.shape.as_list(), tensor.dtype.name) for tensor in tensors]
        key = repr(tf.nest.pack_sequence_as(example, [str(shape) for shape in shapes]))
        if key not in self._programs:
            self._programs[key] = self._trace(example, tensors)
        return self._programs[key]

    def _trace(self, example: Any, tensors: Sequence[Any]) -> Program:
        there = [place for place, tensor in enumerate(tensors) if tensor is not None]

        def program(*given: Any) -> Any:
            leaves: list[Any] = [None] * len(tensors)
            for place, tensor in zip(there, given, strict=True):
                leaves[place] = tensor
            return self._function(*tf.nest.pack_sequence_as(example, leaves))

        specs = [tf.TensorSpec(tensors[place].shape, tensors[place].dtype) for place in there]
        return Program(tf.function(program, jit_compile=True, autograph=False).get_concrete_function(*specs))


class Program:
    def __init__(self, concrete: Any) -> None:
        """Take what was traced; it is compiled when it is first called."""
        inner = getattr(concrete, "inference_fn", None)
        self._traced = concrete
        self._begun = False
        self._name = ""
        self._call: Callable[[Sequence[Any]], Any] = lambda tensors: concrete(*tensors)
        if inner is None or not hasattr(inner, "call_preflattened"):
            return
        captured, inner = concrete.captured_inputs, _renamed(inner)
        if inner is not concrete.inference_fn:
            self._name = inner.name.decode()
        # 0.1 ms of Python instead of 0.4: nothing is looked up, nor compared with what was traced.
        self._call = inner.call_preflattened
        if captured:
            self._call = lambda tensors: inner.call_preflattened([*tensors, *captured])

    def __call__(self, *tensors: Any) -> Any:
        """Call it on tensors; the first call compiles it, or takes what was kept."""
        if self._begun:
            return self._call(tensors)
        try:
            with _lock, _kept_program(self._name):
                result = self._call(tensors)
        except tf.errors.OpError:
            if not self._name:
                raise
            # TensorFlow did not take what was kept, and goes on not to take it under this name.
            self._name, self._call = "", lambda tensors: self._traced(*tensors)
            return self(*tensors)
        self._begun = True
        return result


def flat(arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments of a call as a program takes them."""
    return [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(arguments) if leaf is not None]


_PREFIX = "repair_dist_"


def _renamed(inner: Any) -> Any:
    """A traced function and those that it calls, as loops do, named by content; as it is where one has no such name."""
    if from_function_def is None:
        return inner
    definition = inner.definition
    content = type(definition)()
    content.CopyFrom(definition)
    content.signature.name = ""
    children = [_renamed(child) for child in inner.children]
    names = {old.name.decode(): new.name.decode() for old, new in zip(inner.children, children, strict=True)}
    for called in _called(content):
        if not names.get(called.name, "").startswith(_PREFIX):
            return inner
        called.name = names[called.name]
    _rename_inputs(content)
    types = inner.function_type
    # The structure of what goes in and comes out; not the whole type's text, which has numbers of this process.
    around = [types.output, *map(str, types.parameters.values()), *types.captures.values()]
    digest = hashlib.sha256(content.SerializeToString(deterministic=True) + repr(around).encode())
    name = _PREFIX + digest.hexdigest()[:40]
    found = _named.get(name)
    if found is None:
        content.signature.name = name
        found = _named[name] = from_function_def(content, types)
        found._children = children  # which TensorFlow forgets when nobody holds them
    return found


def _rename_inputs(definition: Any) -> None:
    """Name what a function takes by its place: of a loop TensorFlow makes these names of that of the function."""
    names = {given.name: f"{_PREFIX}{place}" for place, given in enumerate(definition.signature.input_arg)}
    for given in definition.signature.input_arg:
        given.name = names[given.name]
    for node in definition.node_def:
        node.input[:] = [names.get(read, read) for read in node.input]
    for result, read in dict(definition.ret).items():
        definition.ret[result] = names.get(read, read)


def _called(definition: Any) -> Iterator[Any]:
    """The places of a function where others are named."""
    for node in definition.node_def:
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func
            yield from value.list.func


@contextlib.contextmanager
def _kept_program(name: str) -> Iterator[None]:
    """Let TensorFlow find what was kept of the one program that it compiles in the body, or keep it."""
    kept = _kept() if name else None
    _emptied()
    if kept is None:
        try:
            yield
        finally:
            _emptied()
        return
    key = _key(name)
    before = kept.get(key)
    known = ""
    with contextlib.suppress(tf.errors.OpError, OSError):
        tf.io.gfile.makedirs(PROGRAMS_FOLDER)
        if before is not None:
            file, _, content = before.partition(b"\n")
            known = file.decode()
            with tf.io.gfile.GFile(f"{PROGRAMS_FOLDER}/{known}", "wb") as there:
                there.write(content)
    try:
        yield
    except tf.errors.OpError:
        kept.drop(key)
        raise
    finally:
        new = [(path, data) for path, data in _emptied().items() if path != known and path.endswith(".pb")]
        if len(new) == 1:  # of several it is not known which is this one
            kept.put(key, new[0][0].encode() + b"\n" + new[0][1])


def _emptied() -> dict[str, bytes]:
    taken = {}
    with contextlib.suppress(tf.errors.OpError, OSError):
        for file in tf.io.gfile.listdir(PROGRAMS_FOLDER):
            path = f"{PROGRAMS_FOLDER}/{file}"
            with tf.io.gfile.GFile(path, "rb") as there:
                taken[file] = there.read()
            tf.io.gfile.remove(path)
    return taken


def _key(name: str) -> str:
    return hashlib.sha256(f"{name}\n{_environment()}".encode()).hexdigest()[:40]


@functools.cache
def _kept() -> Kept | None:
    """Where programs are kept; None where a GPU computes, or TensorFlow keeps them itself, or no processor is known."""
    usable = keeps_programs() and processor() is not None and not tf.config.list_physical_devices("GPU")
    folder = kept_folder() if usable else None
    return None if folder is None else Kept(folder)


@functools.cache
def _environment() -> str:
    """All but the graph that the code of a program may depend on: other processors could not run it."""
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores()
    versions = (tf.version.VERSION, tf.version.GIT_VERSION, tf.version.COMPILER_VERSION)
    variables = [os.environ.get(name, "") for name in ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS")]
    return repr((versions, processor(), threads, variables))

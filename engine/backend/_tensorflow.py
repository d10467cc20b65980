"""The TensorFlow backend; see `engine.backend`, which imports this module and says what it must offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from engine.backend._programs import Compiled, flat

tf.get_logger().setLevel("ERROR")
# Also fixes the choice among cuDNN's algorithms: the first that works is taken instead of the fastest.
tf.config.experimental.enable_op_determinism()
tf.config.experimental.enable_tensor_float_32_execution(False)

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {}
"""Those that Keras does not compute in the dtype of their argument."""


def limit_threads(threads: int) -> None:
    """Compute with so many threads in this process; call before the first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


compiled = Compiled


def once(values: Any, one: Any) -> Any:
    """The values, computed once also where several sums read them: XLA takes a division by unknown ones for
    expensive.
    """
    return values / one


def apart(values: list[Any]) -> list[Any]:
    """The values, which a compiled function computes by themselves, before what is made of them."""
    return list(xla.optimization_barrier(*values))


def for_shapes(function: Any, example: tuple[Any, ...]) -> Callable[..., Any]:
    """The program of a compiled function or graph for tensors shaped like `example`: 0.1 ms a call instead of 0.4.

    That way is not public; where a release of TensorFlow lacks it the calls compare, and compute the same.
    """
    if isinstance(function, Compiled):
        compiled_program = function.program(example)
        return lambda *arguments: compiled_program(*flat(arguments))
    program = function.get_concrete_function(*tf.nest.map_structure(tf.convert_to_tensor, example))
    run = getattr(getattr(program, "inference_fn", None), "call_preflattened", None)
    if run is None:
        return lambda *arguments: program(*tf.nest.map_structure(tf.convert_to_tensor, arguments))
    captured = program.captured_inputs
    return lambda *arguments: run([*map(tf.convert_to_tensor, tf.nest.flatten(arguments)), *captured])


def graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a forward pass into a graph, without XLA: compiling a whole network costs more than one pass of it."""
    return tf.function(function, autograph=False)  # type: ignore[no-any-return]


def model_pass(model: Any) -> Callable[[Any], Any]:
    """The outputs of a Keras model for rows, in inference mode; weights that are assigned later count at once."""
    return graph(lambda rows: model(rows, training=False))


def on_device(array: npt.NDArray[Any]) -> Any:
    return tf.convert_to_tensor(array)


lent = on_device  # TensorFlow copies also what nobody changes before what reads it has ended


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Gradient of a scalar function at x, a tensor or a list or tuple of tensors."""
    x = tf.nest.map_structure(tf.convert_to_tensor, x)  # of variables the values are meant
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    slopes = tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.nest.map_structure(tf.convert_to_tensor, slopes)  # those of a gather are sparse


def gpu_count() -> int:
    return len(tf.config.list_physical_devices("GPU"))


def hide_gpus() -> None:
    tf.config.set_visible_devices([], "GPU")


def gpu_kind() -> str | None:
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown") if gpus else None


def gpu_memory_free() -> int | None:
    if not tf.config.list_logical_devices("GPU"):
        return None
    from tensorflow.python.client import device_lib  # nothing public tells the limit

    limit = next(device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU")
    return int(limit) - int(tf.config.experimental.get_memory_info("GPU:0")["current"])

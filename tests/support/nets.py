"""Models as a user writes them: subclasses, registered with Keras, in a module of their own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

register = keras.saving.register_keras_serializable("nets")


@register
class Block(layers.Layer):
    """Attention and a network, each with a shortcut; their names are Keras' choice."""

    def __init__(self, width: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width)
        self.network = keras.Sequential([layers.Dense(width, activation="relu"), layers.Dense(width)])

    def build(self, shape: tuple[int, ...]) -> None:
        self.attention.build(shape, shape)
        self.network.build(shape)
        self.gain = self.add_weight(shape=(self.width,), initializer="ones")
        self.built = True

    def call(self, x: Any) -> Any:
        x = x + self.attention(x, x)
        return x + self.gain * self.network(x)

    def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@register
class Subclassed(keras.Model):
    """Layers in attributes, lists, dictionaries and in one another; token numbers (n, T) to shares (n, 3)."""

    def __init__(self, width: int = 4, **settings: Any) -> None:
        super().__init__(**settings)
        self.width = width
        self.embed = layers.Embedding(20, width)
        self.blocks = [Block(width), [Block(width)]]
        self.ways = {"there": layers.LSTM(2), "back": {"again": layers.Bidirectional(layers.GRU(2))}}
        self.norm = layers.LayerNormalization()
        self.lower, self.upper = self.add_weight(shape=(6,), name="bound"), self.add_weight(shape=(6,), name="bound")
        self.shifts = [self.add_weight(shape=(3,)) for _ in range(2)]
        self.out = layers.Dense(3)

    def call(self, tokens: Any) -> Any:
        x = self.blocks[1][0](self.blocks[0](self.embed(tokens)))
        x = ops.concatenate([self.ways["there"](x), self.ways["back"]["again"](x)], axis=-1)
        x = self.out(ops.maximum(ops.minimum(self.norm(x), self.upper), self.lower))
        return ops.softmax(x + self.shifts[0] + self.shifts[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@register
class Words(keras.Model):
    """The mean of the vectors of tokens (n, T), to shares (n, 3)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.embed = layers.Embedding(20, 8)
        self.out = layers.Dense(3, activation="softmax")

    def call(self, tokens: Any) -> Any:
        return self.out(ops.mean(self.embed(tokens), axis=1))


@register
class Drawn(keras.Model):
    """A subclass that states its graph, so that Keras makes it a Functional model; (n, 4) to (n, 3)."""

    def __init__(self, **settings: Any) -> None:
        start = keras.Input((4,))
        x = layers.Dense(4)(layers.Dense(4)(start))
        super().__init__(start, layers.Dense(3, name="out")(x), **settings)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@register
class TwoInputs(keras.Model):
    """Called with two tensors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.out = layers.Dense(3)

    def call(self, pair: Any) -> Any:
        return self.out(ops.concatenate(pair, axis=-1))


@register
class InASet(keras.Model):
    """Keeps a layer where it has no name and no number."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.only = {layers.Dense(3)}

    def call(self, x: Any) -> Any:
        return next(iter(self.only))(x)


@register
class NeedsNumbers(keras.Model):
    """Looks at the values of its rows, which a compiled function does not have."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.out = layers.Dense(3)

    def build(self, shape: tuple[int, ...]) -> None:
        self.out.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.out(np.asarray(x))

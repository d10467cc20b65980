"""Make the small Keras 2 models of tests/data/legacy. Needs TensorFlow 2.15 in an environment of its own.

A newer TensorFlow cannot write such files, so they are made once and committed:

    python -m venv tf215 && tf215/bin/pip install tensorflow-cpu==2.15.1
    tf215/bin/python scripts/make_legacy_models.py tests/data/legacy

Each model is trained for one step, so that the files hold optimizer state, and is stored as a SavedModel and
as HDF5. `<name>.npz` holds the inputs and the outputs that TensorFlow 2.15 gives: `images` (4, h, w, c)
float32 and `outputs` (4, 10) float32.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

layers = tf.keras.layers


def tiny_sequential():
    return tf.keras.Sequential(
        [
            layers.Conv2D(2, 3, strides=4, activation="relu", input_shape=(28, 28, 1)),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(10, activation="softmax"),
        ],
        name="tiny_sequential",
    )


def tiny_functional():
    """Layers whose weights are hard to find: nested model, renamed kernel, weights that are not trained."""
    head = tf.keras.Sequential(
        [layers.Dense(6, activation="relu", input_shape=(4,)), layers.BatchNormalization()], name="head"
    )
    images = layers.Input((32, 32, 3), name="images")
    stem = layers.Conv2D(4, 3, strides=8, padding="same", name="stem")(images)
    depthwise = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(stem)
    x = layers.Add(name="residual")([stem, depthwise])
    x = layers.BatchNormalization(name="norm")(layers.Activation("relu", name="relu")(x))
    x = head(layers.GlobalAveragePooling2D(name="pool")(x))
    return tf.keras.Model(images, layers.Dense(10, name="logits")(x), name="tiny_functional")


def main(folder):
    tf.keras.utils.set_random_seed(2)
    losses = {
        "sequential": "categorical_crossentropy",
        "functional": tf.keras.losses.CategoricalCrossentropy(from_logits=True),
    }
    for name, model in (("sequential", tiny_sequential()), ("functional", tiny_functional())):
        images = np.random.default_rng(7).integers(0, 16, (4, *model.input_shape[1:])).astype(np.float32) / 16
        labels = np.eye(10, dtype=np.float32)[:4]
        model.compile(tf.keras.optimizers.SGD(0.1, momentum=0.9), losses[name], metrics=["accuracy"])
        model.fit(images, labels, epochs=1, verbose=0)
        model.save(folder / f"{name}-savedmodel", save_format="tf")
        model.save(folder / f"{name}.h5", save_format="h5")
        np.savez_compressed(folder / f"{name}.npz", images=images, outputs=model.predict(images, verbose=0))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    main(target)

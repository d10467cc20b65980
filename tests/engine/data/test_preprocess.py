"""Preprocessing equals scikit-image called image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.color import gray2rgb
from skimage.transform import resize

from engine.core.errors import InputError
from engine.data.preprocess import METHODS, preprocess_images
from tests.support.prepare import equalised


def images(*shape: int) -> np.ndarray:
    """Blurry shapes on a black ground, as pictures of clothes are, with some flat images among them."""
    random = np.random.default_rng(sum(shape))
    noise = random.integers(0, 256, shape)
    ramp = np.linspace(0, 1, shape[2]).reshape(1, 1, -1, *[1] * (len(shape) - 3))
    result = np.where(random.random(shape) < 0.4, 0, noise * ramp).astype(np.uint8)
    result[0] = 0
    result[1] = 255
    return result


def toolkit_one(image: np.ndarray) -> np.ndarray:
    rgb = resize(image, (32, 32))
    return equalised(gray2rgb(rgb) if rgb.ndim == 2 else rgb).astype(np.float32)


def resize_one(image: np.ndarray) -> np.ndarray:
    rgb = resize(image, (32, 32))
    return gray2rgb(rgb) if rgb.ndim == 2 else rgb


SHAPES = [(40, 28, 28), (12, 45, 37), (12, 28, 28, 3), (12, 20, 61, 3), (3, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("method", "slow"), [("toolkit", toolkit_one), ("resize", resize_one)])
def test_a_block_equals_one_image_at_a_time(method: str, slow: Any, shape: tuple[int, ...]) -> None:
    block = images(*shape)
    result = preprocess_images(block, method)
    assert (result.dtype, result.shape) == (np.float32, (shape[0], 32, 32, 3))
    np.testing.assert_allclose(result, [slow(image) for image in block], rtol=0, atol=1e-6)


def test_pad_puts_the_pixels_in_the_middle() -> None:
    block = images(5, 28, 28)
    result = preprocess_images(block, "pad")
    assert result.dtype == np.float32
    assert result.shape == (5, 32, 32, 3)
    for channel in range(3):
        assert np.array_equal(result[:, 2:30, 2:30, channel], block / np.float32(255))
    frame = result.copy()
    frame[:, 2:30, 2:30] = 0
    assert not frame.any()
    colour = images(2, 31, 32, 3)
    assert np.array_equal(preprocess_images(colour, "pad")[:, :31], colour / np.float32(255))


@pytest.mark.parametrize("method", METHODS)
def test_no_image_depends_on_its_neighbours(method: str) -> None:
    block = images(9, 28, 28)
    whole = preprocess_images(block, method)
    assert np.array_equal(whole[3:4], preprocess_images(block[3:4], method))
    assert preprocess_images(block[:0], method).shape == (0, 32, 32, 3)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="preprocess method crop, expected one of toolkit, pad, resize"):
        preprocess_images(images(2, 28, 28), "crop")
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess_images(np.zeros((2, 28, 28)), "pad")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 32×32"):
        preprocess_images(images(2, 40, 28), "pad")

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.color import gray2rgb
from skimage.transform import resize

from engine.core.errors import InputError
from engine.data.preprocess import METHODS, equalise_crop_resize, preprocess_each, preprocess_images
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


# Pictures of any sizes


def pictures(count: int) -> list[np.ndarray]:
    """Blurry, flat, saturated and coarse pictures; several have one size."""
    random = np.random.default_rng(count)
    found = []
    for number in range(count):
        height, width = (40, 33) if number % 4 == 0 else random.integers(1, 90, 2)
        blur = random.uniform(0, 3)
        pixels = gaussian_filter(random.uniform(-50, 300, (height, width, 3)), (blur, blur, 0))
        pixels = (pixels - pixels.mean()) * random.uniform(0.2, 4) + pixels.mean()
        if number % 5 == 0:
            pixels = np.round(pixels / 32) * 32  # values on the edges of bins
        found.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return found


def test_toolkit_equals_scikit_image_bit_for_bit() -> None:
    images = [image for image in pictures(60) if len(np.unique(image.max(axis=2))) > 1]
    assert len(images) > 50
    found = preprocess_each(iter(images), "toolkit")
    assert found.dtype == np.float32
    assert np.array_equal(found, [equalised(resize(image, (32, 32))).astype(np.float32) for image in images])


@pytest.mark.parametrize("method", ["toolkit", "resize"])
@pytest.mark.parametrize("size", [(32, 32), (7, 7), (9, 16)])
def test_each_equals_a_block_of_its_own(method: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(30)
    expected = [preprocess_images(image[None], method, size)[0] for image in images]
    assert np.array_equal(preprocess_each(images, method, size), expected)
    monkeypatch.setattr("engine.data.preprocess._BATCH_BYTES", 5000)  # in many batches
    assert np.array_equal(preprocess_each(images, method, size), expected)


def test_padding_and_nothing() -> None:
    images = [image for image in pictures(30) if max(image.shape[:2]) <= 40]
    found = preprocess_each(images, "pad", (40, 40))
    assert np.array_equal(found, [preprocess_images(image[None], "pad", (40, 40))[0] for image in images])
    assert preprocess_each([], "toolkit", (5, 5)).shape == (0, 5, 5, 3)
    with pytest.raises(ValueError, match="at most 8×8"):
        preprocess_each(images, "pad", (8, 8))
    with pytest.raises(InputError, match="expected one of"):
        preprocess_each(images, "crop")


@given(st.tuples(*[st.integers(0, 255)] * 3).filter(any), st.integers(1, 60), st.integers(1, 60))
def test_a_single_colour_stays_one(colour: tuple[int, int, int], height: int, width: int) -> None:
    """Resizing leaves rounding in it, which must not be stretched into a picture."""
    image = np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()
    found = preprocess_each([image], "toolkit")[0]
    assert np.ptp(found.reshape(-1, 3), axis=0).max() < 1e-6
    hue = np.array(colour) / max(colour)
    np.testing.assert_allclose(found[0, 0] / found[0, 0].max(), hue, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 20), (31, 47), (48, 33), (15, 16), (2, 9)])
def test_signs(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(shape)).integers(0, 200, (*shape, 3), np.uint8)
    half, y, x = min(shape) // 2, shape[0] // 2, shape[1] // 2
    square = equalised(image)[y - half : y + half, x - half : x + half]
    assert square.shape[0] == square.shape[1]
    assert np.array_equal(equalise_crop_resize(image), resize(square, (32, 32)).astype(np.float32))
    assert equalise_crop_resize(image[:1]).shape == (32, 32, 3)

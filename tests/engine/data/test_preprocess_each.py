"""Pictures of any sizes come out bit for bit as scikit-image makes them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from engine.core.errors import InputError
from engine.data.preprocess import equalise_crop_resize, preprocess_each, preprocess_images
from tests.support.prepare import equalised


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

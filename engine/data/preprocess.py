"""From 8-bit images to a model's input: float32 (n, 32, 32, 3), or of another size, with values in [0, 1].

`toolkit`  resize, grey to RGB, equalise the V histogram: what eAI-Repair-Toolkit 1.1.0 does.
`resize`   the same without equalising.
`pad`      zeros around the image, in its middle; pixels are kept as they are.

A block of images gives the bits that scikit-image, with its defaults, gives image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError
from engine.core.types import Float32, Float64, Uint8
from engine.data.pictures import read_picture

Size = tuple[int, int]  # height and width
SIDE = 32
SIZE: Size = (SIDE, SIDE)  # of what every method returns


def preprocess_images(images: Uint8, method: str, size: Size = SIZE) -> Float32:
    """From grey (n, h, w) or RGB (n, h, w, 3), uint8, to float32 (n, height, width, 3)."""
    check_method(method)
    if images.dtype != np.uint8 or images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 (n, h, w) or (n, h, w, 3)")
    if len(images) == 0:
        return np.empty((0, *size, 3), np.float32)
    return METHODS[method](images, size)


def preprocess_each(images: Iterable[Uint8], method: str, size: Size = SIZE) -> Float32:
    """RGB images (h, w, 3) of any sizes."""
    check_method(method)
    done = [_of_any_size(batch, method, size) for batch in _batches(images, size)]
    return np.concatenate(done) if done else np.empty((0, *size, 3), np.float32)


def preprocess_files(paths: Iterable[str], method: str, size: Size = SIZE) -> Float32:
    return preprocess_each((read_picture(Path(path)) for path in paths), method, size)


def equalise_crop_resize(image: Uint8) -> Float32:
    """As the toolkit prepares traffic signs: V equalised, then the centred square resized, float32 (32, 32, 3)."""
    from skimage.transform import resize as skimage_resize

    equalised = _equalised_rgb(image[None])[0]
    half = min(image.shape[:2]) // 2
    y, x = image.shape[0] // 2, image.shape[1] // 2
    square = equalised[y - half : y + half, x - half : x + half] if half else equalised[:1, :1]
    resized: Float32 = skimage_resize(square, (SIDE, SIDE)).astype(np.float32)
    return resized


def pad(images: Uint8, size: Size = SIZE) -> Float32:
    height, width = images.shape[1:3]
    if height > size[0] or width > size[1]:
        raise ValueError(f"images are {height}×{width}; padding needs at most {size[0]}×{size[1]}")
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    out = np.zeros((len(images), *size, 3), np.float32)
    grey = images[..., None] if images.ndim == 3 else images
    out[:, top : top + height, left : left + width] = grey / np.float32(255)
    return out


def resize(images: Uint8, size: Size = SIZE) -> Float32:
    return _to_rgb(_resized(images, size)).astype(np.float32)


def toolkit(images: Uint8, size: Size = SIZE) -> Float32:
    resized = _resized(images, size)
    if resized.ndim == 3:  # a grey pixel has V = R = G = B and S = 0, so HSV and back changes nothing
        return _to_rgb(_equalised(resized)).astype(np.float32)
    return _equalised_rgb(resized).astype(np.float32)


METHODS: dict[str, Callable[[Uint8, Size], Float32]] = {"toolkit": toolkit, "pad": pad, "resize": resize}
"""What `--preprocess` may name."""

EQUALISED = ("toolkit", "resize")  # what it may name for coloured data sets of the toolkit's
_UNIT = 1.0 / 255.0  # scikit-image multiplies by it; dividing by 255 gives other last bits

_ROUNDING = 1e-9

_BATCH_BYTES = 4 << 20
"""Of the images that are resized together, as they are or become: scikit-image needs about 30 times as much."""


def check_method(method: str, known: Iterable[str] = METHODS) -> None:
    if method not in known:
        raise InputError(f"preprocess method {method}, expected one of {', '.join(known)}")


def _batches(images: Iterable[Uint8], size: Size) -> Iterable[list[Uint8]]:
    batch: list[Uint8] = []
    held = 0
    for image in images:
        batch.append(image)
        held += max(image.nbytes, 3 * size[0] * size[1])
        if held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _of_any_size(images: list[Uint8], method: str, size: Size) -> Float32:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(number)
    one_size = _resized if method == "toolkit" else METHODS[method]
    out = np.empty((len(images), *size, 3), np.float64)
    for numbers in by_shape.values():
        out[numbers] = one_size(_block(images, numbers), size)
    return (_equalised_rgb(out) if method == "toolkit" else out).astype(np.float32)


def _block(images: list[Uint8], numbers: list[int]) -> Uint8:
    return images[numbers[0]][None] if len(numbers) == 1 else np.stack([images[number] for number in numbers])


def _resized(images: Uint8, size: Size) -> Float64:
    """Float64 in [0, 1]. Images are channels of one big image: the bits are those of image by image, for equalising."""
    from skimage.transform import resize as skimage_resize

    count = len(images)
    stacked = np.moveaxis(images, 0, 2)  # (h, w, n) or (h, w, n, 3)
    flat = stacked.reshape(*stacked.shape[:2], -1)
    resized = skimage_resize(flat, size).reshape(*size, count, *images.shape[3:])
    result = np.moveaxis(resized, 2, 0)
    # scikit-image clips to the range of the image given to it; here that is each single one.
    pixels = tuple(range(1, images.ndim))
    low = images.min(axis=pixels, keepdims=True) * _UNIT
    high = images.max(axis=pixels, keepdims=True) * _UNIT
    clipped: Float64 = np.clip(result, low, high)
    return clipped


def _equalised_rgb(images: npt.NDArray[Any]) -> Float64:
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(images)
    hsv[..., 2] = _equalised(hsv[..., 2])
    rgb: Float64 = hsv2rgb(hsv)
    return rgb


def _equalised(values: Float64) -> Float64:
    """What varies by rounding alone, as one colour that was resized, is constant: NumPy makes no 256 bins of it."""
    from skimage.exposure import equalize_hist

    out = np.empty_like(values)
    for target, image in zip(out, values, strict=True):
        even = np.ptp(image) < _ROUNDING
        target[...] = equalize_hist(np.full_like(image, image.flat[0]) if even else image)
    return out


def _to_rgb(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images

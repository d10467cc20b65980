"""From 8-bit images to a model's input: float32 (n, 32, 32, 3) with values in [0, 1].

`toolkit`  resize to 32×32, grey to RGB, equalise the V histogram: what eAI-Repair-Toolkit 1.1.0 does.
`resize`   the same without equalising.
`pad`      zeros around the image, in its middle; pixels are kept as they are.

Resizing and equalising are scikit-image's, with its defaults, done for a block of images at once and equal to
calling it image by image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 32
"""Height and width of what every method returns."""

Images = npt.NDArray[np.uint8]
FloatImages = npt.NDArray[np.float32]


def preprocess_images(images: Images, method: str) -> FloatImages:
    """Preprocess a block of grey (n, h, w) or RGB (n, h, w, 3) uint8 images into float32 (n, 32, 32, 3).

    Raises ValueError for an unknown method (see `METHODS`), another dtype or shape, and for padding an image
    that is larger than 32×32.
    """
    if method not in METHODS:
        raise ValueError(f"preprocess method {method!r}; expected one of {', '.join(METHODS)}")
    if images.dtype != np.uint8 or images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (n, h, w) or (n, h, w, 3)")
    if len(images) == 0:
        return np.empty((0, SIDE, SIDE, 3), np.float32)
    return METHODS[method](images)


def pad(images: Images) -> FloatImages:
    """Zeros around the image, half of them (rounded down) above and left; divided by 255."""
    height, width = images.shape[1:3]
    if height > SIDE or width > SIDE:
        raise ValueError(f"images are {height}×{width}; padding needs at most {SIDE}×{SIDE}")
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    out = np.zeros((len(images), SIDE, SIDE, 3), np.float32)
    grey = images[..., None] if images.ndim == 3 else images
    out[:, top : top + height, left : left + width] = grey / np.float32(255)
    return out


def resize(images: Images) -> FloatImages:
    """`skimage.transform.resize` to 32×32 with its defaults; grey becomes three equal channels."""
    return _to_rgb(_resized(images)).astype(np.float32)


def toolkit(images: Images) -> FloatImages:
    """`resize`, then the V channel of HSV replaced by its 256-bin `skimage.exposure.equalize_hist`."""
    from skimage.color import hsv2rgb, rgb2hsv

    resized = _resized(images)
    if resized.ndim == 3:  # a grey pixel has V = R = G = B and S = 0, so HSV and back changes nothing
        return _to_rgb(_equalised(resized)).astype(np.float32)
    hsv = rgb2hsv(resized)
    hsv[..., 2] = _equalised(hsv[..., 2])
    rgb: FloatImages = hsv2rgb(hsv).astype(np.float32)
    return rgb


METHODS: dict[str, Callable[[Images], FloatImages]] = {"toolkit": toolkit, "pad": pad, "resize": resize}
"""What `--preprocess` may name."""


def _resized(images: Images) -> npt.NDArray[np.float64]:
    """Shape (n, 32, 32) or (n, 32, 32, 3), float64 in [0, 1].

    The images become channels of one big image, which scikit-image resizes along its first two axes. That is
    bit for bit the result of image by image, as equalising needs: pixel values fall on the edges of bins.
    """
    from skimage.transform import resize as skimage_resize

    count = len(images)
    stacked = np.moveaxis(images, 0, 2)  # (h, w, n) or (h, w, n, 3)
    flat = stacked.reshape(*stacked.shape[:2], -1)
    resized = skimage_resize(flat, (SIDE, SIDE)).reshape(SIDE, SIDE, count, *images.shape[3:])
    result = np.moveaxis(resized, 2, 0)
    # scikit-image clips to the range of the image given to it; here that is each single one.
    pixels = tuple(range(1, images.ndim))
    low = images.min(axis=pixels, keepdims=True) / 255.0
    high = images.max(axis=pixels, keepdims=True) / 255.0
    clipped: npt.NDArray[np.float64] = np.clip(result, low, high)
    return clipped


def _equalised(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Histogram-equalise each image of (n, 32, 32)."""
    from skimage.exposure import equalize_hist

    out = np.empty_like(values)
    for target, image in zip(out, values, strict=True):
        target[...] = equalize_hist(image)
    return out


def _to_rgb(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images

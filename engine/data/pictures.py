"""Pictures as uint8 (height, width, 3), RGB.

Only the formats named here are tried, as Pillow hands some others to programs of their own.
JPEG files equal those of OpenCV's `imwrite` byte for byte (checked with OpenCV 5.0 and Pillow 13.0).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.core.errors import InputError, reason
from engine.core.types import Float64, Int64, Uint8

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")  # endings of the files that are taken for pictures
JPEG_QUALITY = 95

_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
_WRITTEN = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".ppm": "PPM"}
_PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def read_picture(path: Path, *, at_most: int | None = None) -> Uint8:
    """Turned upright. With `at_most`, squares of whole pixels are averaged first; the shorter side stays at least that.

    Filters of scikit-image cost the square of the reduction.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}), expected a picture") from error
    return decode_picture(content, str(path), at_most=at_most)


def decode_picture(content: bytes, name: str, *, at_most: int | None = None) -> Uint8:
    try:
        return _decode(content, at_most)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no picture, expected a {', '.join(_FORMATS)} file") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        raise InputError(f"{name} cannot be decoded ({reason(error)}), expected an undamaged picture") from error


def encode_picture(pixels: Uint8, suffix: str) -> bytes:
    if not can_write(suffix):
        raise ValueError(f"suffix {suffix!r}, expected one of {', '.join(_WRITTEN)}")
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, _WRITTEN[suffix.lower()], quality=JPEG_QUALITY)
    return content.getvalue()


def can_write(suffix: str) -> bool:
    return suffix.lower() in _WRITTEN


def resize_bilinear(pixels: Uint8, side: int) -> Uint8:
    """OpenCV's `resize` with its defaults, which rounds its weights to 11 bits: some values differ from it by 1."""
    height, width = pixels.shape[:2]
    low, high, share = _neighbours(height, side)
    wide = pixels.astype(np.float64)
    rows = wide[low] * (1 - share)[:, None, None] + wide[high] * share[:, None, None]
    low, high, share = _neighbours(width, side)
    result = rows[:, low] * (1 - share)[:, None] + rows[:, high] * share[:, None]
    rounded: Uint8 = np.floor(result + 0.5).astype(np.uint8)
    return rounded


def _neighbours(length: int, side: int) -> tuple[Int64, Int64, Float64]:
    centre = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
    low = centre.astype(np.int64)
    return low, np.minimum(low + 1, length - 1), centre - low


def _decode(content: bytes, at_most: int | None) -> Uint8:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.mode not in _PLAIN_MODES:
            raise ValueError(f"its pixels are of kind {image.mode}, not of 8 bits per channel")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        if at_most is not None and (factor := min(rgb.size) // at_most) > 1:
            rgb = rgb.reduce(factor)
        return np.asarray(rgb)

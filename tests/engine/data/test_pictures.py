from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.core.errors import InputError
from engine.data.pictures import decode_picture, encode_picture, read_picture, resize_bilinear
from tests.support.prepare import one_sentence

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def content(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".PNG"])
def test_pixels_survive_a_file(suffix: str) -> None:
    assert np.array_equal(decode_picture(encode_picture(PIXELS, suffix), "x"), PIXELS)


def test_jpeg_is_of_quality_95() -> None:
    smooth = np.linspace(0, 255, 3 * 64 * 64).reshape(64, 64, 3).astype(np.uint8)
    image = Image.open(io.BytesIO(encode_picture(smooth, ".jpg")))
    # The first step of the luminance table of the JPEG standard, 16, scaled by (200 − 2·95)/100.
    assert image.quantization[0][0] == math.floor((16 * 10 + 50) / 100)
    assert np.abs(decode_picture(encode_picture(smooth, ".jpg"), "x").astype(int) - smooth).mean() < 3


def test_other_kinds_become_rgb() -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    expected = np.repeat(PIXELS[..., :1], 3, axis=2)
    for mode in ("L", "P", "RGBA", "LA"):
        assert np.array_equal(decode_picture(content(grey.convert(mode), "PNG"), "x"), expected), mode
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(InputError, match="not of 8 bits per channel"):
        decode_picture(content(deep, "PNG"), "x")


def test_pictures_come_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6  # held a quarter turn to the left
    turned = decode_picture(content(Image.fromarray(PIXELS), "PNG", exif=exif), "x")
    assert np.array_equal(turned, np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-200],
        lambda whole: whole[:20],
        lambda whole: b"",
        lambda whole: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        lambda whole: content(Image.fromarray(PIXELS), "GIF"),
        lambda whole: whole[:30] + b"\xff" * 100 + whole[130:],
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files(tmp_path: Path, kind: str, damage: object) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(damage(content(Image.fromarray(PIXELS), kind)))  # type: ignore[operator]
    with one_sentence(path):
        read_picture(path)


def test_missing_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "x.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(tmp_path)


def test_large_pictures_are_averaged_first() -> None:
    large = np.random.default_rng(1).integers(0, 256, (64, 128, 3), np.uint8)
    found = decode_picture(encode_picture(large, ".png"), "x", at_most=16)
    squares = large.reshape(16, 4, 32, 4, 3).mean(axis=(1, 3))
    assert found.shape == (16, 32, 3)
    assert np.abs(found - squares).max() <= 0.5 + 1e-9
    kept = decode_picture(encode_picture(large, ".png"), "x", at_most=33)
    assert np.array_equal(kept, large)


def test_bilinear_by_hand() -> None:
    row = np.array([[[0] * 3, [100] * 3, [200] * 3, [80] * 3]], np.uint8).repeat(2, axis=0)
    assert resize_bilinear(row, 2)[0, :, 0].tolist() == [50, 140]  # between the middle two of each pair
    assert resize_bilinear(row[:, :2] * 2, 4)[0, :, 0].tolist() == [0, 50, 150, 200]
    steps = np.array([[[0] * 3, [255] * 3]], np.uint8)
    assert resize_bilinear(steps, 4)[0, :, 0].tolist() == [0, 64, 191, 255]  # 63.75 and 191.25
    assert resize_bilinear(row, 8)[0, :, 0].tolist() == [0, 25, 75, 125, 175, 170, 110, 80]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 255))
def test_bilinear_keeps_what_is_even(height: int, width: int, side: int, value: int) -> None:
    flat = np.full((height, width, 3), value, np.uint8)
    assert np.array_equal(resize_bilinear(flat, side), np.full((side, side, 3), value, np.uint8))
    square = PIXELS[:12, :12]
    assert np.array_equal(resize_bilinear(square, 12), square)


def test_unknown_suffixes_are_not_written() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        encode_picture(PIXELS, ".gif")

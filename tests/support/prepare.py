"""What tests of data sets share: pictures made step by step with scikit-image, workers, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.exposure import equalize_hist
from skimage.transform import resize

from engine.core.errors import InputError


def equalised(image: np.ndarray) -> np.ndarray:
    """The V channel of an RGB image equalised, as eAI-Repair-Toolkit does it; a single colour is left alone."""
    hsv = rgb2hsv(image)
    if np.ptp(hsv[..., 2]) < 1e-9:
        hsv[..., 2] = hsv[0, 0, 2]
    hsv[..., 2] = equalize_hist(hsv[..., 2])
    return hsv2rgb(hsv)


def by_toolkit(path: Path, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return equalised(resize(np.asarray(Image.open(path)), size)).astype(np.float32)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def backwards(function: Callable[[Any], Any], pieces: Iterable[Any], count: int) -> Iterator[tuple[Any, Any]]:
    """Results in another order than that of the pieces, as workers give them."""
    for piece in reversed(list(pieces)):
        yield piece, function(piece)


class StoppedError(Exception):
    """Stands for Ctrl-C."""


class Stopping:
    """A spread that stops after some pieces; `pieces` are those it did."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.pieces = after, list[Any]()

    def __call__(self, function: Callable[[Any], Any], pieces: Iterable[Any], count: int) -> Iterator[tuple[Any, Any]]:
        for number, piece in enumerate(pieces):
            if number == self.after:
                raise StoppedError
            self.pieces.append(piece)
            yield piece, function(piece)


def refusing(root: Path, call: Callable[..., object], *given: Any, **settings: Any) -> Callable[..., None]:
    """A function that makes a call, with other settings where it is given some, that must be refused in one sentence.

    Nothing below `root` may come or go.
    """

    def refused(says: str, **changes: Any) -> None:
        before = sorted(root.rglob("*"))
        with pytest.raises(InputError, match=says) as caught:
            call(*given, **(settings | changes))
        assert "expected" in str(caught.value) and "\n" not in str(caught.value)
        assert sorted(root.rglob("*")) == before

    return refused


@contextmanager
def one_sentence(*says: object) -> Iterator[None]:
    """An InputError is raised whose only line has all of `says`, and what was expected."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    for part in (*says, "expected"):
        assert str(part) in message
    assert "\n" not in message

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.files import remove
from engine.core.types import Float32
from engine.data.preprocess import EQUALISED, check_method, preprocess_images
from engine.datasets.division import DEFAULT_RATIO, NAMES, Division, Ratio
from engine.datasets.splits import Layout, Split, Writing, is_ours, write_splits

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Official:
    label_names: tuple[str, ...]
    # training rows of what `--input-dir` names, and test rows if they are asked for
    read: Callable[[Path, bool], tuple[Split, Split | None]]
    methods: Iterable[str] = EQUALISED  # of preprocessing that it can have
    preprocess: str = "toolkit"  # the one that it has unless another is asked for
    make: Callable[..., Float32] = preprocess_images  # images of sources and the keyword `method`
    random_state: int | None = None  # unless another is asked for
    alone: bool = False  # a split that an earlier command wrote, and this one does not, is removed


def prepare_official(
    data: Official,
    input_dir: Path,
    output_dir: Path,
    *,
    data_ratio: Ratio = DEFAULT_RATIO,
    divide_rate: float | None = None,
    random_state: int | None = None,
    like_toolkit: bool = False,
    preprocess: str | None = None,
    **how: Unpack[Writing],
) -> dict[str, int]:
    """Train, val and repair come from the training images; test is all test images in order. Returns their rows."""
    method = data.preprocess if preprocess is None else preprocess
    check_method(method, data.methods)
    seed = data.random_state if random_state is None else random_state
    division = Division(data_ratio, divide_rate, seed, like_toolkit)
    splits = division.splits(*data.read(input_dir, division.with_test))
    make = functools.partial(data.make, method=method)
    written = write_splits(output_dir, splits, Layout(data.label_names, method), make, **how)
    for split in set(NAMES) - set(written) if data.alone else ():
        if is_ours(path := output_dir / f"{split}.h5"):
            remove(path)
    return written

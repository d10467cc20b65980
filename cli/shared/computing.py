from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.shared.console import Console, echo

if TYPE_CHECKING:
    from cluster.compute.compute import Compute, ComputeOptions
    from engine.data.image_set import ImageSet
    from engine.models.load import LoadedModel


@contextlib.contextmanager
def computing(
    settings: ComputeOptions,
    verbose: int,
    *,
    model: LoadedModel | None = None,
    explain: bool = False,
    one_thread: bool = False,
    placed: bool = True,
) -> Iterator[tuple[Console, Compute]]:
    """The console of a command and its computing; `placed`: say what runs where, by `explain` as a result."""
    from cluster.compute.compute import Compute

    if one_thread:
        settings = replace(settings, threads=1)
    with Console(verbose) as console:
        say = echo if explain else console.say if placed else lambda line: None
        with Compute(settings, say, warn=console.warn) as compute:
            if model is not None and not model.loss.stated:
                console.say(f"{model.path} stores no loss: {model.loss.name} is assumed")
            yield console, compute
            if compute.redispatched:
                console.say(f"{compute.redispatched} calls ran again because a worker died")


def load_fitting(paths: Sequence[Path], images: Sequence[ImageSet], *, allow_custom_code: bool) -> list[LoadedModel]:
    from engine.models.load import check_fits, load_model

    models = [load_model(path, allow_custom_code=allow_custom_code) for path in paths]
    for model in models:
        for image_set in images:
            check_fits(image_set, model)
    return models


def use_one_thread() -> None:
    """Compute with one thread in this process, as workers do: sums of several differ in their last bits.

    To be called before a model is loaded.
    """
    from engine import backend

    with contextlib.suppress(RuntimeError):
        backend.limit_threads(1)

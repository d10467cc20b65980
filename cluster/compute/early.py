"""Ray started while the modules that compute are imported: each waits for something else."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator

from cluster.compute.options import ComputeOptions
from cluster.ray_cluster.local_workers import MODELS, check_local


@contextlib.contextmanager
def started_early(options: ComputeOptions) -> Iterator[None]:
    """Have Ray run in the body where workers were asked for on this machine; `Compute` finds it and uses it.

    Ray starts in this thread, which Ctrl-C reaches, and a thread of its own imports; call it before TensorFlow is
    imported, for work that is sure to go to the workers. Standard error is silent while that thread imports
    (`engine.backend`), so it has ended before an error of Ray's start is raised from here.
    """
    if not options.num_workers or options.address is not None:
        yield
        return
    check_local(options.num_workers, MODELS, lambda line: None)  # `Compute` says what there is to say

    # Not beside the other imports: where two threads wait for each other's modules Python hands out unfinished ones.
    import ray  # noqa: F401

    from cluster.ray_cluster.connect import connected

    imports = threading.Thread(target=_import, name="imports")
    imports.start()
    try:
        with connected(None, options.num_workers, options.gpus_per_worker):
            imports.join()
            yield
    finally:
        imports.join()


def _import() -> None:
    with contextlib.suppress(Exception):  # whoever imports it next is told
        importlib.import_module("cluster.compute.compute")
        importlib.import_module("cluster.workers.pool")
        importlib.import_module("cluster.workers.replica")

"""Why workers were lost, in a few words: Ray's own run to thousands of characters."""

from __future__ import annotations

import re

from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

_LONGEST = 200


def why_lost(error: Exception) -> str:
    """What took a worker down and what may help, the end of a sentence."""
    said = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "running low on memory" in said:
        used = re.search(r"(\S+) used / (\S+) limit", said)
        where = f" ({used[1]} of {used[2]} used)" if used else ""
        return (
            f"Ray killed workers as memory ran low on their machine{where}, expected fewer --num-workers, smaller "
            "--tile-bytes or more memory"
        )
    if getattr(error, "actor_init_failed", False):
        return _short(str(error).strip().splitlines()[-1])
    if "node has died" in said or "node died" in said:
        return "the machine of the worker was lost"
    if isinstance(error, RayActorError | WorkerCrashedError) and not said.startswith("The actor is not schedulable"):
        return (
            "the process of the worker crashed or was killed, as Linux does when memory runs out, expected fewer "
            "--num-workers or smaller --tile-bytes where it does"
        )
    return _short(said)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

"""How pieces of an iteration may be cut."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.stated import stated


@dataclass(frozen=True)
class Tiling:
    """Tile shapes; None lets them follow from the job. `bytes` bounds the values that a tile holds at once."""

    particles: int | None = stated(
        None,
        "Particles of a piece [default: by the job, at most 128].",
        name="tile_particles",
        section="Where it runs",
    )
    rows: int | None = stated(
        None,
        "Rows of a piece [default: by the job]; another size may change last digits.",
        name="tile_rows",
        section="Where it runs",
    )
    bytes: int | None = stated(
        None,
        "Values that a piece holds at once, in bytes: its particles and rows follow from it and the job [default: 64 "
        "MiB, behind deeper layers 256 MiB, CrossFit 6 MiB].",
        name="tile_bytes",
        section="Where it runs",
    )

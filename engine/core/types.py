"""Arrays by the type of their numbers; shapes stand in the docstrings of what takes or returns them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]

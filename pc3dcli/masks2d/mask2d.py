# SPDX-License-Identifier: Apache-2.0
"""One 2D mask of one frame, as every mask source of this package returns it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Mask2d:
    """A class-agnostic region of one image.

    mask   (H, W) bool, the frame's working grid, at least one pixel set
    score  quality in [0, 1]; sources say how they form it
    """

    mask: np.ndarray
    score: float

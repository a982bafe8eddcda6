# SPDX-License-Identifier: Apache-2.0
"""Is the unit of a scan's depth images plausible?

No file of most layouts says the unit, and a wrong one gives an empty scene without any error, so the first frames are
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.datasets.scene import Frame, RgbdFrame

SAMPLED_FRAMES = 3
NEAR = 0.05  # metres; no depth camera measures less than this at the median; ours
USUAL = 2.0  # metres, a median depth of rooms and tables; ours


@dataclass(frozen=True)
class DepthSample:
    """The depth of a scan's first frames.

    unit          metres per stored unit
    median        metres, of what is measured
    max_depth     metres; share_beyond of the measurements, in [0, 1], lies beyond it
    """

    unit: float
    median: float
    max_depth: float
    share_beyond: float

    def doubt(self) -> str | None:
        """Say why the unit may be wrong and which power of ten of it may be right, None when it looks right."""
        if self.share_beyond <= 0.5 and self.median >= NEAR:
            return None
        found = f"its median depth is {self.median:.2g} m"
        if self.share_beyond > 0.5:
            beyond = f"{100 * self.share_beyond:.0f} % of its depth lies beyond {self.max_depth:g} m"
            found = f"{beyond} (median {self.median:.2g} m)"
        exponent = round(math.log10(USUAL / self.median))
        if exponent == 0:
            return f"{found}: see --max-depth"
        return f"{found}: is the unit right? --depth-scale {self.unit * 10.0**exponent:.6g}"


def sample_depth(root: Path, frames: Sequence[Frame], max_depth: float) -> DepthSample | None:
    """Measure the depth of the first frames, of a scene with the folder `root`; None where nothing is measured.

    max_depth  metres
    raises     FormatError, InputError for a depth image that cannot be read
    """
    parts = [np.zeros(0, np.float32)]
    for frame in frames[:SAMPLED_FRAMES]:
        depth = RgbdFrame(root, frame, max_depth=65535 * frame.depth_scale).depth
        if depth is not None:
            parts.append(depth[depth > 0])
    metres = np.concatenate(parts)
    if not len(metres):
        return None
    return DepthSample(frames[0].depth_scale, float(np.median(metres)), max_depth, float((metres > max_depth).mean()))

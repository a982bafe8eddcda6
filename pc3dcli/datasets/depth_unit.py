# SPDX-License-Identifier: Apache-2.0
"""Is the unit of a scan's depth images plausible?

No file of most layouts says the unit, and a wrong one gives an empty or absurd scene without any error.  Two things
tell it: how far away what the first frames see would be, and whether frames agree about it, since poses are in metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.datasets.scene import Frame, RgbdFrame

SAMPLED_FRAMES = 3
PARTNERS = (1, 2, 4, 8, 16, 32, 64)  # frames after the first that it is compared with, as long as nothing is found
UNITS = (1.0, 0.01, 0.001, 0.00025, 0.0002, 1 / 6553.5, 0.0001)  # metres, of depth images in use
SAME = 0.03  # of the distance, by which two views of a surface may differ; ours
RARE, USUALLY = 0.3, 0.6  # agreeing share of pixels: at most with a wrong unit, at least with the right one; ours
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
        depth = _far_view(root, frame).depth
        if depth is not None:
            parts.append(depth[depth > 0])
    metres = np.concatenate(parts)
    if not len(metres):
        return None
    return DepthSample(frames[0].depth_scale, float(np.median(metres)), max_depth, float((metres > max_depth).mean()))


def fitting_unit(root: Path, frames: Sequence[Frame]) -> float | None:
    """Return the unit, metres, with which two frames agree where they do not with their own; None when none is found.

    raises  FormatError, InputError for a depth image that cannot be read
    """
    views = (_far_view(root, frames[index]) for index in (0, *PARTNERS) if index < len(frames))
    first = next(views)
    for second in views if first.depth is not None else ():
        if second.depth is None or _agreement(first, second, 1.0) > RARE:
            continue
        rates = {unit: _agreement(first, second, unit / first.frame.depth_scale) for unit in UNITS}
        best = max(rates, key=rates.get)
        if rates[best] > USUALLY:
            return best
    return None


def _far_view(root: Path, frame: Frame) -> RgbdFrame:
    return RgbdFrame(root, frame, max_depth=65535 * frame.depth_scale)  # no measurement is too far


def _agreement(first: RgbdFrame, second: RgbdFrame, factor: float) -> float:
    """Return the share of the first frame's pixels in view of the second whose depth that confirms, times `factor`.

    returns  0 when fewer than 5 % of them are in view
    """
    v, u = (8 * index for index in np.nonzero(first.depth[::8, ::8]))
    z = first.depth[v, u] * factor
    rays = np.linalg.inv(first.K) @ np.stack([u, v, np.ones_like(u)])
    second_from_first = np.linalg.inv(second.world_from_cam) @ first.world_from_cam
    points = second_from_first[:3, :3] @ (rays * z) + second_from_first[:3, 3:]
    points = points[:, points[2] > 1e-9]
    x, y = np.round((second.K @ points)[:2] / points[2])
    is_inside = (x >= 0) & (x < second.size[1]) & (y >= 0) & (y < second.size[0])
    expected = points[2, is_inside]
    found = second.depth[y[is_inside].astype(int), x[is_inside].astype(int)] * factor
    is_seen = found > 0
    if is_seen.sum() <= 0.05 * len(z):
        return 0.0
    return float((np.abs(found - expected) < SAME * expected)[is_seen].mean())

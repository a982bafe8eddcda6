# SPDX-License-Identifier: Apache-2.0
"""What single views say about objects: which voxels of the scene each frame sees and which masks hold them.

The incidence of voxels and masks over all views is the mask graph of MaskClustering (Yan, Zhang, Zhu, Wang:
"MaskClustering: View Consensus based Mask Graph Clustering", CVPR 2024) before any clustering; consensus.py reads it.
*Departure*, ours: voxels instead of points, and at most `max_views` views, so that memory does not depend on the
number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.geometry.voxels import voxel_groups, voxel_reach

POINTS_PER_UNIT = 12  # ours: a 2 cm cloud has 6 in 5 cm
MIN_UNIT = 0.005  # metres, ours: twins at one place must not halve for ever


@dataclass(frozen=True, eq=False)
class View:
    """One frame on voxels ("units").

    unit     (n,) int32, ascending, units that the frame sees
    masks    per mask the ascending positions in `unit` of its members: more than half of a unit's points are inside
    """

    unit: np.ndarray
    masks: list[np.ndarray]


class ViewEvidence:
    """Masks of single frames, which may overlap, on a voxel grid over the scene."""

    def __init__(self, points: np.ndarray, voxel: float = 0.05, max_views: int = 192):
        """Prepare to collect.

        points     (N, 3) float, metres
        voxel      metres, largest edge of a unit; halved while units hold more than `POINTS_PER_UNIT` points on
                   average, because small objects are scanned densely
        max_views  views kept; every second one is dropped beyond
        """
        self.keys, unit, _ = voxel_groups(points, voxel)
        farthest = np.abs(points).max(initial=0)
        while len(points) > POINTS_PER_UNIT * len(self.keys) and voxel > MIN_UNIT and farthest < voxel_reach(voxel / 2):
            voxel /= 2
            self.keys, unit, _ = voxel_groups(points, voxel)
        self.unit = unit.astype(np.int32)  # (N,) unit of each point
        self.views: list[View] = []
        self._max_views, self._stride, self._num_offered = max_views, 1, 0

    def add_view(self, point: np.ndarray, pixel: np.ndarray, masks: list[np.ndarray]) -> None:
        """Add the masks of one frame.

        point, pixel  (M,) int, visible points and the flat pixels that see them
        masks         (H, W) bool each, may overlap
        """
        self._num_offered += 1
        if (self._num_offered - 1) % self._stride:
            return
        seen = np.bincount(self.unit[point], minlength=len(self.keys))
        unit = np.flatnonzero(seen).astype(np.int32)
        row = self.unit[point]
        down = _column_major(pixel, masks[0].shape) if masks else pixel
        members = []
        for mask in masks:
            inside = np.bincount(row[mask.T.reshape(-1)[down]], minlength=len(self.keys))[unit]
            members.append(np.flatnonzero(2 * inside > seen[unit]).astype(np.int32))
        self.views.append(View(unit, [m for m in members if len(m)]))
        if len(self.views) > self._max_views:
            self.views, self._stride = self.views[::2], 2 * self._stride


def _column_major(pixel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turn flat pixels v W + u into u H + v, the order in which run lengths are decoded: no mask is transposed."""
    v, u = np.divmod(pixel, np.int32(size[1]))
    return u * np.int32(size[0]) + v

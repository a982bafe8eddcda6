# SPDX-License-Identifier: Apache-2.0
"""Where in space each track has been seen: a set of voxels a track, grown from depth, poses and masks.

It answers the two geometric questions of the tracking policy (granularity_tracking.md sections 4.2 step 3d and 4.6)
for a propagator that has no geometry of its own: which lost tracks a frame could show, and how well a new mask fits
one of them.  Its size depends on the surface that was tracked, not on the number of frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pc3dcli.geometry.cameras import back_project, visible_pixels
from pc3dcli.geometry.voxels import voxel_centers, voxel_keys

_FARTHEST = 1e4  # metres from the origin; a wild pose lies beyond, and beyond what voxel keys can hold; ours
_LIFTED_PIXELS = 20_000  # a frame is thinned to about this many; ours: every 4th of 640 x 480, 2 cm apart at 3 m


class VoxelPrior:
    """Sets of voxels, one a track; a view has `depth`, `K` and `world_from_cam` of one grid, as masks have."""

    def __init__(self, voxel: float = 0.05) -> None:
        """Start without tracks; `voxel` is the edge length in metres, 5 cm in spec section 4.2."""
        self._voxel = voxel
        self._voxels: dict[int, np.ndarray] = {}  # sorted int64 keys

    def add(self, view, masks: dict[int, np.ndarray]) -> None:
        """Add what masks of a frame cover to their tracks; nothing happens where the frame has no depth.

        masks  (H, W) bool by track
        """
        if view.depth is None or not masks:
            return
        step = max(1, round((view.depth.size / _LIFTED_PIXELS) ** 0.5))
        depth = view.depth[::step, ::step]
        K = view.K.copy()
        K[:2] /= step  # pixel u = step * u': the centre scales like the focal length
        points = back_project(depth, K, view.world_from_cam)
        is_usable = (depth > 0) & (np.abs(points) < _FARTHEST).all(axis=-1)
        for track, mask in masks.items():
            keys = np.unique(voxel_keys(points[mask[::step, ::step] & is_usable], self._voxel))
            known = self._voxels.get(track)
            self._voxels[track] = keys if known is None else np.union1d(known, keys)

    def remove(self, track: int) -> None:
        """Forget a track."""
        self._voxels.pop(track, None)

    def overlap(self, view, mask: np.ndarray, tracks: Sequence[int]) -> dict[int, float]:
        """Return which share of the voxels of each track that a frame sees is covered by a mask.

        The spec counts voxels of the lifted mask; asking the pixel that sees each voxel gives the same share and
        loses nothing where pixels are wider apart than voxels.

        mask     (H, W) bool
        returns  share in [0, 1] by track; tracks that the frame does not see, or without depth all, are left out
        """
        seen = {track: self._seen_at(view, track) for track in tracks}
        return {track: float(mask.reshape(-1)[pixels].mean()) for track, pixels in seen.items() if len(pixels)}

    def candidates(self, view, tracks: Sequence[int], min_points: int) -> list[int]:
        """Return the tracks of which a frame sees at least `min_points` voxels, or half of a smaller track's.

        The half is ours: an object of the size of a cup has fewer than 30 voxels of 5 cm.  Without depth every
        track is returned, as nothing is known about any.
        """
        if view.depth is None:
            return list(tracks)
        return [track for track in tracks if self._is_seen(view, track, min_points)]

    def _is_seen(self, view, track: int, min_points: int) -> bool:
        known = self._voxels.get(track)
        if known is None or not len(known):
            return False
        return len(self._seen_at(view, track)) >= min(min_points, max(1, len(known) // 2))

    def _seen_at(self, view, track: int) -> np.ndarray:
        """Return the flat pixel of every voxel of a track that passes the depth test."""
        known = self._voxels.get(track)
        if view.depth is None or known is None or not len(known):
            return np.empty(0, np.int64)
        centers = voxel_centers(known, self._voxel)
        return visible_pixels(centers, view.depth, view.K, view.world_from_cam)[1]

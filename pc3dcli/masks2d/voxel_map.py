# SPDX-License-Identifier: Apache-2.0
"""Which track the surface of a scene belongs to, as voxels with votes.

One label a voxel: 0 is surface that was seen and belongs to no track, which is not the same as surface never seen.
Memory is bounded by the surface that was seen, 13 bytes a voxel, however long the video is.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from pc3dcli.geometry.voxels import voxel_centers, voxel_keys

UNSEEN = -1
MAX_VOTES = 8  # ours: how many contrary frames it takes to hand a voxel over
MAX_EMPTY_VOTES = 2  # ours: surface of no track is taken over quickly, since detections come late


class VoxelMap:
    """Sorted voxel keys with the track that holds each and its lead in votes."""

    def __init__(self, voxel: float) -> None:
        """voxel: edge length, metres."""
        self.voxel = voxel
        self._keys = np.empty(0, np.int64)
        self._tracks = np.empty(0, np.int32)
        self._votes = np.empty(0, np.int8)

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(self, points: np.ndarray) -> np.ndarray:
        """Return the track of the voxel of each of (N, 3) float world points, (N,) int32, UNSEEN where none is."""
        if not len(self._keys):
            return np.full(len(points), UNSEEN, np.int32)
        keys = voxel_keys(points, self.voxel)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._tracks[place], np.int32(UNSEEN))

    def vote(self, points: np.ndarray, tracks: np.ndarray, is_seed: np.ndarray) -> None:
        """Let one frame vote, once a voxel: the lowest track if its points disagree, a seed before others.

        points   (N, 3) float, metres; tracks (N,) int32 from 0
        is_seed  (N,) bool, points of a mask that a detection has just drawn: they take their voxel at once
        """
        keys = voxel_keys(points, self.voxel)
        order = np.lexsort((tracks, ~is_seed, keys))
        keys, tracks, is_seed = keys[order], tracks[order], is_seed[order]
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]
        keys, tracks, is_seed = keys[first], tracks[first], is_seed[first]
        place = np.searchsorted(self._keys, keys)
        known = place < len(self._keys)
        known[known] = self._keys[place[known]] == keys[known]
        self._revote(place[known], tracks[known], is_seed[known])
        place, keys, tracks = place[~known], keys[~known], tracks[~known]
        self._keys = np.insert(self._keys, place, keys)
        self._tracks = np.insert(self._tracks, place, tracks)
        self._votes = np.insert(self._votes, place, np.int8(1))

    def _revote(self, place: np.ndarray, tracks: np.ndarray, is_seed: np.ndarray) -> None:
        """Apply a running majority vote (Boyer and Moore) to known voxels."""
        votes = self._votes[place] + np.where(self._tracks[place] == tracks, 1, -1).astype(np.int8)
        taken = (votes < 0) | is_seed
        limit = np.where(tracks > 0, MAX_VOTES, MAX_EMPTY_VOTES).astype(np.int8)
        self._tracks[place[taken]] = tracks[taken]
        self._votes[place] = np.where(taken, np.int8(1), np.minimum(votes, limit))

    def forget(self, track: int) -> None:
        """Give the voxels of a track back to no track."""
        mine = self._tracks == track
        self._tracks[mine] = 0
        self._votes[mine] = 0

    def centers(self, tracks: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the (N, 3) float32 centres of all voxels of some tracks and the (N,) int32 track of each."""
        mine = np.isin(self._tracks, list(tracks))
        return voxel_centers(self._keys[mine], self.voxel), self._tracks[mine]

# SPDX-License-Identifier: Apache-2.0
"""Votes of tracked 2D masks on scene points: projection with a depth test, and sparse counts of (point, track).

Implements section 5.1 and 5.5 of granularity_tracking.md (lifting of "Granularity-consistent 2D mask tracking",
arXiv 2511.00785).  *Departures*, ours: the flying-pixel limit grows with the footprint of a pixel (geometry/fusion.py);
a point remembers at most `MAX_TRACKS` tracks.
"""

from __future__ import annotations

import numpy as np

from pc3dcli.geometry.cameras import DEPTH_GAP_RATIO, MIN_DEPTH
from pc3dcli.geometry.fusion import drop_flying_pixels

BLOCK = 0.75  # metres; points are culled against the view in blocks of this size, ours
MAX_TRACKS = 16  # tracks remembered per point: bounds memory when every keyframe brings new ids, ours
MAX_TRACK_ID = 1 << 20
BUFFER = 1 << 18  # pairs collected before they are sorted in


class PointBlocks:
    """Scene points sorted into blocks, so that a frame projects only blocks inside its view."""

    def __init__(self, points: np.ndarray):
        """points  (N, 3) float, metres, world frame, finite."""
        cells = np.floor(points / BLOCK).astype(np.int64)
        order = np.lexsort(cells.T) if len(points) else np.zeros(0, np.int64)
        cells = cells[order]
        starts = np.flatnonzero(np.r_[True, (cells[1:] != cells[:-1]).any(axis=1)]) if len(points) else order
        self._order = order.astype(np.int32)
        self._points = np.ascontiguousarray(points[order], np.float32)
        self._ends = np.r_[starts, len(points)]
        if len(points):
            low, high = (f.reduceat(self._points, starts).astype(np.float64) for f in (np.minimum, np.maximum))
            self._centers, self._radii = (low + high) / 2, np.linalg.norm(high - low, axis=1) / 2

    def visible(
        self, depth: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray, max_gap: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points that a frame sees, spec section 2.

        depth    (H, W) float32, metres, 0 where missing
        max_gap  metres: visible when |measured - projected| <= max(max_gap, 0.025 z), inclusive
        returns  (M,) int32 point indices in file order, in no particular order, and (M,) int32 flat pixels v W + u
        """
        H, W = depth.shape
        part = self._in_view(K, world_from_cam, (H, W))
        x, y, z = self._to_camera(part, world_from_cam)
        inverse = 1 / np.maximum(z, np.float32(MIN_DEPTH))
        # truncation is floor here: u + 0.5 >= 0 is tested first (pixel centres are integers)
        u = x * inverse * np.float32(K[0, 0]) + np.float32(K[0, 2] + 0.5)
        v = y * inverse * np.float32(K[1, 1]) + np.float32(K[1, 2] + 0.5)
        inside = np.flatnonzero((z > MIN_DEPTH) & (u >= 0) & (u < W) & (v >= 0) & (v < H))
        pixel = v[inside].astype(np.int32) * W + u[inside].astype(np.int32)
        measured, z = depth.reshape(-1)[pixel], z[inside]
        limit = np.maximum(np.float32(max_gap), np.float32(DEPTH_GAP_RATIO) * z) + np.float32(
            1e-6
        )  # rounding of float32
        seen = np.flatnonzero((measured > 0) & (np.abs(measured - z) <= limit))
        return self._order[part][inside[seen]], pixel[seen]

    def _in_view(self, K, world_from_cam, size) -> np.ndarray:
        """Return the sorted positions of all points in blocks whose bounding sphere meets the view."""
        if len(self._ends) < 2:
            return np.zeros(0, np.int64)
        H, W = size
        center = (self._centers - world_from_cam[:3, 3]) @ world_from_cam[:3, :3]
        in_view = center[:, 2] + self._radii > MIN_DEPTH
        for axis, length in ((0, W), (1, H)):
            for sign, edge in ((1, -0.5 - K[axis, 2]), (-1, length - 0.5 - K[axis, 2])):
                # the plane through the camera and one image border; `side` is positive inside
                normal = np.array([K[axis, axis], -edge]) * sign
                side = center[:, [axis, 2]] @ (normal / np.linalg.norm(normal))
                in_view &= side > -self._radii
        blocks = np.flatnonzero(in_view)
        ranges = [np.arange(self._ends[i], self._ends[i + 1]) for i in blocks]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)

    def _to_camera(self, part, world_from_cam) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        R, center = world_from_cam[:3, :3], world_from_cam[:3, 3]
        cam_from_world = np.ascontiguousarray(R.T, np.float32)
        camera_points = cam_from_world @ self._points[part].T  # (3, M): three contiguous rows
        camera_points -= (R.T @ center).astype(np.float32)[:, None]
        return camera_points[0], camera_points[1], camera_points[2]


class PairCounts:
    """Counts of (row, column) pairs of small integers, kept sparse and sorted."""

    def __init__(self, max_columns: int | None = None):
        """max_columns  columns kept per row, those of the highest counts (ties: lowest column); None keeps all."""
        self._max_columns = max_columns
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int32)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_pending = 0

    def add(self, rows: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> None:
        """Add `counts` to pairs; rows (M,), columns (M,) in [0, 2^20), counts (M,) int."""
        self._pending.append((rows.astype(np.int64) << 20 | columns, counts.astype(np.int32)))
        self._num_pending += len(rows)
        if self._num_pending > BUFFER:
            self._merge()

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows (P,), columns (P,) and counts (P,), int32, sorted by row, then column."""
        self._merge()
        columns = (self._keys & (MAX_TRACK_ID - 1)).astype(np.int32)
        return (self._keys >> 20).astype(np.int32), columns, self._counts

    def _merge(self) -> None:
        """Insert what is pending, so that memory never holds a second copy of all pairs."""
        if not self._pending:
            return
        keys, counts = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        self._pending, self._num_pending = [], 0
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))  # keys are not negative
        keys, counts = keys[starts], np.add.reduceat(counts[order], starts) if len(starts) else counts
        place = np.searchsorted(self._keys, keys)
        is_known = np.r_[self._keys, -1][place] == keys
        self._counts[place[is_known]] += counts[is_known]
        place, keys, counts = place[~is_known], keys[~is_known], counts[~is_known]
        self._keys, self._counts = np.insert(self._keys, place, keys), np.insert(self._counts, place, counts)
        if self._max_columns is not None:
            self._forget(np.unique(keys >> 20))

    def _forget(self, rows: np.ndarray) -> None:
        """Keep `max_columns` pairs of each of these rows."""
        first, end = np.searchsorted(self._keys, rows << 20), np.searchsorted(self._keys, (rows + 1) << 20)
        first, length = first[end - first > self._max_columns], (end - first)[end - first > self._max_columns]
        if not len(first):
            return
        starts = np.repeat(np.cumsum(length) - length, length)
        index = np.arange(length.sum()) - starts + np.repeat(first, length)
        by_count = np.lexsort((-self._counts[index], np.repeat(first, length)))  # stable: ties stay in order of column
        rank = np.empty(len(index), np.int64)
        rank[by_count] = np.arange(len(index)) - starts
        surplus = index[rank >= self._max_columns]
        self._keys, self._counts = np.delete(self._keys, surplus), np.delete(self._counts, surplus)


class PointVotes:
    """Votes of tracks on points over the frames of a scene; memory does not depend on the number of frames."""

    def __init__(self, points: np.ndarray, *, max_gap: float = 0.05, flying_pixel_range: float = 0.1):
        """Prepare to count votes.

        points              (N, 3) float, metres, world frame, finite
        max_gap             metres, least tolerance of the depth test, spec section 2
        flying_pixel_range  metres, spec 5.5
        """
        self.num_points = len(points)
        self.num_frames = 0
        self.seen = np.zeros(len(points), np.int32)  # frames in which a point is visible
        self.total = np.zeros(len(points), np.int32)  # votes on a point over all tracks
        self._blocks = PointBlocks(points)
        self._max_gap, self._flying_pixel_range = max_gap, flying_pixel_range
        # labels persist from frame to frame, so votes are counted in runs and enter the sparse counts when one ends
        self._run_track = np.full(len(points), -1, np.int32)
        self._run_length = np.zeros(len(points), np.int32)
        self._pairs, self._together = PairCounts(MAX_TRACKS), PairCounts()
        self._views: dict[int, int] = {}

    def add_frame(
        self, depth: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray, label_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Let the pixels of one frame vote for the points that they see.

        depth           (H, W) float32, metres, 0 where missing
        K               (3, 3) float64, pixels; world_from_cam (4, 4) float64
        label_ids       (H, W) int32, track of each pixel in [0, 2^20), negative for none
        returns         (M,) int32 visible points and (M,) int32 the flat pixel that sees each, for other evidence
        raises          ValueError when the images differ in size or an id is too large
        """
        if label_ids.shape != depth.shape:
            raise ValueError(f"labels are {label_ids.shape}, depth is {depth.shape}")
        depth = drop_flying_pixels(depth, K, self._flying_pixel_range)
        point, pixel = self._blocks.visible(depth, K, world_from_cam, self._max_gap)
        label = label_ids.reshape(-1)[pixel]
        self.num_frames += 1
        self.seen[point] += 1
        is_vote = label >= 0
        self._vote(point[is_vote], label[is_vote])
        return point, pixel

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return points (P,), tracks (P,) and votes (P,) int, sorted by point, then track."""
        self._end_runs(np.flatnonzero(self._run_length))
        return self._pairs.pairs()

    def frames_together(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return remembered tracks a (P,), b (P,), a < b, and the number (P,) of frames in which both voted."""
        pairs = self._together.pairs()
        is_known = np.isin(pairs[0], self._remembered()) & np.isin(pairs[1], self._remembered())
        return pairs[0][is_known], pairs[1][is_known], pairs[2][is_known]

    def views(self) -> dict[int, int]:
        """Return the number of frames in which each track that a point remembers voted, by ascending track."""
        return {track: self._views[track] for track in self._remembered().tolist()}

    def _remembered(self) -> np.ndarray:
        return np.flatnonzero(np.bincount(self.pairs()[1]))

    def _vote(self, point, label) -> None:
        if not len(point):
            return
        if label.max() >= MAX_TRACK_ID:
            raise ValueError(f"track id {label.max()} is not below {MAX_TRACK_ID}")
        self.total[point] += 1
        changed = self._run_track[point] != label
        self._end_runs(point[changed])
        self._run_track[point[changed]] = label[changed]
        self._run_length[point] += 1
        tracks = np.flatnonzero(np.bincount(label))
        for track in tracks.tolist():
            self._views[track] = self._views.get(track, 0) + 1
        a, b = np.triu_indices(len(tracks), 1)
        self._together.add(tracks[a], tracks[b], np.ones(len(a), np.int32))

    def _end_runs(self, point) -> None:
        point = point[self._run_length[point] > 0]
        self._pairs.add(point, self._run_track[point], self._run_length[point])
        self._run_length[point] = 0

# SPDX-License-Identifier: Apache-2.0
"""Fusion of depth frames into one cloud: the mean point, colour and normal of every voxel that a surface crosses.

Frames stream through; memory follows the surface, not the number of frames.  Pixels on depth edges ("flying
pixels", granularity_tracking.md section 5.5) are dropped first.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from pc3dcli.geometry.voxels import voxel_centers, voxel_keys

FLYING_PIXEL_RANGE = 0.1  # metres, spec 5.5
GRAZING_SLOPE = 3.0  # metres of depth per metre across that a surface may show before it counts as flying, ours
PIXELS_PER_VOXEL = 1.0  # along one axis at the far end of a frame: nearer surfaces are sampled more densely, ours
NORMAL_REACH = 2  # pixels to each side over which depth differences are taken, ours
PENDING = 1 << 19  # voxel rows collected before they are merged: 24 MiB


def drop_flying_pixels(depth: np.ndarray, K: np.ndarray, max_range: float = FLYING_PIXEL_RANGE) -> np.ndarray:
    """Return the depth with 0 where a pixel lies more than `max_range` metres behind one of its 3x3 neighbours.

    Spec 5.5 drops every pixel whose neighbourhood spans more than that.  Here the nearest surface stays, or everything
    thin (legs, lamps) would vanish with the mixed pixels around it; these, and the rim of the background, do go.

    depth      (H, W) float32, metres, 0 where missing (missing neighbours do not count)
    K          (3, 3) float64, pixels
    max_range  metres; raised to what a surface of slope `GRAZING_SLOPE` spans over one pixel, because in a small
               image (128 x 96 at 4 m) an oblique wall spans more than 0.1 m within 3 pixels; ours
    """
    lowest = cv2.erode(np.where(depth > 0, depth, np.float32(np.inf)), np.ones((3, 3), np.uint8))
    limit = np.maximum(np.float32(max_range), depth * np.float32(GRAZING_SLOPE / K[0, 0]))
    return np.where(depth - lowest <= limit, depth, np.float32(0))


def fuse_points(
    frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    voxel: float = 0.02,
    *,
    max_range: float = FLYING_PIXEL_RANGE,
    min_frames: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuse posed RGB-D frames on a voxel grid.

    frames      yields rgb (H, W, 3) uint8, depth (H, W) float32 metres (0 missing), K (3, 3), world_from_cam (4, 4)
    voxel       edge length, metres
    max_range   metres, limit of `drop_flying_pixels`
    min_frames  voxels that fewer frames saw are dropped
    returns     points (N, 3) float32 metres, colours (N, 3) uint8, normals (N, 3) float32, unit, towards the cameras;
                sorted by voxel (x, then y, then z)
    raises      ValueError when rgb and depth differ in size
    """
    sums = _VoxelSums(voxel)
    for rgb, depth, K, world_from_cam in frames:
        if rgb.shape[:2] != depth.shape:
            raise ValueError(f"colour is {rgb.shape[:2]}, depth is {depth.shape}")
        sums.add(*_frame_samples(rgb, drop_flying_pixels(depth, K, max_range), K, world_from_cam, voxel))
    return sums.means(min_frames)


def _frame_samples(rgb, depth, K, world_from_cam, voxel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return sorted voxel keys (M,) and one sample of each: world points, colours and normals (M, 3) float32."""
    step = _pixel_step(depth, K, voxel)
    v, u = (axis.reshape(-1) for axis in np.mgrid[step // 2 : depth.shape[0] : step, step // 2 : depth.shape[1] : step])
    has_depth = np.flatnonzero(depth[v, u] > 0)
    v, u = v[has_depth], u[has_depth]
    R, center = world_from_cam[:3, :3].astype(np.float32), world_from_cam[:3, 3].astype(np.float32)
    points = (R @ _camera_points(depth, K, v, u)).T + center
    keys = voxel_keys(points, voxel)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))  # keys are not negative
    chosen = order[starts]  # one pixel a voxel and frame; frames average the rest
    v, u = v[chosen], u[chosen]
    normals = R @ _camera_normals(depth, K, v, u)
    return keys[starts], points[chosen], rgb[v, u].astype(np.float32), normals.T


def _camera_normals(depth, K, v, u) -> np.ndarray:
    """Return (3, M) float32 directions of the surface at pixels with depth, towards the camera, about unit length."""
    point = _camera_points(depth, K, v, u)
    across = _camera_points(depth, K, v, u + NORMAL_REACH) - _camera_points(depth, K, v, u - NORMAL_REACH)
    down = _camera_points(depth, K, v + NORMAL_REACH, u) - _camera_points(depth, K, v - NORMAL_REACH, u)
    normal = np.stack([_minor(down, across, 1, 2), _minor(down, across, 2, 0), _minor(down, across, 0, 1)])
    length = np.sqrt((normal * normal).sum(axis=0))
    # a neighbour without depth is the camera centre: its differences are as long as the view ray
    is_surface = (np.maximum(np.abs(across[2]), np.abs(down[2])) < 0.3 * point[2]) & (length > 0)
    normal *= np.where(is_surface, -np.sign((normal * point).sum(axis=0)) / np.maximum(length, 1e-20), 0)
    normal -= np.float32(1e-3) * point / point[2]  # where nothing else is known, a surface faces the camera
    return normal


def _pixel_step(depth, K, voxel) -> int:
    """Return the distance in pixels between samples that still gives every frontal voxel its share."""
    z = depth[::8, ::8]
    z = z[z > 0]
    if not len(z):
        return 1
    spacing = float(np.partition(z, int(0.9 * (len(z) - 1)))[int(0.9 * (len(z) - 1))]) / K[0, 0]
    return max(1, int(voxel / (PIXELS_PER_VOXEL * spacing)))


def _camera_points(depth, K, v, u) -> np.ndarray:
    """Return (3, M) float32 camera points of pixels (v, u), clipped to the image."""
    v, u = np.clip(v, 0, depth.shape[0] - 1), np.clip(u, 0, depth.shape[1] - 1)
    z = depth[v, u]
    x = (u.astype(np.float32) - np.float32(K[0, 2])) * np.float32(1 / K[0, 0])
    y = (v.astype(np.float32) - np.float32(K[1, 2])) * np.float32(1 / K[1, 1])
    return np.stack([z * x, z * y, z])


def _minor(a, b, i, j) -> np.ndarray:
    return a[i] * b[j] - a[j] * b[i]


class _VoxelSums:
    """Sums of offsets, colours and normals per voxel, merged by sorting; one contiguous row a quantity."""

    def __init__(self, voxel: float):
        self._voxel = voxel
        self._keys, self._sums = np.zeros(0, np.int64), np.zeros((10, 0), np.float32)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_pending = 0

    def add(self, keys, points, colors, normals) -> None:
        """Add one sample a voxel; keys must be unique."""
        sums = np.empty((10, len(keys)), np.float32)  # offset, colour, normal, frames
        sums[:3] = (points - voxel_centers(keys, self._voxel)).T  # offsets keep float32 sums exact enough
        sums[3:6], sums[6:9], sums[9] = colors.T, normals.T, 1
        self._pending.append((keys, sums))
        self._num_pending += len(keys)
        if self._num_pending > PENDING:
            self._merge()

    def means(self, min_frames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean points, colours and unit normals."""
        self._merge()
        keep = np.flatnonzero(self._sums[9] >= min_frames)
        keys, sums = self._keys[keep], self._sums[:, keep]
        points = voxel_centers(keys, self._voxel) + (sums[:3] / sums[9]).T
        colors = np.rint(sums[3:6] / sums[9]).astype(np.uint8)
        normals = sums[6:9] / np.maximum(np.sqrt((sums[6:9] ** 2).sum(axis=0)), 1e-20)
        return points, np.ascontiguousarray(colors.T), np.ascontiguousarray(normals.T)

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        sums = np.concatenate([self._sums, *(sums for _, sums in self._pending)], axis=1)
        self._pending, self._num_pending = [], 0
        order = np.argsort(keys, kind="stable")  # the parts are sorted: merging takes linear time
        keys = keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys, self._sums = keys[starts], np.empty((10, len(starts)), np.float32)
        for row, values in enumerate(sums if len(starts) else ()):
            self._sums[row] = np.add.reduceat(values[order], starts)

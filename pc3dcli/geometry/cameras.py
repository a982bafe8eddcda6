# SPDX-License-Identifier: Apache-2.0
"""Pinhole cameras: pixels to points, points to pixels, and the depth test that decides what a frame sees.

Cameras look along +z with x right and y down; an integer pixel index is a pixel centre; depth is measured along the
optical axis and is 0 where missing (granularity_tracking.md section 2).  All functions take and return plain arrays.
"""

from __future__ import annotations

import numpy as np

MIN_DEPTH = 0.05  # metres in front of the camera; nearer points have no usable projection, spec section 2
DEPTH_GAP = 0.05  # metres, spec section 2: delta = max(0.05 m, 0.025 z)
DEPTH_GAP_RATIO = 0.025


def back_project(depth: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray | None = None) -> np.ndarray:
    """Lift every pixel of a depth image to a 3D point.

    depth           (H, W) float, metres
    K               (3, 3) float, pixels
    world_from_cam  (4, 4) float, or None to stay in the camera frame
    returns         (H, W, 3) in the dtype of `depth` (at least float32); missing depth gives the camera centre
    """
    H, W = depth.shape
    dtype = np.promote_types(depth.dtype, np.float32)
    x = ((np.arange(W) - K[0, 2]) / K[0, 0]).astype(dtype)
    y = ((np.arange(H) - K[1, 2]) / K[1, 1]).astype(dtype)
    points = np.empty((H, W, 3), dtype)
    if world_from_cam is None:
        points[..., 0], points[..., 1], points[..., 2] = depth * x, depth * y[:, None], depth
        return points
    R, center = np.asarray(world_from_cam[:3, :3], dtype), world_from_cam[:3, 3].astype(dtype)
    for axis in range(3):  # a ray is a column term plus a row term: no (H, W, 3) matrix product
        ray = (R[axis, 0] * x + R[axis, 2])[None, :] + (R[axis, 1] * y)[:, None]
        points[..., axis] = ray * depth + center[axis]
    return points


def project_points(points: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project world points into an image.

    points          (N, 3) float, world frame
    returns         (N, 2) float pixels (x, y), not clipped to the image, and (N,) depth along the optical axis;
                    pixels of points with depth <= 0 are meaningless but finite
    """
    R, center = world_from_cam[:3, :3], world_from_cam[:3, 3]
    dtype = np.promote_types(points.dtype, np.float32)
    camera_points = (points - center.astype(dtype)) @ R.astype(dtype)  # world_from_cam is rigid: inverse is transpose
    z = camera_points[:, 2]
    safe_z = np.where(np.abs(z) < 1e-9, 1e-9, z)  # points in the camera plane must not give inf
    pixels = np.empty((len(points), 2), dtype)
    pixels[:, 0] = camera_points[:, 0] / safe_z * K[0, 0] + K[0, 2]
    pixels[:, 1] = camera_points[:, 1] / safe_z * K[1, 1] + K[1, 2]
    return pixels, z


def depth_gap(z: np.ndarray) -> np.ndarray:
    """Return the accepted difference between projected and measured depth, max(0.05 m, 0.025 z) of spec section 2."""
    return np.maximum(DEPTH_GAP, DEPTH_GAP_RATIO * np.asarray(z))


def visible_pixels(
    points: np.ndarray, depth: np.ndarray, K: np.ndarray, world_from_cam: np.ndarray, max_gap: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the points that a frame sees and the pixels that see them.

    points   (N, 3) float, world frame
    depth    (H, W) float, metres, 0 where missing
    max_gap  metres, accept |measured - projected| <= max_gap (inclusive); None for the spec's max(0.05, 0.025 z)
    returns  (M,) int64 indices of the visible points, ascending, and (M,) int64 flat pixel indices v * W + u
    """
    H, W = depth.shape
    pixels, z = project_points(points, K, world_from_cam)
    limit = 0.5  # pixel centres are integers: the image spans [-0.5, W - 0.5)
    inside = (z > MIN_DEPTH) & (pixels[:, 0] >= -limit) & (pixels[:, 0] < W - limit)
    inside &= (pixels[:, 1] >= -limit) & (pixels[:, 1] < H - limit)
    index = np.flatnonzero(inside)
    u = np.floor(pixels[index, 0] + 0.5).astype(np.int64)  # not rint: ties would go to even columns
    v = np.floor(pixels[index, 1] + 0.5).astype(np.int64)
    flat = np.minimum(v, H - 1) * W + np.minimum(u, W - 1)  # float32 may round W - 0.5 - eps up
    measured, z = depth.reshape(-1)[flat], z[index]
    gap = depth_gap(z) if max_gap is None else max_gap
    # the boundary is inclusive: a micrometre absorbs the rounding of float32 differences
    is_visible = (measured > 0) & (np.abs(measured - z) <= gap + 1e-6)
    return index[is_visible], flat[is_visible]


def scale_intrinsics(K: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Return K of the same view sampled with another number of pixels (spec section 2, pixel centres at integers).

    K               (3, 3) float64, pixels of an image of `size` (H, W)
    new_size        (H, W) of the image that the result belongs to
    """
    scale_y, scale_x = new_size[0] / size[0], new_size[1] / size[1]
    scaled = K.copy()
    scaled[0] = K[0] * scale_x
    scaled[1] = K[1] * scale_y
    scaled[0, 2] = (K[0, 2] + 0.5) * scale_x - 0.5
    scaled[1, 2] = (K[1, 2] + 0.5) * scale_y - 0.5
    return scaled


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return world_from_cam (4, 4) of a camera at `eye` (3,) looking at `target` (3,), `up` (3,) upwards in the image.

    raises  ValueError when eye and target coincide or the view is parallel to `up`
    """
    forward = np.asarray(target, np.float64) - eye
    right = np.cross(forward, up)
    if np.linalg.norm(forward) == 0 or np.linalg.norm(right) < 1e-9 * np.linalg.norm(forward):
        raise ValueError("eye and target must differ and not be aligned with up")
    forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    world_from_cam[:3, 3] = eye
    return world_from_cam

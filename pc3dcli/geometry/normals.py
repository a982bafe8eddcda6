# SPDX-License-Identifier: Apache-2.0
"""Local planes of a depth image: denoised inverse depth, surface normals and points per pixel.

Inverse depth of a plane is exactly linear in pixel coordinates, and the error of structured-light and stereo depth is
nearly constant in inverse depth, so each window is one linear least squares problem solved from box-filtered moments.
Every pixel takes the best of nine windows that contain it (the edge-preserving idea of Kuwahara et al., 1976), which
keeps both sides of a depth step or crease apart.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class SurfaceFit:
    """Local planes of one depth image; all (H, W) float32 unless said otherwise.

    inverse   fitted inverse depth, 1/metres, 0 where not valid
    slope     (H, W, 2) its change per pixel in (x, y)
    normal    (H, W, 3) unit vectors in the camera frame, towards the camera, zero where not valid
    points    (H, W, 3) fitted points, metres, camera frame, zero where not valid
    residual  root mean square of the fit, 1/metres, infinite where not valid
    valid     (H, W) bool
    """

    inverse: np.ndarray
    slope: np.ndarray
    normal: np.ndarray
    points: np.ndarray
    residual: np.ndarray
    valid: np.ndarray


def fit_surface(depth: np.ndarray, K: np.ndarray, radius: int = 5) -> SurfaceFit:
    """Fit a plane around every pixel and return the denoised surface.

    depth    (H, W) float32, metres along the optical axis, 0 where missing; small gaps between readings are bridged
    K        (3, 3) float64, pixels
    radius   half width of the fitting window, pixels
    returns  SurfaceFit; valid where a reading is near and some window holds enough of them
    """
    has_depth = depth > 0
    inverse = np.zeros_like(depth, dtype=np.float32)
    np.divide(1.0, depth, out=inverse, where=has_depth)
    # Readings warped to another camera leave a grid of gaps; a closing of two pixels bridges them, not real holes.
    near = cv2.morphologyEx(has_depth.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    planes, residual = _window_planes(inverse, has_depth.astype(np.float32), radius)
    planes, residual = _best_window(planes, residual, shift=radius)
    value = planes[..., 0]
    valid = near & np.isfinite(residual) & (value > 1e-3)
    return _to_surface(planes, np.where(valid, residual, np.inf).astype(np.float32), valid, np.asarray(K, np.float64))


def _window_planes(inverse: np.ndarray, weight: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (H, W, 3) value at the window centre and slopes, and (H, W) residual, of centred windows."""
    size = 2 * radius + 1
    tap = np.arange(-radius, radius + 1, dtype=np.float32)
    kernels = (np.ones(size, np.float32), tap, tap * tap)

    def moment(image: np.ndarray, power_x: int, power_y: int) -> np.ndarray:
        return cv2.sepFilter2D(image, cv2.CV_32F, kernels[power_x], kernels[power_y], borderType=cv2.BORDER_CONSTANT)

    count = moment(weight, 0, 0)
    n = np.maximum(count, 1.0)
    sum_d, sum_dx, sum_dy = moment(inverse, 0, 0), moment(inverse, 1, 0), moment(inverse, 0, 1)
    mean_x, mean_y = moment(weight, 1, 0) / n, moment(weight, 0, 1) / n
    xx = moment(weight, 2, 0) / n - mean_x * mean_x
    yy = moment(weight, 0, 2) / n - mean_y * mean_y
    xy = moment(weight, 1, 1) / n - mean_x * mean_y
    mean_d = sum_d / n
    dx = sum_dx / n - mean_x * mean_d
    dy = sum_dy / n - mean_y * mean_d
    dd = moment(inverse * inverse, 0, 0) / n - mean_d * mean_d
    det = xx * yy - xy * xy
    usable = (count >= 8) & (det > 0.1)
    det = np.where(usable, det, 1.0)
    slope_x = (yy * dx - xy * dy) / det
    slope_y = (xx * dy - xy * dx) / det
    value = mean_d - slope_x * mean_x - slope_y * mean_y
    variance = np.maximum(dd - slope_x * dx - slope_y * dy, 0.0)
    residual = np.where(usable, np.sqrt(variance), np.inf)
    return np.stack([value, slope_x, slope_y], -1), residual


def _best_window(planes: np.ndarray, residual: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Give each pixel the plane of the window, among nine shifted ones, that fits its own readings best."""
    H, W = residual.shape
    best, best_residual = planes.copy(), residual * 0.9  # the centred window is the best conditioned: prefer it
    for dy in (-shift, 0, shift):
        for dx in (-shift, 0, shift):
            if dx == 0 and dy == 0:
                continue
            to_y, to_x = slice(max(0, -dy), min(H, H - dy)), slice(max(0, -dx), min(W, W - dx))
            from_y, from_x = slice(max(0, dy), min(H, H + dy)), slice(max(0, dx), min(W, W + dx))
            if to_y.start >= to_y.stop or to_x.start >= to_x.stop:
                continue
            better = residual[from_y, from_x] < best_residual[to_y, to_x]
            source = planes[from_y, from_x][better]
            target = best[to_y, to_x]
            moved = source[:, 0] - dx * source[:, 1] - dy * source[:, 2]
            target[better] = np.stack([moved, source[:, 1], source[:, 2]], -1)
            best_residual[to_y, to_x][better] = residual[from_y, from_x][better]
    return best, best_residual


def _to_surface(planes: np.ndarray, residual: np.ndarray, valid: np.ndarray, K: np.ndarray) -> SurfaceFit:
    """Turn planes in (pixel, inverse depth) into camera-frame normals and points."""
    H, W = valid.shape
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    ray_x = ((np.arange(W) - cx) / fx).astype(np.float32)[None, :]
    ray_y = ((np.arange(H) - cy) / fy).astype(np.float32)[:, None]
    value = np.where(valid, planes[..., 0], 0.0).astype(np.float32)
    slope = np.where(valid[..., None], planes[..., 1:], 0.0).astype(np.float32)
    z = np.zeros_like(value)
    np.divide(1.0, value, out=z, where=valid)
    points = np.stack([ray_x * z, ray_y * z, z], -1)
    # 1/z = a u + b v + c gives a plane n . p = 1 with n = (a fx, b fy, value at the principal point).
    normal_x, normal_y = slope[..., 0] * fx, slope[..., 1] * fy
    normal_z = value - normal_x * ray_x - normal_y * ray_y
    length = np.sqrt(normal_x**2 + normal_y**2 + normal_z**2)
    scale = np.zeros_like(length, dtype=np.float32)
    np.divide(-1.0, length, out=scale, where=valid & (length > 0))
    normal = (np.stack([normal_x, normal_y, normal_z], -1) * scale[..., None]).astype(np.float32)
    return SurfaceFit(value, slope, normal, points.astype(np.float32), residual, valid)

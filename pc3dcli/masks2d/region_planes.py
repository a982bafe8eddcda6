# SPDX-License-Identifier: Apache-2.0
"""Large supporting planes of a depth image: floors, walls, table tops.

Planes fitted in wide windows on a grid vote for each other (a deterministic consensus search), the largest is refined
by least squares and removed, and so on. Extent is measured in square metres, so a near cereal box is no wall.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pc3dcli.geometry.normals import SurfaceFit


@dataclass(frozen=True)
class PlaneLimits:
    """What counts as one plane; all values ours.

    noise            expected error of inverse depth, 1/metres
    min_area         smallest connected extent, square metres
    min_share        smallest connected extent, share of the image
    max_angle_deg    largest angle between a pixel's normal and the plane's
    max_planes       planes searched for
    """

    noise: float
    min_area: float
    min_share: float
    max_angle_deg: float
    max_planes: int


def structure_planes(depth: np.ndarray, K: np.ndarray, fit: SurfaceFit, limits: PlaneLimits) -> np.ndarray:
    """Label the pixels of each large connected plane.

    depth    (H, W) float32 metres, 0 where missing
    K        (3, 3) float64, pixels
    fit      surface of the same grid
    returns  (H, W) int32, -1 for none, else 0.. by decreasing extent of the plane they belong to
    """
    H, W = depth.shape
    label = np.full((H, W), -1, np.int32)
    step = max(2, min(H, W) // 60)
    grid = np.ix_(np.arange(step // 2, H, step), np.arange(step // 2, W, step))
    v, u = np.meshgrid(*(g.ravel() for g in grid), indexing="ij")
    samples = _Samples.take(fit, v.ravel(), u.ravel(), step * step / (K[0, 0] * K[1, 1]))
    if len(samples.inverse) < 20:
        return label
    free = np.ones(len(samples.inverse), bool)
    for _ in range(limits.max_planes):
        plane = _best_plane(samples, free, K, limits)
        if plane is None:
            break
        free &= ~samples.on_plane(plane, K, limits)
        _paint_plane(label, fit, plane, K, limits)
    return label


@dataclass(frozen=True, eq=False)
class _Samples:
    """Valid grid pixels: position (u, v), inverse depth, normal and extent (square metres) of each."""

    u: np.ndarray
    v: np.ndarray
    inverse: np.ndarray
    normal: np.ndarray
    area: np.ndarray

    @staticmethod
    def take(fit: SurfaceFit, v: np.ndarray, u: np.ndarray, unit_area: float) -> "_Samples":
        keep = fit.valid[v, u]
        v, u = v[keep], u[keep]
        inverse, normal, points = fit.inverse[v, u], fit.normal[v, u], fit.points[v, u]
        slant = np.abs((normal * points).sum(-1)) / np.maximum(np.sqrt((points**2).sum(-1)), 1e-9)
        area = unit_area / np.maximum(inverse, 1e-3) ** 2 / np.maximum(slant, 0.1)
        return _Samples(u.astype(np.float64), v.astype(np.float64), inverse.astype(np.float64), normal, area)

    def on_plane(self, plane: np.ndarray, K: np.ndarray, limits: PlaneLimits) -> np.ndarray:
        """(S,) bool: close to the plane (a, b, c) of inverse depth and oriented like it."""
        distance = np.abs(plane[0] * self.u + plane[1] * self.v + plane[2] - self.inverse)
        cosine = self.normal @ plane_normal(plane, K)
        return (distance < 3.0 * limits.noise) & (cosine > np.cos(np.deg2rad(limits.max_angle_deg)))


def plane_normal(plane: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Unit normal (3,) towards the camera of the plane 1/z = a u + b v + c."""
    normal = -_unnormalised(plane, K)
    return (normal / max(np.linalg.norm(normal), 1e-12)).astype(np.float32)


def _best_plane(samples: _Samples, free: np.ndarray, K: np.ndarray, limits: PlaneLimits) -> np.ndarray | None:
    """Return the plane (a, b, c) that covers most square metres of the free samples, None when too few."""
    index = np.nonzero(free)[0]
    if len(index) < 12:
        return None
    seeds = index[:: max(1, len(index) // 150)]
    n = samples.normal[seeds].astype(np.float64)
    # n . X = d gives 1/z = (n . K^-1 (u, v, 1)) / d: back from metres to a plane over pixels.
    ray = np.stack([(samples.u[seeds] - K[0, 2]) / K[0, 0], (samples.v[seeds] - K[1, 2]) / K[1, 1]], 1)
    scale = samples.inverse[seeds] / np.minimum(n[:, 0] * ray[:, 0] + n[:, 1] * ray[:, 1] + n[:, 2], -1e-3)
    a, b = n[:, 0] / K[0, 0] * scale, n[:, 1] / K[1, 1] * scale
    c = samples.inverse[seeds] - a * samples.u[seeds] - b * samples.v[seeds]
    u, v, inverse = samples.u[index], samples.v[index], samples.inverse[index]
    distance = np.abs(a[:, None] * u + b[:, None] * v + c[:, None] - inverse)  # (seeds, S)
    agrees = n.astype(np.float32) @ samples.normal[index].T > np.cos(np.deg2rad(limits.max_angle_deg))
    # Seed normals come from small windows: accept wider here, refine below.
    extent = ((distance < 5.0 * limits.noise) & agrees) @ samples.area[index]
    best = None
    for seed in np.argsort(-extent, kind="stable")[:3]:
        plane = _refine(np.array([a[seed], b[seed], c[seed]]), samples, free, K, limits)
        inliers = samples.on_plane(plane, K, limits) & free
        area = samples.area[inliers].sum()
        if best is None or area > best[0]:
            best = (area, plane)
    return best[1] if best is not None and best[0] >= limits.min_area else None


def _refine(plane: np.ndarray, samples: _Samples, free: np.ndarray, K: np.ndarray, limits: PlaneLimits) -> np.ndarray:
    """Refit the plane to its inliers a few times."""
    for _ in range(4):
        inliers = samples.on_plane(plane, K, limits) & free
        if inliers.sum() < 8:
            break
        design = np.stack([samples.u[inliers], samples.v[inliers], np.ones(inliers.sum())], 1)
        plane = np.linalg.lstsq(design, samples.inverse[inliers], rcond=None)[0]
    return plane


def _paint_plane(label: np.ndarray, fit: SurfaceFit, plane: np.ndarray, K: np.ndarray, limits: PlaneLimits) -> None:
    """Write the large connected parts of the plane into the label image, in place."""
    H, W = label.shape
    expected = (plane[0] * np.arange(W)[None, :] + plane[1] * np.arange(H)[:, None] + plane[2]).astype(np.float32)
    near = (np.abs(expected - fit.inverse) < 3.0 * limits.noise) & fit.valid & (label < 0)
    cosine = fit.normal @ plane_normal(plane, K)
    on = near & (cosine > np.cos(np.deg2rad(limits.max_angle_deg)))
    on |= _noisy_islands(near & ~on, cosine, limits)
    opened = cv2.morphologyEx(on.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, part = cv2.connectedComponents(opened, connectivity=4)
    if count < 2:
        return
    z = 1.0 / np.maximum(expected, 1e-2)
    ray_n = np.abs(expected) / max(np.linalg.norm(_unnormalised(plane, K)), 1e-12)
    # Extent of a pixel on the plane: z^2 / (fx fy) over the cosine to the optical axis, bounded at grazing angles.
    area = z * z / (K[0, 0] * K[1, 1]) / np.maximum(ray_n, 0.1)
    extent = np.bincount(part.ravel(), area.ravel(), count)
    share = np.bincount(part.ravel(), minlength=count) / part.size
    large = (extent >= limits.min_area) & (share >= limits.min_share)
    large[0] = False
    number = np.where(large, label.max() + np.cumsum(large), -1).astype(np.int32)
    keep = number[part]
    label[keep >= 0] = keep[keep >= 0]


def _noisy_islands(rest: np.ndarray, cosine: np.ndarray, limits: PlaneLimits) -> np.ndarray:
    """Of the pixels at the plane's depth but tilted, (H, W) bool those in patches whose mean tilt is small.

    Far surfaces have noisy normals that cancel over a patch; the foot of a real object keeps its tilt.
    """
    count, part = cv2.connectedComponents(rest.astype(np.uint8), connectivity=4)
    size = np.bincount(part.ravel(), minlength=count)
    mean = np.bincount(part.ravel(), np.where(rest, cosine, 0.0).ravel(), count) / np.maximum(size, 1)
    # Larger patches average less noise than they could hide an object of their own.
    calm = (mean > np.cos(np.deg2rad(1.6 * limits.max_angle_deg))) & (size < 0.2 * limits.min_share * part.size)
    calm[0] = False
    return calm[part]


def _unnormalised(plane: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The normal scaled so that n . X = 1 on the plane."""
    a, b, c = plane
    return np.array([a * K[0, 0], b * K[1, 1], a * K[0, 2] + b * K[1, 2] + c])

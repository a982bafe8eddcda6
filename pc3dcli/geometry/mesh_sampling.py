# SPDX-License-Identifier: Apache-2.0
"""Points on the surface of a triangle mesh, as many on every square metre."""

from __future__ import annotations

import numpy as np


def sample_surface(xyz: np.ndarray, faces: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `num` points uniformly by area on triangles: (num, 3) float64.

    xyz     (N, 3) vertices, faces (F, 3) their indices; triangles without area get no points
    raises  ValueError when there is no area at all, or vertices are so far apart that areas are not finite
    """
    corners = xyz.astype(np.float64)[faces]  # (F, 3, 3)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        area = np.linalg.norm(np.cross(first, second), axis=1)
    total = area.sum()
    if not np.isfinite(total) or not total > 0:
        raise ValueError(f"the surface has no area that a point could be drawn on: {total / 2:g}")
    face = np.searchsorted(np.cumsum(area), rng.random(num) * total, side="right")
    face = np.minimum(face, np.flatnonzero(area)[-1])  # the sum may round to just below the total
    u, v = rng.random((2, num, 1))
    is_outside = u + v > 1  # the other half of the parallelogram, folded back
    u, v = np.where(is_outside, 1 - u, u), np.where(is_outside, 1 - v, v)
    return corners[face, 0] + u * first[face] + v * second[face]

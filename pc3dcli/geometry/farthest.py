# SPDX-License-Identifier: Apache-2.0
"""Farthest points of one cloud in NumPy, for readers; the batched one of the networks is nn/point_sampling.py."""

from __future__ import annotations

import numpy as np

NEAR_ORIGIN = 1e-3  # squared norm; closer candidates are skipped as the released sampler does


def farthest_order(xyz: np.ndarray, num: int) -> np.ndarray:
    """Return the indices (num,) int64 of points, each the farthest from all before it; ties: the lowest index.

    xyz  (N, 3) float32; the first point starts, points within sqrt(1e-3) of the origin are never picked after it, and
         where nothing is left to pick it is point 0 again
    """
    columns = np.ascontiguousarray(xyz.T, np.float32)
    distance = np.full(columns.shape[1], 1e10, np.float32)
    distance[(columns**2).sum(axis=0) <= NEAR_ORIGIN] = -1.0
    order = np.zeros(num, np.int64)
    difference, square = np.empty_like(columns), np.empty_like(distance)
    for step in range(1, num):  # O(N) each: 20 us for 10 k points
        np.subtract(columns, columns[:, order[step - 1], None], out=difference)
        np.multiply(difference, difference, out=difference)
        np.add(difference[0], difference[1], out=square)
        np.add(square, difference[2], out=square)
        np.minimum(distance, square, out=distance)
        pick = int(distance.argmax())
        order[step] = pick if distance[pick] >= 0 else 0
    return order

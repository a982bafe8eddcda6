# SPDX-License-Identifier: Apache-2.0
"""Scores of patches as heat on points: interpolation between the three nearest patch centers, and a scale for colours.

The weights are those of feature propagation, 1 / (squared distance + 1e-8).  No departures.
"""

from __future__ import annotations

import numpy as np

EPS = 1e-8  # squared metres
SHOWN_RANGE = (2, 98)  # percentiles between which colours vary, ours


def interpolate_heat(xyz: np.ndarray, centers: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the score (N,) float32 at points xyz (N, 3) from scores (G,) at centers (G, 3); fewer than 3: those."""
    from scipy.spatial import cKDTree

    centers = np.asarray(centers, np.float64)
    k = min(3, len(centers))
    distance, nearest = cKDTree(centers).query(np.asarray(xyz, np.float64), k=k)
    weight = 1.0 / (distance.reshape(-1, k) ** 2 + EPS)
    values = np.asarray(scores, np.float64)[nearest.reshape(-1, k)]
    return ((weight * values).sum(axis=1) / weight.sum(axis=1)).astype(np.float32)


def heat_bounds(heat: np.ndarray) -> tuple[float, float]:
    """Return the heat at which colours begin and end: outliers of (N,) are left out."""
    low, high = np.percentile(heat, SHOWN_RANGE).tolist()
    return low, high


def shown_heat(heat: np.ndarray) -> np.ndarray:
    """Scale heat (N,) to [0, 1] for colours, outliers clipped; 0.5 where all of it is equal."""
    low, high = heat_bounds(heat)
    if high <= low:
        return np.full(len(heat), 0.5, np.float32)
    return np.clip((heat - low) / (high - low), 0, 1).astype(np.float32)

# SPDX-License-Identifier: Apache-2.0
"""Random changes of a scene that Mask3D and Segment3D train with: place, mirror, bend, scale, turn, and its colours.

Numbers are those of the released code of both, whose scales, turns and colours change every sample: it sets
`always_apply` beside the probabilities of one half that granularity_tracking.md section 7.4 lists.  *Departures*: every
random number comes from one generator that is passed in.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter1d

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet
ELASTIC = ((0.2, 0.4), (0.8, 1.6))  # metres between the nodes of the noise, its magnitude
ELASTIC_SHARE = 0.95
MAX_NODES = 1 << 22  # of the noise: scenes of more than about 30 m are bent by coarser noise; ours
TILT = 0.13  # radians about x and y, 7.5 degrees


def augmented_points(xyz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return points (N, 3) float64, metres, centred and changed; z is up."""
    xyz = xyz - xyz.mean(axis=0)
    xyz += rng.uniform(xyz.min(axis=0), xyz.max(axis=0)) / 2
    for axis in (0, 1):
        if rng.random() < 0.5:
            xyz[:, axis] = xyz[:, axis].max() - xyz[:, axis]
    if rng.random() < ELASTIC_SHARE:
        for granularity, magnitude in ELASTIC:
            xyz = elastic_distortion(xyz, granularity, magnitude, rng)
    xyz = xyz * rng.uniform(0.9, 1.1, 3)
    for axis, limit in ((2, np.pi), (1, TILT), (0, TILT)):
        xyz = _turned(xyz, axis, rng.uniform(-limit, limit))
    return xyz


def elastic_distortion(xyz: np.ndarray, granularity: float, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Move points (N, 3) by smoothed noise on a grid.

    granularity  metres between its nodes
    magnitude    metres that noise of one moves a point, before smoothing
    """
    low = xyz.min(axis=0)
    extent = xyz.max(axis=0) - low
    while np.prod(extent // granularity + 3) > MAX_NODES:
        granularity *= 2
    noise = rng.standard_normal((*(extent // granularity).astype(np.int64) + 3, 3))
    for _ in range(2):
        for axis in range(3):
            noise = uniform_filter1d(noise, 3, axis=axis, mode="constant")
    place = ((xyz - low) / granularity + 1).T  # in nodes; the grid begins one node before the scene
    moved = [map_coordinates(noise[..., axis], place, order=1, mode="constant") for axis in range(3)]
    return xyz + magnitude * np.stack(moved, axis=1)


def augmented_colors(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return colours (N, 3) float64, 0 to 255, of other brightness, contrast and tint."""
    rgb = rgb.astype(np.float64)
    contrast, brightness = 1 + rng.uniform(-0.2, 0.2), 255 * rng.uniform(-0.2, 0.2)
    return np.clip(np.clip(contrast * rgb + brightness, 0, 255) + rng.uniform(-20, 20, 3), 0, 255)


def normalized_colors(rgb: np.ndarray | None, num_points: int) -> np.ndarray:
    """Return (N, 3) float32 network inputs of colours 0 to 255; without colours zeros, which is the mean colour."""
    if rgb is None:
        return np.zeros((num_points, 3), np.float32)
    return ((rgb / 255 - MEAN) / DEVIATION).astype(np.float32)


def _turned(xyz: np.ndarray, axis: int, angle: float) -> np.ndarray:
    """Turn points about an axis through the origin, counter-clockwise."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turned = xyz.copy()
    turned[:, first] = np.cos(angle) * xyz[:, first] - np.sin(angle) * xyz[:, second]
    turned[:, second] = np.sin(angle) * xyz[:, first] + np.cos(angle) * xyz[:, second]
    return turned

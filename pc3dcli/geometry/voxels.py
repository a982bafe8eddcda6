# SPDX-License-Identifier: Apache-2.0
"""Voxel grids as sorted integer keys: one int64 a voxel, so that sets, joins and counts are sorts and searches.

A key packs three 21-bit cell indices, which spans +-1,048,576 cells an axis (20 km at 2 cm).
"""

from __future__ import annotations

import numpy as np

_BITS = 21
_HALF = 1 << (_BITS - 1)


def voxel_reach(voxel: float) -> float:
    """Return how far from the origin, metres along an axis, `voxel_keys` takes points."""
    return (_HALF - 1) * voxel


def voxel_keys(points: np.ndarray, voxel: float) -> np.ndarray:
    """Return one int64 key a point; equal keys mean the same voxel, keys sort by x, then y, then z.

    points   (..., 3) float, metres, finite
    voxel    edge length, metres; cell k spans [k voxel, (k + 1) voxel)
    raises   ValueError when a point is not finite or lies outside the +-2^20 cells
    """
    cells = np.floor(points * (1.0 / voxel))
    if cells.size and not (cells.min() >= -_HALF and cells.max() < _HALF):  # also false for NaN
        raise ValueError(f"points must be finite and within {_HALF} voxels of the origin")
    cells = cells.astype(np.int64)
    cells += _HALF
    return (cells[..., 0] << (2 * _BITS)) | (cells[..., 1] << _BITS) | cells[..., 2]


def voxel_centers(keys: np.ndarray, voxel: float) -> np.ndarray:
    """Return the (N, 3) float32 centres, metres, of the voxels of (N,) int64 `keys`."""
    mask = (1 << _BITS) - 1
    cells = np.stack([keys >> (2 * _BITS), (keys >> _BITS) & mask, keys & mask], axis=-1) - _HALF
    return ((cells + 0.5) * voxel).astype(np.float32)


def voxel_offset(dx: int, dy: int, dz: int) -> int:
    """Return what to add to a key to move it by whole cells."""
    return (dx << (2 * _BITS)) + (dy << _BITS) + dz


def voxel_groups(points: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group points by voxel.

    points   (N, 3) float, metres
    returns  (M,) int64 sorted unique keys, (N,) int64 group of each point, (M,) int64 points per group
    """
    keys, group, counts = np.unique(voxel_keys(points, voxel), return_inverse=True, return_counts=True)
    return keys, group.reshape(-1), counts


def voxel_downsample(points: np.ndarray, voxel: float, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Replace the points of each voxel by their mean, in the order of the voxel keys.

    points   (N, 3) float, metres
    values   any number of (N, C) or (N,) float arrays averaged alongside (integers come back as float64)
    returns  (M, 3) means in the dtype of `points`, then the means of each of `values`
    """
    _, group, counts = voxel_groups(points, voxel)
    means = [_group_mean(points, group, counts).astype(points.dtype)]
    return tuple(means + [_group_mean(value, group, counts) for value in values])


def _group_mean(value: np.ndarray, group: np.ndarray, counts: np.ndarray) -> np.ndarray:
    columns = value.reshape(len(value), int(np.prod(value.shape[1:])))
    sums = [np.bincount(group, weights=column, minlength=len(counts)) for column in columns.T]
    means = np.stack(sums, axis=1) / counts[:, None]
    return means.reshape((len(counts), *value.shape[1:]))

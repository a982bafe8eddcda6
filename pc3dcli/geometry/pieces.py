# SPDX-License-Identifier: Apache-2.0
"""Cut a scene of voxels that is too large for one pass into pieces that overlap; ours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def overlapping_pieces(coords: np.ndarray, num: int, margin: float) -> Iterator[np.ndarray]:
    """Yield the voxels (n,) int64 of each piece with its margin, ascending; one piece where all fit.

    coords  (N, 3) int64; num  most voxels of a piece; margin  voxels, in the plane
    """
    whole = np.arange(len(coords))
    if len(coords) <= num:
        yield whole
        return
    plane = coords[:, :2]
    for inside in _halved(plane, whole, num):
        low, high = plane[inside].min(axis=0) - margin, plane[inside].max(axis=0) + margin
        yield np.flatnonzero(((plane >= low) & (plane <= high)).all(axis=1))


def _halved(plane: np.ndarray, inside: np.ndarray, num: int) -> Iterator[np.ndarray]:
    if len(inside) <= num:
        yield inside
        return
    own = plane[inside]
    for axis in np.argsort(-np.ptp(own, axis=0), kind="stable"):
        middle = np.median(own[:, axis])
        for is_low in (own[:, axis] <= middle, own[:, axis] < middle):
            if is_low.any() and not is_low.all():
                yield from _halved(plane, inside[is_low], num)
                yield from _halved(plane, inside[~is_low], num)
                return
    yield inside  # a column of voxels, which cannot be cut

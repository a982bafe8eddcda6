# SPDX-License-Identifier: Apache-2.0
"""Chamfer distances between small point sets, many at once, with a cheap backward.

Nearest points are found without gradient; the distances are then computed again for those pairs alone, so that
nothing of size n x m is kept for the backward.  Always float32, whatever the autocast.  Forms as in the released code
of Point-MAE.  No departures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pc3dcli.nn.point_sampling import squared_distances


def chamfer_l2(a: Tensor, b: Tensor) -> Tensor:
    """Return mean_i min_j |a_i - b_j|^2 + mean_j min_i |b_j - a_i|^2 per pair of sets.

    a        (..., n, 3), b (..., m, 3), both with gradient
    returns  (...) float32; equally near points: the gradient goes to the first
    """
    of_a, of_b = _gaps(a, b)
    return of_a.square().sum(-1).mean(-1) + of_b.square().sum(-1).mean(-1)


def chamfer_l1(a: Tensor, b: Tensor) -> Tensor:
    """Return half the sum of the mean distances (not squared) to the nearest point, as `chamfer_l2` takes them."""
    of_a, of_b = _gaps(a, b)
    # the norm of a zero vector has gradient 0 here, that of a square root would be infinite
    return (torch.linalg.vector_norm(of_a, dim=-1).mean(-1) + torch.linalg.vector_norm(of_b, dim=-1).mean(-1)) / 2


def _gaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a minus its nearest of b (..., n, 3), and b minus its nearest of a (..., m, 3)."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        with torch.no_grad():
            distance = squared_distances(a, b)  # (..., n, m)
            nearest_b, nearest_a = distance.argmin(-1), distance.argmin(-2)  # the first of equal ones
        return a - _take(b, nearest_b), b - _take(a, nearest_a)


def _take(points: Tensor, index: Tensor) -> Tensor:
    """points (..., n, 3), index (..., m) -> (..., m, 3)"""
    return points.gather(-2, index.unsqueeze(-1).expand(*index.shape, 3))

# SPDX-License-Identifier: Apache-2.0
"""Pick, group and interpolate points of batches of clouds: what patch Transformers share.

Farthest point sampling follows pointnet2_ops, whose results the released checkpoints were trained with: it starts at
index 0 and never picks points near the origin.  Distances are sums of squared differences in float32 whatever the
autocast, never expanded squares, so that the sets of neighbours are right for clouds far from the origin too.
*Departures*: equal distances go to the lowest index always, where the released kernel nearly always does so.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR_ORIGIN = 1e-3  # squared distance up to which the released kernel takes a point for padding
CHUNK_ELEMENTS = {"cpu": 1 << 20}  # distances held at once: 4 MB stay in the cache of a processor; ours
CHUNK_ELEMENTS_ELSEWHERE = 1 << 27


@torch.no_grad()
def farthest_points(xyz: Tensor, num: int, *, skip_near_origin: bool = True) -> Tensor:
    """Pick points one by one, each the farthest from those picked before; the first is index 0.

    xyz               (B, N, 3)
    num               how many; more than there are points repeats some
    skip_near_origin  never pick points within sqrt(0.001) of the origin (other than index 0)
    returns           (B, num) int64; ties go to the lowest index; index 0 where every point was skipped
    """
    x, y, z = (axis.contiguous() for axis in xyz.float().unbind(2))  # (B, N) each
    distance = torch.full_like(x, 1e10)
    if skip_near_origin:
        distance[x * x + y * y + z * z <= NEAR_ORIGIN] = -1.0  # below every distance, and a minimum keeps it
    picked = torch.zeros(len(xyz), num, dtype=torch.int64, device=xyz.device)
    last = picked[:, :1]
    gap, square = torch.empty_like(x), torch.empty_like(x)
    for step in range(1, num):
        torch.sub(x, x.gather(1, last), out=gap).square_()
        for axis in (y, z):
            torch.sub(axis, axis.gather(1, last), out=square).square_()
            gap += square
        torch.minimum(distance, gap, out=distance)
        last = distance.argmax(1, keepdim=True)  # the first of equal ones
        picked[:, step : step + 1] = last
    return picked


@torch.no_grad()
def nearest_points(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find the k nearest points of each query.

    query    (B, M, 3), points (B, N, 3)
    k        at most N
    returns  (B, M, k) int64 into points, nearest first, equal distances by index
    raises   ValueError for fewer points than k
    """
    (B, M, _), N = query.shape, points.shape[1]
    if k > N:
        raise ValueError(f"found clouds of {N} points, expected at least the {k} of a neighbourhood")
    budget = CHUNK_ELEMENTS.get(query.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    size = max(1, budget // max(1, B * N))
    points = points.float()
    chunks = [_nearest(chunk.float(), points, k) for chunk in query.split(size, dim=1)]
    return torch.cat(chunks, dim=1) if chunks else torch.empty(B, M, k, dtype=torch.int64, device=query.device)


def _nearest(query: Tensor, points: Tensor, k: int) -> Tensor:
    """`nearest_points` of as many queries as fit in memory."""
    keys = squared_distances(query, points).view(torch.int32).long()  # floats >= 0 order like their bits
    keys = (keys << 32) | torch.arange(points.shape[1], device=points.device)  # equal distances order by index
    return keys.topk(k, largest=False).values & 0xFFFFFFFF


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return (..., n, m) float squared distances between a (..., n, 3) and b (..., m, 3), from differences."""
    total = None
    for axis_a, axis_b in zip(a.unbind(-1), b.unbind(-1), strict=True):
        square = (axis_a.unsqueeze(-1) - axis_b.unsqueeze(-2)).square_()
        total = square if total is None else total.add_(square)
    return total


def gather_points(values: Tensor, index: Tensor) -> Tensor:
    """Return values[b, index[b, ...]]: values (B, N, C), index (B, ...) int64 -> (B, ..., C)."""
    B, N, C = values.shape
    offset = torch.arange(B, device=index.device).view(-1, *[1] * (index.dim() - 1)) * N
    return values.reshape(B * N, C).index_select(0, (index + offset).flatten()).view(*index.shape, C)


def interpolate3(query: Tensor, source: Tensor, features: Tensor) -> Tensor:
    """Interpolate features of source points at query points: the 3 nearest, weighted by 1 / (squared distance + 1e-8).

    query     (B, M, 3), source (B, S, 3); fewer than three sources are all taken
    features  (B, S, C) of the source points; the gradient goes to them alone
    returns   (B, M, C) in the dtype of features
    """
    with torch.no_grad():
        nearest = nearest_points(query, source, min(3, source.shape[1]))  # (B, M, 3)
        gap = query.float().unsqueeze(2) - gather_points(source.float(), nearest)
        weight = 1.0 / (gap.square().sum(-1) + 1e-8)
        weight /= weight.sum(2, keepdim=True)
        matrix = weight.new_zeros(*query.shape[:2], source.shape[1]).scatter_(2, nearest, weight)  # (B, M, S)
    with torch.autocast(query.device.type, enabled=False):
        # a product with a sparse matrix held densely: no (B, M, 3, C) in memory, and sums in a fixed order on a GPU
        return torch.bmm(matrix, features.float()).to(features.dtype)

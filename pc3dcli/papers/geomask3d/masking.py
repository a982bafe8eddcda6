# SPDX-License-Identifier: Apache-2.0
"""Which patches are hidden: at random, a block, the largest, or those that a teacher scores as hard (GeoMask3D).

A mask is (B, G) bool, True = hidden, with the same number of True in every row.  Random numbers are drawn on the CPU
from one generator, so that every device hides the same patches.

Departures: selection is one sort on the device; the released code loops over the batch in NumPy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pc3dcli.nn.point_sampling import gather_points


def num_selected(epoch: int, epochs: int, num_hidden: int, hard_ratio: float, ramp: str = "full") -> int:
    """Return how many of the hidden patches are chosen by score in an epoch.

    epoch       0-based, of `epochs`
    hard_ratio  A, the share at the end of the ramp
    ramp        "full": linear to the last epoch; "half": linear to the middle, then constant
    """
    length = epochs if ramp == "full" else epochs / 2
    ratio = min(hard_ratio * (epoch + 1) / length, hard_ratio)
    return int(num_hidden * ratio + 1e-9)  # 0.7 * 40 must not become 27


def random_hidden(B: int, G: int, num: int, generator: torch.Generator) -> Tensor:
    """Hide `num` of G patches, uniformly without replacement, in each of B rows: (B, G) bool on the CPU."""
    return largest(torch.rand(B, G, generator=generator), num)


def block_hidden(centers: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Hide the `num` patches whose centers (B, G, 3) are nearest to a random one of them: (B, G) bool."""
    B, G, _ = centers.shape
    seed = torch.randint(G, (B, 1), generator=generator).to(centers.device)
    distance = (centers - gather_points(centers, seed)).square().sum(-1)
    return largest(-distance, num)


def squared_radius(points: Tensor) -> Tensor:
    """Return the mean squared distance (...) float32 of patch points (..., S, 3) from their center."""
    return points.float().square().sum(-1).mean(-1)


def select_hidden(scores: Tensor, num_hidden: int, num_selected: int, generator: torch.Generator) -> Tensor:
    """Hide the `num_selected` patches of highest score, and `num_hidden - num_selected` random ones of the rest.

    scores   (B, G) float, higher = hidden first; ties go to the lower index
    returns  (B, G) bool
    """
    order = torch.rand(*scores.shape, generator=generator).to(scores.device)
    return largest(order.masked_fill(largest(scores, num_selected), 2.0), num_hidden)


def largest(values: Tensor, num: int) -> Tensor:
    """Mark the `num` largest values of each row of (B, G): bool; ties go to the lower index."""
    index = values.argsort(dim=1, descending=True, stable=True)[:, :num]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, index, True)


def fold_masks(orders: Tensor, num_hidden: int) -> Tensor:
    """Return masks that together hide every patch at least once: (K, B, G) bool with K = ceil(G / num_hidden).

    orders  (B, G) int64, a permutation of the patches in each row; pass k hides `num_hidden` consecutive ones of it
    """
    B, G = orders.shape
    K = math.ceil(G / num_hidden)
    masks = torch.zeros(K, B, G, dtype=torch.bool, device=orders.device)
    for k in range(K):
        start = round(k * (G - num_hidden) / max(K - 1, 1))
        masks[k].scatter_(1, orders[:, start : start + num_hidden], True)
    return masks


def random_orders(B: int, G: int, generator: torch.Generator) -> Tensor:
    """Return a random permutation of G patches for each of B rows: (B, G) int64 on the CPU."""
    return torch.rand(B, G, generator=generator).argsort(dim=1, stable=True)


def hidden_index(hidden: Tensor) -> Tensor:
    """Return the hidden patches of each row of (B, G) bool, ascending: (B, H) int64; every row has H of them."""
    return hidden.nonzero()[:, 1].view(len(hidden), -1)

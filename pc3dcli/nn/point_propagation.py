# SPDX-License-Identifier: Apache-2.0
"""Carry features of patch centres to every point of a cloud (feature propagation of PointNet++).

Interpolation is linear in the features, so that the part of the first layer that reads them runs on the few centres
and not on every point, which changes sums by rounding only.  No departures otherwise.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.nn.point_sampling import interpolate3


class PointPropagation(nn.Module):
    """Interpolate features at every point and mix them with its coordinates: two layers with BatchNorm and ReLU."""

    def __init__(self, dim: int, width: int, out_dim: int) -> None:
        super().__init__()
        self.mlp_convs = nn.ModuleList([nn.Linear(3 + dim, width), nn.Linear(width, out_dim)])
        self.mlp_bns = nn.ModuleList([nn.BatchNorm1d(width), nn.BatchNorm1d(out_dim)])

    def forward(self, clouds: Tensor, centers: Tensor, tokens: Tensor) -> Tensor:
        """clouds (B, N, 3), centers (B, G, 3), tokens (B, G, C) -> (B, N, out_dim)"""
        (B, N, _), first = clouds.shape, self.mlp_convs[0]
        weight_xyz, weight_tokens = first.weight.split((3, tokens.shape[2]), dim=1)  # of [xyz, interpolated]
        carried = interpolate3(clouds, centers, F.linear(tokens, weight_tokens))
        mixed = (F.linear(clouds, weight_xyz, first.bias) + carried).flatten(0, 1)  # (B N, width)
        mixed = self.mlp_convs[1](F.relu(self.mlp_bns[0](mixed)))
        return F.relu(self.mlp_bns[1](mixed)).view(B, N, -1)

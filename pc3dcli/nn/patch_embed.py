# SPDX-License-Identifier: Apache-2.0
"""The mini-PointNet that turns the points of a patch into one token (Point-MAE, Point-M2AE).

Convolutions of width 1 are linear layers over rows here.  The second half's first layer takes [global, local] channels;
its global part is the same for all points of a patch and computed once a patch.  No departures.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

LOCAL_DIM = 256


class PatchEmbed(nn.Module):
    """3 -> 128 -> 256, max over the points, [global, local] 512 -> 512 -> out_dim, max over the points."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Linear(3, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, LOCAL_DIM))
        self.second_conv = nn.Sequential(
            nn.Linear(2 * LOCAL_DIM, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, out_dim)
        )

    def forward(self, points: Tensor) -> Tensor:
        """points (B, G, S, 3) relative to their patch's centre, taken without gradient -> (B, G, out_dim)"""
        B, G, S, _ = points.shape
        local = self.first_conv(points.detach().reshape(-1, 3))  # (B G S, 256)
        widest = local.view(B * G, S, -1).max(1).values  # one point a channel gets the gradient
        first, norm, relu, last = self.second_conv
        weight_global, weight_local = first.weight.chunk(2, dim=1)
        of_patch = F.linear(widest, weight_global, first.bias)  # once a patch
        mixed = F.linear(local, weight_local).view(B * G, S, -1) + of_patch.unsqueeze(1)
        return last(relu(norm(mixed.flatten(0, 1)))).view(B, G, S, -1).max(2).values

# SPDX-License-Identifier: Apache-2.0
"""The mini-PointNet that turns the points of a patch into one token (Point-MAE, Point-M2AE).

Convolutions of width 1 are linear layers over rows here.  The second half's first layer takes [global, local] channels;
its global part is the same for all points of a patch and computed once a patch.  No departures.

A model that is not trained needs no statistics: its norms become part of the layers, the linear layers that follow each
other one, and few patches at a time stay in the cache of a processor.  `patch_embed_cpu.py` does the like in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.nn.patch_embed_cpu import embed_patches

WIDTH = 512  # channels of the widest layer, in all released models
CHUNK_PATCHES = 64  # at once on a CPU; ours


class PatchEmbed(nn.Module):
    """3 -> 128 -> 256, max over the points, [global, local] 512 -> 512 -> out_dim, max over the points."""

    fused = True  # False: the layers one after another, which torch.compile can fuse itself

    def __init__(self, out_dim: int, width: int = WIDTH) -> None:
        """width: of the widest layer, in place of 512."""
        super().__init__()
        quarter, half = width // 4, width // 2
        self.first_conv = nn.Sequential(
            nn.Linear(3, quarter), nn.BatchNorm1d(quarter), nn.ReLU(), nn.Linear(quarter, half)
        )
        self.second_conv = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, out_dim)
        )

    def forward(self, points: Tensor) -> Tensor:
        """points (B, G, S, 3) relative to their patch's centre, taken without gradient -> (B, G, out_dim)"""
        B, G, S, _ = points.shape
        if self.fused and not (self.training or torch.is_grad_enabled()):
            return self._embed_fixed(points.reshape(B * G, S, 3)).view(B, G, -1)
        if self._takes_fast_way(points):
            return embed_patches(points.reshape(B * G, S, 3), self.first_conv, self.second_conv).view(B, G, -1)
        return self._embed_plain(points.detach().reshape(B * G, S, 3)).view(B, G, -1)

    def _embed_plain(self, points: Tensor) -> Tensor:
        """Embed patches (n, S, 3), by their own statistics in training: (n, out_dim)"""
        (n, S, _), (*lift, widen), (mix, *norm, last) = points.shape, self.first_conv, self.second_conv
        lifted = points.flatten(0, 1)
        for layer in lift:
            lifted = layer(lifted)  # (n S, 128)
        widest = widen(lifted).view(n, S, -1).max(1).values  # one point a channel gets the gradient
        weight_global, weight_local = mix.weight.chunk(2, dim=1)
        with torch.autocast(points.device.type, enabled=False):
            # the local half reads what `widen` gives linearly: one layer of 128 -> 512 in place of two
            weight_both, bias_both = weight_local @ widen.weight, mix.bias + weight_local @ widen.bias
        of_patch = F.linear(widest, weight_global, bias_both)  # once a patch
        mixed = (F.linear(lifted, weight_both).view(n, S, -1) + of_patch.unsqueeze(1)).flatten(0, 1)
        for layer in norm:
            mixed = layer(mixed)
        return last(mixed).view(n, S, -1).max(1).values

    def _takes_fast_way(self, points: Tensor) -> bool:
        is_plain = torch.is_autocast_enabled(points.device.type) or torch.compiler.is_compiling()
        dtypes = {points.dtype, self.first_conv[0].weight.dtype}
        return self.fused and not is_plain and points.device.type == "cpu" and dtypes == {torch.float32}

    def _embed_fixed(self, points: Tensor) -> Tensor:
        """Embed patches (n, S, 3) without gradient, by the running statistics: (n, out_dim)"""
        (lift, lift_norm, _, widen), (mix, mix_norm, _, last) = self.first_conv, self.second_conv
        with torch.autocast(points.device.type, enabled=False):
            weight_lift, bias_lift = _folded(lift.weight, lift.bias, lift_norm)
            weight_mix, bias_mix = _folded(mix.weight, mix.bias, mix_norm)
            weight_global, weight_local = weight_mix.chunk(2, dim=1)
            # the local half reads what `widen` gives linearly: one layer of 128 -> 512 in place of two
            weight_both = torch.cat((widen.weight, weight_local @ widen.weight))
            bias_both = torch.cat((widen.bias, weight_local @ widen.bias))
        tokens = []
        for chunk in points.split(CHUNK_PATCHES if points.device.type == "cpu" else len(points)):
            both = F.linear(F.linear(chunk, weight_lift, bias_lift).relu_(), weight_both, bias_both)
            widest, local = both.split((len(widen.weight), len(mix.weight)), dim=-1)
            widest = widest.amax(1)
            mixed = local.add_(F.linear(widest, weight_global, bias_mix).unsqueeze(1)).relu_()
            tokens.append(F.linear(mixed, last.weight, last.bias).amax(1))
        return torch.cat(tokens)


def _folded(weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear layer and the norm after it as one layer."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * scale.unsqueeze(1), (bias - norm.running_mean) * scale + norm.bias

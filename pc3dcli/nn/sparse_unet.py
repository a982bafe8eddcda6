# SPDX-License-Identifier: Apache-2.0
"""Sparse residual U-Nets on voxels: Res16UNet34C of Minkowski networks, wider or narrower, deeper or shallower.

Choy, Gwak, Savarese, "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks", 2019, as Mask3D and
Segment3D use it.  Four levels down by strided 2^3 convolutions, four up by inverse ones, features of the way down
beside those of the way up.  No departures; the last layer of the released network, which both leave out, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.nn.sparse import InverseConv, SparseTensor, StridedConv, SubmanifoldConv

LEVELS = 4  # below the finest
MAX_WIDTH, MAX_DEPTH = 4096, 100  # far beyond what is of use; what a broken file asks for would fill the memory
BLOCK_MOMENTUM = 0.1  # of the norms within residual blocks, which the released code does not pass its 0.02 to


@dataclass(frozen=True)
class UnetConfig:
    """Widths and depths; the defaults are Res16UNet34C."""

    stem: int = 32  # channels of the first convolution
    stem_kernel: int = 5
    planes: tuple[int, ...] = (32, 64, 128, 256, 256, 128, 96, 96)  # channels after each level, 4 down and 4 up
    depths: tuple[int, ...] = (2, 3, 4, 6, 2, 2, 2, 2)  # residual blocks of each

    def __post_init__(self) -> None:
        if len(self.planes) != 2 * LEVELS or len(self.depths) != 2 * LEVELS:
            raise ValueError(f"a U-Net has {2 * LEVELS} widths and depths, found {self.planes} and {self.depths}")
        if min(self.stem, *self.planes, *self.depths) < 1 or self.stem_kernel % 2 == 0 or self.stem_kernel < 1:
            raise ValueError("widths and depths must be positive, stem_kernel odd")
        if max(self.stem, *self.planes) > MAX_WIDTH or max(*self.depths, self.stem_kernel) > MAX_DEPTH:
            raise ValueError(f"stem and planes may be up to {MAX_WIDTH}, depths and stem_kernel up to {MAX_DEPTH}")

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the five outputs, the coarsest first."""
        return self.planes[LEVELS - 1 :]


class VoxelNorm(nn.BatchNorm1d):
    """BatchNorm over voxels; a single voxel has no statistics, so that in training those so far serve for it."""

    def __init__(self, channels: int, momentum: float = 0.02) -> None:
        super().__init__(channels, momentum=momentum)

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(features) == 1:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(features)


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions beside a shortcut, which is a 1 x 1 layer where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = SubmanifoldConv(in_channels, out_channels, 3), VoxelNorm(out_channels, BLOCK_MOMENTUM)
        self.conv2 = SubmanifoldConv(out_channels, out_channels, 3)
        self.norm2 = VoxelNorm(out_channels, BLOCK_MOMENTUM)
        is_same = in_channels == out_channels
        self.shortcut = None if is_same else nn.Linear(in_channels, out_channels, bias=False)
        self.shortcut_norm = None if is_same else VoxelNorm(out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        inner = x.replace(F.relu(self.norm1(self.conv1(x).features)))
        inner = self.norm2(self.conv2(inner).features)
        beside = x.features if self.shortcut is None else self.shortcut_norm(self.shortcut(x.features))
        return x.replace(F.relu(inner + beside))


class SparseUnet(nn.Module):
    """Features of voxels at five levels of resolution."""

    def __init__(self, config: UnetConfig, in_channels: int) -> None:
        super().__init__()
        self.stem = SubmanifoldConv(in_channels, config.stem, config.stem_kernel)
        self.stem_norm = VoxelNorm(config.stem)
        widths = [config.stem]
        self.down, self.down_norms, self.encoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for planes, depth in zip(config.planes[:LEVELS], config.depths[:LEVELS], strict=True):
            self.down.append(StridedConv(widths[-1], widths[-1], 2, 2))
            self.down_norms.append(VoxelNorm(widths[-1]))
            self.encoder.append(_blocks(widths[-1], planes, depth))
            widths.append(planes)
        width = widths.pop()
        self.up, self.up_norms, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for planes, depth in zip(config.planes[LEVELS:], config.depths[LEVELS:], strict=True):
            self.up.append(InverseConv(width, planes, 2, 2))
            self.up_norms.append(VoxelNorm(planes))
            self.decoder.append(_blocks(planes + widths.pop(), planes, depth))
            width = planes

    def forward(self, x: SparseTensor) -> list[SparseTensor]:
        """Return features at 1/16, 1/8, 1/4, 1/2 and all of the resolution of `x`."""
        x = x.replace(F.relu(self.stem_norm(self.stem(x).features)))
        skips = [x]
        for down, norm, blocks in zip(self.down, self.down_norms, self.encoder, strict=True):
            x = down(x)
            x = blocks(x.replace(F.relu(norm(x.features))))
            skips.append(x)
        levels = [skips.pop()]
        for up, norm, blocks in zip(self.up, self.up_norms, self.decoder, strict=True):
            skip = skips.pop()
            x = up(x, skip.sites)
            x = blocks(x.replace(torch.cat((F.relu(norm(x.features)), skip.features), dim=1)))
            levels.append(x)
        return levels


def _blocks(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels), *(ResidualBlock(out_channels, out_channels) for _ in range(depth - 1))
    )

# SPDX-License-Identifier: Apache-2.0
"""The pre-norm Transformer of Point-MAE and its relatives: positions are added again before every block.

Attention without qkv bias, exact GELU, MLP of four times the width, drop path per sample (released code of Point-MAE).
Parameter names are those of the released checkpoints.  No departures; attention has a plain twin beside the fused one.
Drop path draws from torch's default generator of the CPU on every device, which the training loop seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention."""

    fused = True  # torch's kernel; False: the formula written out

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} channels do not divide among {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None = None, num_last: int | None = None) -> Tensor:
        """Attend from every token, or from the last ones, to all.

        x         (B, T, C)
        attend    (B or 1, 1, rows or 1, T) bool, True where a row may look
        num_last  rows that are wanted; None: all T
        returns   (B, rows, C)
        """
        (B, T, C), rows = x.shape, x.shape[1] if num_last is None else num_last
        shape = (self.heads, C // self.heads)
        if rows == T:
            query, key, value = self.qkv(x).view(B, T, 3, *shape).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            weight_query, weight_rest = self.qkv.weight.split((C, 2 * C))
            query = F.linear(x[:, T - rows :], weight_query).view(B, rows, *shape).transpose(1, 2)
            key, value = F.linear(x, weight_rest).view(B, T, 2, *shape).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        else:
            score = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            score = score if attend is None else score.masked_fill(~attend, -torch.inf)
            mixed = score.softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(B, rows, C))


class Mlp(nn.Module):
    """Two layers with an exact GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)"""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)); in training each branch drops out for a sample with drop_path."""

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = float(drop_path)
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, attend: Tensor | None = None, num_last: int | None = None) -> Tensor:
        """x (B, T, C), attend and num_last as for Attention -> (B, rows, C)"""
        branch = self.attn(self.norm1(x), attend, num_last)
        x = self._add(x if num_last is None else x[:, x.shape[1] - num_last :], branch)
        return self._add(x, self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add a branch to the samples that keep it, scaled so that the mean stays."""
        if not self.training or self.drop_path == 0.0:
            return x + branch
        keep = 1.0 - self.drop_path
        scale = torch.rand(len(x)).add_(keep).floor_().div_(keep)  # on the CPU: the same draws on every device
        return torch.addcmul(x, branch, scale.to(branch).view(-1, 1, 1))


class Transformer(nn.Module):
    """Blocks in a row, without a final norm."""

    def __init__(self, dim: int, depth: int, heads: int, drop_path: float | Sequence[float] = 0.0) -> None:
        """drop_path: the rate of the last block, rising from 0 in equal steps, or one rate a block."""
        super().__init__()
        if not isinstance(drop_path, Sequence):
            drop_path = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList([Block(dim, heads, rate) for rate in drop_path])
        if len(self.blocks) != depth:
            raise ValueError(f"{len(drop_path)} drop-path rates for {depth} blocks")

    def forward(
        self, x: Tensor, positions: Tensor, attend: Tensor | None = None, num_last: int | None = None
    ) -> Tensor:
        """Run the blocks.

        x, positions  (B, T, C)
        attend        (B, T, T) or (B, 1, T or 1, T) bool, True where a row may look; None: everywhere; every row needs
                      one True
        num_last      tokens at the end that are wanted: the last block computes those alone; None: all
        returns       (B, T or num_last, C)
        """
        attend = attend.unsqueeze(1) if attend is not None and attend.dim() == 3 else attend
        *first, last = self.blocks
        for block in first:
            x = block(x + positions, attend)
        if attend is not None and num_last is not None and attend.shape[2] > 1:
            attend = attend[:, :, attend.shape[2] - num_last :]
        return last(x + positions, attend, num_last)

    def taps(self, x: Tensor, positions: Tensor, at: Sequence[int]) -> list[Tensor]:
        """Return the outputs (B, T, C) of the blocks whose ascending indices are given; later blocks do not run."""
        found = []
        for number, block in enumerate(self.blocks[: at[-1] + 1]):
            x = block(x + positions)
            if number in at:
                found.append(x)
        return found


def pool_tokens(tokens: Tensor, pooling: str) -> Tensor:
    """Return (B, C) of tokens (B, T, C): their "max", their "mean", or the sum "max+mean"."""
    pools = {"max": tokens.amax(1), "mean": tokens.mean(1)}
    return sum(pools[name] for name in pooling.split("+"))

# SPDX-License-Identifier: Apache-2.0
"""The geometric-complexity decoder of GeoMask3D (D_GC): one score for each patch that the encoder did not see.

Departures: the released head ends in as many channels as tokens have and takes their mean; the mean of a linear layer
is one linear unit, which is what stands here (started at the variance of such a mean).  Its layers
start as torch starts them, as in the released code, not as those of the reconstruction decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pc3dcli.nn.transformer import Transformer

HEAD_WIDTH = 1024  # the released code
LEAK = 0.2


class GcHead(nn.Module):
    """A Transformer decoder over visible tokens and mask tokens, and a score for each token."""

    def __init__(self, dim: int = 384, depth: int = 4, heads: int = 6, drop_path: float = 0.1) -> None:
        """Build it for tokens of `dim` channels; drop_path is the rate of the last block."""
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))  # its own, and zero, as in the released code
        self.blocks = Transformer(dim, depth, heads, drop_path)
        self.norm = nn.LayerNorm(dim)
        self.score = nn.Sequential(
            nn.Linear(dim, HEAD_WIDTH),
            nn.BatchNorm1d(HEAD_WIDTH),
            nn.LeakyReLU(LEAK),
            nn.Linear(HEAD_WIDTH, 1, bias=False),  # pairs never see what all scores have in common
        )
        with torch.no_grad():
            self.score[3].weight.mul_(dim**-0.5)

    def forward(self, visible: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
        """Score the hidden patches; where nothing is hidden, every patch as seen.

        visible    (B, V, C) encoded tokens, ascending patch index
        positions  (B, G, C), the same that the reconstruction decoder adds
        hidden     (B, G) bool, True = hidden, G - V in every row
        returns    (B, G - V) float32, ascending patch index; (B, G) when V = G
        """
        B, V, C = visible.shape
        H = hidden.shape[1] - V
        position_visible = positions[~hidden].view(B, V, C)
        position_hidden = positions[hidden].view(B, H, C)
        tokens = torch.cat([visible, self.mask_token.to(visible.dtype).expand(B, H, C)], dim=1)
        positions = torch.cat([position_visible, position_hidden], dim=1)
        tokens = self.norm(self.blocks(tokens, positions, num_last=H or None))
        return self.score(tokens.flatten(0, 1)).view(B, -1).float()

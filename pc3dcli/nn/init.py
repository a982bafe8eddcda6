# SPDX-License-Identifier: Apache-2.0
"""Initial values of the released Point-MAE and Point-M2AE, to pass to `module.apply`."""

from __future__ import annotations

from torch import nn


def init_encoder(module: nn.Module) -> None:
    """Draw linear and convolution weights from a normal distribution of 0.02 cut at +-2, zero their biases."""
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_decoder(module: nn.Module) -> None:
    """Draw linear weights by the rule of Xavier (uniform), zero their biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

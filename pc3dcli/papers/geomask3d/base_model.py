# SPDX-License-Identifier: Apache-2.0
"""What GeoMask3D needs of the masked autoencoder that it trains: Point-MAE and Point-M2AE have it.

B clouds have G patches each; a mask hides H of them in every row.  Point-MAE decodes the hidden patches themselves,
Point-M2AE tokens of a finer scale, so that the number T of decoded tokens varies there from mask to mask.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Groups(Protocol):
    """The patches of a batch: centers (B, G, 3) and points (B, G, S, 3) from their centers, float32; their places."""

    centers: Tensor
    points: Tensor
    center_index: Tensor


class Encoded(Protocol):
    """visible (B, G - H, C): tokens of the visible patches, ascending patch index; what else the decoder needs."""

    visible: Tensor


class Decoded(Protocol):
    """Of the T decoded tokens: features (T, C'), points (T, P, 3), true points targets (T, S, 3), cloud and token."""

    features: Tensor
    points: Tensor
    targets: Tensor
    sample: Tensor
    token: Tensor


class BaseModel(Protocol):
    """An nn.Module; `config` has dim, heads, drop_path and mask_ratio."""

    config: Any
    num_patches: int
    num_hidden: int

    def group(self, clouds: Tensor) -> Groups:
        """Divide clouds (B, N, 3) into patches, without gradient."""

    def embed(self, groups: Groups) -> Tensor:
        """Embed the patches, which every mask may share."""

    def encode(self, groups: Groups, hidden: Tensor, tokens: Tensor | None = None) -> Encoded:
        """Encode the visible patches; hidden (B, G) bool, tokens as of `embed`."""

    def decode(self, groups: Groups, hidden: Tensor, encoded: Encoded) -> Decoded:
        """Predict what is hidden."""

    def full_features(self, groups: Groups) -> Tensor:
        """Encode with nothing hidden, (B, tokens, C'), where Decoded.sample and .token say which token is meant."""

    def to_patches(self, groups: Groups, hidden: Tensor, decoded: Decoded, values: Tensor) -> tuple[Tensor, Tensor]:
        """Turn values (T,) of decoded tokens into those of the hidden patches (B, H), and say which have one."""

    def decoder_positions(self, groups: Groups) -> Tensor:
        """Return the positions of the patches as decoders add them, (B, G, C)."""

# SPDX-License-Identifier: Apache-2.0
"""Point-MAE: masked autoencoding of object clouds, a base model of GeoMask3D.

Y. Pang et al.: Masked autoencoders for point cloud self-supervised learning, ECCV 2022, arXiv 2203.06604: patches,
masked encoder, decoder and point prediction, after the released code.

*Departures*: the last decoder block computes hidden patches alone, which nothing else is read of.  Layers are those of
the released model under shorter names (`point_mae_released.py` has both).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pc3dcli.errors import check_ranges
from pc3dcli.nn.chamfer import chamfer_l1, chamfer_l2
from pc3dcli.nn.init import init_decoder, init_encoder
from pc3dcli.nn.patch_embed import PatchEmbed
from pc3dcli.nn.point_sampling import farthest_points, gather_points, nearest_points
from pc3dcli.nn.transformer import Transformer, pool_tokens

CHAMFER = {"l2": chamfer_l2, "l1": chamfer_l1}


@dataclass(frozen=True)
class PointMaeConfig:
    """Section 4.1 and the released configuration."""

    num_points: int = 1024  # of an input cloud
    num_patches: int = 64
    patch_size: int = 32  # points a patch
    dim: int = 384  # channels of a token
    embed_width: int = 512  # channels of the widest layer of the patch embedding
    depth: int = 12  # encoder blocks
    heads: int = 6
    decoder_depth: int = 4
    mask_ratio: float = 0.6
    drop_path: float = 0.1  # of the last block of encoder and decoder
    skip_near_origin: bool = True  # the rule of the released farthest point sampling

    def __post_init__(self) -> None:
        sizes = ("num_points", "num_patches", "patch_size", "dim", "embed_width", "depth", "heads", "decoder_depth")
        check_ranges(self, **dict.fromkeys(sizes, (1, 1 << 20)), mask_ratio=(0, 1), drop_path=(0, 0.99))
        if self.embed_width % 4:
            raise ValueError(f"embed_width = {self.embed_width}: expected a multiple of 4")
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim}: expected a multiple of heads = {self.heads}")
        if max(self.num_patches, self.patch_size) > self.num_points:
            raise ValueError(
                f"num_points = {self.num_points}: expected at least num_patches = {self.num_patches}"
                f" and patch_size = {self.patch_size}"
            )


@dataclass(frozen=True)
class Groups:
    """Patches of a batch of clouds.

    centers       (B, G, 3) float32, cloud frame
    points        (B, G, S, 3) float32, the nearest points minus their centre
    center_index  (B, G) int64, the centres in the cloud
    """

    centers: Tensor
    points: Tensor
    center_index: Tensor


@torch.no_grad()
def group_points(clouds: Tensor, num_patches: int, patch_size: int, *, skip_near_origin: bool = True) -> Groups:
    """Divide clouds (B, N, 3) into overlapping patches around their farthest points; N >= patch_size."""
    clouds = clouds.float()
    center_index = farthest_points(clouds, num_patches, skip_near_origin=skip_near_origin)
    centers = gather_points(clouds, center_index)
    points = gather_points(clouds, nearest_points(centers, clouds, patch_size))
    return Groups(centers, points - centers.unsqueeze(2), center_index)


class Encoder(nn.Module):
    """Patch embedding, positions, Transformer and final norm."""

    def __init__(self, config: PointMaeConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.dim, config.embed_width)
        self.pos_embed = position_mlp(config.dim)
        self.blocks = Transformer(config.dim, config.depth, config.heads, config.drop_path)
        self.norm = nn.LayerNorm(config.dim)
        self.apply(init_encoder)

    def forward(self, groups: Groups) -> Tensor:
        """Encode with nothing hidden: (B, G, C) after the norm."""
        return self.norm(self.blocks(self.patch_embed(groups.points), self.pos_embed(groups.centers)))


class Decoder(nn.Module):
    """Transformer and norm over the hidden tokens."""

    def __init__(self, config: PointMaeConfig) -> None:
        super().__init__()
        self.blocks = Transformer(config.dim, config.decoder_depth, config.heads, config.drop_path)
        self.norm = nn.LayerNorm(config.dim)
        self.apply(init_decoder)

    def forward(self, tokens: Tensor, positions: Tensor, num_hidden: int) -> Tensor:
        """tokens, positions (B, G, C), hidden ones last -> (B, num_hidden, C)"""
        return self.norm(self.blocks(tokens, positions, num_last=num_hidden))


@dataclass(frozen=True)
class Encoded:
    """visible (B, V, C): tokens after the encoder's norm, ascending patch index."""

    visible: Tensor


@dataclass(frozen=True)
class Decoded:
    """Predictions for the T = B H hidden patches, in the order of cloud, then patch.

    features  (T, C) after the decoder norm
    points    (T, S, 3) predicted and targets (T, S, 3) true, relative to the patch's centre
    sample    (T,) int64 cloud, token (T,) int64 patch
    """

    features: Tensor
    points: Tensor
    targets: Tensor
    sample: Tensor
    token: Tensor


class PointMae(nn.Module):
    """The pretraining model: encodes visible patches, predicts the points of hidden ones."""

    def __init__(self, config: PointMaeConfig = PointMaeConfig()) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder_pos_embed = position_mlp(config.dim)
        self.decoder = Decoder(config)
        self.increase_dim = nn.Linear(config.dim, 3 * config.patch_size)

    @property
    def num_patches(self) -> int:
        """Patches that masks are drawn for."""
        return self.config.num_patches

    @property
    def num_hidden(self) -> int:
        """Hidden ones among them: 38 of 64."""
        return int(self.config.mask_ratio * self.config.num_patches)

    def group(self, clouds: Tensor) -> Groups:
        """Group clouds (B, N, 3) into patches, without gradient."""
        config = self.config
        return group_points(clouds, config.num_patches, config.patch_size, skip_near_origin=config.skip_near_origin)

    def embed(self, groups: Groups) -> Tensor:
        """Embed every patch, hidden ones too (B, G, C): passes with other masks share it."""
        return self.encoder.patch_embed(groups.points)

    def encode(self, groups: Groups, hidden: Tensor, tokens: Tensor | None = None) -> Encoded:
        """Encode what is visible.

        hidden  (B, G) bool, True = hidden, equal numbers in every row
        tokens  (B, G, C) as of `embed`; None: embed now
        """
        tokens = self.embed(groups) if tokens is None else tokens
        order, num_visible = _visible_first(hidden)
        seen = order[:, :num_visible]
        positions = self.encoder.pos_embed(gather_points(groups.centers, seen))
        return Encoded(self.encoder.norm(self.encoder.blocks(gather_points(tokens, seen), positions)))

    def decode(self, groups: Groups, hidden: Tensor, encoded: Encoded) -> Decoded:
        """Predict the points of every hidden patch."""
        order, num_visible = _visible_first(hidden)
        B, G = order.shape
        num_hidden, dim = G - num_visible, self.config.dim
        mask_tokens = self.mask_token.to(encoded.visible.dtype).expand(B, num_hidden, dim)
        positions = self.decoder_pos_embed(gather_points(groups.centers, order))
        tokens = torch.cat((encoded.visible, mask_tokens), dim=1)
        features = self.decoder(tokens, positions, num_hidden).flatten(0, 1)  # (B H, C)
        token = order[:, num_visible:]
        targets = gather_points(groups.points.flatten(2), token).view(B * num_hidden, -1, 3)
        points = self.increase_dim(features).view(B * num_hidden, -1, 3)
        sample = torch.arange(B, device=order.device).repeat_interleave(num_hidden)
        return Decoded(features, points, targets, sample, token.flatten())

    def full_features(self, groups: Groups) -> Tensor:
        """Encode with nothing hidden, (B, G, C) after the norm."""
        return self.encoder(groups)

    def to_patches(self, groups: Groups, hidden: Tensor, decoded: Decoded, values: Tensor) -> tuple[Tensor, Tensor]:
        """Arrange values (T,) of decoded patches as (B, H), and say which are valid: all, (B, H) bool."""
        values = values.view(len(hidden), -1)
        return values, torch.ones_like(values, dtype=torch.bool)

    def decoder_positions(self, groups: Groups) -> Tensor:
        """Positions of the patches for decoders, (B, G, C)."""
        return self.decoder_pos_embed(groups.centers)

    def forward(self, clouds: Tensor, hidden: Tensor, form: str = "l2") -> Tensor:
        """Return the mean Chamfer distance of hidden patches; clouds (B, N, 3), hidden (B, G) bool, form l2 or l1."""
        groups = self.group(clouds)
        decoded = self.decode(groups, hidden, self.encode(groups, hidden))
        return CHAMFER[form](decoded.points, decoded.targets).mean()

    def pooled_features(self, clouds: Tensor, pooling: str = "max+mean") -> Tensor:
        """Return one feature a cloud, (B, C), with nothing hidden; pooling as `pool_tokens`."""
        return pool_tokens(self.full_features(self.group(clouds)), pooling)


def position_mlp(dim: int) -> nn.Sequential:
    """Build the layers that turn centres (..., 3) into positions (..., dim)."""
    return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))


def _visible_first(hidden: Tensor) -> tuple[Tensor, int]:
    """Return the patches of each row, visible ones first, both ascending (B, G) int64, and how many are visible."""
    order = hidden.byte().argsort(dim=1, stable=True)
    return order, hidden.shape[1] - int(hidden[0].sum())

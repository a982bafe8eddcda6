# SPDX-License-Identifier: Apache-2.0
"""Point-M2AE: masked autoencoding of object clouds on three scales, a base model of GeoMask3D.

R. Zhang et al.: Point-M2AE, multi-scale masked autoencoders for hierarchical point cloud pre-training, NeurIPS 2022,
arXiv 2205.14401: the pretraining model (sections 3.1 to 3.4).  Its parameters are those of the released code.

*Departures*: pretraining and linear probes mask padding alone; the released code multiplies padding with local radii,
by which some tokens see padding and none is limited to its surroundings (`released_masks` does the same).  Layers that
act on every token alone run before neighbours are interpolated, which changes sums by rounding only.  16 points are
predicted for patches of 8, as released; the paper predicts 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.errors import check_ranges
from pc3dcli.nn.chamfer import chamfer_l1, chamfer_l2
from pc3dcli.nn.init import init_decoder, init_encoder
from pc3dcli.nn.patch_embed import PatchEmbed
from pc3dcli.nn.point_sampling import gather_points, interpolate3
from pc3dcli.nn.transformer import Transformer, pool_tokens
from pc3dcli.papers.geomask3d.hierarchy import (
    Packing,
    ScaleGroups,
    attend_within,
    group_scales,
    pack_visible,
    visible_tokens,
)


@dataclass(frozen=True)
class PointM2aeConfig:
    """Section 4.1 and the released configuration; tuples go from fine to coarse."""

    num_points: int = 2048  # of an input cloud
    scale_patches: tuple[int, ...] = (512, 256, 64)  # tokens a scale
    patch_sizes: tuple[int, ...] = (16, 8, 8)  # neighbours of a token in the scale below
    dims: tuple[int, ...] = (96, 192, 384)  # channels a scale
    embed_width: int = 512  # channels of the widest layer of the patch embedding
    depth: int = 5  # encoder blocks a scale
    heads: int = 6
    decoder_depth: int = 1  # blocks of either decoder stage
    mask_ratio: float = 0.8  # of the coarsest tokens
    drop_path: float = 0.1  # of the last block
    radii: tuple[float, ...] = (0.32, 0.64, 1.28)  # of attention in fine-tuning, unit-ball lengths
    num_predicted: int = 16  # points a hidden token is decoded to; the released code's, the paper has 8
    skip_near_origin: bool = True  # the rule of the released farthest point sampling
    released_masks: bool = False  # pretraining and linear probes with the released code's masks, mistakes included

    def __post_init__(self) -> None:
        for name in ("scale_patches", "patch_sizes", "dims", "radii"):
            value = tuple(getattr(self, name))  # JSON knows lists only
            object.__setattr__(self, name, value)
            if len(value) != 3 or min(value) <= 0:
                raise ValueError(f"{name} = {value}: expected three positive numbers, one a scale")
        check_ranges(self, mask_ratio=(0, 0.999), drop_path=(0, 0.999), depth=(1, 99), decoder_depth=(1, 99))
        sizes = ("num_points", "embed_width", "heads", "num_predicted")
        check_ranges(self, **dict.fromkeys(sizes, (1, 1 << 20)))
        if self.embed_width % 4:
            raise ValueError(f"embed_width = {self.embed_width}: expected a multiple of 4")
        sources = (self.num_points, *self.scale_patches)
        for count, size, source in zip(self.scale_patches, self.patch_sizes, sources, strict=False):
            if max(count, size) > source:
                raise ValueError(f"{count} patches of {size} out of {source} points: expected no more than there are")
        if any(dim % self.heads for dim in self.dims):
            raise ValueError(f"heads = {self.heads}: expected a divisor of dims = {self.dims}")

    @property
    def num_patches(self) -> int:
        """Tokens of the coarsest scale, for which masks are drawn."""
        return self.scale_patches[-1]

    @property
    def dim(self) -> int:
        """Channels of the coarsest scale."""
        return self.dims[-1]


class TokenMerge(nn.Module):
    """Merge the tokens of neighbourhoods into one token each: a mini-PointNet on features alone."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Linear(in_dim, in_dim), nn.BatchNorm1d(in_dim), nn.ReLU(inplace=True), nn.Linear(in_dim, in_dim)
        )
        self.second_conv = nn.Sequential(
            nn.Linear(2 * in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU(inplace=True), nn.Linear(out_dim, out_dim)
        )

    def forward(self, tokens: Tensor, neighbors: Tensor) -> Tensor:
        """tokens (B, G', C), neighbors (B, G, S) into them -> (B, G, C')"""
        B, G, S = neighbors.shape
        local = self.first_conv(gather_points(tokens, neighbors).flatten(0, 2))  # (B G S, C)
        widest = local.view(B * G, S, -1).max(1).values
        first, norm, relu, last = self.second_conv
        weight_global, weight_local = first.weight.chunk(2, dim=1)  # of [global, local]
        of_patch = F.linear(widest, weight_global, first.bias)  # once a patch
        mixed = F.linear(local, weight_local).view(B * G, S, -1).add_(of_patch.unsqueeze(1))
        return last(relu(norm(mixed.flatten(0, 1)))).view(B, G, S, -1).max(2).values


class HierarchicalEncoder(nn.Module):
    """Token embedding, token merging and a Transformer on every scale."""

    def __init__(self, config: PointM2aeConfig, *, norms: bool = True) -> None:
        """norms: with the final layer norms of the scales, which pretraining and segmentation read."""
        super().__init__()
        self.released_radii = config.radii if config.released_masks else ()
        dims, depth = config.dims, config.depth
        merges = [TokenMerge(fine, coarse) for fine, coarse in zip(dims, dims[1:], strict=False)]
        self.token_embed = nn.ModuleList([PatchEmbed(dims[0], config.embed_width), *merges])
        self.encoder_pos_embeds = nn.ModuleList([position_mlp(dim) for dim in dims])
        rates = torch.linspace(0, config.drop_path, depth * len(dims)).view(len(dims), depth).tolist()
        self.encoder_blocks = nn.ModuleList(
            [Transformer(dim, depth, config.heads, rate) for dim, rate in zip(dims, rates, strict=True)]
        )
        self.encoder_norms = nn.ModuleList([nn.LayerNorm(dim) for dim in dims] if norms else [])
        self.apply(init_encoder)

    def forward(
        self,
        groups: ScaleGroups,
        packings: tuple[Packing, ...] = (),
        *,
        tokens: Tensor | None = None,
        radii: tuple[float, ...] = (),
        num_scales: int = 3,
    ) -> list[Tensor]:
        """Encode the visible tokens of every scale.

        packings    which tokens are visible; empty: all of them
        tokens      (B, G_0, C_0) embedded finest tokens where they are known already
        radii       limits of local attention a scale; empty: none
        num_scales  stop after that many, counted from the finest
        returns     a scale (B, V_i, C_i), packed like `packings`, without final norm
        """
        outputs = []
        for scale in range(num_scales):
            if scale > 0:
                tokens = self.token_embed[scale](tokens, groups.neighbors[scale])
            elif tokens is None:
                tokens = self.token_embed[0](groups.scale_points[0])
            if packings:
                visible = self._encode_visible(scale, tokens, groups.scale_centers[scale], packings[scale])
                tokens = packings[scale].put(visible, tokens)  # hidden ones stay as they were embedded
                outputs.append(visible)
            else:
                centers = groups.scale_centers[scale]
                attend = attend_within(centers, radii[scale]) if radii else None
                tokens = self.encoder_blocks[scale](tokens, self.encoder_pos_embeds[scale](centers), attend)
                outputs.append(tokens)
        return outputs

    def _encode_visible(self, scale: int, tokens: Tensor, centers: Tensor, packing: Packing) -> Tensor:
        """tokens (B, G, C), centers (B, G, 3) of a scale -> (B, V, C), packed"""
        visible, centers, attend = packing.take(tokens), packing.take(centers), packing.attend
        if self.released_radii:
            visible, centers, attend = packing.as_released(visible, centers, self.released_radii[scale])
        return self.encoder_blocks[scale](visible, self.encoder_pos_embeds[scale](centers), attend)


class TokenPropagation(nn.Module):
    """Carry decoder features from coarse tokens to fine ones, fuse them with those of the encoder, refine."""

    def __init__(self, fine_dim: int, coarse_dim: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(nn.Linear(fine_dim + coarse_dim, fine_dim), nn.BatchNorm1d(fine_dim), nn.GELU())
        self.net1 = nn.Sequential(nn.Linear(fine_dim, fine_dim), nn.BatchNorm1d(fine_dim), nn.GELU())
        self.net2 = nn.Sequential(nn.Linear(fine_dim, fine_dim), nn.BatchNorm1d(fine_dim))

    def forward(self, fine: Tensor, coarse: Tensor, fine_centers: Tensor, coarse_centers: Tensor) -> Tensor:
        """fine (B, G', C'), coarse (B, G, C), centres of both (B, ., 3) -> (B, G', C')"""
        first, norm, gelu = self.fuse
        weight_fine, weight_coarse = first.weight.split((fine.shape[2], coarse.shape[2]), dim=1)
        # interpolation weights sum to one, so the layer may run on the few coarse tokens
        carried = interpolate3(fine_centers, coarse_centers, F.linear(coarse, weight_coarse))
        fused = gelu(norm((F.linear(fine, weight_fine, first.bias) + carried).flatten(0, 1)))  # (B G', C')
        return F.gelu(self.net2(self.net1(fused)) + fused).view(fine.shape)


@dataclass(frozen=True)
class M2aeEncoded:
    """What the decoder needs.

    visible        (B, V, C) visible coarsest tokens after their norm, ascending patch index
    middle         (B, G_1, C_1) tokens of the scale that is reconstructed, after their norm, zeros where hidden
    middle_hidden  (B, G_1) bool, True = hidden
    """

    visible: Tensor
    middle: Tensor
    middle_hidden: Tensor


@dataclass(frozen=True)
class M2aeDecoded:
    """Predictions for the T hidden tokens of the middle scale, in the order of cloud, then token.

    features  (T, C_1) after the decoder norm
    points    (T, P, 3) predicted, relative to the token's centre; targets (T, S, 3): its centres of the finest scale
    sample    (T,) int64 cloud, token (T,) int64 index in the middle scale
    """

    features: Tensor
    points: Tensor
    targets: Tensor
    sample: Tensor
    token: Tensor


class PointM2ae(nn.Module):
    """The pretraining model: hides coarsest patches, encodes what is left of every scale, predicts hidden points."""

    def __init__(self, config: PointM2aeConfig = PointM2aeConfig()) -> None:
        super().__init__()
        self.config = config
        _, fine_dim, dim = config.dims
        depth, rates = config.decoder_depth, torch.linspace(0, config.drop_path, 2 * config.decoder_depth).tolist()
        self.h_encoder = HierarchicalEncoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.h_decoder = nn.ModuleList(
            [
                Transformer(dim, depth, config.heads, rates[:depth]),
                Transformer(fine_dim, depth, config.heads, rates[depth:]),
            ]
        )
        self.h_decoder.apply(init_decoder)
        self.decoder_pos_embeds = nn.ModuleList([position_mlp(dim), position_mlp(fine_dim)])
        self.token_prop = TokenPropagation(fine_dim, dim)
        self.decoder_norm = nn.LayerNorm(fine_dim)
        self.rec_head = nn.Linear(fine_dim, 3 * config.num_predicted)

    @property
    def num_patches(self) -> int:
        """Patches that masks are drawn for."""
        return self.config.num_patches

    @property
    def num_hidden(self) -> int:
        """Hidden ones among them: 51 of 64."""
        return int(self.config.mask_ratio * self.config.num_patches)

    def group(self, clouds: Tensor) -> ScaleGroups:
        """Group clouds (B, N, 3) into the tokens of every scale, without gradient."""
        config = self.config
        skip = config.skip_near_origin
        return group_scales(clouds, config.scale_patches, config.patch_sizes, skip_near_origin=skip)

    def embed(self, groups: ScaleGroups) -> Tensor:
        """Embed the finest tokens, (B, G_0, C_0): what passes with other masks share."""
        return self.h_encoder.token_embed[0](groups.scale_points[0])

    def encode(self, groups: ScaleGroups, hidden: Tensor, tokens: Tensor | None = None) -> M2aeEncoded:
        """Encode what is visible; hidden (B, G) bool with equal numbers a cloud, tokens as of `embed`."""
        visible = visible_tokens(groups, hidden, as_released=self.config.released_masks)
        packings = pack_visible(visible)
        _, middle, coarse = self.h_encoder(groups, packings, tokens=tokens)
        norms = self.h_encoder.encoder_norms
        middle = norms[1](middle)
        empty = middle.new_zeros(*visible[1].shape, middle.shape[2])
        return M2aeEncoded(norms[2](coarse), packings[1].put(middle, empty), ~visible[1])

    def decode(self, groups: ScaleGroups, hidden: Tensor, encoded: M2aeEncoded) -> M2aeDecoded:
        """Predict the points of every hidden token of the middle scale."""
        _, middle_centers, centers = groups.scale_centers
        B, G, _ = centers.shape
        coarse = self.mask_token.to(encoded.visible.dtype).expand(B, G, -1)
        coarse = coarse.masked_scatter(~hidden.unsqueeze(2), encoded.visible)  # both ascend
        coarse = self.h_decoder[0](coarse, self.decoder_positions(groups))
        fine = self.token_prop(encoded.middle, coarse, middle_centers, centers)
        fine = self.h_decoder[1](fine, self.decoder_pos_embeds[1](middle_centers))
        sample, token = encoded.middle_hidden.nonzero(as_tuple=True)
        features = self.decoder_norm(fine[sample, token])
        points = self.rec_head(features).view(len(token), self.config.num_predicted, 3)
        return M2aeDecoded(features, points, groups.scale_points[1][sample, token], sample, token)

    def full_features(self, groups: ScaleGroups) -> Tensor:
        """Encode with nothing hidden: the middle scale after its norm, (B, G_1, C_1)."""
        middle = self.h_encoder(groups, num_scales=2)[1]
        return self.h_encoder.encoder_norms[1](middle)

    def to_patches(
        self, groups: ScaleGroups, hidden: Tensor, decoded: M2aeDecoded, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Average values of hidden middle tokens over those that each hidden patch is made of.

        values   (T,) one a decoded token
        returns  (B, H) means, hidden patches ascending, and (B, H) bool, False (and 0) where a patch has none
        """
        places = (decoded.sample, decoded.token)
        zeros = values.new_zeros(groups.scale_centers[1].shape[:2])
        sums = zeros.index_put(places, values)
        is_decoded = zeros.index_put(places, values.new_ones(()))
        neighbors = groups.neighbors[2][hidden].view(len(hidden), -1)  # (B, H S)
        shape = (*neighbors.shape[:1], -1, groups.neighbors[2].shape[2])
        total = sums.gather(1, neighbors).view(shape).sum(2)
        count = is_decoded.gather(1, neighbors).view(shape).sum(2)
        return total / count.clamp(min=1), count > 0

    def decoder_positions(self, groups: ScaleGroups) -> Tensor:
        """Positions of the patches for decoders, (B, G, C)."""
        return self.decoder_pos_embeds[0](groups.centers)

    def forward(self, clouds: Tensor, hidden: Tensor, form: str = "l2") -> Tensor:
        """Return the mean Chamfer distance of hidden tokens; clouds (B, N, 3), hidden (B, G) bool, form l2 or l1."""
        groups = self.group(clouds)
        decoded = self.decode(groups, hidden, self.encode(groups, hidden))
        chamfer = {"l2": chamfer_l2, "l1": chamfer_l1}[form]
        return chamfer(decoded.points, decoded.targets).mean()

    def pooled_features(self, clouds: Tensor, pooling: str = "max+mean") -> Tensor:
        """Return one feature a cloud, (B, C), with no patch hidden; pooling as `pool_tokens`.

        As released, finer tokens that no patch is made of are not encoded; they are in fine-tuning.
        """
        groups = self.group(clouds)
        hidden = torch.zeros(groups.centers.shape[:2], dtype=torch.bool, device=clouds.device)
        coarse = self.h_encoder(groups, pack_visible(visible_tokens(groups, hidden)))[2]
        return pool_tokens(self.h_encoder.encoder_norms[2](coarse), pooling)


def position_mlp(dim: int) -> nn.Sequential:
    """Build the layers that turn centres (..., 3) into positions (..., dim) of a scale."""
    return nn.Sequential(nn.Linear(3, dim), nn.GELU(), nn.Linear(dim, dim))

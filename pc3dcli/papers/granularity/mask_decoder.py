# SPDX-License-Identifier: Apache-2.0
"""The mask transformer of Mask3D and Segment3D: queries that turn into masks of the voxels of one scene.

J. Schult et al., "Mask3D for 3D Semantic Instance Segmentation", 2023, arXiv 2210.03105; R. Huang et al., "Segment3D",
2024, arXiv 2312.17232 (granularity_tracking.md 7.1).  Queries start at the farthest voxels with content zero, or with
the features there; a layer for each of four resolutions, shared over three rounds, refines them by attention to where
their mask was so far.

*Departures*: `place_waves`, ours and off by default: a mask's logit also follows from where a voxel lies as seen from
the query's own (`QueryPlace`).  Without it the features of a voxel must tell two chairs of one kind apart, which takes
many samples.  A scene that is flat along an axis, or one voxel at some resolution, is encoded at position 0 there,
where the released code returns NaN.  Scenes are decoded one by one, without padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pc3dcli.errors import check_ranges
from pc3dcli.nn.point_sampling import farthest_points

LEVELS = 4  # resolutions that are attended to, the coarsest first


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the mask transformer, and how it is used."""

    dim: int = 128  # channels of a query
    heads: int = 8
    ffn_dim: int = 1024
    rounds: int = 3  # times through the four layers
    num_classes: int = 1  # beside "no object"; Mask3D has more
    query_features: bool = False  # queries start with what their voxel is like; use_np_features of Mask3D, off there
    place_waves: int = 0  # of the part of a mask that follows from how a voxel lies from its query's; 0: none.  Ours
    place_length: float = 6.0  # metres, typical of these waves
    sampled_voxels: tuple[int, ...] = (200, 800, 3200, 12800)  # attended to in training, of each resolution

    def __post_init__(self) -> None:
        if self.dim < 1 or self.heads < 1 or self.dim % self.heads or self.dim % 2:
            raise ValueError(f"{self.dim} channels do not divide among {self.heads} heads, or are odd")
        if min(self.ffn_dim, self.num_classes) < 1:
            raise ValueError("ffn_dim and num_classes must be positive")
        check_ranges(self, place_waves=(0, 10_000), place_length=(0.01, 1e4), dim=(1, 10_000), ffn_dim=(1, 100_000))
        check_ranges(self, num_classes=(1, 10_000), rounds=(1, 100))
        if len(self.sampled_voxels) != LEVELS or min(self.sampled_voxels) < 1:
            raise ValueError(f"sampled_voxels: expected {LEVELS} positive numbers, found {self.sampled_voxels}")


@dataclass(frozen=True, eq=False)
class SceneLevels:
    """The voxels of one scene at five resolutions, the coarsest first; n_i voxels each.

    features   (n_i, C_i)
    positions  (n_i, 3) metres, the mean of the occupied voxels within
    parents    of the four finer ones (n_i,) int64 into the next coarser
    coords     (n, 3) int64 of the finest
    """

    features: list[Tensor]
    positions: list[Tensor]
    parents: list[Tensor]
    coords: Tensor


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """What Q queries say of a scene of n voxels.

    classes     (Q, classes + 1) logits, the last of no object
    embeddings  (Q, dim), features (n, dim): the logit of a mask at a voxel is their product
    """

    classes: Tensor
    embeddings: Tensor
    features: Tensor

    def masks(self, query: Tensor | None = None) -> Tensor:
        """Return the mask logits (Q, n) of all queries, or of some, in single precision at least."""
        chosen = self.embeddings if query is None else self.embeddings[query]
        with torch.autocast(chosen.device.type, enabled=False):
            kind = torch.promote_types(chosen.dtype, torch.float32)
            return chosen.to(kind) @ self.features.to(kind).T


class FourierPositions(nn.Module):
    """Positions as sines and cosines of random directions; the directions are part of a checkpoint."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(3, dim // 2))

    def forward(self, xyz: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Encode xyz (n, 3), which `low` (3,) and `high` (3,) bound, as (n, dim), in single precision always."""
        with torch.autocast(xyz.device.type, enabled=False):
            share = (xyz - low).float() / (high - low).float().clamp(min=1e-6)  # 0 where a scene has no extent
            angle = (2 * math.pi * share) @ self.directions
            return torch.cat((angle.sin(), angle.cos()), dim=1)


class QueryPlace(nn.Module):
    """The part of a mask's logit that follows from the vector d from the query's voxel to another, ours.

    It is sum_i g_i cos(w_i . d) with fixed random w_i, part of a checkpoint, and g_i that the query says: it can be
    high around its voxel, as far as the query wants.  As w . (x - q) is a difference of two phases, the sum is the
    product of a code of the voxel and one of the query, and masks stay products.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.register_buffer("waves", 2 * math.pi * torch.randn(3, config.place_waves) / config.place_length)
        self.gain = nn.Linear(config.dim, config.place_waves)

    def code(self, xyz: Tensor) -> Tensor:
        """Return the code (n, 2 waves) of places (n, 3), in single precision always."""
        with torch.autocast(xyz.device.type, enabled=False):
            phase = (xyz - xyz.amin(dim=0)).float() @ self.waves
            return torch.cat((phase.sin(), phase.cos()), dim=1)

    def forward(self, queries: Tensor, code: Tensor) -> Tensor:
        """Return the factor (Q, 2 waves) of queries (Q, dim) whose voxels have `code` (Q, 2 waves)."""
        return self.gain(queries).repeat(1, 2) * code


class RefinementLayer(nn.Module):
    """Attention to voxels, attention among queries, a small network; each added, then normalised."""

    def __init__(self, config: DecoderConfig, in_channels: int) -> None:
        super().__init__()
        dim = config.dim
        self.squeeze = nn.Linear(in_channels, dim)
        self.cross, self.cross_norm = nn.MultiheadAttention(dim, config.heads), nn.LayerNorm(dim)
        self.own, self.own_norm = nn.MultiheadAttention(dim, config.heads), nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.ReLU(), nn.Linear(config.ffn_dim, dim))
        self.ffn_norm = nn.LayerNorm(dim)
        for layer in (self.cross.out_proj, self.own.out_proj, self.ffn[0], self.ffn[2]):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, queries: Tensor, where: Tensor, voxels: Tensor, positions: Tensor, is_blocked: Tensor) -> Tensor:
        """Refine queries (Q, dim) at `where` (Q, dim); voxels (n, C) at (n, dim); is_blocked (Q, n) bool."""
        memory = self.squeeze(voxels)
        is_blocked = is_blocked & ~is_blocked.all(dim=1, keepdim=True)  # one that may look nowhere looks everywhere
        found, _ = self.cross(
            queries + where, memory + positions, memory, attn_mask=is_blocked, need_weights=False
        )  # fmt: skip
        queries = self.cross_norm(queries + found)
        placed = queries + where
        queries = self.own_norm(queries + self.own(placed, placed, queries, need_weights=False)[0])
        return self.ffn_norm(queries + self.ffn(queries))


class MaskDecoder(nn.Module):
    """From the features of a U-Net to masks, class logits and what they were after every refinement."""

    def __init__(self, config: DecoderConfig, in_channels: tuple[int, ...]) -> None:
        """in_channels: of the five resolutions, the coarsest first."""
        super().__init__()
        self.config = config
        dim = config.dim
        self.positions = FourierPositions(dim)
        self.query_projection = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.query_content = None
        if config.query_features:
            self.query_content = nn.Sequential(nn.Linear(in_channels[LEVELS], dim), nn.ReLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(RefinementLayer(config, channels) for channels in in_channels[:LEVELS])
        self.mask_features = nn.Linear(in_channels[LEVELS], dim)
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, config.num_classes + 1)
        self.mask_head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.place = QueryPlace(config) if config.place_waves else None

    def forward(
        self, scene: SceneLevels, num_queries: int, generator: torch.Generator | None = None
    ) -> list[MaskPrediction]:
        """Return the predictions after 0, 1, ... refinements; the last are the best.

        num_queries  at most one for each voxel
        generator    draws which voxels are attended to; None: all are
        """
        fine = scene.positions[-1]
        starts = farthest_points((scene.coords - scene.coords.amin(dim=0))[None], min(num_queries, len(fine)),
                                 skip_near_origin=False)[0]  # fmt: skip
        where = self.query_projection(self.positions(fine[starts], fine.amin(dim=0), fine.amax(dim=0)))
        encoded = [self.positions(xyz, xyz.amin(dim=0), xyz.amax(dim=0)) for xyz in scene.positions[:LEVELS]]
        features, place = self.mask_features(scene.features[-1]), None
        if self.place is not None:
            code = self.place.code(fine)
            features, place = torch.cat((features, code), dim=1), code[starts]
        pooled = pooled_features(features.detach(), scene.parents)
        has_content = self.query_content is not None
        queries = self.query_content(scene.features[-1][starts]) if has_content else torch.zeros_like(where)
        predictions = [self._predict(queries, features, place)]
        for _ in range(self.config.rounds):
            for level, layer in enumerate(self.layers):
                seen = self._sample(len(pooled[level]), level, generator, features.device)
                logits = predictions[-1].embeddings.detach() @ pooled[level][seen].T
                is_blocked = logits < 0  # a probability below one half
                queries = layer(queries, where, scene.features[level][seen], encoded[level][seen], is_blocked)
                predictions.append(self._predict(queries, features, place))
        return predictions

    def _predict(self, queries: Tensor, features: Tensor, place: Tensor | None) -> MaskPrediction:
        queries = self.norm(queries)
        embeddings = self.mask_head(queries)
        if self.place is not None:
            embeddings = torch.cat((embeddings, self.place(queries, place)), dim=1)
        return MaskPrediction(self.class_head(queries), embeddings, features)

    def _sample(self, num: int, level: int, generator: torch.Generator | None, device: torch.device) -> Tensor | slice:
        wanted = self.config.sampled_voxels[level]
        if generator is None or num <= wanted:
            return slice(None)
        return torch.randperm(num, generator=generator)[:wanted].to(device)


def pooled_features(features: Tensor, parents: list[Tensor]) -> list[Tensor]:
    """Return features (n, C) of the finest voxels at the coarser resolutions, the coarsest first, one step at a time.

    A mask's logits averaged over voxels are the logits of the averaged features.
    """
    pooled = [features]
    for parent in reversed(parents):
        pooled.insert(0, mean_by_parent(pooled[0], parent))
    return pooled[:-1]


def mean_by_parent(values: Tensor, parent: Tensor) -> Tensor:
    """Return the mean (m, C) of the values (n, C) of each parent; parent (n,) int64 takes all of 0, ..., m - 1."""
    num = int(parent.max()) + 1
    total = values.new_zeros(num, values.shape[1]).index_add_(0, parent, values)
    count = values.new_zeros(num).index_add_(0, parent, torch.ones_like(values[:, 0]))
    return total / count[:, None]

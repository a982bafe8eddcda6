# SPDX-License-Identifier: Apache-2.0
"""The class-agnostic 3D segmenter that is trained on lifted masks: a sparse U-Net and a mask transformer.

"Granularity-Consistent 2D Mask Tracking for 3D instance segmentation", arXiv 2511.00785, whose network is that of
Segment3D (arXiv 2312.17232) and Mask3D (arXiv 2210.03105); granularity_tracking.md section 7.

*Departures*, ours: a share of the training samples loses its colours, which are then the mean colour (`gray_share`), so
that one network serves clouds with and without; the paper's networks all need colour.  Points may count neither for nor
against an instance (`mask_loss`), and large scenes are cut (`voxel_batches`).  What no paper states is marked in the
configs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from pc3dcli.errors import check_ranges
from pc3dcli.nn.kernel_maps import KernelMap, Sites
from pc3dcli.nn.sparse import Backend, SparseTensor
from pc3dcli.nn.sparse_unet import LEVELS, SparseUnet, UnetConfig
from pc3dcli.papers.granularity.mask_decoder import (
    DecoderConfig,
    MaskDecoder,
    MaskPrediction,
    SceneLevels,
    mean_by_parent,
)
from pc3dcli.papers.granularity.mask_loss import LossConfig, SceneTargets, mask_losses


@dataclass(frozen=True)
class SegmenterConfig(UnetConfig, DecoderConfig):
    """The network; the defaults are those of Mask3D and Segment3D."""

    voxel: float = 0.02  # metres
    num_queries: int = 100  # in training; 150 in stages 2 and 3
    gray_share: float = 0.0  # of the training samples lose their colour; above 0 clouds need none.  Ours

    def __post_init__(self) -> None:
        UnetConfig.__post_init__(self)
        DecoderConfig.__post_init__(self)
        check_ranges(self, voxel=(0.001, 10), num_queries=(1, 10_000), gray_share=(0, 1))

    def part(self, kind: type) -> Any:
        """Return the fields of this config that one of its bases has."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})


class Segmenter(nn.Module):
    """Predicts masks of the voxels of scenes, and learns them."""

    def __init__(self, config: SegmenterConfig, loss: LossConfig | None = None, backend: Backend = "torch") -> None:
        super().__init__()
        self.config, self.loss, self.backend = config, loss or LossConfig(), backend
        self.backbone = SparseUnet(config.part(UnetConfig), 3)
        self.decoder = MaskDecoder(config.part(DecoderConfig), config.out_channels)

    def forward(
        self, coords: Tensor, features: Tensor, xyz: Tensor, num_queries: int, generator: torch.Generator | None = None
    ) -> list[list[MaskPrediction]]:
        """Return for each scene its predictions after 0, 1, ... refinements.

        coords     (n, 4) int64: scene, x, y, z in voxels, in the order of these
        features   (n, 3) float32 colours, normalised; xyz (n, 3) float32 metres
        generator  draws the voxels that are attended to; None: all are
        """
        finest = SparseTensor(features, Sites(coords), self.backend)
        levels = self.backbone(finest)
        return [self.decoder(scene, num_queries, generator) for scene in _scenes(levels, xyz)]

    def training_loss(self, batch: Any, at: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of section 7.2, summed over scenes and predictions, and its parts of the last prediction.

        batch  coords, features and xyz as in `forward`; instances and ignored (2, P) int64: number of an instance,
               counted over the batch, and a voxel of it, or one that does not count for it; scene (M,) int64 of each
        """
        predictions = self(batch.coords, batch.features, batch.xyz, self.config.num_queries, at.generator)
        targets = [_targets(batch, scene) for scene in range(len(predictions))]
        return mask_losses(predictions, targets, self.loss)

    def after_step(self, at: Any) -> None:
        """Nothing follows a step."""

    def exported(self) -> dict[str, Tensor]:
        """Return the tensors of the network."""
        return self.state_dict()


def _scenes(levels: list[SparseTensor], xyz: Tensor) -> list[SceneLevels]:
    """Cut the levels of a batch into scenes; the voxels of a scene follow each other at every resolution."""
    parents, positions = [], [xyz]
    for level in reversed(levels[1:]):
        parents.insert(0, _parents(level.sites.strided(2, 2)[1]))
        positions.insert(0, mean_by_parent(positions[0], parents[0]))
    num_scenes = int(levels[-1].sites.coords[-1, 0]) + 1
    ends = [torch.bincount(level.sites.coords[:, 0], minlength=num_scenes).cumsum(0).tolist() for level in levels]
    scenes = []
    for scene in range(num_scenes):
        cuts = [slice(end[scene - 1] if scene else 0, end[scene]) for end in ends]
        scenes.append(
            SceneLevels(
                features=[level.features[cut] for level, cut in zip(levels, cuts, strict=True)],
                positions=[place[cut] for place, cut in zip(positions, cuts, strict=True)],
                parents=[parents[i][cuts[i + 1]] - cuts[i].start for i in range(LEVELS)],
                coords=levels[-1].sites.coords[cuts[-1], 1:],
            )
        )
    return scenes


def _parents(to_coarse: KernelMap) -> Tensor:
    """Return (n,) int64 the coarse voxel of each fine one, of the map of a 2^3 convolution with stride 2."""
    parent = to_coarse.pairs[0][0].new_empty(to_coarse.num_inputs)
    for inputs, outputs in to_coarse.pairs:
        parent[inputs] = outputs
    return parent


def _targets(batch: Any, scene: int) -> SceneTargets:
    """Return the instances of one scene as dense masks over its voxels."""
    is_scene = batch.coords[:, 0] == scene
    first, num = int(is_scene.int().argmax()), int(is_scene.sum())
    own = (batch.scene == scene).nonzero()[:, 0]
    row = torch.full_like(batch.scene, -1)
    row[own] = torch.arange(len(own), device=own.device)

    def dense(pairs: Tensor) -> Tensor:
        mask = torch.zeros(len(own), num, device=pairs.device)
        instance, voxel = pairs[:, row[pairs[0]] >= 0] if len(own) else pairs[:, :0]
        mask[row[instance], voxel - first] = 1
        return mask

    return SceneTargets(dense(batch.instances), 1 - dense(batch.ignored) if batch.ignored.numel() else None)

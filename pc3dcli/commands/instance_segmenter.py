# SPDX-License-Identifier: Apache-2.0
"""Instances of a cloud by the segmenter: voxels, network, masks to points, in pieces where the whole does not fit.

Pieces, ours: a scene of more voxels than `chunk_voxels` is halved across its longer side until each piece fits.  A
piece sees a margin around it; what two pieces find and mostly agree on, where both see, is one instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pc3dcli.commands.segmenter_weights import segmenter_of
from pc3dcli.commands.shape_network import usable_device
from pc3dcli.datasets.scene_augment import normalized_colors
from pc3dcli.datasets.voxel_batches import voxelized
from pc3dcli.errors import InputError, check_ranges
from pc3dcli.formats.cloud import Cloud
from pc3dcli.geometry.pieces import overlapping_pieces
from pc3dcli.nn.sparse import chosen_backend
from pc3dcli.papers.granularity.mask_instances import (
    MaskInstance,
    MaskInstancesConfig,
    best_share,
    distinct,
    joined,
    mask_instances,
    on_points,
)


@dataclass(frozen=True)
class ChunkConfig:
    """How large scenes are cut; ours."""

    chunk_voxels: int = 500_000  # voxels of a piece, without its margin
    chunk_margin: float = 1.0  # metres that a piece sees beyond itself
    chunk_iou: float = 0.5  # of two instances, where both their pieces see, above which they are one

    def __post_init__(self) -> None:
        check_ranges(self, chunk_voxels=(1000, 1e9), chunk_margin=(0, 1000), chunk_iou=(0, 1))


class InstanceSegmenter:
    """The network on its device."""

    def __init__(self, weights: Path, device: str, config: MaskInstancesConfig, chunks: ChunkConfig) -> None:
        """Load it; raises as `segmenter_of`, UsageError for a device that is not there."""
        self.device, self.config, self.chunks = usable_device(device), config, chunks
        self.model = segmenter_of(weights).to(self.device)
        self.model.backend = chosen_backend("auto", self.device)

    def instances(self, cloud: Cloud, warn: Callable[[str], None]) -> list[MaskInstance]:
        """Return the instances of a cloud as points, the best first.

        warn    told when the scene is done in pieces
        raises  InputError for a cloud without colour where the network needs it, and as `voxelized`
        """
        network = self.model.config
        if cloud.rgb is None and not network.gray_share:
            hint = "these weights were trained on coloured clouds alone; -D gray_share=0.5 trains for both"
            raise InputError("its cloud has no colour", hint=hint)
        voxels = voxelized(cloud.xyz, network.voxel)
        xyz = cloud.xyz[voxels.point].astype(np.float64)
        xyz = (xyz - xyz.min(axis=0)).astype(np.float32)
        colors = normalized_colors(None if cloud.rgb is None else cloud.rgb[voxels.point], len(xyz))
        pieces = list(
            overlapping_pieces(voxels.coords, self.chunks.chunk_voxels, self.chunks.chunk_margin / network.voxel)
        )
        if len(pieces) > 1:
            warn(f"{len(voxels.coords)} voxels are too many at once: {len(pieces)} pieces")
        found: list[MaskInstance] = []
        was_seen = np.zeros(len(voxels.coords), bool)
        for piece in pieces:
            mine = self._of_piece(voxels.coords[piece], colors[piece], xyz[piece])
            mine = [MaskInstance(piece[one.index], one.score, one.confidence) for one in mine]
            is_shared = np.zeros(len(was_seen), bool)
            is_shared[piece] = was_seen[piece]
            found = joined(found, mine, is_shared, self.chunks.chunk_iou, self.config.min_voxels)
            was_seen[piece] = True
        return on_points(best_share(distinct(found, self.config), self.config), voxels.of_point)

    @torch.no_grad()
    def _of_piece(self, coords: np.ndarray, colors: np.ndarray, xyz: np.ndarray) -> list[MaskInstance]:
        """Return the instances of voxels (n, 3), their colours and places (n, 3)."""
        scene = np.concatenate((np.zeros((len(coords), 1), np.int64), coords), axis=1)
        inputs = (torch.from_numpy(values).to(self.device) for values in (scene, colors, xyz))
        num_queries = self.config.num_queries(self.model.config.num_queries)
        prediction = self.model(*inputs, num_queries)[0][-1]
        classes, masks = prediction.classes.float().cpu().numpy(), prediction.masks().float().cpu().numpy()
        return mask_instances(classes, masks, coords, self.config)

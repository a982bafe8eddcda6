# SPDX-License-Identifier: Apache-2.0
"""Point-M2AE downstream: shape classification (two variants) and part segmentation with local attention.

R. Zhang et al.: Point-M2AE, arXiv 2205.14401, section 4.2 and the released fine-tuning code.

*Departures*: outputs are logits, the log-softmax is the loss's.  Layers over features that all points of a cloud share
run once a cloud, and those over tokens before interpolation, which changes sums by rounding only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.nn.point_propagation import PointPropagation
from pc3dcli.nn.weights import load_encoder
from pc3dcli.papers.geomask3d.hierarchy import ScaleGroups, group_scales
from pc3dcli.papers.geomask3d.point_m2ae import HierarchicalEncoder, PointM2aeConfig

KIND = "a pretrained Point-M2AE"  # what the weights are that `load_pretrained` takes
DECODER = ("mask_token", "h_decoder.", "decoder_pos_embeds.", "token_prop.", "decoder_norm.", "rec_head.")


class PointM2aeClassifier(nn.Module):
    """A class per cloud.

    variant "modelnet": the sum of mean and maximum over the coarsest tokens.  "scanobjectnn": twice the neighbours
    a token (32, 16, 16), mean and maximum side by side, and the maximum leaves out the first token, as released.
    """

    def __init__(
        self,
        config: PointM2aeConfig,
        num_classes: int,
        variant: Literal["modelnet", "scanobjectnn"] = "modelnet",
    ) -> None:
        super().__init__()
        if variant not in ("modelnet", "scanobjectnn"):
            raise ValueError(f"variant = {variant!r}: expected modelnet or scanobjectnn")
        self.config, self.variant = config, variant
        is_wide = variant == "scanobjectnn"
        self.patch_sizes = tuple((2 if is_wide else 1) * size for size in config.patch_sizes)
        self.h_encoder = HierarchicalEncoder(config, norms=False)
        self.norm = nn.LayerNorm(config.dim)
        layers, width = [], (2 if is_wide else 1) * config.dim
        for _ in range(2):
            layers += [nn.Linear(width, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)]
            width = 256
        self.cls_head_finetune = nn.Sequential(*layers, nn.Linear(256, num_classes))

    def forward(self, clouds: Tensor) -> Tensor:
        """clouds (B, N, 3) -> logits (B, K)"""
        groups = _group(clouds, replace(self.config, patch_sizes=self.patch_sizes))
        tokens = self.norm(self.h_encoder(groups, radii=self.config.radii)[-1])
        if self.variant == "modelnet":
            pooled = tokens.mean(1) + tokens.amax(1)
        else:
            pooled = torch.cat((tokens.mean(1), tokens[:, 1:].amax(1)), dim=1)  # [1:]: the released code's
        return self.cls_head_finetune(pooled)

    def load_pretrained(self, tensors: dict[str, Tensor]) -> None:
        """Take the encoder of a pretraining model (our names); norm and head stay as they are.

        raises  WeightsError when anything else is missing or left over
        """
        unused = (*DECODER, "h_encoder.encoder_norms.")
        load_encoder(self, tensors, new=("norm.", "cls_head_finetune."), unused=unused, kind=KIND)


class PointM2aeParts(nn.Module):
    """A part per point: all three scales carried to the points, with global features and the shape's category."""

    def __init__(self, config: PointM2aeConfig, num_parts: int = 50, num_categories: int = 16) -> None:
        super().__init__()
        self.config, self.num_categories = config, num_categories
        self.h_encoder = HierarchicalEncoder(config)
        self.label_conv = nn.Sequential(
            nn.Linear(num_categories, 64, bias=False), nn.BatchNorm1d(64), nn.LeakyReLU(0.2)
        )
        self.propagations = nn.ModuleList([PointPropagation(dim, 4 * config.dim, 1024) for dim in config.dims])
        self.head = PartHead(3 * 1024, 3 * 1024 + 64, num_parts)

    def forward(self, clouds: Tensor, category: Tensor) -> Tensor:
        """clouds (B, N, 3), category (B,) int64 -> logits (B, N, num_parts)"""
        groups = _group(clouds, self.config)
        scales = self.h_encoder(groups, radii=self.config.radii)
        local = [
            carry(clouds, centers, norm(tokens))
            for carry, centers, norm, tokens in zip(
                self.propagations, groups.scale_centers, self.h_encoder.encoder_norms, scales, strict=True
            )
        ]
        local = torch.cat(local, dim=2)  # (B, N, 3072)
        label = self.label_conv(F.one_hot(category, self.num_categories).to(local.dtype))
        whole = torch.cat((local.amax(1) + local.mean(1), label), dim=1)  # (B, 3136)
        return self.head(local, whole)

    def load_pretrained(self, tensors: dict[str, Tensor]) -> None:
        """Take the encoder of a pretraining model (our names), final norms included; the rest stays as it is.

        raises  WeightsError when anything else is missing or left over
        """
        load_encoder(self, tensors, new=("label_conv.", "propagations.", "head."), unused=DECODER, kind=KIND)


class PartHead(nn.Module):
    """Layers from the features of points, and of the whole cloud, to part logits."""

    def __init__(self, local_dim: int, whole_dim: int, num_parts: int) -> None:
        super().__init__()
        self.convs1 = nn.Linear(whole_dim + local_dim, 1024)
        self.convs2 = nn.Linear(1024, 512)
        self.convs3 = nn.Linear(512, 256)
        self.convs4 = nn.Linear(256, num_parts)
        self.bns1, self.bns2, self.bns3 = nn.BatchNorm1d(1024), nn.BatchNorm1d(512), nn.BatchNorm1d(256)
        self.dropout = nn.Dropout(0.5)

    def forward(self, local: Tensor, whole: Tensor) -> Tensor:
        """local (B, N, C), whole (B, C') -> (B, N, num_parts)"""
        B, N, C = local.shape
        weight_whole, weight_local = self.convs1.weight.split((whole.shape[1], C), dim=1)  # of [whole, local]
        of_cloud = F.linear(whole, weight_whole, self.convs1.bias)  # once a cloud
        features = (F.linear(local, weight_local) + of_cloud.unsqueeze(1)).flatten(0, 1)  # (B N, 1024)
        features = self.dropout(F.relu(self.bns1(features)))
        features = F.relu(self.bns2(self.convs2(features)))
        features = F.relu(self.bns3(self.convs3(features)))
        return self.convs4(features).view(B, N, -1)


def _group(clouds: Tensor, config: PointM2aeConfig) -> ScaleGroups:
    skip = config.skip_near_origin
    return group_scales(clouds, config.scale_patches, config.patch_sizes, skip_near_origin=skip)

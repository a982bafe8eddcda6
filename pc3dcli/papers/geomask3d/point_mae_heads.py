# SPDX-License-Identifier: Apache-2.0
"""Point-MAE downstream: shape classification and part segmentation.

Y. Pang et al.: Point-MAE, arXiv 2203.06604, section 4.3 and the released fine-tuning code.

*Departures*: outputs are logits, the log-softmax is the loss's.  Layers over features that all points of a cloud share
run once a cloud, and those over tokens before interpolation, which changes sums by rounding only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.nn.point_propagation import PointPropagation
from pc3dcli.nn.weights import load_encoder
from pc3dcli.papers.geomask3d.point_mae import Encoder, PointMaeConfig, group_points

KIND = "a pretrained Point-MAE"  # what the weights are that `load_pretrained` takes
DECODER = ("mask_token", "decoder_pos_embed.", "decoder.", "increase_dim.")
LABEL_DIM = 64
LOCAL_DIM = 1024


class PointMaeClassifier(nn.Module):
    """A class per cloud, from a class token and the maximum over patch tokens."""

    def __init__(self, config: PointMaeConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, config.dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.cls_pos, std=0.02)
        layers, width = [], 2 * config.dim
        for _ in range(2):
            layers += [nn.Linear(width, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)]
            width = 256
        self.cls_head_finetune = nn.Sequential(*layers, nn.Linear(256, num_classes))

    def forward(self, clouds: Tensor) -> Tensor:
        """clouds (B, N, 3) -> logits (B, K)"""
        groups, encoder = _group(clouds, self.config), self.encoder
        tokens, positions = encoder.patch_embed(groups.points), encoder.pos_embed(groups.centers)
        tokens = torch.cat((self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens), dim=1)
        positions = torch.cat((self.cls_pos.to(positions.dtype).expand(len(tokens), -1, -1), positions), dim=1)
        tokens = encoder.norm(encoder.blocks(tokens, positions))
        return self.cls_head_finetune(torch.cat((tokens[:, 0], tokens[:, 1:].max(1).values), dim=1))

    def load_pretrained(self, tensors: dict[str, Tensor]) -> None:
        """Take the encoder of a pretraining model (our names); class token and head stay as they are.

        raises  WeightsError when anything else is missing or left over
        """
        load_encoder(self, tensors, new=("cls_token", "cls_pos", "cls_head_finetune."), unused=DECODER, kind=KIND)


class PointMaeParts(nn.Module):
    """A part per point, from tokens of three depths carried to the points, and the shape's category."""

    def __init__(self, config: PointMaeConfig, num_parts: int = 50, num_categories: int = 16) -> None:
        """config: the released model has num_points 2048 and num_patches 128."""
        super().__init__()
        self.config, self.num_categories = config, num_categories
        self.encoder = Encoder(config)
        self.label_conv = nn.Sequential(
            nn.Linear(num_categories, LABEL_DIM, bias=False), nn.BatchNorm1d(LABEL_DIM), nn.LeakyReLU(0.2)
        )
        self.propagation = PointPropagation(3 * config.dim, 4 * config.dim, LOCAL_DIM)
        self.head = PartHead(LOCAL_DIM, 6 * config.dim + LABEL_DIM, num_parts)

    def forward(self, clouds: Tensor, category: Tensor) -> Tensor:
        """clouds (B, N, 3), category (B,) int64 -> logits (B, N, num_parts)"""
        groups, encoder, depth = _group(clouds, self.config), self.encoder, self.config.depth
        tokens, positions = encoder.patch_embed(groups.points), encoder.pos_embed(groups.centers)
        taps = encoder.blocks.taps(tokens, positions, [depth // 3 - 1, 2 * depth // 3 - 1, depth - 1])  # 3, 7, 11
        tokens = torch.cat([encoder.norm(tap) for tap in taps], dim=2)  # (B, G, 1152)
        label = self.label_conv(F.one_hot(category, self.num_categories).to(tokens.dtype))
        whole = torch.cat((tokens.max(1).values, tokens.mean(1), label), dim=1)  # (B, 2368)
        return self.head(self.propagation(clouds, groups.centers, tokens), whole)

    def load_pretrained(self, tensors: dict[str, Tensor]) -> None:
        """Take the encoder of a pretraining model (our names); the rest stays as it is.

        raises  WeightsError when anything else is missing or left over
        """
        load_encoder(self, tensors, new=("label_conv.", "propagation.", "head."), unused=DECODER, kind=KIND)


class PartHead(nn.Module):
    """Layers from the features of points, and of the whole cloud, to part logits."""

    def __init__(self, local_dim: int, whole_dim: int, num_parts: int) -> None:
        super().__init__()
        self.convs1 = nn.Linear(local_dim + whole_dim, 512)
        self.convs2, self.convs3 = nn.Linear(512, 256), nn.Linear(256, num_parts)
        self.bns1, self.bns2 = nn.BatchNorm1d(512), nn.BatchNorm1d(256)
        self.dropout = nn.Dropout(0.5)

    def forward(self, local: Tensor, whole: Tensor) -> Tensor:
        """local (B, N, C), whole (B, C') -> (B, N, num_parts)"""
        B, N, C = local.shape
        weight_local, weight_whole = self.convs1.weight.split((C, whole.shape[1]), dim=1)  # of [local, whole]
        of_cloud = F.linear(whole, weight_whole, self.convs1.bias)  # once a cloud
        features = (F.linear(local, weight_local) + of_cloud.unsqueeze(1)).flatten(0, 1)  # (B N, 512)
        features = self.dropout(F.relu(self.bns1(features)))
        features = F.relu(self.bns2(self.convs2(features)))
        return self.convs3(features).view(B, N, -1)


def _group(clouds: Tensor, config: PointMaeConfig):
    """Group clouds as `PointMae.group` does."""
    return group_points(clouds, config.num_patches, config.patch_size, skip_near_origin=config.skip_near_origin)

# SPDX-License-Identifier: Apache-2.0
"""Set losses of mask transformers: each instance is matched with one query, all others are "no object".

Mask3D (arXiv 2210.03105) and Segment3D (arXiv 2312.17232), after DETR; granularity_tracking.md section 7.2.
*Departures*, ours: voxels may be left out of the losses of one instance, those that a filter of pseudo-labels found
unsure (section 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from pc3dcli.errors import check_ranges
from pc3dcli.papers.granularity.mask_decoder import MaskPrediction


@dataclass(frozen=True)
class LossConfig:
    """Weights of the cost of a match and of the loss."""

    class_weight: float = 2.0  # of the class in both; 0 in stage 3: masks alone
    bce_weight: float = 5.0
    dice_weight: float = 2.0
    no_object_weight: float = 0.1  # of queries without an instance in the cross-entropy

    def __post_init__(self) -> None:
        names = ("class_weight", "bce_weight", "dice_weight", "no_object_weight")
        check_ranges(self, **dict.fromkeys(names, (0, 1e6)))


@dataclass(frozen=True, eq=False)
class SceneTargets:
    """Instances of a scene over its n voxels, as factors of sums.

    masks    (M, n) float, 1 inside, 0 outside
    counted  (M, n) float, 0 where a voxel does not count for an instance, else 1; None where every voxel counts
    """

    masks: Tensor
    counted: Tensor | None = None

    def count(self) -> Tensor | float:
        """Return how many voxels count for each instance, (M, 1), at least one."""
        return max(self.masks.shape[1], 1) if self.counted is None else self.counted.sum(1, keepdim=True).clamp(min=1)

    def of(self, instance: Tensor) -> SceneTargets:
        """Return the targets of some instances."""
        return SceneTargets(self.masks[instance], None if self.counted is None else self.counted[instance])


def mask_losses(
    predictions: list[list[MaskPrediction]], targets: list[SceneTargets], config: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its parts after the last refinement, weighted.

    predictions  for each scene those after 0, 1, ... refinements, all of which are supervised
    """
    total, parts = None, {}
    with torch.autocast(predictions[0][0].classes.device.type, enabled=False):
        for step in range(len(predictions[0])):
            of_step = [scene[step] for scene in predictions]
            parts = _losses_of_step(of_step, targets, config)
            loss = sum(parts.values())
            total = loss if total is None else total + loss
    return total, {name: value.detach() for name, value in parts.items()}


def match(prediction: MaskPrediction, targets: SceneTargets, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return (query, instance), both (K,) int64, of the pairs with the least total cost; K = min(Q, M)."""
    with torch.no_grad():
        logits = prediction.masks().float()
        inside = targets.masks if targets.counted is None else targets.masks * targets.counted
        size = inside.sum(dim=1)
        softplus = F.softplus(-logits)  # -log p; -log(1 - p) is it + logits
        p = torch.exp(-softplus)
        if targets.counted is None:
            bce = (softplus.sum(dim=1, keepdim=True) + logits.sum(dim=1, keepdim=True)) - logits @ inside.T
            total = p.sum(dim=1, keepdim=True)
        else:
            bce = softplus @ targets.counted.T + logits @ (targets.counted - inside).T  # (Q, M)
            total = p @ targets.counted.T
        count = targets.count()
        bce = bce / (count.T if isinstance(count, Tensor) else count)
        dice = 1 - (2 * p @ inside.T + 1) / (total + size + 1)
        cost = config.bce_weight * bce + config.dice_weight * dice
        cost -= config.class_weight * (1 - prediction.classes.float().softmax(dim=1)[:, -1:])  # of an object
        cost = cost.nan_to_num(1e6, 1e6, -1e6)  # that the loss is not finite is told by the training loop
        query, instance = linear_sum_assignment(cost.cpu().numpy())
    device = logits.device
    return torch.as_tensor(query, device=device), torch.as_tensor(instance, device=device)


def _losses_of_step(
    predictions: list[MaskPrediction], targets: list[SceneTargets], config: LossConfig
) -> dict[str, Tensor]:
    """Return the weighted losses of one prediction a scene: classes over all queries, masks as a sum over scenes."""
    # all parameters get a gradient in every batch, also in one without instances: other processes may have some
    bce = dice = 0.0 * sum(prediction.embeddings.sum() + prediction.features.sum() for prediction in predictions)
    is_object = []
    for prediction, target in zip(predictions, targets, strict=True):
        query, instance = match(prediction, target, config)
        found = torch.zeros(len(prediction.classes), dtype=torch.bool, device=query.device)
        found[query] = True
        is_object.append(found)
        if len(query):
            of_scene = _mask_losses(prediction.masks(query), target.of(instance))
            bce, dice = bce + of_scene[0], dice + of_scene[1]
    losses = {"loss_bce": config.bce_weight * bce, "loss_dice": config.dice_weight * dice}
    if config.class_weight:
        losses["loss_class"] = config.class_weight * _class_loss(predictions, torch.cat(is_object), config)
    return losses


def _class_loss(predictions: list[MaskPrediction], is_object: Tensor, config: LossConfig) -> Tensor:
    logits = torch.cat([prediction.classes for prediction in predictions]).float()
    logits = torch.stack((logits[:, :-1].logsumexp(dim=1), logits[:, -1]), dim=1)  # of any object, of none
    weight = logits.new_tensor([1.0, config.no_object_weight])
    return F.cross_entropy(logits, torch.where(is_object, 0, 1), weight)


def _mask_losses(logits: Tensor, targets: SceneTargets) -> tuple[Tensor, Tensor]:
    """Return mean binary cross-entropy and Dice of matched logits (K, n), each the mean over the K masks."""
    logits, mask, counted = logits.float(), targets.masks, targets.counted
    bce = F.binary_cross_entropy_with_logits(logits, mask, counted, reduction="none").sum(dim=1, keepdim=True)
    p = logits.sigmoid()
    if counted is not None:
        p, mask = p * counted, mask * counted
    dice = 1 - (2 * (p * mask).sum(dim=1) + 1) / (p.sum(dim=1) + mask.sum(dim=1) + 1)
    return (bce / targets.count()).mean(), dice.mean()

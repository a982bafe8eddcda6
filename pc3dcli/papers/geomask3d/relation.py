# SPDX-License-Identifier: Apache-2.0
"""Dense relation comparison: which of two hidden patches is harder (GeoMask3D, the loss of the complexity head).

Each ordered pair of patches of one sample with different targets is a two-class problem whose logit is the difference
of their scores; pairs of the whole batch are averaged.

Departures: softplus in float32.  The released code takes -log(sigmoid + 1e-6) under fp16, which stops teaching beyond a
difference of 8 and is 0 / 0 when all targets tie; that form is `dense_relation_loss(..., form="official")`, and 0 then.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

OFFICIAL_EPS = 1e-6


def dense_relation_loss(scores: Tensor, targets: Tensor, valid: Tensor | None = None, form: str = "softplus") -> Tensor:
    """Return the mean loss over ordered pairs whose targets differ; 0 where there is none.

    scores   (B, H) float, any float type; the loss is float32
    targets  (B, H), no gradient reaches them
    valid    (B, H) bool, patches that take part; all of them for None
    form     "softplus" or "official"
    """
    difference, order = _pairs(scores, targets, valid)
    logit = difference * order  # > 0 where the harder patch has the higher score
    if form == "official":
        # the two branches of the released code: -log(p + eps) where i is harder, else -log(1 - p + eps)
        p = torch.sigmoid(difference)
        loss = torch.where(order > 0, -torch.log(p + OFFICIAL_EPS), -torch.log(1 - p + OFFICIAL_EPS))
    else:
        loss = F.softplus(-logit)
    is_pair = order != 0
    return loss.masked_fill(~is_pair, 0.0).sum() / is_pair.sum().clamp(min=1)


def pair_accuracy(scores: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the share of pairs with different targets that the scores put in the right order; equal scores count half.

    scores, targets, valid  as in `dense_relation_loss`
    returns                 () float32 in [0, 1], 0.5 without any pair
    """
    difference, order = _pairs(scores.detach(), targets, valid)
    is_pair = order != 0
    right = (torch.sign(difference * order) + 1) / 2
    count = is_pair.sum()
    return torch.where(count > 0, right.masked_fill(~is_pair, 0.0).sum() / count.clamp(min=1), 0.5)


def _pairs(scores: Tensor, targets: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return s_i - s_j and the sign of t_i - t_j, each (B, H, H) float32; 0 for a pair that does not count."""
    assert scores.shape == targets.shape, (scores.shape, targets.shape)
    scores, targets = scores.float(), targets.detach().float()
    order = torch.sign(targets[:, :, None] - targets[:, None, :])
    if valid is not None:
        order = order * (valid[:, :, None] & valid[:, None, :])
    return scores[:, :, None] - scores[:, None, :], order

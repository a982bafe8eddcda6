# SPDX-License-Identifier: Apache-2.0
"""Scores of patches by a trained complexity head, and how hard the patches really are (GeoMask3D).

Departures: besides the released view, where no patch is hidden and the head reads tokens it was never trained on
("full"), every patch can be scored in a pass that hides it ("kfold", the default).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pc3dcli.nn.chamfer import chamfer_l2
from pc3dcli.nn.point_sampling import interpolate3
from pc3dcli.papers.geomask3d.base_model import BaseModel, Groups
from pc3dcli.papers.geomask3d.gc_head import GcHead
from pc3dcli.papers.geomask3d.masking import fold_masks, hidden_index, random_orders


class PatchScorer(nn.Module):
    """A base model and its complexity head: what is copied as EMA teacher, and what weights files hold."""

    def __init__(self, base: BaseModel, gc_head: GcHead | None) -> None:
        """gc_head: None leaves it without scores."""
        super().__init__()
        self.base, self.gc_head = base, gc_head

    def hidden_scores(self, groups: Groups, hidden: Tensor, visible: Tensor) -> Tensor:
        """Score the hidden patches from visible tokens (B, V, C): (B, H) float32; (B, G) where none is hidden."""
        return self.gc_head(visible, self.base.decoder_positions(groups), hidden)


def patch_scores(
    scorer: PatchScorer,
    groups: Groups,
    *,
    view: str = "kfold",
    generator: torch.Generator | None = None,
    orders: Tensor | None = None,
    num_hidden: int | None = None,
) -> Tensor:
    """Score every patch; call it without gradient and in eval mode.

    groups      of scorer.base.group
    view        "kfold": mean over the passes that hide the patch; "full": one pass that hides nothing
    generator   draws the folds, on the CPU; or orders, (B, G) int64: the permutation of each row
    num_hidden  of a pass, that of the base model for None
    returns     (B, G) float32, higher = harder
    """
    base = scorer.base
    B, G, _ = groups.centers.shape
    tokens = base.embed(groups)
    if view == "full":
        hidden = torch.zeros(B, G, dtype=torch.bool, device=groups.centers.device)
        return scorer.hidden_scores(groups, hidden, base.encode(groups, hidden, tokens).visible)
    orders = random_orders(B, G, generator) if orders is None else orders
    masks = fold_masks(orders.to(groups.centers.device), num_hidden or base.num_hidden)
    total, count = groups.centers.new_zeros(B, G), masks.sum(0)
    for hidden in masks:
        scores = scorer.hidden_scores(groups, hidden, base.encode(groups, hidden, tokens).visible)
        total = total.scatter_add(1, hidden_index(hidden), scores)
    return total / count


def measured_difficulty(
    base: BaseModel,
    groups: Groups,
    rounds: int,
    *,
    generator: torch.Generator | None = None,
    orders: Tensor | None = None,
) -> Tensor:
    """Reconstruct every patch in `rounds` random masks or more that hide it; call it without gradient and in eval mode.

    A round is a random division of the patches into masks, so that each patch is hidden once in it, or twice.

    generator  draws the rounds, on the CPU; or orders, (rounds, B, G) int64
    returns    (B, G) float32 mean Chamfer distance of each patch, NaN for one that was never decoded
    """
    B, G, _ = groups.centers.shape
    tokens = base.embed(groups)
    total = groups.centers.new_zeros(B, G)
    count = torch.zeros_like(total)
    for number in range(rounds):
        order = random_orders(B, G, generator) if orders is None else orders[number]
        for hidden in fold_masks(order.to(total.device), base.num_hidden):
            decoded = base.decode(groups, hidden, base.encode(groups, hidden, tokens))
            error, is_valid = base.to_patches(groups, hidden, decoded, chamfer_l2(decoded.points, decoded.targets))
            index = hidden_index(hidden)
            total.scatter_add_(1, index, error.float() * is_valid)
            count.scatter_add_(1, index, is_valid.float())
    return total / count


def spearman(first: Tensor, second: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the rank correlation of each row, ties at their mean rank.

    first, second  (B, n) float; valid (B, n) bool, entries that count; None: those that are finite in both
    returns        (B,) float32 in [-1, 1], NaN for a row without two different values in both
    """
    valid = torch.isfinite(first + second) if valid is None else valid
    count = valid.sum(1, keepdim=True)
    ranks = []
    for values in (first.float(), second.float()):
        above = torch.sign(values[:, :, None] - values[:, None, :]) * valid[:, None, :]
        rank = above.nan_to_num().sum(2) * valid  # twice the rank, from its mean
        ranks.append(rank)
    a, b = ((rank - rank.sum(1, keepdim=True) / count) * valid for rank in ranks)
    norm = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(norm > 0, (a * b).sum(1) / norm, torch.nan)


def difficulty_ratio(scores: Tensor, difficulty: Tensor, num: int) -> Tensor:
    """Return how much harder the `num` patches of highest score are than the average patch, one number a row.

    scores, difficulty  (B, G) float
    returns             (B,) float32, above 1 where scores find hard patches
    """
    top = difficulty.gather(1, scores.argsort(dim=1, descending=True, stable=True)[:, :num])
    return top.nanmean(1) / difficulty.nanmean(1)


class StoredScores:
    """Scores of every shape of a data set, computed before: `pc3d pretrain --mask-scores`."""

    def __init__(self, centers: Tensor, scores: Tensor) -> None:
        """Keep scores (n, G) at patch centers (n, G, 3), float32, in the order of the data set; G >= 3."""
        assert centers.shape[:2] == scores.shape and scores.shape[1] >= 3, (centers.shape, scores.shape)
        self.centers, self.scores = centers, scores

    def at(self, index: Tensor, queries: Tensor) -> Tensor:
        """Interpolate the scores of the shapes `index` (B,) int64 at queries (B, G', 3): (B, G') float32."""
        index = index.to(self.centers.device)
        centers, scores = self.centers[index].to(queries.device), self.scores[index].to(queries.device)
        return interpolate3(queries, centers, scores.unsqueeze(2)).squeeze(2)

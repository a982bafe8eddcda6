# SPDX-License-Identifier: Apache-2.0
"""GeoMask3D: pretraining that hides, more and more, what a momentum teacher finds geometrically complex.

A. Bahri et al.: GeoMask3D, geometrically informed mask selection for self-supervised point cloud learning in 3D, TMLR
2025, arXiv 2405.12419: one training step on Point-MAE or Point-M2AE, with the masks it is compared with.

*Departures* (from the released code, whose behaviour is `Gm3dConfig.official()`): the point loss compares with the true
patches and trains the student; there it has no gradient.  Both parts of the complexity target are weighted to be of one
size.  Patches are scored in passes that hide them.  Pairs are compared by softplus in float32.  The complexity head has
4 blocks, not 12.  In no mode does the frozen decoder read tokens of visible patches as if they were hidden ones, as
it does there: the official mode compares what it makes of the student's tokens with the true patches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.errors import check_choices, check_ranges
from pc3dcli.nn.chamfer import chamfer_l2
from pc3dcli.nn.ema import update_ema
from pc3dcli.papers.geomask3d import masking
from pc3dcli.papers.geomask3d.base_model import BaseModel, Decoded, Encoded, Groups
from pc3dcli.papers.geomask3d.gc_head import GcHead
from pc3dcli.papers.geomask3d.relation import dense_relation_loss, pair_accuracy
from pc3dcli.papers.geomask3d.scoring import PatchScorer, StoredScores, patch_scores, spearman

NORMALIZE_EPS = 1e-6  # ours
EMA_EPOCHS, EMA_RUN = 100, 400  # the released decay grows over 100 epochs of a run of 400
HEAD_PREFIX = "gc_head."  # of the names of exported tensors


@dataclass(frozen=True)
class Gm3dConfig:
    """Losses, scores and masks; "released" marks values of the released code."""

    mask: Literal["geometric", "radius", "block", "random"] = "geometric"  # which patches are hidden
    gc_view: Literal["kfold", "full"] = "kfold"  # how the teacher sees a patch that it scores; full: the paper
    gc_target: Literal["sum", "chamfer", "feature"] = "sum"  # what complexity is; chamfer where there is no teacher
    gc_norm: Literal["none", "patch_radius"] = "none"  # Chamfer part over the mean squared patch radius, of mean 1
    gc_weight_p: float = 1000.0  # of the Chamfer part in the target; released: 1
    gc_weight_f: float = 13.889  # of the feature part; released: 1
    gc_depth: int = 4  # blocks of the complexity head, 0: none; released: 12
    detach_gc: bool = False  # keep the comparison loss from the encoder; so it is with other masks than geometric
    hard_ratio: float = 0.5  # A, share of the hidden patches that scores choose at last; released: 0.8
    ramp: Literal["full", "half"] = "full"  # to the last epoch, or to the middle
    mask_rounding: Literal["point_mae", "gm3d"] = "point_mae"  # 38 or 39 of 64 hidden at 0.6
    lam_p: float = (
        1000.0  # weight of the point loss from `lam_switch_epoch` on, 1 before; 1 for other masks without a teacher
    )
    lam_f: float = 13.889  # weight of the feature loss from then on, 1 before
    lam_switch_epoch: int = 15
    ema_start: float = 0.999  # decay of the teacher in the first epoch
    ema_end: float = 0.9999  # and after a quarter of the run (released: 100 epochs of 400)
    parity: Literal["none", "official"] = "none"  # official: no gradient of the point loss, comparison with epsilon

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self, hard_ratio=(0, 1), gc_depth=(0, 99), lam_p=(0, 1e9), lam_f=(0, 1e9))
        check_ranges(self, gc_weight_p=(0, 1e9), gc_weight_f=(0, 1e9), ema_start=(0, 1), ema_end=(0, 1))
        check_ranges(self, lam_switch_epoch=(0, 1_000_000))

    @classmethod
    def official(cls, **changes: Any) -> Gm3dConfig:
        """Return what the released code does in its mode `feature`; `changes` override fields."""
        released: dict[str, Any] = {
            "gc_view": "full",
            "gc_weight_p": 1.0,
            "gc_weight_f": 1.0,
            "gc_depth": 12,
            "hard_ratio": 0.8,
            "mask_rounding": "gm3d",
            "parity": "official",
        }
        return cls(**released | changes)


def ema_decay(epoch: int, epochs: int, config: Gm3dConfig) -> float:
    """Return the share of the old teacher that an update keeps in 0-based `epoch` of `epochs`."""
    progress = min(epoch / (EMA_EPOCHS * epochs / EMA_RUN), 1.0)
    return config.ema_start + (config.ema_end - config.ema_start) * progress


def feature_error(features: Tensor, targets: Tensor) -> Tensor:
    """Return |d/|d| - f/|f||^2 = 2 - 2 cos of features (T, C) and targets (T, C): (T,) float32 in [0, 4]."""
    features, targets = (F.normalize(values.float(), dim=-1, eps=NORMALIZE_EPS) for values in (features, targets))
    return (features - targets).square().sum(-1)


class Gm3d(nn.Module):
    """A base model with its complexity head, teachers and masks; a `Learner` of the training loop."""

    def __init__(
        self,
        base: BaseModel,
        config: Gm3dConfig = Gm3dConfig(),
        frozen: BaseModel | None = None,
        stored: StoredScores | None = None,
    ) -> None:
        """Build it around a base model.

        base    the student
        frozen  a finished model of the same kind whose features are distilled; None: no feature loss
        stored  scores that choose patches in place of those of an EMA teacher
        raises  ValueError for options that do not fit together
        """
        super().__init__()
        self.config, self.stored = config, stored
        self.num_hidden = _num_hidden(base, config.mask_rounding)
        _check(config, base, frozen, stored, self.num_hidden)
        settings = base.config
        head = None
        if config.gc_depth > 0:
            head = GcHead(settings.dim, config.gc_depth, settings.heads, settings.drop_path)
        self.student = PatchScorer(base, head)
        needs_teacher = config.mask == "geometric" and stored is None and config.hard_ratio > 0
        self.teacher = _frozen(copy.deepcopy(self.student)) if needs_teacher else None
        self.frozen = _frozen(frozen) if frozen is not None else None

    def training_loss(self, batch: Any, at: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Take one step forward.

        batch    .clouds (B, N, 3) float32 augmented; with stored scores .plain (B, N, 3) as scored and .index (B,)
        at       .epoch, .epochs and .generator, on the CPU: a Position of the training loop
        returns  the loss, and named scalars for the log, detached
        """
        base, config = self.student.base, self.config
        groups = base.group(batch.clouds)
        num = masking.num_selected(at.epoch, at.epochs, self.num_hidden, config.hard_ratio, config.ramp)
        scores = self._selection_scores(batch, groups, at) if num else None
        hidden = self._hidden(groups, scores, num, at.generator)
        encoded = base.encode(groups, hidden)
        decoded = base.decode(groups, hidden, encoded)
        point = self._point_error(groups, hidden, encoded, decoded)
        feature = self._feature_error(groups, decoded)
        loss, log = self._reconstruction_loss(point, feature, at.epoch)
        if self.student.gc_head is not None:
            values = self._target(decoded, point, feature)
            target, is_valid = base.to_patches(groups, hidden, decoded, values)
            relation, more = self._relation_loss(groups, hidden, encoded.visible, target, is_valid)
            loss = loss + relation
            log |= more | _selection_log(scores, num, hidden, target, is_valid)
        return loss, log | {"loss": loss.detach()}

    def after_step(self, at: Any) -> None:
        """Move the teacher towards the student."""
        if self.teacher is not None:
            update_ema(self.teacher, self.student, ema_decay(at.epoch, at.epochs, self.config))

    def exported(self) -> dict[str, Tensor]:
        """Return the student's tensors: those of the base model under their names, those of the head as gc_head.*."""
        tensors = dict(self.student.base.state_dict())
        if self.student.gc_head is not None:
            tensors |= {HEAD_PREFIX + name: value for name, value in self.student.gc_head.state_dict().items()}
        return tensors

    def load_exported(self, tensors: Mapping[str, Tensor]) -> None:
        """Start from exported tensors, or from those of a base model alone; the teacher becomes a copy of them.

        raises  RuntimeError of torch for names or shapes that are not those of this model
        """
        base = {name: value for name, value in tensors.items() if not name.startswith(HEAD_PREFIX)}
        head = {name.removeprefix(HEAD_PREFIX): value for name, value in tensors.items() if name not in base}
        self.student.base.load_state_dict(base)
        if head and self.student.gc_head is not None:
            self.student.gc_head.load_state_dict(head)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.student.state_dict())

    def train(self, mode: bool = True) -> Gm3d:
        """Switch the student between training and evaluation; teachers stay in evaluation."""
        self.training = mode
        self.student.train(mode)
        return self

    def _selection_scores(self, batch: Any, groups: Groups, at: Any) -> Tensor | None:
        """Return (B, G) scores that say which patches are hidden first, None for masks without."""
        if self.config.mask == "radius":
            return masking.squared_radius(groups.points)
        if self.config.mask != "geometric":
            return None
        if self.stored is not None:
            index = groups.center_index.unsqueeze(2).expand(-1, -1, 3)
            return self.stored.at(batch.index, batch.plain.gather(1, index))
        with torch.inference_mode():
            scores = patch_scores(
                self.teacher, groups, view=self.config.gc_view, generator=at.generator, num_hidden=self.num_hidden
            )
        return scores.clone()  # a tensor that autograd may see again

    def _hidden(self, groups: Groups, scores: Tensor | None, num: int, generator: torch.Generator) -> Tensor:
        if self.config.mask == "block":
            return masking.block_hidden(groups.centers, self.num_hidden, generator)
        if scores is None:
            B, G, _ = groups.centers.shape
            return masking.random_hidden(B, G, self.num_hidden, generator).to(groups.centers.device)
        return masking.select_hidden(scores, self.num_hidden, num, generator)

    def _point_error(self, groups: Groups, hidden: Tensor, encoded: Encoded, decoded: Decoded) -> Tensor:
        """Return the Chamfer distance (T,) float32 of each decoded token from its true points."""
        if self.config.parity == "official":
            with torch.no_grad():
                decoded = self.frozen.decode(groups, hidden, encoded)
        return chamfer_l2(decoded.points, decoded.targets)

    def _feature_error(self, groups: Groups, decoded: Decoded) -> Tensor | None:
        """Return the distance (T,) of each decoded feature from that of the frozen teacher, who sees all."""
        if self.frozen is None:
            return None
        with torch.no_grad():
            features = self.frozen.full_features(groups)[decoded.sample, decoded.token]
        return feature_error(decoded.features, features)

    def _reconstruction_loss(
        self, point: Tensor, feature: Tensor | None, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss_point = point.mean()
        log = {"loss_point": loss_point.detach()}
        is_late = epoch >= self.config.lam_switch_epoch
        if feature is None:
            is_plain = self.config.mask != "geometric"  # then the loss is that of the base model, in its recipe
            return loss_point * (self.config.lam_p if is_late and not is_plain else 1.0), log
        loss_feature = feature.mean()
        lam_p, lam_f = (self.config.lam_p, self.config.lam_f) if is_late else (1.0, 1.0)
        return lam_p * loss_point + lam_f * loss_feature, log | {"loss_feature": loss_feature.detach()}

    @torch.no_grad()
    def _target(self, decoded: Decoded, point: Tensor, feature: Tensor | None) -> Tensor:
        """Return the complexity (T,) of each decoded token."""
        config = self.config
        if config.gc_norm == "patch_radius":
            radius = masking.squared_radius(decoded.targets)
            # times the mean of the batch, a constant: the parts of a sum keep their sizes
            point = point * radius.mean() / radius.clamp(min=1e-12)
        if feature is None or config.gc_target == "chamfer":
            return config.gc_weight_p * point
        if config.gc_target == "feature":
            return config.gc_weight_f * feature
        return config.gc_weight_p * point + config.gc_weight_f * feature

    def _relation_loss(
        self, groups: Groups, hidden: Tensor, visible: Tensor, target: Tensor, is_valid: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        positions = self.student.base.decoder_positions(groups)
        if self.config.detach_gc or self.config.mask != "geometric":
            visible, positions = visible.detach(), positions.detach()
        scores = self.student.gc_head(visible, positions, hidden)
        form = "official" if self.config.parity == "official" else "softplus"
        loss = dense_relation_loss(scores, target, is_valid, form)
        return loss, {"loss_gc": loss.detach(), "pair_accuracy": pair_accuracy(scores, target, is_valid)}


def _num_hidden(base: BaseModel, rounding: str) -> int:
    if rounding == "point_mae":
        return base.num_hidden
    return base.num_patches - int(base.num_patches * (1 - base.config.mask_ratio) + 1e-9)


def _check(
    config: Gm3dConfig, base: BaseModel, frozen: BaseModel | None, stored: StoredScores | None, num_hidden: int
) -> None:
    if not 0 < num_hidden < base.num_patches:
        raise ValueError(f"mask_ratio = {base.config.mask_ratio}: hides {num_hidden} of {base.num_patches} patches")
    if config.mask == "geometric" and config.gc_depth == 0 and stored is None and config.hard_ratio > 0:
        raise ValueError("gc_depth = 0: geometric masks need a complexity head, or stored scores")
    if stored is not None and config.mask != "geometric":
        raise ValueError(f"mask = {config.mask}: stored scores have a use with geometric masks only")
    if frozen is None and (config.gc_target == "feature" or config.parity == "official"):
        name = "gc_target = feature" if config.gc_target == "feature" else "parity = official"
        raise ValueError(f"{name} needs a frozen teacher")


def _frozen(model: Any) -> Any:
    return model.requires_grad_(False).eval()


def _selection_log(
    scores: Tensor | None, num: int, hidden: Tensor, target: Tensor, is_valid: Tensor
) -> dict[str, Tensor]:
    """Say how well the scores (B, G) that chose `num` hidden patches agree with how hard those turned out, (B, H)."""
    if scores is None:
        return {}
    B, H = target.shape
    rank = spearman(scores[hidden].view(B, H), target, is_valid)
    log = {"score_spearman": rank.nanmean().nan_to_num(0.0), "num_selected": target.new_tensor(float(num))}
    if num < H:
        is_chosen = masking.largest(scores, num)[hidden].view(B, H)
        chosen, others = is_chosen & is_valid, ~is_chosen & is_valid
        mean_chosen, mean_others = ((target * part).sum() / part.sum().clamp(min=1) for part in (chosen, others))
        log["chosen_over_others"] = mean_chosen / mean_others.clamp(min=1e-12)
    return log

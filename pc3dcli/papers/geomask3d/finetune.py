# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of pretrained Point-MAE and Point-M2AE models: losses, recipes, layer decay.

Y. Pang et al., arXiv 2203.06604, R. Zhang et al., arXiv 2205.14401, A. Bahri et al., arXiv 2405.12419: the released
fine-tuning code of each.

*Departures*: layer decay reaches every layer below the head; the released one of GeoMask3D reaches blocks of Point-MAE
alone (`released_decay`).  The optimiser steps once a batch; the released part segmentation steps twice, once before
clipping (`double_step` of training).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pc3dcli.errors import check_ranges


@dataclass(frozen=True)
class FinetuneConfig:
    """What fine-tuning has beside the settings of training."""

    augment: Literal["scale-shift", "scale-rotate", "parts", "none"] = "scale-shift"  # parts: isotropic, smaller
    label_smoothing: float = 0.0  # share of the label that goes to the other classes; Point-M2AE on ModelNet40: 0.3
    layer_decay: float = 1.0  # factor on the learning rate a layer further from the head; GeoMask3D: 0.75
    released_decay: bool = False  # layer decay as GeoMask3D's code has it, on the blocks of Point-MAE alone
    variant: Literal["auto", "modelnet", "scanobjectnn"] = "auto"  # of Point-M2AE classifiers; auto: by the data set
    vote_views: int = 10  # passes of a vote, over resampled and augmented clouds

    def __post_init__(self) -> None:
        check_ranges(self, label_smoothing=(0, 0.999), layer_decay=(1e-6, 1), vote_views=(1, 1000))


BASELINE = {  # of training; AdamW's own betas
    "epochs": 300, "batch_size": 32, "lr": 5e-4, "weight_decay": 0.05, "betas": (0.9, 0.999), "warmup_epochs": 10.0,
    "schedule": "epoch", "min_lr": 1e-6, "clip": 10.0,
}  # fmt: skip
GM3D = BASELINE | {  # rates of 7.8e-5 to 1.56e-4 were logged; this is between them
    "epochs": 500, "batch_size": 64, "lr": 1.25e-4, "warmup_epochs": 5.0, "schedule": "iteration", "clip": 0.0,
}  # fmt: skip
PARTS = BASELINE | {"batch_size": 16, "lr": 2e-4}
FEW_SHOT = BASELINE | {"epochs": 150}


def recipe(
    task: str, base: str, name: str = "baseline", *, is_scan: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a recipe: fields of FinetuneConfig, and those of training.

    task  "classify", "few-shot" or "parts"
    base  "point-mae" or "point-m2ae"
    name  "baseline": of the base model's code; "gm3d": of GeoMask3D's, which has one of its own for classification
          and another rate for few-shot on Point-MAE
    is_scan  the shapes are ScanObjectNN's, which Point-M2AE learns without smoothing
    """
    if task == "parts":
        return {"augment": "parts"}, PARTS
    if task == "few-shot":
        return {}, FEW_SHOT | ({"lr": 1e-3} if name == "gm3d" and base == "point-mae" else {})
    if name == "gm3d":
        return {"layer_decay": 0.75}, GM3D
    return ({"label_smoothing": 0.3} if base == "point-m2ae" and not is_scan else {}), BASELINE


def downstream_fields(task: str, base: str, fields: dict[str, Any], *, is_scan: bool = False) -> dict[str, Any]:
    """Return the fields of a base model's config as its downstream model has them.

    fields   of the pretrained model: parts and scans with Point-MAE see twice its points and patches (2,048 and 128),
             classification with Point-M2AE half its points (1,024), but for scans
    is_scan  as in `recipe`
    """
    if base == "point-mae" and (task == "parts" or is_scan):
        return fields | {name: 2 * fields[name] for name in ("num_points", "num_patches")}
    if base == "point-m2ae" and task != "parts" and not is_scan:
        return fields | {"num_points": max(fields["num_points"] // 2, max(fields["scale_patches"]))}
    return fields


def smoothed_cross_entropy(logits: Tensor, label: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy with `smoothing` spread evenly over the K - 1 other classes, as Point-M2AE does.

    logits (B, K), label (B,) int64; PyTorch's own smoothing gives the right class a part of it too
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    right = log_p.gather(1, label[:, None]).squeeze(1)
    others = (log_p.sum(1) - right) / max(logits.shape[1] - 1, 1)
    return -((1 - smoothing) * right + smoothing * others).mean()


class Finetuning(nn.Module):
    """A classifier or part model as a `Learner` of the training loop."""

    def __init__(self, model: nn.Module, kind: Literal["classify", "parts"], config: FinetuneConfig) -> None:
        """kind "classify": model(clouds) -> (B, K); "parts": model(clouds, category) -> (B, N, P)"""
        super().__init__()
        self.model, self.kind, self.config = model, kind, config

    def training_loss(self, batch: Any, at: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return cross-entropy and accuracy of a batch with clouds (B, N, 3), label (B,) and, of parts, part (B, N)."""
        if self.kind == "parts":
            logits = self.model(batch.clouds, batch.label).flatten(0, 1)  # (B N, P)
            target = batch.part.flatten()
        else:
            logits, target = self.model(batch.clouds), batch.label
        loss = smoothed_cross_entropy(logits, target, self.config.label_smoothing)
        accuracy = (logits.detach().argmax(1) == target).float().mean()
        return loss, {"accuracy": accuracy}

    def after_step(self, at: Any) -> None:
        """Nothing follows a step."""

    def exported(self) -> dict[str, Tensor]:
        """Return the tensors of the model."""
        return self.model.state_dict()

    def rate_scale(self, name: str) -> float:
        """Return the factor on the learning rate of a parameter, by its name in this module (layer decay)."""
        return layer_decay(name.removeprefix("model."), self.model.config, self.config)


def layer_decay(name: str, model: Any, config: FinetuneConfig) -> float:
    """Return the factor on the learning rate of a parameter of a downstream model.

    name   as in its state_dict; model  its config
    """
    if config.layer_decay == 1.0:
        return 1.0
    layer, num_layers = _layer_of(name, model)
    if config.released_decay and not re.match(r"encoder\.blocks\.blocks\.\d+\.", name):
        return 1.0
    return config.layer_decay ** (num_layers - 1 - layer)


def _layer_of(name: str, model: Any) -> tuple[int, int]:
    """Return which encoder block a parameter is of or comes before, and how many there are; heads are of the last."""
    if re.match(r"encoder\.(patch_embed|pos_embed)\.|cls_(token|pos)$", name):
        return -1, model.depth
    if match := re.match(r"encoder\.blocks\.blocks\.(\d+)\.", name):
        return int(match[1]), model.depth
    scales = len(getattr(model, "dims", ())) or 1
    if match := re.match(r"h_encoder\.encoder_blocks\.(\d+)\.blocks\.(\d+)\.", name):
        return int(match[1]) * model.depth + int(match[2]), scales * model.depth
    if match := re.match(r"h_encoder\.(?:token_embed|encoder_pos_embeds)\.(\d+)\.", name):
        return int(match[1]) * model.depth - 1, scales * model.depth
    return scales * model.depth - 1, scales * model.depth


def predict_classes(model: nn.Module, clouds: Tensor) -> Tensor:
    """Return logits (B, K) float32 of clouds (B, N, 3) in eval mode; the mode comes back."""
    return _in_eval(model, clouds).float()


def predict_parts(model: nn.Module, clouds: Tensor, category: Tensor) -> Tensor:
    """Return part logits (B, N, P) float32 of clouds (B, N, 3) with their categories (B,), in eval mode."""
    return _in_eval(model, clouds, category).float()


def _in_eval(model: nn.Module, *inputs: Tensor) -> Tensor:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(*inputs)
    finally:
        model.train(was_training)

# SPDX-License-Identifier: Apache-2.0
"""Learning rates over training, and which parameters are decayed: the recipes of masked autoencoders.

Point-MAE and Point-M2AE step the rate once an epoch (timm's cosine schedule); GM3D and the later codes step it every
iteration (MAE's schedule).  Mask3D and Segment3D have torch's one-cycle schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn


def epoch_rate(epoch: int, *, peak: float, period: float, warmup: float, floor: float = 1e-6) -> float:
    """Return the rate that an epoch trains with when the schedule is stepped at the end of each one.

    epoch   0, 1, ...; epochs 0 and 1 both train at `floor`, because the step after epoch 0 sets the rate of t = 0
    period  epochs until the cosine is at `floor`; warmup  epochs of the linear rise, not added to the period
    """
    t = max(epoch - 1, 0)
    if t < warmup:
        return floor + t * (peak - floor) / warmup
    if t >= period:
        return floor
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * t / period))


def iteration_rate(epoch: float, *, peak: float, epochs: float, warmup: float, floor: float = 0.0) -> float:
    """Return the rate of an iteration: linear from 0 over the warmup, then half a cosine to `floor`.

    epoch  with its fraction: iterations done / iterations of an epoch
    """
    if epoch < warmup:
        return peak * epoch / warmup
    progress = min((epoch - warmup) / max(epochs - warmup, 1e-9), 1.0)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress))


def one_cycle_rate(step: int, steps: int, *, peak: float) -> float:
    """Return the rate of a step, 0, 1, ...: half a cosine up over 0.3 of all, half a cosine down to almost 0.

    As torch.optim.lr_scheduler.OneCycleLR has it: from peak / 25 to peak to peak / 250,000.
    """
    low, end, top = peak / 25, peak / 25e4, 0.3 * steps - 1
    if step <= top:
        return low + 0.5 * (peak - low) * (1 - math.cos(math.pi * step / top)) if top > 0 else peak
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * (step - top) / max(steps - 1 - top, 1)))


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_tokens: bool = False,
    rate_scale: Callable[[str], float] | None = None,
) -> list[dict]:
    """Return the groups of AdamW over the parameters that require a gradient, in the order of their names' use.

    decay_tokens  GM3D decays what has "token" in its name, the base models do not: mask and class tokens, and with
                  Point-M2AE, as released, token_embed and token_prop too; 1-D parameters and biases never are
    rate_scale    parameter name -> factor on the rate (layer decay), 1 without
    returns       dicts of `params`, `weight_decay` and `scale`
    """
    groups: dict[tuple[bool, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_free = parameter.ndim <= 1 or name.endswith(".bias") or ("token" in name and not decay_tokens)
        scale = rate_scale(name) if rate_scale else 1.0
        decay = 0.0 if is_free else weight_decay
        group = groups.setdefault((is_free, scale), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    return list(groups.values())

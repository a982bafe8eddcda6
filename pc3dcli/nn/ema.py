# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a model, running statistics included."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the teacher towards the student in place: teacher = decay * teacher + (1 - decay) * student.

    teacher, student  same state; the student may hold more (heads that the teacher has no use for)
    decay             in [0, 1]; floating-point buffers move as well, integer buffers are copied
    raises            KeyError when the student lacks a tensor of the teacher
    """
    source = student.state_dict()
    pairs = [(value, source[name].to(value.device)) for name, value in teacher.state_dict().items()]
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    if floating:
        torch._foreach_lerp_([value for value, _ in floating], [value for _, value in floating], 1.0 - decay)
    for value, new in pairs:
        if not value.is_floating_point():
            value.copy_(new)

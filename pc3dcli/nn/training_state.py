# SPDX-License-Identifier: Apache-2.0
"""The state of a training run as named tensors, so that a checkpoint holds no pickle: model and optimiser."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pc3dcli.errors import WeightsError
from pc3dcli.nn.weights import load_exactly

MODEL, OPTIMIZER = "model.", "optimizer."


def pack_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return `model.<name>` and `optimizer.<number of the parameter>.<name>` tensors, not copied."""
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{number}.{name}": value for name, value in values.items()}
    return tensors


def unpack_state(
    tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, *, file: Path
) -> None:
    """Put what `pack_state` returned into a model and an optimiser of the same make, on any device.

    file    named in errors
    raises  WeightsError when names or shapes differ or a value is not finite
    """
    of_model = {name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)}
    load_exactly(model, of_model, file=file, kind="this run")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER):
            number, _, key = name.removeprefix(OPTIMIZER).partition(".")
            state.setdefault(int(number) if number.isdecimal() else -1, {})[key] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {frozenset(values) for values in state.values()}
    for number, values in state.items():
        is_known = 0 <= number < len(parameters) and len(names) == 1
        shape = parameters[number].shape if is_known else None
        if not is_known or any(value.shape not in (shape, torch.Size()) for value in values.values()):
            raise WeightsError(f"the optimiser state of parameter {number} does not fit this run", file=file)
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            raise WeightsError(f"the optimiser state of parameter {number} is not finite", file=file)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

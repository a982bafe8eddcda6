# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from torch import nn

from pc3dcli.errors import WeightsError
from pc3dcli.nn.training_state import pack_state, unpack_state

FILE = Path("last.safetensors")


def made(seed: int, width: int = 3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def step(model, optimizer, seed):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_going_on_from_a_state_is_going_on():
    first, second = made(0), made(1)
    step(*first, 0)
    tensors = {name: value.clone() for name, value in pack_state(*first).items()}
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())
    unpack_state(tensors, *second, file=FILE)
    for seed in (1, 2):
        step(*first, seed)
        step(*second, seed)
    for name, value in pack_state(*first).items():
        assert torch.equal(value, pack_state(*second)[name]), name


def test_a_state_before_the_first_step():
    second = made(1)
    unpack_state(pack_state(*made(0)), *second, file=FILE)
    step(*second, 0)


@pytest.mark.parametrize("name", ["optimizer.99.exp_avg", "optimizer.x.exp_avg", "optimizer.0.exp_avg"])
def test_an_optimiser_of_another_model(name):
    first = made(0)
    step(*first, 0)
    tensors = pack_state(*first) | {name: torch.ones(9)}
    with pytest.raises(WeightsError, match="does not fit this run"):
        unpack_state(tensors, *made(1), file=FILE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg": None}, "does not fit this run"),
        ({"exp_avg": torch.full((3, 2), torch.nan)}, "parameter 0 is not finite"),
    ],
)
def test_an_optimiser_state_with_a_gap_or_nan(change, message):
    first = made(0)
    step(*first, 0)
    tensors = pack_state(*first) | {f"optimizer.0.{name}": value for name, value in change.items()}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(WeightsError, match=message):
        unpack_state(tensors, *made(1), file=FILE)


def test_another_model():
    with pytest.raises(WeightsError, match="not weights of this run"):
        unpack_state(pack_state(*made(0, 4)), *made(1), file=FILE)

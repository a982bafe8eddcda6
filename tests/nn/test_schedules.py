# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import nn

from pc3dcli.nn.schedules import epoch_rate, iteration_rate, one_cycle_rate, parameter_groups
from pc3dcli.train import TrainConfig


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1e-6), (1, 1e-6), (2, 1.009e-4), (10, 9.001e-4), (11, 9.973e-4), (150, 5.057e-4), (300, 1.03e-6)],
)
def test_rates_of_point_mae(epoch, rate):
    assert epoch_rate(epoch, peak=1e-3, period=300, warmup=10) == pytest.approx(
        rate, rel=3e-3 if epoch == 300 else 5e-4
    )  # printed digits


def test_point_m2ae_ends_high_and_stays_low_after_its_period():
    assert epoch_rate(300, peak=1e-3, period=400, warmup=10) == pytest.approx(1.5e-4, rel=0.02)
    assert epoch_rate(402, peak=1e-3, period=400, warmup=10) == 1e-6


def test_rates_of_gm3d():
    first = [iteration_rate(step / 163, peak=1e-3, epochs=400, warmup=40) for step in range(163)]
    assert np.mean(first) == pytest.approx(1.2423e-5, rel=1e-4)
    assert first[0] == 0
    assert iteration_rate(40, peak=1e-3, epochs=400, warmup=40) == 1e-3
    assert iteration_rate(220, peak=1e-3, epochs=400, warmup=40) == pytest.approx(5e-4)
    assert iteration_rate(400, peak=1e-3, epochs=400, warmup=40) == pytest.approx(0, abs=1e-12)


def test_without_warmup_and_with_a_floor():
    assert iteration_rate(0, peak=1.0, epochs=4, warmup=0) == 1.0
    assert iteration_rate(4, peak=1.0, epochs=4, warmup=0, floor=0.1) == pytest.approx(0.1)
    assert iteration_rate(1, peak=1.0, epochs=1, warmup=1) == 1.0
    assert epoch_rate(0, peak=1.0, period=5, warmup=0) == 1.0


def rates(config: TrainConfig, steps_per_epoch: int = 4) -> list[float]:
    from pc3dcli.train.walk import Walk

    class Few:
        def __len__(self):
            return config.batch_size * steps_per_epoch

    walk = Walk.over(Few(), config)
    return [config.rate(walk.position(step)) for step in range(walk.steps)]


def test_a_config_follows_its_schedule():
    by_epoch = TrainConfig(epochs=50, schedule="epoch", min_lr=1e-6)
    found = rates(by_epoch)
    assert found[:8] == [1e-6] * 8
    assert found[8:12] == [epoch_rate(2, peak=1e-3, period=50, warmup=10)] * 4
    by_step = rates(TrainConfig(epochs=50))
    assert by_step[0] == 0
    assert by_step[1] == pytest.approx(1e-3 / 40)
    assert by_step[40] == max(by_step) == 1e-3


def test_a_short_run_warms_up_for_a_fifth_of_it():
    found = rates(TrainConfig(epochs=5))
    assert found.index(max(found)) == 4
    assert found[4] == 1e-3


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask_token = nn.Parameter(nn.init.zeros_(nn.Linear(4, 1).weight))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)])
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names(model: nn.Module, groups: list[dict]) -> list[tuple[float, float, list[str]]]:
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(g["weight_decay"], g["scale"], [of[id(p)] for p in g["params"]]) for g in groups]


def test_what_is_decayed():
    model = Model()
    free = ["mask_token", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"]
    assert names(model, parameter_groups(model, 0.05)) == [(0.0, 1.0, free), (0.05, 1.0, ["blocks.0.weight"])]
    tokens = names(model, parameter_groups(model, 0.05, decay_tokens=True))
    assert tokens == [(0.05, 1.0, ["mask_token", "blocks.0.weight"]), (0.0, 1.0, free[1:])]


def test_rates_by_layer():
    model = Model()
    groups = parameter_groups(model, 0.05, rate_scale=lambda name: 0.75 if name.startswith("blocks.0") else 1.0)
    assert sorted(names(model, groups)) == [
        (0.0, 0.75, ["blocks.0.bias"]),
        (0.0, 1.0, ["mask_token", "blocks.1.weight", "blocks.1.bias"]),
        (0.05, 0.75, ["blocks.0.weight"]),
    ]


@pytest.mark.parametrize("steps", [10, 37, 400])
def test_one_cycle_is_that_of_torch(steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=2e-4, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle_rate(step, steps, peak=2e-4) == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)
        sgd.step()
        if step + 1 < steps:
            cycle.step()


def test_one_cycle_of_a_single_step_is_finite():
    assert 0 < one_cycle_rate(0, 1, peak=1.0) <= 1.0

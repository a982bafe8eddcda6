# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from pc3dcli.nn.init import init_decoder, init_encoder


def test_encoder_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 100), nn.LayerNorm(100), nn.Linear(100, 3, bias=False)).apply(init_encoder)
    assert model[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model[0].bias.any() and model[1].weight.eq(1).all()


def test_decoder_weights():
    torch.manual_seed(0)
    layer = nn.Linear(100, 50).apply(init_decoder)
    limit = (6 / 150) ** 0.5
    assert layer.weight.abs().max().item() == pytest.approx(limit, rel=0.02)
    assert not layer.bias.any()

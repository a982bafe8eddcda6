# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F

from pc3dcli.nn import patch_embed_cpu
from pc3dcli.nn.patch_embed import PatchEmbed


def by_definition(model: PatchEmbed, points: torch.Tensor) -> torch.Tensor:
    """The released formulation: convolutions of width 1, [global, local] concatenated for every point."""
    B, G, S, _ = points.shape

    def convolve(layer, x):
        return F.conv1d(x, layer.weight.unsqueeze(2), layer.bias)

    first, second = model.first_conv, model.second_conv
    local = convolve(first[3], first[1](convolve(first[0], points.flatten(0, 1).transpose(1, 2))).relu())
    widest = local.max(2, keepdim=True).values.expand(-1, -1, S)
    mixed = convolve(second[0], torch.cat((widest, local), dim=1))
    return convolve(second[3], second[1](mixed).relu()).max(2).values.view(B, G, -1)


def patches(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed)) * 0.2


@pytest.fixture(params=[512, 32])
def model(request):
    torch.manual_seed(0)
    model = PatchEmbed(24, request.param)
    for norm in (model.first_conv[1], model.second_conv[1]):
        torch.nn.init.uniform_(norm.weight, -0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.3)
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("chunk_rows", [None, 1024, 16, 1])
def test_values_gradients_and_statistics_equal_the_definition(model, training, chunk_rows, monkeypatch):
    model.fused = chunk_rows is not None
    monkeypatch.setattr(patch_embed_cpu, "CHUNK_ROWS", chunk_rows)
    twin = PatchEmbed(24, len(model.second_conv[0].weight))
    twin.load_state_dict(model.state_dict())
    model.train(training), twin.train(training)
    points = patches(3, 5, 8)
    weight = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1))
    for step in range(2):  # the second runs on changed statistics
        tokens, expected = model(points + step), by_definition(twin, points + step)
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
        (tokens * weight).sum().backward()
        (expected * weight).sum().backward()
    for name, value in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, value.grad, rtol=1e-4, atol=2e-4)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_order_of_points_does_not_matter(model):
    points = patches(2, 4, 8)
    shuffled = points[:, :, torch.randperm(8, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(model.eval()(shuffled), model(points), rtol=1e-5, atol=1e-6)


def test_points_get_no_gradient(model):
    points = patches(1, 2, 4).requires_grad_()
    model(points).sum().backward()
    assert points.grad is None


def test_without_gradient_and_training_it_is_the_same_in_fewer_operations(model):
    model.train()(patches(3, 5, 8))  # statistics of its own
    points = patches(40, 5, 8, seed=1)  # more patches than are embedded at once
    expected = model.eval()(points)
    with torch.no_grad():
        torch.testing.assert_close(model(points), expected, rtol=1e-4, atol=1e-5)
        model.train()
        assert not torch.allclose(model(points), expected, rtol=1e-2)  # in training batches have their own statistics

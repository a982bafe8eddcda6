# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from pc3dcli.errors import WeightsError
from pc3dcli.nn.point_sampling import interpolate3
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.papers.geomask3d.point_mae_heads import PointMaeClassifier, PointMaeParts
from pc3dcli.papers.geomask3d.point_mae_released import from_released, to_released

TINY = PointMaeConfig(num_points=96, num_patches=16, patch_size=8, dim=24, depth=3, heads=3, decoder_depth=1)
PARTS = PointMaeConfig(num_points=2048, num_patches=128)


def clouds(B=2, N=96, seed=0):
    return torch.randn(B, N, 3, generator=torch.Generator().manual_seed(seed)) * 0.4


def num_parameters(model):
    return sum(value.numel() for value in model.parameters())


def test_golden_logits_and_counts(released_point_mae, golden_clouds):
    model = PointMaeClassifier(PointMaeConfig(), 40)
    assert num_parameters(model) == 22_099_752
    tensors = released_point_mae("classify")
    assert len(tensors) == 174
    model.load_state_dict(from_released(tensors, "classify"))
    assert set(to_released(model.state_dict(), "classify")) == set(tensors)
    with torch.no_grad():
        logits = model.eval()(golden_clouds(1024))
    expected = torch.tensor([0.986878, -1.283363, -0.956672, -0.540646])
    torch.testing.assert_close(logits[0, :4], expected, rtol=1e-4, atol=1e-5)
    assert logits.argmax(1).tolist() == [17, 17]
    assert logits.sum().item() == pytest.approx(-3.359486, rel=1e-4)


def test_counts_of_other_heads(point_mae_shapes):
    with torch.device("meta"):
        assert num_parameters(PointMaeClassifier(PointMaeConfig(), 15)) == 22_093_327
        model = PointMaeParts(PARTS)
    assert num_parameters(model) == 27_063_730
    released = to_released(model.state_dict(), "parts")
    assert {name: tuple(value.shape) for name, value in released.items()} == point_mae_shapes("parts")
    assert from_released(released, "parts").keys() == model.state_dict().keys()


def test_parts_equal_the_definition():
    torch.manual_seed(0)
    model = PointMaeParts(TINY, num_parts=7, num_categories=4).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    points, category = clouds(), torch.tensor([2, 0])
    encoder = model.encoder
    centers = points.gather(1, _group_index(model, points).unsqueeze(2).expand(-1, -1, 3))
    x, taps = encoder.patch_embed(_patches(model, points)), []
    for block in encoder.blocks.blocks:
        x = block(x + encoder.pos_embed(centers))
        taps.append(encoder.norm(x))
    tokens = torch.cat(taps, dim=2)
    label = model.label_conv(torch.eye(4)[category])
    local = torch.cat((points, interpolate3(points, centers, tokens)), dim=2).flatten(0, 1)
    for linear, norm in zip(model.propagation.mlp_convs, model.propagation.mlp_bns, strict=True):
        local = norm(linear(local)).relu()
    whole = torch.cat((tokens.amax(1), tokens.mean(1), label), dim=1).repeat_interleave(96, dim=0)
    head = model.head
    features = head.bns1(head.convs1(torch.cat((local, whole), dim=1))).relu()
    expected = head.convs3(head.bns2(head.convs2(features)).relu()).view(2, 96, 7)
    torch.testing.assert_close(model(points, category), expected, rtol=1e-4, atol=1e-5)


def _group_index(model, points):
    return PointMae(TINY).group(points).center_index


def _patches(model, points):
    return PointMae(TINY).group(points).points


def test_classifier_equals_the_definition():
    torch.manual_seed(0)
    model = PointMaeClassifier(TINY, 5).eval()
    groups = PointMae(TINY).group(clouds())
    encoder = model.encoder
    x = torch.cat((model.cls_token.expand(2, -1, -1), encoder.patch_embed(groups.points)), dim=1)
    positions = torch.cat((model.cls_pos.expand(2, -1, -1), encoder.pos_embed(groups.centers)), dim=1)
    for block in encoder.blocks.blocks:
        x = block(x + positions)
    x = encoder.norm(x)
    expected = model.cls_head_finetune(torch.cat((x[:, 0], x[:, 1:].amax(1)), dim=1))
    torch.testing.assert_close(model(clouds()), expected)


@pytest.mark.parametrize("build", [lambda: PointMaeClassifier(TINY, 5), lambda: PointMaeParts(TINY, 7, 4)])
def test_load_pretrained(build):
    torch.manual_seed(0)
    base, model = PointMae(TINY), build()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_pretrained(base.state_dict())
    for name, value in model.state_dict().items():
        expected = base.state_dict().get(name, own[name])
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("build", [lambda: PointMaeClassifier(TINY, 5), lambda: PointMaeParts(TINY, 7, 4)])
def test_load_pretrained_refuses_anything_else(build):
    model, tensors = build(), PointMae(TINY).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lacking = {name: value for name, value in tensors.items() if name != "encoder.norm.weight"}
    with pytest.raises(WeightsError, match=r"lacks encoder\.norm\.weight"):
        model.load_pretrained(lacking)
    with pytest.raises(WeightsError, match=r"unknown encoder\.norm_p\.weight"):
        model.load_pretrained(tensors | {"encoder.norm_p.weight": torch.ones(24)})
    with pytest.raises(WeightsError, match="without a head"):
        model.load_pretrained(tensors | model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("build", [lambda: PointMaeClassifier(TINY, 5), lambda: PointMaeParts(TINY, 7, 4)])
def test_heads_learn_a_batch(build):
    torch.manual_seed(0)
    model = build()
    is_parts = isinstance(model, PointMaeParts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    points, label = clouds(4), torch.tensor([0, 1, 2, 3])
    target = (points[..., 0] > 0).long() if is_parts else label
    losses = []
    for _ in range(15):
        logits = model(points, label) if is_parts else model(points)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(value.grad is not None for value in model.parameters())

# SPDX-License-Identifier: Apache-2.0
"""Golden values are those of the released modules on the CPU (GeoMask3D specification, section 6.1)."""

import pytest
import torch

from pc3dcli.nn.chamfer import chamfer_l1, chamfer_l2
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.papers.geomask3d.point_mae_released import from_released, to_released

TINY = PointMaeConfig(num_points=128, num_patches=16, patch_size=8, dim=24, depth=2, heads=3, decoder_depth=2)


def close(found: torch.Tensor | float, expected: list[float] | float) -> bool:
    expected = torch.as_tensor(expected)
    return bool(((torch.as_tensor(found).detach() - expected).abs() <= 1e-4 * expected.abs() + 1e-6).all())


@pytest.fixture(scope="module")
def golden(released_point_mae):
    model = PointMae()
    model.load_state_dict(from_released(released_point_mae("pretrain"), "pretrain"))
    return model.eval()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return PointMae(TINY).eval()


def clouds(B=2, N=128, seed=0):
    return torch.randn(B, N, 3, generator=torch.Generator().manual_seed(seed)) * 0.4


def masks(B=2, G=16, H=9, seed=0):
    order = torch.rand(B, G, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.zeros(B, G, dtype=torch.bool).scatter(1, order[:, :H], True)


def test_counts(point_mae_shapes):
    model = PointMae()
    assert sum(value.numel() for value in model.parameters()) == 29_006_432
    assert sum(value.numel() for value in model.encoder.parameters()) == 21_825_024
    released = to_released(model.state_dict())
    assert len(released) == 209
    assert {name: tuple(value.shape) for name, value in released.items()} == point_mae_shapes("pretrain")
    assert (model.num_patches, model.num_hidden) == (64, 38)


def test_golden_values(golden, golden_clouds):
    hidden = ((7 * torch.arange(64)) % 64 < 38).expand(2, -1)
    with torch.no_grad():
        groups = golden.group(golden_clouds(1024))
        assert close(groups.centers[0, 1], [-0.938193, -0.938850, -0.795671])
        assert close(groups.centers[1, 63], [-0.440852, -0.494432, -0.976441])
        assert groups.points.double().sum().item() == pytest.approx(8.859128, rel=1e-4)
        assert close(groups.points.abs().mean(), 0.1707440)
        tokens = golden.embed(groups)
        assert close(tokens.mean(), 0.0303245) and close(tokens.std(), 0.1408860)
        assert close(tokens[0, 0, :3], [0.0947160, -0.2027988, -0.0469925])
        encoded = golden.encode(groups, hidden)
        assert close(encoded.visible.abs().mean(), 0.8219920)
        assert close(encoded.visible[0, 0, :3], [-0.7246539, 0.0450673, -2.3999569])
        decoded = golden.decode(groups, hidden, encoded)
        assert close(chamfer_l2(decoded.points, decoded.targets).mean(), 2.667544)
        assert close(chamfer_l1(decoded.points, decoded.targets).mean(), 0.980824)


def test_forward_is_the_mean_of_its_parts(tiny):
    points, hidden = clouds(), masks()
    groups = tiny.group(points)
    decoded = tiny.decode(groups, hidden, tiny.encode(groups, hidden, tiny.embed(groups)))
    for form, chamfer in (("l2", chamfer_l2), ("l1", chamfer_l1)):
        torch.testing.assert_close(tiny(points, hidden, form), chamfer(decoded.points, decoded.targets).mean())
    assert torch.equal(decoded.sample, hidden.nonzero()[:, 0]) and torch.equal(decoded.token, hidden.nonzero()[:, 1])
    assert torch.equal(decoded.targets, groups.points[hidden])
    values = torch.arange(18.0)
    arranged, is_valid = tiny.to_patches(groups, hidden, decoded, values)
    assert arranged.tolist() == values.view(2, 9).tolist() and is_valid.all()


def test_a_token_decodes_alike_whether_the_last_block_is_shortened_or_not(tiny):
    points, hidden = clouds(), masks()
    groups = tiny.group(points)
    encoded = tiny.encode(groups, hidden)
    order = hidden.byte().argsort(dim=1, stable=True)
    tokens = torch.cat((encoded.visible, tiny.mask_token.expand(2, 9, -1)), dim=1)
    centers = groups.centers.gather(1, order.unsqueeze(2).expand(-1, -1, 3))
    x = tokens
    for block in tiny.decoder.blocks.blocks:
        x = block(x + tiny.decoder_pos_embed(centers))
    expected = tiny.decoder.norm(x[:, -9:]).flatten(0, 1)
    torch.testing.assert_close(tiny.decode(groups, hidden, encoded).features, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny.decoder_positions(groups), tiny.decoder_pos_embed(groups.centers))


def test_groups(tiny):
    points = clouds()
    groups = tiny.group(points)
    index = groups.center_index.unsqueeze(2).expand(-1, -1, 3)
    assert torch.equal(groups.centers, points.gather(1, index))
    assert (groups.points == 0).all(3).any(2).all()  # the centre itself is in every patch
    assert groups.points.shape == (2, 16, 8, 3)
    far = tiny.group(points + 2)  # nothing near the origin
    farther = tiny.group(points + 4)
    torch.testing.assert_close(farther.points, far.points, rtol=0, atol=1e-5)


def test_hidden_patches_do_not_reach_visible_tokens(tiny):
    groups, hidden = tiny.group(clouds()), masks()
    tokens = tiny.embed(groups)
    changed = torch.where(hidden.unsqueeze(2), torch.randn_like(tokens), tokens)
    assert torch.equal(tiny.encode(groups, hidden, tokens).visible, tiny.encode(groups, hidden, changed).visible)


def test_the_order_of_points_does_not_change_the_set_of_tokens(tiny):
    points = clouds(1)
    order = torch.cat((torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(127)))
    first, second = (tiny.full_features(tiny.group(cloud)) for cloud in (points, points[:, order]))
    gaps = torch.cdist(first, second)
    assert gaps.min(1).values.max() < 1e-3


def test_a_batch_is_its_clouds(tiny):
    points = clouds(3)
    together = tiny.pooled_features(points)
    torch.testing.assert_close(together, torch.cat([tiny.pooled_features(cloud[None]) for cloud in points]))


def test_pooling(tiny):
    tokens = tiny.full_features(tiny.group(clouds()))
    torch.testing.assert_close(tiny.pooled_features(clouds()), tokens.amax(1) + tokens.mean(1))
    torch.testing.assert_close(tiny.pooled_features(clouds(), "max"), tokens.amax(1))


def test_every_parameter_gets_a_gradient_and_statistics_see_hidden_patches(tiny):
    tiny.train()
    tiny(clouds(), masks()).backward()
    assert all(value.grad is not None for value in tiny.parameters())
    quiet = {name for name, value in tiny.named_parameters() if not value.grad.any()}
    # a bias before BatchNorm has no effect
    assert quiet <= {f"encoder.patch_embed.{name}.bias" for name in ("first_conv.0", "first_conv.3", "second_conv.0")}
    norm = tiny.encoder.patch_embed.first_conv[1]
    points = tiny.group(clouds()).points.view(-1, 3)
    inside = points @ tiny.encoder.patch_embed.first_conv[0].weight.T + tiny.encoder.patch_embed.first_conv[0].bias
    torch.testing.assert_close(norm.running_mean, 0.1 * inside.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * inside.var(0, unbiased=True), rtol=1e-4, atol=1e-6)


def test_it_learns_one_batch():
    torch.manual_seed(0)
    model = PointMae(TINY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = model(clouds(), masks())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_patches", 0),
        ("mask_ratio", 1.5),
        ("heads", 5),
        ("embed_width", 30),
        ("patch_size", 2000),
        ("drop_path", float("nan")),
    ],
)
def test_a_config_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PointMaeConfig(**{field: value})

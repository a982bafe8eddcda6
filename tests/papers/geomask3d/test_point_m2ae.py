# SPDX-License-Identifier: Apache-2.0
"""Invariants of the Point-M2AE pretraining model on a tiny configuration, and the values of the released one."""

import dataclasses
import json

import pytest
import torch

from pc3dcli.papers.geomask3d.hierarchy import pack_visible, visible_tokens
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig, TokenMerge, TokenPropagation

TINY = PointM2aeConfig(
    num_points=96, scale_patches=(32, 16, 8), patch_sizes=(8, 4, 4), dims=(12, 24, 48), depth=2, heads=3,
    mask_ratio=0.7, num_predicted=6,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PointM2ae(TINY).eval()


@pytest.fixture
def clouds():
    return torch.rand(5, 96, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def hidden(model):
    chance = torch.rand(5, 8, generator=torch.Generator().manual_seed(2))
    return chance.argsort(1).argsort(1) < model.num_hidden


def test_shapes_of_every_member(model, clouds, hidden):
    groups = model.group(clouds)
    assert (model.num_patches, model.num_hidden) == (8, 5)
    assert groups.centers.shape == (5, 8, 3) and groups.points.shape == (5, 8, 4, 3)
    assert model.embed(groups).shape == (5, 32, 12)
    encoded = model.encode(groups, hidden)
    assert encoded.visible.shape == (5, 3, 48)
    decoded = model.decode(groups, hidden, encoded)
    T = int(encoded.middle_hidden.sum())
    assert decoded.features.shape == (T, 24)
    assert decoded.points.shape == (T, 6, 3) and decoded.targets.shape == (T, 8 // 2, 3)
    full = model.full_features(groups)
    assert full.shape == (5, 16, 24) and full[decoded.sample, decoded.token].shape == decoded.features.shape
    assert model.decoder_positions(groups).shape == (5, 8, 48)
    assert model.pooled_features(clouds).shape == (5, 48)
    assert model(clouds, hidden).shape == ()


def test_targets_are_the_finest_centres_around_hidden_tokens(model, clouds, hidden):
    groups = model.group(clouds)
    decoded = model.decode(groups, hidden, model.encode(groups, hidden))
    fine, middle, _ = groups.scale_centers
    order = []
    for b, is_visible in enumerate(visible_tokens(groups, hidden)[1]):
        order += [(b, g) for g in range(16) if not is_visible[g]]
    assert list(zip(decoded.sample.tolist(), decoded.token.tolist(), strict=True)) == order
    for t, (b, g) in enumerate(order):
        torch.testing.assert_close(decoded.targets[t], fine[b, groups.neighbors[1][b, g]] - middle[b, g])


def test_embedding_may_be_shared(model, clouds, hidden):
    groups = model.group(clouds)
    shared = model.encode(groups, hidden, model.embed(groups))
    torch.testing.assert_close(shared.visible, model.encode(groups, hidden).visible, rtol=0, atol=0)


def test_padding_changes_nothing(model, clouds, hidden):
    groups = model.group(clouds)
    counts = visible_tokens(groups, hidden)[0].sum(1)
    assert len(set(counts.tolist())) > 1, "no cloud is padded"
    encoded = model.encode(groups, hidden)
    decoded = model.decode(groups, hidden, encoded)
    for b in range(5):
        one = model.group(clouds[b : b + 1])
        assert pack_visible(visible_tokens(one, hidden[b : b + 1]))[0].attend is None
        alone = model.encode(one, hidden[b : b + 1])
        torch.testing.assert_close(encoded.visible[b], alone.visible[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoded.middle[b], alone.middle[0], rtol=1e-5, atol=1e-5)
        points = model.decode(one, hidden[b : b + 1], alone).points
        torch.testing.assert_close(decoded.points[decoded.sample == b], points, rtol=1e-5, atol=1e-5)


def test_hidden_tokens_do_not_reach_visible_ones(model, clouds, hidden):
    groups = model.group(clouds)
    tokens = model.embed(groups)
    is_visible = visible_tokens(groups, hidden)[0].unsqueeze(2)
    changed = torch.where(is_visible, tokens, 5 + torch.randn(tokens.shape))
    before, after = model.encode(groups, hidden, tokens), model.encode(groups, hidden, changed)
    torch.testing.assert_close(before.visible, after.visible, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(before.middle, after.middle, rtol=1e-6, atol=1e-6)
    assert not before.middle[before.middle_hidden].any()


def test_encoding_with_nothing_hidden_is_the_full_one_where_patches_cover_all_tokens(clouds):
    torch.manual_seed(0)
    model = PointM2ae(dataclasses.replace(TINY, patch_sizes=(8, 32, 16))).eval()
    groups = model.group(clouds)
    encoded = model.encode(groups, torch.zeros(5, 8, dtype=torch.bool))
    coarse = model.h_encoder(groups)[2]
    torch.testing.assert_close(encoded.visible, model.h_encoder.encoder_norms[2](coarse), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoded.middle, model.full_features(groups), rtol=1e-5, atol=1e-5)


def test_values_of_patches_are_means_over_their_hidden_tokens(model, clouds, hidden):
    groups = model.group(clouds)
    decoded = model.decode(groups, hidden, model.encode(groups, hidden))
    values = torch.rand(len(decoded.token), generator=torch.Generator().manual_seed(3))
    means, is_valid = model.to_patches(groups, hidden, decoded, values)
    assert means.shape == is_valid.shape == (5, 5)
    of_token = {(int(b), int(g)): float(v) for b, g, v in zip(decoded.sample, decoded.token, values, strict=True)}
    for b in range(5):
        for h, patch in enumerate(hidden[b].nonzero().flatten().tolist()):
            inside = [of_token[b, int(g)] for g in groups.neighbors[2][b, patch] if (b, int(g)) in of_token]
            assert is_valid[b, h] == bool(inside)
            assert float(means[b, h]) == pytest.approx(sum(inside) / max(len(inside), 1), abs=1e-6)


def test_patches_of_visible_tokens_have_no_value(model, clouds):
    groups = model.group(clouds)
    is_inside = torch.zeros(5, 8, dtype=torch.bool)
    is_inside[:, 0] = True
    groups = dataclasses.replace(groups, neighbors=(*groups.neighbors[:2], groups.neighbors[2][:, [1]].expand(5, 8, 4)))
    decoded = model.decode(groups, is_inside, model.encode(groups, is_inside))
    means, is_valid = model.to_patches(groups, is_inside, decoded, torch.ones(len(decoded.token)))
    assert not is_valid.any() and not means.any()


def test_every_parameter_learns(model, clouds, hidden):
    model.train()
    loss = model(clouds, hidden)
    loss.backward()
    assert torch.isfinite(loss)
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # a bias before a batch norm has a gradient of rounding only; the finest scale is read unnormalised
    before_norms = {name for name in unused if name.endswith(("_conv.0.bias", "net1.0.bias", "net2.0.bias"))}
    assert unused - before_norms <= {"h_encoder.encoder_norms.0.weight", "h_encoder.encoder_norms.0.bias"}


def test_one_batch_is_learnt(model, clouds, hidden):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    clouds, hidden = clouds[:3], hidden[:3]
    first = model(clouds, hidden).item()
    for _ in range(12):
        loss = model(clouds, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.7 * first


def test_half_precision_is_finite_and_near(model, clouds, hidden):
    exact = model(clouds, hidden).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(clouds, hidden)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=0.02)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("training", [False, True])
def test_merging_early_is_merging_as_published(training):
    """Gather first, concatenate [global, local], then the layers, as the paper draws it."""
    torch.manual_seed(0)
    merge = TokenMerge(6, 10).train(training)
    twin = TokenMerge(6, 10).train(training)
    twin.load_state_dict(merge.state_dict())
    tokens, neighbors = torch.randn(3, 12, 6), torch.randint(12, (3, 5, 4))
    local = tokens[torch.arange(3)[:, None, None], neighbors].flatten(0, 2)
    local = twin.first_conv(local).view(15, 4, 6)
    both = torch.cat((local.amax(1, keepdim=True).expand(-1, 4, -1), local), 2).flatten(0, 1)
    expected = twin.second_conv(both).view(3, 5, 4, 10).amax(2)
    torch.testing.assert_close(merge(tokens, neighbors), expected, rtol=1e-5, atol=1e-5)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(merge.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_carrying_early_is_carrying_as_published():
    """Interpolate first, concatenate [encoder, decoder], then the layers."""
    torch.manual_seed(0)
    carry = TokenPropagation(6, 10).eval()
    fine, coarse = torch.randn(2, 7, 6), torch.randn(2, 4, 10)
    fine_centers, coarse_centers = torch.randn(2, 7, 3), torch.randn(2, 4, 3)
    distances = (fine_centers.unsqueeze(2) - coarse_centers.unsqueeze(1)).square().sum(3)
    nearest = distances.topk(3, dim=2, largest=False)
    weights = 1 / (nearest.values + 1e-8)
    weights = weights / weights.sum(2, keepdim=True)
    carried = (coarse[torch.arange(2)[:, None, None], nearest.indices] * weights.unsqueeze(3)).sum(2)
    fused = carry.fuse(torch.cat((fine, carried), 2).flatten(0, 1))
    expected = torch.nn.functional.gelu(carry.net2(carry.net1(fused)) + fused).view(2, 7, 6)
    torch.testing.assert_close(carry(fine, coarse, fine_centers, coarse_centers), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"dims": (96, 192)}, {"patch_sizes": (16, 8, 0)}, {"mask_ratio": 1.0}, {"heads": 5}, {"heads": 0}, {"heads": -6},
     {"num_predicted": 0}, {"embed_width": 30}, {"num_points": 256}, {"scale_patches": (64, 256, 64)}, {"depth": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected"):
        PointM2aeConfig(**wrong)


def test_settings_survive_json():
    config = PointM2aeConfig(**json.loads(json.dumps(dataclasses.asdict(TINY))))
    assert config == TINY

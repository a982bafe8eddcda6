# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from pc3dcli.papers.granularity.mask_decoder import (
    DecoderConfig,
    FourierPositions,
    MaskDecoder,
    QueryPlace,
    RefinementLayer,
    SceneLevels,
    mean_by_parent,
    pooled_features,
)

SMALL = DecoderConfig(dim=16, heads=2, ffn_dim=32, rounds=2, sampled_voxels=(2, 4, 8, 16))
CHANNELS = (6, 6, 5, 4, 4)


def scene(num=60, seed=0) -> SceneLevels:
    """Voxels on a line of cells, each resolution half of the finer one."""
    generator = torch.Generator().manual_seed(seed)
    coords = torch.unique(torch.randint(0, 20, (num, 3), generator=generator), dim=0)
    cells, parents = [coords], []
    for _ in range(4):
        coarse, parent = torch.unique(torch.div(cells[0], 2, rounding_mode="floor"), dim=0, return_inverse=True)
        cells.insert(0, coarse)
        parents.insert(0, parent)
    features = [torch.randn(len(c), w, generator=generator) for c, w in zip(cells, CHANNELS, strict=True)]
    return SceneLevels(features, [c.float() for c in cells], parents, coords)


def make_decoder(**changes) -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(DecoderConfig(**(vars(SMALL) | changes)), CHANNELS)


def test_parameters_of_the_published_decoder():
    """Section 7.1: 1.76 M, with the mask features."""
    decoder = MaskDecoder(DecoderConfig(), (256, 256, 128, 96, 96))
    assert round(sum(p.numel() for p in decoder.parameters()) / 1e6, 2) == 1.76
    assert decoder.positions.directions.shape == (3, 64)


def test_predictions_are_one_more_than_refinements():
    decoder, at = make_decoder(), scene()
    predictions = decoder(at, 7)
    assert len(predictions) == 2 * 4 + 1
    assert all(p.classes.shape == (7, 2) and p.masks().shape == (7, len(at.coords)) for p in predictions)
    assert len(MaskDecoder(DecoderConfig(), CHANNELS)(at, 3)) == 13  # 12 + 1, section 7.1


def test_more_queries_than_voxels_are_one_each():
    at = scene(num=5)
    assert make_decoder()(at, 100)[-1].classes.shape[0] == len(at.coords)


def test_fourier_positions():
    encode = FourierPositions(4)
    encode.directions.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    low, high = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([4.0, 8.0, 1.0])
    found = encode(torch.tensor([[2.5, 2.0, 1.0]]), low, high)  # a quarter of both extents: the angle is pi / 2
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), atol=1e-6, rtol=0)
    flat = encode(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([2.0, 1.0, 0.0]), torch.tensor([2.0, 1.0, 0.0]))
    assert flat.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_a_query_that_may_look_nowhere_looks_everywhere():
    torch.manual_seed(0)
    layer = RefinementLayer(SMALL, 6)
    queries, where, voxels, positions = torch.randn(3, 16), torch.randn(3, 16), torch.randn(9, 6), torch.randn(9, 16)
    nothing, everything = torch.zeros(3, 9, dtype=torch.bool), torch.ones(3, 9, dtype=torch.bool)
    blocked = layer(queries, where, voxels, positions, everything)
    assert blocked.isfinite().all()
    torch.testing.assert_close(blocked, layer(queries, where, voxels, positions, nothing))
    half = nothing.clone()
    half[0, 1:] = True
    assert not torch.allclose(layer(queries, where, voxels, positions, half)[0], blocked[0])


def test_blocked_voxels_change_nothing():
    torch.manual_seed(0)
    layer = RefinementLayer(SMALL, 6)
    queries, where, voxels, positions = torch.randn(3, 16), torch.randn(3, 16), torch.randn(9, 6), torch.randn(9, 16)
    blocked = torch.zeros(3, 9, dtype=torch.bool)
    blocked[:, 5:] = True
    kept = layer(queries, where, voxels[:5], positions[:5], blocked[:, :5])
    torch.testing.assert_close(layer(queries, where, voxels, positions, blocked), kept)


def test_pooling_is_the_mean_over_occupied_children_step_by_step():
    values = torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    parents = [torch.tensor([0, 0]), torch.tensor([0, 0, 0, 1])]
    torch.testing.assert_close(mean_by_parent(values, parents[1]), torch.tensor([[14 / 3], [20.0]]))
    coarsest, coarse = pooled_features(values, parents)
    torch.testing.assert_close(coarse, torch.tensor([[14 / 3], [20.0]]))
    torch.testing.assert_close(coarsest, torch.tensor([[(14 / 3 + 20) / 2]]))


def test_attention_is_blocked_where_the_averaged_mask_is_below_one_half(monkeypatch):
    """Section 7.1: logits pooled over occupied voxels, one step at a time."""
    decoder, at = make_decoder(), scene()
    blocked = []
    forward = RefinementLayer.forward

    def watch(self, queries, where, voxels, positions, is_blocked):
        blocked.append(is_blocked)
        return forward(self, queries, where, voxels, positions, is_blocked)

    monkeypatch.setattr(RefinementLayer, "forward", watch)
    predictions = decoder(at, 6)
    for step, found in enumerate(blocked):
        logits = predictions[step].masks().detach().T
        for parent in reversed(at.parents[step % 4 :]):
            logits = mean_by_parent(logits, parent)
        away = logits.abs() > 1e-5  # sums in another order
        assert torch.equal((logits < 0)[away], found.T[away])


def test_training_looks_at_a_share_of_the_voxels_and_testing_at_all():
    decoder, at = make_decoder(), scene()
    whole = [decoder(at, 4)[-1].masks() for _ in range(2)]
    drawn = [decoder(at, 4, torch.Generator().manual_seed(seed))[-1].masks() for seed in (0, 0, 1)]
    assert torch.equal(*whole) and torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], whole[0])
    plenty = make_decoder(sampled_voxels=(10**6,) * 4)
    assert torch.equal(plenty(at, 4, torch.Generator())[-1].masks(), whole[0])


def test_order_of_voxels_permutes_masks():
    decoder, at = make_decoder(), scene()
    order = torch.cat((torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(len(at.coords) - 1)))  # the start stays
    moved = SceneLevels(
        [*at.features[:4], at.features[4][order]],
        [*at.positions[:4], at.positions[4][order]],
        [*at.parents[:3], at.parents[3][order]],
        at.coords[order],
    )
    first, second = (decoder(one, 5)[-1] for one in (at, moved))
    pairs = torch.cdist(first.classes, second.classes).argmin(1)  # ties of the farthest may order queries otherwise
    torch.testing.assert_close(first.masks()[:, order], second.masks()[pairs], rtol=1e-4, atol=1e-5)


def test_one_voxel_is_finite():
    one = SceneLevels(
        [torch.randn(1, c) for c in CHANNELS],
        [torch.zeros(1, 3)] * 5,
        [torch.tensor([0])] * 4,
        torch.tensor([[5, 5, 5]]),
    )
    assert all(p.masks().isfinite().all() and p.classes.isfinite().all() for p in make_decoder()(one, 3))


def test_queries_start_alike_or_with_what_is_at_their_voxel():
    at = scene()
    alike, own = (make_decoder(query_features=flag)(at, 6)[0].embeddings for flag in (False, True))
    assert torch.equal(alike, alike[:1].expand_as(alike))
    assert torch.unique(own, dim=0).shape == own.shape
    decoder = make_decoder(query_features=True)
    with torch.no_grad():
        first = decoder.query_content(at.features[-1][:1])  # farthest points start with the first voxel
        assert torch.allclose(decoder(at, 6)[0].embeddings[0], decoder.mask_head(decoder.norm(first))[0])


def test_place_adds_waves_of_the_way_from_the_query_to_a_voxel():
    torch.manual_seed(0)
    place = QueryPlace(DecoderConfig(**vars(SMALL) | {"place_waves": 5, "place_length": 2.0}))
    xyz, queries, starts = torch.rand(30, 3) * 4 + 100, torch.randn(4, SMALL.dim), torch.tensor([3, 9, 0, 21])
    way = xyz[None] - xyz[starts][:, None]  # (Q, n, 3)
    expected = (place.gain(queries)[:, None] * torch.cos(way @ place.waves)).sum(dim=2)
    code = place.code(xyz)
    torch.testing.assert_close(place(queries, code[starts]) @ code.T, expected, rtol=1e-4, atol=1e-4)


def test_place_is_a_part_of_the_masks_and_only_the_way_counts():
    at = scene()
    plain, placed = make_decoder(), make_decoder(place_waves=7)
    assert not any("place" in name for name in plain.state_dict())
    assert set(placed.state_dict()) - set(plain.state_dict()) == {"place.waves", "place.gain.weight", "place.gain.bias"}
    moved = SceneLevels(at.features, [xyz + 50 for xyz in at.positions], at.parents, at.coords)
    first, second = (placed(one, 6)[-1].masks() for one in (at, moved))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert (first - plain(at, 6)[-1].masks()).abs().max() > 0.1


@pytest.mark.parametrize("change", [{}, {"query_features": True}, {"place_waves": 7}])
def test_every_parameter_gets_a_gradient(change):
    decoder = make_decoder(**change)
    sum(p.masks().square().mean() + p.classes.square().mean() for p in decoder(scene(), 6)).backward()
    missing = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert missing == []


@pytest.mark.parametrize(
    "change", [{"heads": 3}, {"place_length": 0}, {"sampled_voxels": (1, 2)}, {"sampled_voxels": (0, 1, 1, 1)}]
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match="divide|expected|place_length"):
        DecoderConfig(**(vars(SMALL) | change))


def test_angles_span_a_turn():
    encode = FourierPositions(2)
    encode.directions.copy_(torch.tensor([[1.0], [0.0], [0.0]]))
    ends = encode(torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [1.0, 0, 0]]), torch.zeros(3), torch.ones(3))
    expected = [[0, 1], [math.sin(math.pi), -1], [0, 1]]
    torch.testing.assert_close(ends, torch.tensor(expected), atol=1e-6, rtol=0)

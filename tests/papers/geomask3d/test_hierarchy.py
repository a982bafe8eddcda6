# SPDX-License-Identifier: Apache-2.0
"""Scales of Point-M2AE against loops written from the definition."""

import pytest
import torch

from pc3dcli.nn.point_sampling import farthest_points, gather_points, nearest_points
from pc3dcli.papers.geomask3d.hierarchy import attend_within, group_scales, pack_visible, visible_tokens

COUNTS, SIZES = (40, 20, 6), (8, 4, 3)


@pytest.fixture
def clouds():
    return torch.rand(4, 120, 3, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.fixture
def groups(clouds):
    return group_scales(clouds, COUNTS, SIZES)


def some_hidden(num_hidden, seed=1):
    chance = torch.rand(4, COUNTS[-1], generator=torch.Generator().manual_seed(seed))
    return chance.argsort(1).argsort(1) < num_hidden


def loop_visible(groups, hidden):
    """Return per scale and cloud the set of visible tokens, from the definition."""
    visible = [[{g for g in range(COUNTS[-1]) if not hidden[b, g]} for b in range(len(hidden))]]
    for index in reversed(groups.neighbors[1:]):
        finer = []
        for b, coarse in enumerate(visible[0]):
            finer.append({int(token) for g in coarse for token in index[b, g]})
        visible.insert(0, finer)
    return visible


def test_each_scale_is_sampled_from_the_one_below(clouds, groups):
    source = clouds
    for scale, (count, size) in enumerate(zip(COUNTS, SIZES, strict=True)):
        centers = gather_points(source, farthest_points(source, count))
        index = nearest_points(centers, source, size)
        torch.testing.assert_close(groups.scale_centers[scale], centers, rtol=0, atol=0)
        torch.testing.assert_close(groups.neighbors[scale], index)
        local = gather_points(source, index) - centers.unsqueeze(2)
        torch.testing.assert_close(groups.scale_points[scale], local, rtol=0, atol=0)
        source = centers
    torch.testing.assert_close(gather_points(clouds, groups.center_index), groups.centers, rtol=0, atol=0)
    assert groups.points.shape == (4, 6, 3, 3)


def test_sampling_by_prefix_holds_for_clouds_that_start_near_the_origin(clouds):
    clouds[:, 0] = 0.001
    clouds[:, 1:5] *= 0.01
    groups = group_scales(clouds, COUNTS, SIZES)
    fine = groups.scale_centers[0]
    torch.testing.assert_close(gather_points(fine, farthest_points(fine, 20)), groups.scale_centers[1])


@pytest.mark.parametrize("num_hidden", [0, 1, 4, 5])
def test_visibility_is_that_of_the_loop(groups, num_hidden):
    hidden = some_hidden(num_hidden)
    hidden[0] = torch.arange(6) < num_hidden  # token 0 of cloud 0 is hidden: the released code shows it all the same
    expected = loop_visible(groups, hidden)
    for scale, visible in enumerate(visible_tokens(groups, hidden)):
        assert [set(row.nonzero().flatten().tolist()) for row in visible] == expected[scale]


def test_hiding_everything_leaves_nothing_visible(groups):
    visible = visible_tokens(groups, torch.ones(4, 6, dtype=torch.bool))
    assert not any(scale.any() for scale in visible)


def test_visible_tokens_are_made_of_visible_ones(groups):
    fine, middle, coarse = visible_tokens(groups, some_hidden(4))
    for below, visible, index in [(fine, middle, groups.neighbors[1]), (middle, coarse, groups.neighbors[2])]:
        is_lit = below.gather(1, index.flatten(1)).view(index.shape).all(2)
        assert is_lit[visible].all()


def test_packing_is_ascending_and_comes_back(groups):
    visible = visible_tokens(groups, some_hidden(4))
    for scale, packing in zip(visible, pack_visible(visible), strict=True):
        tokens = torch.arange(scale.shape[1]).float().repeat(4, 1).unsqueeze(2)
        packed = packing.take(tokens).squeeze(2)
        for b, row in enumerate(scale):
            count = int(row.sum())
            assert packed[b, :count].tolist() == row.nonzero().flatten().tolist()
            assert packing.is_token is None or packing.is_token[b].sum() == count
        changed = packing.put(-packing.take(tokens) - 100, tokens).squeeze(2)
        torch.testing.assert_close(changed, torch.where(scale, -tokens.squeeze(2) - 100, tokens.squeeze(2)))


def test_nothing_is_masked_where_nothing_is_padded(groups):
    *_, coarse = pack_visible(visible_tokens(groups, some_hidden(4)))
    assert coarse.is_token is None and coarse.attend is None


def test_tokens_see_what_is_nearer_than_the_radius():
    centers = torch.tensor([[[0.0, 0, 0], [0.25, 0, 0], [0.375, 0, 0]]])
    sees = attend_within(centers, 0.25)
    assert sees.shape == (1, 1, 3, 3)
    assert sees[0, 0].tolist() == [[True, False, False], [False, True, True], [False, True, True]]

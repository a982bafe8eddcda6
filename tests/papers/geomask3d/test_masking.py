# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from pc3dcli.papers.geomask3d import masking


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("epoch", "num_hidden", "hard_ratio", "expected"),
    [(0, 38, 0.5, 0), (20, 39, 0.5, 1), (20, 38, 0.5, 0), (21, 38, 0.5, 1), (399, 39, 0.5, 19), (399, 38, 0.5, 19)]
    + [(399, 39, 0.8, 31), (399, 38, 0.8, 30), (399, 38, 1.0, 38), (399, 40, 0.7, 28), (200, 38, 0.0, 0)],
)
def test_curriculum_table(epoch, num_hidden, hard_ratio, expected):
    assert masking.num_selected(epoch, 400, num_hidden, hard_ratio) == expected


def test_curriculum_grows_and_the_half_ramp_is_done_in_the_middle():
    full = [masking.num_selected(epoch, 400, 38, 0.5) for epoch in range(400)]
    half = [masking.num_selected(epoch, 400, 38, 0.5, "half") for epoch in range(400)]
    assert full == sorted(full)
    assert half == sorted(half)
    assert half[199] == half[399] == 19
    assert half[198] == 18
    assert half[99] == full[199] == 9


@pytest.mark.parametrize(("num", "G"), [(38, 64), (39, 64), (1, 5), (5, 5), (0, 5)])
def test_every_row_hides_the_same_number(num, G):
    centers = torch.randn(7, G, 3, generator=generator())
    scores = torch.randn(7, G, generator=generator())
    points = torch.randn(7, G, 4, 3, generator=generator())
    for hidden in (
        masking.random_hidden(7, G, num, generator()),
        masking.block_hidden(centers, num, generator()),
        masking.select_hidden(masking.squared_radius(points), num, num // 2, generator()),
        masking.select_hidden(scores, num, num // 2, generator()),
    ):
        assert hidden.shape == (7, G)
        assert hidden.dtype == torch.bool
        assert (hidden.sum(1) == num).all()


def test_block_hides_what_is_nearest_to_one_center():
    centers = torch.randn(20, 16, 3, generator=generator())
    hidden = masking.block_hidden(centers, 6, generator(3))
    for row, mask in zip(centers, hidden, strict=True):
        distance = torch.cdist(row, row)
        balls = [set(line.argsort()[:6].tolist()) for line in distance]
        assert set(mask.nonzero()[:, 0].tolist()) in balls


def test_the_highest_scores_are_always_hidden():
    scores = torch.randn(200, 64, generator=generator())
    hidden = masking.select_hidden(scores, 38, 19, generator(1))
    assert hidden.gather(1, scores.topk(19).indices).all()
    rest = hidden & ~masking.largest(scores, 19)
    expected = 19 / 45  # the others are hidden as often as each other, whatever their score
    for rank in (19, 40, 63):
        place = scores.argsort(dim=1, descending=True)[:, rank : rank + 1]
        assert abs(rest.gather(1, place).float().mean() - expected) < 0.15


def test_all_hidden_patches_are_chosen_at_the_end_of_a_full_curriculum():
    scores = torch.randn(9, 64, generator=generator())
    num = masking.num_selected(399, 400, 38, 1.0)
    hidden = masking.select_hidden(scores, 38, num, generator())
    assert torch.equal(hidden, masking.largest(scores, 38))


def test_masks_without_scores_are_uniform():
    scores = torch.randn(10_000, 16, generator=generator())
    for hidden in (masking.select_hidden(scores, 6, 0, generator()), masking.random_hidden(10_000, 16, 6, generator())):
        count = hidden.sum(0).double()
        mean = 10_000 * 6 / 16
        # hidden or not is a draw of 6 out of 16: the variance is n p (1 - p), the 16 counts have 15 degrees of freedom
        chi2 = ((count - mean) ** 2 / (mean * (1 - 6 / 16))).sum() * 15 / 16
        assert chi2 < 37.7  # 99.9 %


def test_ties_go_to_the_lower_index():
    assert masking.largest(torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]), 2).tolist() == [[False, True, True, False, False]]


def test_radius_is_the_mean_squared_distance_of_a_patch():
    points = torch.zeros(1, 3, 2, 3)
    points[0, 0, 0, 0] = 1.0
    points[0, 1, :, 1] = 2.0
    assert masking.squared_radius(points).tolist() == [[0.5, 4.0, 0.0]]
    hidden = masking.select_hidden(masking.squared_radius(points), 1, 1, generator())
    assert hidden.tolist() == [[False, True, False]]


@pytest.mark.parametrize(("G", "num"), [(64, 38), (64, 39), (64, 51), (64, 19), (5, 2), (5, 5), (7, 1)])
def test_folds_hide_every_patch_with_the_same_number_each(G, num):
    masks = masking.fold_masks(masking.random_orders(3, G, generator()), num)
    assert masks.shape == (math.ceil(G / num), 3, G)
    assert (masks.sum(2) == num).all()
    assert masks.any(0).all()


def test_folds_of_two_overlap_in_the_middle_of_the_order():
    masks = masking.fold_masks(torch.arange(64)[None], 38)
    assert masks[0, 0].nonzero()[:, 0].tolist() == list(range(38))
    assert masks[1, 0].nonzero()[:, 0].tolist() == list(range(26, 64))


def test_hidden_index_ascends():
    hidden = torch.tensor([[True, False, True], [False, True, True]])
    assert masking.hidden_index(hidden).tolist() == [[0, 2], [1, 2]]


def test_the_same_generator_gives_the_same_masks():
    scores = torch.randn(4, 16, generator=generator())
    once, twice = (masking.select_hidden(scores, 9, 3, generator(5)) for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, masking.select_hidden(scores, 9, 3, generator(6)))

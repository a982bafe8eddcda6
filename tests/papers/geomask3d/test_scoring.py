# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pc3dcli.nn.chamfer import chamfer_l2
from pc3dcli.papers.geomask3d.gc_head import GcHead
from pc3dcli.papers.geomask3d.masking import fold_masks, hidden_index, random_orders
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.papers.geomask3d.scoring import (
    PatchScorer,
    StoredScores,
    difficulty_ratio,
    measured_difficulty,
    patch_scores,
    spearman,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["point-mae", "point-m2ae"])
def scorer(request) -> PatchScorer:
    torch.manual_seed(0)
    if request.param == "point-mae":
        base = PointMae(PointMaeConfig(64, 10, 8, dim=32, depth=2, heads=4, decoder_depth=1))
    else:
        shape = {"scale_patches": (32, 16, 10), "patch_sizes": (8, 4, 4), "dims": (16, 16, 32)}
        base = PointM2ae(PointM2aeConfig(num_points=64, **shape, depth=1, heads=4, mask_ratio=0.6))
    return PatchScorer(base, GcHead(32, depth=1, heads=4)).eval()


@pytest.fixture
def groups(scorer):
    return scorer.base.group(torch.randn(3, 64, 3, generator=generator()))


@torch.no_grad()
def test_folds_score_each_patch_where_it_is_hidden(scorer, groups):
    orders = random_orders(3, 10, generator(1))
    found = patch_scores(scorer, groups, orders=orders)
    total, count = torch.zeros(3, 10), torch.zeros(3, 10)
    for hidden in fold_masks(orders, scorer.base.num_hidden):
        visible = scorer.base.encode(groups, hidden).visible
        scores = scorer.hidden_scores(groups, hidden, visible)
        for row in range(3):
            for place, index in enumerate(hidden_index(hidden)[row].tolist()):
                total[row, index] += scores[row, place]
                count[row, index] += 1
    assert count.max() == 2  # 6 and 6 of 10 overlap
    torch.testing.assert_close(found, total / count)


@torch.no_grad()
def test_the_full_view_hides_nothing(scorer, groups):
    found = patch_scores(scorer, groups, view="full")
    assert found.shape == (3, 10)
    torch.testing.assert_close(found, patch_scores(scorer, groups, view="full", generator=generator(9)))
    assert not torch.allclose(found, patch_scores(scorer, groups, generator=generator(9)))


@torch.no_grad()
def test_a_shape_is_scored_alike_alone_and_in_a_batch(scorer):
    clouds = torch.randn(3, 64, 3, generator=generator())
    orders = random_orders(3, 10, generator(1))
    together = patch_scores(scorer, scorer.base.group(clouds), orders=orders)
    alone = patch_scores(scorer, scorer.base.group(clouds[1:2]), orders=orders[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_difficulty_is_the_mean_error_over_masks_that_hide_a_patch(scorer, groups):
    orders = torch.stack([random_orders(3, 10, generator(seed)) for seed in range(3)])
    found = measured_difficulty(scorer.base, groups, 3, orders=orders)
    total, count = torch.zeros(3, 10), torch.zeros(3, 10)
    for order in orders:
        for hidden in fold_masks(order, scorer.base.num_hidden):
            decoded = scorer.base.decode(groups, hidden, scorer.base.encode(groups, hidden))
            errors = chamfer_l2(decoded.points, decoded.targets)
            values, is_valid = scorer.base.to_patches(groups, hidden, decoded, errors)
            total[hidden] += (values * is_valid).flatten()
            count[hidden] += is_valid.flatten()
    torch.testing.assert_close(found, total / count, equal_nan=True)
    once, again = (measured_difficulty(scorer.base, groups, 2, generator=generator(4)) for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0, equal_nan=True)


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.integers(6, size=(5, 20)).astype(np.float32), rng.normal(size=(5, 20)).astype(np.float32)
    found = spearman(torch.from_numpy(first), torch.from_numpy(second))
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_spearman_of_valid_entries_alone():
    first, second = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[1.0, 3.0, 2.0, torch.nan]])
    valid = torch.tensor([[True, True, True, False]])
    assert spearman(first, second, valid).item() == pytest.approx(spearmanr([1, 2, 3], [1, 3, 2]).statistic)
    assert spearman(first, second).item() == spearman(first, second, valid).item()  # NaN never counts
    assert torch.isnan(spearman(torch.ones(1, 4), second.nan_to_num(), valid)).all()


def test_difficulty_ratio():
    scores, difficulty = torch.tensor([[0.0, 5.0, 1.0, 4.0]]), torch.tensor([[1.0, 4.0, 1.0, 2.0]])
    assert difficulty_ratio(scores, difficulty, 2).item() == pytest.approx(3 / 2)
    assert difficulty_ratio(scores, difficulty, 4).item() == 1.0


def test_stored_scores_at_their_own_centers_are_themselves():
    centers, scores = torch.randn(4, 6, 3, generator=generator()), torch.rand(4, 6, generator=generator())
    stored = StoredScores(centers, scores)
    index = torch.tensor([3, 1])
    torch.testing.assert_close(stored.at(index, centers[index]), scores[index], rtol=1e-5, atol=1e-5)
    between = stored.at(index, centers[index].mean(1, keepdim=True))
    assert ((between >= scores[index].amin(1, True)) & (between <= scores[index].amax(1, True))).all()

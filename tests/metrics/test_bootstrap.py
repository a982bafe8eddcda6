# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.metrics import bootstrap
from pc3dcli.metrics.bootstrap import paired_differences, percentile_interval


def oracle(first, second, num_resamples, rng):
    """The definition, scene by scene: draw scenes, take the mean of the known differences among them."""
    scenes = len(first)
    draws = []
    for _ in range(num_resamples):
        times = rng.multinomial(scenes, [1 / scenes] * scenes)
        draws.append([scene for scene in range(scenes) for _ in range(times[scene])])
    found = []
    for m in range(first.shape[1]):
        known = {s: second[s, m] - first[s, m] for s in range(scenes) if np.isfinite(second[s, m] - first[s, m])}
        means = [np.mean([known[s] for s in draw if s in known]) for draw in draws if any(s in known for s in draw)]
        mean = np.mean(list(known.values())) if known else None
        bounds = np.percentile(means, (2.5, 97.5)) if len(known) > 1 else (None, None)
        found.append((mean, *bounds, len(known)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed, monkeypatch):
    monkeypatch.setattr(bootstrap, "_CHUNK", 7)
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 9, 4))
    first[rng.random(first.shape) < 0.3] = np.nan
    first[:, 3] = np.nan
    first[1:, 2] = np.nan
    first[0, 2] = 0.5
    found = paired_differences(first, second, 60, np.random.default_rng(seed))
    wanted = oracle(first, second, 60, np.random.default_rng(seed))
    for one, (mean, low, high, count) in zip(found, wanted, strict=True):
        assert one.num_scenes == count
        for value, other in ((one.mean, mean), (one.low, low), (one.high, high)):
            assert value == (None if other is None else pytest.approx(other, abs=1e-12))


def test_a_constant_difference_has_no_width():
    first = np.random.default_rng(0).random((12, 1))
    (one,) = paired_differences(first, first + 0.25, 100, np.random.default_rng(1))
    assert (one.mean, one.low, one.high) == (pytest.approx(0.25),) * 3


def test_one_scene_and_no_resamples_have_no_interval():
    (one,) = paired_differences(np.array([[0.5]]), np.array([[0.75]]), 100, np.random.default_rng(0))
    assert (one.mean, one.low, one.high, one.num_scenes) == (0.25, None, None, 1)
    (one,) = paired_differences(np.zeros((3, 1)), np.ones((3, 1)), 0, np.random.default_rng(0))
    assert (one.mean, one.low, one.high, one.num_scenes) == (1.0, None, None, 3)


def test_a_metric_more_changes_no_other():
    first, second = np.random.default_rng(0).random((2, 20, 3))
    all_three = paired_differences(first, second, 50, np.random.default_rng(3))
    assert all_three[:2] == paired_differences(first[:, :2], second[:, :2], 50, np.random.default_rng(3))


def test_an_interval_leaves_out_what_is_undefined():
    assert percentile_interval(np.array([np.nan, *range(101)])) == [2.5, 97.5]
    assert percentile_interval(np.array([np.nan])) == percentile_interval(np.zeros(0)) == [None, None]

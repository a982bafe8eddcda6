# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.papers.granularity.containment import MaskLayers, compose_labels, containment_filter

SIZE = (40, 50)


def _box(top, left, height, width):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return np.flatnonzero(mask)


def _random_masks(rng, count):
    return [_box(*rng.integers(0, 20, 2), *rng.integers(1, 20, 2)) for _ in range(count)]


@pytest.mark.parametrize(("column", "kept"), [(16, [0]), (17, [0, 1])])
def test_a_mask_inside_a_larger_one_goes(column, kept):  # spec section 12, test 3: 4 x 4, of which 16 or 12 inside
    assert containment_filter([_box(10, 10, 10, 10), _box(12, column, 4, 4)], 2000) == kept


def test_thirteen_of_sixteen_pixels_inside_is_too_much():
    b = np.append(_box(12, 16, 4, 4)[:-3], [0, 1, 2])
    assert containment_filter([_box(10, 10, 10, 10), b], 2000) == [0]


@pytest.mark.parametrize("seed", range(6))
def test_filter_matches_the_reference_loop(seed):
    masks = _random_masks(np.random.default_rng(seed), 25)
    kept = []
    for k in sorted(range(25), key=lambda k: -len(masks[k])):
        if all(len(np.intersect1d(masks[k], masks[b])) <= 0.8 * len(masks[k]) for b in kept):
            kept.append(k)
    assert containment_filter(masks, 2000) == kept


def test_fine_mode_drops_the_whole_only_when_its_parts_cover_it():
    whole, left, right, decal = _box(10, 10, 10, 10), _box(10, 10, 10, 5), _box(10, 15, 10, 5), _box(12, 12, 2, 2)
    assert containment_filter([whole, left, right], 2000, contain_mode="fine") == [1, 2]
    assert containment_filter([whole, decal], 2000, contain_mode="fine") == [1, 0]
    with pytest.raises(ValueError, match="fine"):
        containment_filter([whole], 2000, contain_mode="medium")


def test_empty_masks_and_no_masks():
    assert containment_filter([], 2000) == []
    assert containment_filter([np.zeros(0, np.int64), _box(0, 0, 1, 1)], 2000) == [1]
    assert MaskLayers(2000).overlaps(_box(0, 0, 2, 2)).shape == (0,)


def test_layers_count_every_intersection():
    rng = np.random.default_rng(9)
    masks, layers = _random_masks(rng, 15), MaskLayers(2000)
    for mask in masks:
        layers.add(mask)
    probe = _box(5, 5, 15, 15)
    assert layers.overlaps(probe).tolist() == [len(np.intersect1d(probe, mask)) for mask in masks]


def test_composition_puts_small_masks_on_top():
    labels = compose_labels({1: _box(0, 0, 4, 4), 2: _box(0, 0, 10, 10)}, SIZE, 5)
    assert (labels[:4, :4] == 1).all()
    assert labels[9, 9] == 2
    assert labels[20, 20] == 0


def test_composition_drops_what_is_nearly_covered_and_small():
    hidden = np.union1d(_box(0, 0, 4, 4), _box(0, 4, 1, 1))  # 17 pixels, one of which stays visible
    masks = {7: hidden, 3: _box(0, 0, 4, 4)}
    assert 7 not in compose_labels(masks, SIZE, area_min=2)
    assert 7 in compose_labels(masks, SIZE, area_min=1)

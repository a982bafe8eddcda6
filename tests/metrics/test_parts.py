# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.metrics.parts import (
    CATEGORIES,
    SHAPENET,
    Categories,
    category_of,
    known_categories,
    predicted_parts,
    score_shape,
)

CAP, CHAIR, MUG = (list(CATEGORIES).index(name) for name in ("Cap", "Chair", "Mug"))


def loop(part, prediction):
    """Return the IoU of a shape from the definition, one part at a time."""
    parts = next(parts for parts in CATEGORIES.values() if part[0] in parts)
    values = []
    for k in parts:
        both = sum(p == k and q == k for p, q in zip(part, prediction, strict=True))
        either = sum(p == k or q == k for p, q in zip(part, prediction, strict=True))
        values.append(both / either if either else 1.0)
    return sum(values) / len(values)


def test_the_ranges_are_contiguous():
    assert [k for parts in CATEGORIES.values() for k in parts] == list(range(50))
    assert list(CATEGORIES["Motorbike"]) == [30, 31, 32, 33, 34, 35] and len(CATEGORIES) == 16


def test_hand_case():
    score = score_shape(np.array([12, 12, 13, 13]), np.array([12, 13, 13, 13]), CHAIR)
    assert (score.category, score.num_right, score.num_points) == (CHAIR, 3, 4)
    assert score.iou == pytest.approx((1 / 2 + 2 / 3 + 1 + 1) / 4, abs=1e-15)


def test_an_absent_part_that_was_predicted_is_zero():
    assert score_shape(np.array([6, 6]), np.array([6, 7]), CAP).iou == (1 / 2 + 0) / 2
    assert score_shape(np.array([6, 6]), np.array([6, 6]), CAP).iou == 1.0


def test_the_first_label_decides_the_category():
    part = np.array([6, 4, 4, 7])  # a cap with labels of a bag
    assert category_of(part) == CAP
    score = score_shape(part, np.array([6, 6, 6, 7]), CAP)
    assert score.iou == pytest.approx((1 / 3 + 1) / 2) and score.num_right == 2 and score.num_outside == 0


def test_arg_max_within_the_category():
    logits = np.zeros((2, 50))
    logits[:, 0], logits[0, 13], logits[1, [14, 15]] = 99, 1, 2
    assert predicted_parts(logits, SHAPENET.parts[CHAIR]).tolist() == [13, 14]
    assert predicted_parts(np.zeros((1, 50)), SHAPENET.parts[MUG]).tolist() == [36]


@pytest.mark.parametrize("seed", range(30))
def test_as_the_loop_says(seed):
    rng = np.random.default_rng(seed)
    parts = list(CATEGORIES.values())[rng.integers(16)]
    size = int(rng.choice([1, 2, 60]))
    kept = rng.choice(parts, rng.integers(1, len(parts) + 1))
    part = rng.choice([*kept, *rng.integers(0, 50, seed % 2)], size)
    prediction = np.where(rng.random(size) < 0.5, part, rng.choice([*parts, *rng.integers(0, 50, seed % 3)], size))
    score = score_shape(part, prediction, category_of(part))
    assert score.iou == pytest.approx(loop(part.tolist(), prediction.tolist()), abs=1e-12)
    assert score.num_right == np.sum(part == prediction)


def test_parts_of_other_data():
    """Categories may share parts, and a part that no category has counts for none."""
    categories = Categories(("cup", "pot"), ((1, 300), (1, 2)))
    part = np.array([1, 1, 300, 300])
    assert score_shape(part, part, 0, categories).iou == 1.0
    assert score_shape(part, np.array([1, 300, 300, 999]), 0, categories).iou == (1 / 2 + 1 / 3) / 2
    assert score_shape(part, np.array([1, 2, 2, 2]), 0, categories).num_outside == 3


def test_ranges_are_shapenetparts_only_where_all_parts_lie_in_them():
    assert known_categories(("cap", "Mug"), ({6}, {37})).parts == ((6, 7), (36, 37))
    assert known_categories(("cap", "mug"), ({6}, {0, 37})).parts == ((6,), (0, 37))
    assert known_categories(("cap", "pot"), ({6}, {36})).parts == ((6,), (36,))

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.metrics.classification import (
    FoldSize,
    draw_folds,
    first_and_vote,
    fold_accuracy,
    pool_tokens,
    sample_counts,
)
from pc3dcli.metrics.miou import class_accuracy, mean_defined, overall_accuracy


def accuracies(label, prediction, num_classes):
    counts = sample_counts(np.array(label), np.array(prediction), num_classes).sum(axis=0, dtype=np.int64)
    return overall_accuracy(counts), mean_defined(class_accuracy(counts))


def test_mean_accuracy_is_over_classes_that_occur():
    assert accuracies([0, 0, 0, 1], [0, 0, 2, 1], 4) == (3 / 4, (2 / 3 + 1) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_as_the_loop_says(seed):
    rng = np.random.default_rng(seed)
    size, num_classes = int(rng.integers(1, 200)), int(rng.integers(1, 9))
    label, prediction = rng.integers(0, num_classes, (2, size))
    recalls = [np.mean(prediction[label == c] == c) for c in range(num_classes) if (label == c).any()]
    overall, mean = accuracies(label, prediction, num_classes)
    assert overall == np.mean(label == prediction) and mean == pytest.approx(np.mean(recalls), abs=1e-12)


@pytest.mark.filterwarnings("ignore")  # it warns of classes that are only predicted
def test_accuracies_as_scikit_learn_has_them():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    rng = np.random.default_rng(0)
    for _ in range(60):
        num_classes = int(rng.integers(2, 41))
        label = rng.choice(rng.choice(num_classes, int(rng.integers(1, num_classes + 1))), int(rng.integers(1, 300)))
        prediction = np.where(rng.random(label.size) < rng.random(), label, rng.integers(0, num_classes, label.size))
        overall, mean = accuracies(label, prediction, num_classes)
        assert overall == pytest.approx(accuracy_score(label, prediction), abs=1e-12)
        assert mean == pytest.approx(balanced_accuracy_score(label, prediction), abs=1e-12)


def test_ties_take_the_lowest_class():
    assert [part.tolist() for part in first_and_vote(np.array([[[1.0, 2, 2], [3, 3, 3]]]))] == [[1, 0]] * 2


def test_votes_are_means_of_logits_not_of_classes():
    logits = np.array([[[0.0, 1, 0]], [[0, 1, 0]], [[9, 0, 0]]])  # two of three passes say 1, their mean says 0
    single, vote = first_and_vote(logits)
    assert (single.tolist(), vote.tolist()) == ([1], [0])
    single, vote = first_and_vote(np.array([[[5.0, 0]], [[0, 3]], [[0, 3]]]))  # the highest logit says 0, the mean 1
    assert (single.tolist(), vote.tolist()) == ([0], [1])


def test_the_same_pass_again_votes_as_one_pass():
    logits = np.random.default_rng(0).normal(size=(1, 50, 6)).astype(np.float32)
    single, vote = first_and_vote(np.repeat(logits, 7, axis=0))
    assert np.array_equal(single, vote)


def test_pooling():
    tokens = np.array([[[1.0, 5], [3, 1]]])
    expected = {"max": [3, 5], "mean": [2, 3], "max+mean": [5, 8], "max;mean": [3, 5, 2, 3]}
    assert {how: pool_tokens(tokens, how)[0].tolist() for how in expected} == expected


def test_both_deviations():
    found = fold_accuracy(np.array([0.9, 0.8, 1.0]))
    assert (found.mean, found.std_population, found.std_sample) == pytest.approx((0.9, np.sqrt(0.02 / 3), 0.1))
    alone = fold_accuracy(np.array([0.9]))
    assert alone.std_population == 0 and np.isnan(alone.std_sample)


def test_folds():
    rng = np.random.default_rng(1)
    train, test = rng.integers(0, 12, 600), rng.integers(0, 12, 400)
    size = FoldSize(way=5, shot=10, queries=20, folds=4)
    folds = draw_folds(train, test, size, np.random.default_rng(7))
    assert len(folds) == 4
    for classes, support, query in folds:
        assert len(set(classes.tolist())) == 5 and support.shape == (5, 10) and query.shape == (5, 20)
        assert (train[support] == classes[:, None]).all() and (test[query] == classes[:, None]).all()
        assert len(np.unique(support)) == 50 and len(np.unique(query)) == 100  # without replacement
    again = draw_folds(train, test, size, np.random.default_rng(7))
    assert all(np.array_equal(a, b) for x, y in zip(folds, again, strict=True) for a, b in zip(x, y, strict=True))
    with pytest.raises(ValueError, match="expected 13"):
        draw_folds(train, test, FoldSize(way=13), rng)

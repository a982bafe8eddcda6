# SPDX-License-Identifier: Apache-2.0
"""Shape classification: arg-max, voting, accuracies; pooling of tokens; few-shot folds (evaluation.md section 6).

Hits are counted by class and add up over samples: a sample is (3, C) as in `metrics/miou.py`, whose accuracies apply.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def first_and_vote(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class (N,) of the first and of the mean of all passes, logits (V, N, C); ties: the lowest class."""
    return logits[0].argmax(axis=1), logits.mean(axis=0, dtype=np.float64).argmax(axis=1)


def sample_counts(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (N, 3, C) uint8: of each sample whether it is a hit, a false positive and a miss of each class.

    label (N,) 0..C-1, prediction (N,); one that is no class of the C is a false positive of none
    """
    classes = np.arange(num_classes)
    is_label, is_predicted = label[:, None] == classes, prediction[:, None] == classes
    hit = is_label & is_predicted
    return np.stack((hit, is_predicted & ~hit, is_label & ~hit), axis=1).astype(np.uint8)


def pool_tokens(features: np.ndarray, how: str) -> np.ndarray:
    """Pool the tokens of each shape: features (N, T, D) -> (N, D), or (N, 2D) for "max;mean".

    how  "max", "mean", "max+mean" (their sum) or "max;mean" (one after the other)
    """
    highest, mean = features.max(axis=1), features.mean(axis=1)
    return {
        "max": highest,
        "mean": mean,
        "max+mean": highest + mean,
        "max;mean": np.concatenate((highest, mean), axis=1),
    }[how]


@dataclass(frozen=True)
class FoldAccuracy:
    """Mean over folds and both deviations, as fractions; the sample deviation of one fold is NaN."""

    mean: float
    std_population: float
    std_sample: float


def fold_accuracy(accuracies: np.ndarray) -> FoldAccuracy:
    """Return mean and deviations with ddof 0 and 1 of the (F,) accuracies of folds."""
    sample = accuracies.std(ddof=1) if accuracies.size > 1 else np.nan
    return FoldAccuracy(float(accuracies.mean()), float(accuracies.std()), float(sample))


@dataclass(frozen=True)
class FoldSize:
    """How large folds of few-shot classification are, and how many."""

    way: int = 5  # classes of a fold
    shot: int = 10  # support samples of a class
    queries: int = 20  # query samples of a class
    folds: int = 10


def draw_folds(
    train_labels: np.ndarray, test_labels: np.ndarray, size: FoldSize, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Draw few-shot folds: classes, then support from the train split and queries from the test split.

    train_labels, test_labels  (N,) class of each sample of the splits
    returns  for each fold: classes (way,), support (way, shot) and query (way, queries) as indices into the splits, all
             drawn without replacement
    raises   ValueError when fewer classes than `way` have enough samples in both splits
    """
    classes, count = np.unique(train_labels, return_counts=True)
    enough = classes[count >= size.shot]
    classes, count = np.unique(test_labels, return_counts=True)
    enough = np.intersect1d(enough, classes[count >= size.queries])
    if enough.size < size.way:
        raise ValueError(f"{enough.size} classes have {size.shot} and {size.queries} samples, expected {size.way}")
    folds = []
    for _ in range(size.folds):
        chosen = rng.choice(enough, size.way, replace=False)
        parts = ((train_labels, size.shot), (test_labels, size.queries))
        drawn = [
            np.stack([rng.choice(np.flatnonzero(labels == c), number, replace=False) for c in chosen])
            for labels, number in parts
        ]
        folds.append((chosen, *drawn))
    return folds

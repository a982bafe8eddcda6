# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation from the definitions of evaluation.md sections 2 and 5, one point at a time."""

import numpy as np


def table_of_pairs(pairs, classes):
    """Return tp, fp, fn by class of (truth, prediction) pairs whose truth is in the list."""
    tp, fp, fn = ({c: 0 for c in classes} for _ in range(3))
    for truth, prediction in pairs:
        if truth not in classes:
            continue
        if truth == prediction:
            tp[truth] += 1
            continue
        fn[truth] += 1
        if prediction in classes:
            fp[prediction] += 1
    return tp, fp, fn


def scores(pairs, classes):
    """Return IoU and accuracy by class (None where undefined), mIoU, mean accuracy and overall accuracy."""
    tp, fp, fn = table_of_pairs(pairs, classes)
    iou = {c: tp[c] / (tp[c] + fp[c] + fn[c]) if tp[c] + fp[c] + fn[c] else None for c in classes}
    acc = {c: tp[c] / (tp[c] + fn[c]) if tp[c] + fn[c] else None for c in classes}
    total = sum(tp.values()) + sum(fn.values())
    return iou, acc, mean(iou.values()), mean(acc.values()), sum(tp.values()) / total if total else None


def mean(values):
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def any_label_pair(labels, guesses, num_classes):
    """Return the pair of a ScanNet++ vertex, or None when it is not scored."""
    if not any(0 <= label < num_classes for label in labels):
        return None
    for guess in guesses:
        if guess in labels:
            return guess, guess
    return labels[0], guesses[0]


def semantickitti(raw_truth, raw_prediction, train_id, num_classes):
    """Return IoU by class, mean over all classes (absent ones 0), mean over present ones, accuracy, share of hits."""
    tp, fp, fn = np.zeros((3, num_classes + 1), int)
    for truth, prediction in zip(raw_truth, raw_prediction, strict=True):
        truth, prediction = train_id[truth & 0xFFFF], train_id[prediction & 0xFFFF]
        if truth == 0:
            continue
        if truth == prediction:
            tp[truth] += 1
        else:
            fn[truth] += 1
            fp[prediction] += 1
    whole = (tp + fp + fn)[1:]
    iou = [t / w if w else None for t, w in zip(tp[1:], whole, strict=True)]
    predicted, valid = (tp + fp)[1:].sum(), (tp + fn)[1:].sum()
    accuracy = tp[1:].sum() / predicted if predicted else None
    return iou, float(np.mean([v or 0.0 for v in iou])), mean(iou), accuracy, tp[1:].sum() / valid if valid else None

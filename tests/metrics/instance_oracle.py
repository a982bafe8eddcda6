# SPDX-License-Identifier: Apache-2.0
"""The rules of evaluation.md 1.2 to 1.4 as slow loops over vertices, written from the text and from nothing else."""

from __future__ import annotations

from typing import NamedTuple

THRESHOLDS = [0.5 + 0.05 * i for i in range(9)] + [0.25]


class Scene(NamedTuple):
    """ids per vertex; predictions as (set of vertices, class or None, score) in file order."""

    ids: list
    predictions: list


def transform(ids, preset, labels, void_labels=()):
    """Return per vertex (instance id or None, class or None, is_void)."""
    out = []
    for number in ids:
        label = number // 1000
        if preset == "keep":
            valid = label in labels
            out.append((number if valid and number != 0 else None, label if valid else None, not valid))
            continue
        if label in void_labels or (preset == "listed" and label not in labels):
            out.append((None, None, True))
        elif preset == "modulo":
            out.append((1000 + number % 1000, 0, False))
        else:
            out.append((number if number else None, 0, number == 0))
    return out


def entries_at(scene, preset, labels, t, min_region, void_labels=()):
    """Return [(class, score, is_true)] and {class: number of eligible instances} of one scene at one threshold."""
    vertices = transform(scene.ids, preset, labels, void_labels)
    instances = {}
    for v, (number, label, _) in enumerate(vertices):
        if number is not None:
            instances.setdefault(number, (label, set()))[1].add(v)
    void = {v for v, vertex in enumerate(vertices) if vertex[2]}
    kept = []
    for mask, label, score in scene.predictions:
        label = label if preset == "keep" else 0
        if len(mask) >= min_region and (preset != "keep" or label in labels):
            kept.append((mask, label, score))
    entries, eligible_count, assigned = [], {}, set()
    for number in sorted(instances):
        label, members = instances[number]
        if number < 1000 or len(members) < min_region:
            continue
        eligible_count[label] = eligible_count.get(label, 0) + 1
        best = None
        for index, (mask, predicted, score) in enumerate(kept):
            if predicted != label or index in assigned or not mask & members:
                continue
            if len(mask & members) / len(mask | members) > t:
                if best is None:
                    best = score
                    assigned.add(index)
                else:
                    entries.append((label, min(best, score), False))
                    best = max(best, score)
        if best is not None:
            entries.append((label, best, True))
    for mask, predicted, score in kept:
        own = [(n, members) for n, (label, members) in instances.items() if label == predicted]
        if any(len(mask & members) / len(mask | members) > t for _, members in own):
            continue
        ignore = len(mask & void)
        for number, members in own:
            ignore += len(mask & members) * (number < 1000)
            ignore += len(mask & members) * (len(members) < min_region)
        if ignore / len(mask) <= t:
            entries.append((predicted, score, False))
    return entries, eligible_count


def average_precision(entries, num_truth):
    """AP of [(score, is_true)]; None without an eligible instance."""
    if num_truth == 0:
        return None
    if not entries:
        return 0.0
    points = []
    for v in sorted({score for score, _ in entries}):
        above = [is_true for score, is_true in entries if score >= v]
        points.append((sum(above) / len(above), sum(above) / num_truth))
    points.append((1.0, 0.0))
    recall = [points[0][1]] + [r for _, r in points] + [0.0]
    return sum(p * (recall[j] - recall[j + 2]) / 2 for j, (p, _) in enumerate(points))


def evaluate(scenes, preset, labels, min_region, void_labels=()):
    """Return {(class, threshold index): AP or None} and {class: recall at each threshold}."""
    classes = labels if preset == "keep" else [0]
    table = {}
    for k, t in enumerate(THRESHOLDS):
        entries, count = [], {}
        for scene in scenes:
            more, eligible = entries_at(scene, preset, labels, t, min_region, void_labels)
            entries += more
            for label, number in eligible.items():
                count[label] = count.get(label, 0) + number
        for label in classes:
            own = [(score, is_true) for c, score, is_true in entries if c == label]
            table[label, k] = average_precision(own, count.get(label, 0))
    return table

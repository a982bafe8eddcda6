# SPDX-License-Identifier: Apache-2.0
"""What `eval` makes of predicted classes of shapes, for the tasks `classify` and `svm`: accuracies and their tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc3dcli.commands.evaluation import Table, confusion_cells, shown
from pc3dcli.commands.result_draft import ResultDraft, intervals, number
from pc3dcli.metrics.classification import sample_counts
from pc3dcli.metrics.miou import class_accuracy, class_counts, confusion, mean_defined, overall_accuracy


@dataclass(frozen=True)
class Samples:
    """Labels of N samples, their names, and the names of the C classes; labels are 0..C-1."""

    label: np.ndarray
    names: list[str]
    classes: list[str]


def named_samples(label: np.ndarray, highest: int, ids: object = None, class_names: object = None) -> Samples:
    """Return samples with ids, or their position, as names; classes up to `highest` are called by number if need be."""
    digits = len(str(label.size))
    names = [] if ids is None else [str(name) for name in ids]
    if len(set(names)) != label.size:
        names = [f"{index:0{digits}d}" for index in range(label.size)]
    num_classes = max(int(label.max(initial=-1)), highest) + 1
    known = [] if class_names is None else [str(name) for name in class_names]
    return Samples(label, names, known + [str(index) for index in range(len(known), num_classes)])


def accuracies(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return overall and mean class accuracy (...) of counts (..., 3, C)."""
    return {"oa": overall_accuracy(counts), "macc": mean_defined(class_accuracy(counts))}


def fill(
    draft: ResultDraft, samples: Samples, predictions: dict[str, np.ndarray], options: dict, *, rows: bool
) -> None:
    """Put accuracies, classes, counts and extras of the predictions into the result.

    predictions  ending of the metrics' names -> (N,) predicted class; the first is the main one
    rows         the numbers of each sample are wanted, and the confusion
    """
    num_classes, main = len(samples.classes), next(iter(predictions))
    clipped = {kind: np.minimum(found, num_classes) for kind, found in predictions.items()}
    totals = {kind: class_counts(confusion(samples.label, found, num_classes)) for kind, found in clipped.items()}
    for name in ("oa", "macc"):
        draft.metrics |= {name + kind: number(accuracies(total)[name]) for kind, total in totals.items()}
    per_class = {kind: class_accuracy(total) for kind, total in totals.items()}
    num_true = totals[main][0] + totals[main][2]
    for index, name in enumerate(samples.classes):
        draft.per_class[name] = {"acc" + kind: number(values[index]) for kind, values in per_class.items()}
        draft.per_class[name]["gt"] = int(num_true[index])
    draft.counts |= {
        "gt": samples.label.size,
        "pred": samples.label.size,
        "ignored_pred": 0,
        "classes": len(samples.classes),
        "undefined_classes": int((num_true == 0).sum()),
    }
    if rows or options["per_scene"]:
        hits = {"oa" + kind: (samples.label == found).astype(float) for kind, found in predictions.items()}
        draft.extras["per_scene"] = {
            name: {metric: float(hit[index]) for metric, hit in hits.items()}
            for index, name in enumerate(samples.names)
        }
    if rows or options["confusion"]:
        draft.extras["confusion"] = _confusion(samples, clipped[main])
    if options["bootstrap"]:
        counts = sample_counts(samples.label, predictions[main], num_classes)
        draft.extras["intervals"] = intervals(counts, accuracies, options, draft.task, draft.warnings)


def table(draft: ResultDraft) -> Table:
    """Return the table of the classes that occur, their mean and the overall accuracy."""
    metrics = draft.metrics
    row = next(iter(draft.per_class.values()))
    kinds = [name.removeprefix("acc") for name in row if name.startswith("acc")]
    rows = [
        [name, *(shown(row["acc" + kind]) for kind in kinds), str(row["gt"])]
        for name, row in draft.per_class.items()
        if row["gt"]
    ]
    rows.append(["mean", *(shown(metrics["macc" + kind]) for kind in kinds), str(draft.counts["gt"])])
    rows.append(["OA", *(shown(metrics["oa" + kind]) for kind in kinds), ""])
    return Table("", ["class", *("Acc" + kind.replace("_", " ") for kind in kinds), "gt"], rows)


def _confusion(samples: Samples, prediction: np.ndarray) -> list[dict]:
    counts = confusion(samples.label, prediction, len(samples.classes))
    return confusion_cells(counts, [*samples.classes, None])

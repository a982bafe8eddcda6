# SPDX-License-Identifier: Apache-2.0
"""What `eval` makes of labelled points, for meshes and for LiDAR scans alike: `result.json` and the tables.

The tasks `semantic` and `semantickitti` count (metrics/miou.py); how counts become numbers is theirs too: `summary`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Evaluation, Request, Table, confusion_cells, shown
from pc3dcli.commands.result_draft import ResultDraft, Summary, intervals, number, result_object
from pc3dcli.metrics.miou import class_accuracy, class_counts, class_iou

_KEPT = 8 << 20  # bytes, below the 32 MB at which the C library stops to adapt


@dataclass
class LabelScores:
    """The counts of all scenes.

    names, groups  of the C classes; groups may be empty
    summary        counts (..., 3, C) -> {metric: (...)}; its first metrics are the main ones
    kinds          endings of the metrics' names, for tasks that count in K ways
    counts         (K, 3, C) int64 of each scene, or of all together where no number of a scene is wanted
    confusion      (C, C+1) int64 of all scenes, in the first way
    num_points     points with a prediction, of which num_ignored are not scored
    truth_files, prediction_files  relative name -> path of what was read
    prediction_entries  (name, SHA-256) of what came out of streams
    """

    task: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    summary: Summary
    kinds: tuple[str, ...] = ("",)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    confusion: np.ndarray | None = None
    num_points: int = 0
    num_ignored: int = 0
    num_scenes: int = 0
    num_scored: int = 0
    warnings: set[tuple[str, str, str]] = field(default_factory=set)
    truth_files: dict[str, Path] = field(default_factory=dict)
    prediction_files: dict[str, Path] = field(default_factory=dict)
    prediction_entries: list[tuple[str, str]] = field(default_factory=list)
    programs: list[dict] = field(default_factory=list)

    def add(self, scene: str, tables: list[np.ndarray], num_points: int, num_scenes: int = 1) -> None:
        """Add the confusions (C, C+1) of a scene, one a kind, or of several scenes that nobody asks for one by one.

        num_points  that were predicted, 0 if the scene has no prediction
        """
        self.counts[scene] = np.stack([class_counts(table) for table in tables])
        self.confusion = tables[0] if self.confusion is None else self.confusion + tables[0]
        self.num_points += num_points
        self.num_ignored += num_points - int(tables[0].sum()) if num_points else 0
        self.num_scenes += num_scenes


def keep_freed_memory() -> None:
    """Let the C library keep blocks as large as a scan once they are freed, instead of handing them back every time.

    It does so up to the size of the largest block that was freed so far; new pages would cost as much as the counting.
    """
    np.empty(_KEPT, np.uint8)


def evaluation_of(scores: LabelScores, request: Request, options: dict, footnote: str) -> Evaluation:
    """Return the finished evaluation.

    options   every option that changes a number, but for those that all tasks of this file share
    footnote  what stands under the tables
    """
    stacked = np.stack(list(scores.counts.values()))  # (S, K, 3, C)
    total = stacked.sum(axis=0)
    num_true = total[0, 0] + total[0, 2]
    is_defined = total[0].sum(axis=0) > 0
    if not num_true.any():
        scores.warnings.add(("nothing-to-score", "", "no point of the ground truth has a class of the list"))
    given = request.options
    draft = ResultDraft(
        task=scores.task,
        num_items=scores.num_scenes,
        metrics={name: number(value) for name, value in _metrics(scores, total).items()},
        per_class=_per_class(scores, total),
        counts={
            "gt": int(num_true.sum()),
            "pred": scores.num_points,
            "ignored_pred": scores.num_ignored,
            "classes": len(scores.names),
            "undefined_classes": int((~is_defined).sum()),
        },
        options={
            "allow_missing": given["allow_missing"],
            "bootstrap": given["bootstrap"],
            "seed": given["seed"] if given["bootstrap"] else None,
            **options,
        },
        truth_files=scores.truth_files,
        prediction_files=scores.prediction_files,
        prediction_entries=scores.prediction_entries,
        warnings=scores.warnings,
        extras=_extras(scores, request, stacked),
    )
    result = result_object(draft, request)
    tables = [_table(scores, result)]
    return Evaluation(result, scores.num_scored, tables, footnote, programs=scores.programs)


def metric_names(scores: LabelScores) -> list[str]:
    """Return the names of the flat metrics."""
    return list(_metrics(scores, np.zeros((len(scores.kinds), 3, len(scores.names)), np.int64)))


def _metrics(scores: LabelScores, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return {metric: (...)} of counts (..., K, 3, C): over all classes, then over each group."""
    values = scores.summary(counts)
    metrics = {name + kind: value[..., k] for name, value in values.items() for k, kind in enumerate(scores.kinds)}
    for group in sorted(set(scores.groups) - {""}):
        members = [index for index, name in enumerate(scores.groups) if name == group]
        for name, value in scores.summary(counts[..., members]).items():
            if name.startswith("m"):  # accuracies over all points have no meaning for a part of the classes
                metrics |= {f"{group}_{name}{kind}": value[..., k] for k, kind in enumerate(scores.kinds)}
    return metrics


def _per_class(scores: LabelScores, counts: np.ndarray) -> dict[str, dict]:
    iou, accuracy = class_iou(counts), class_accuracy(counts)
    rows: dict[str, dict] = {}
    for index, name in enumerate(scores.names):
        rows[name] = {"iou" + kind: number(iou[k, index]) for k, kind in enumerate(scores.kinds)}
        rows[name] |= {"acc" + kind: number(accuracy[k, index]) for k, kind in enumerate(scores.kinds)}
        rows[name]["gt"] = int(counts[0, 0, index] + counts[0, 2, index])
    return rows


def _extras(scores: LabelScores, request: Request, stacked: np.ndarray) -> dict:
    options, extras = request.options, {}
    if options["per_scene"] or request.has_digest:
        metrics = {name: value.tolist() for name, value in _metrics(scores, stacked).items()}
        extras["per_scene"] = {
            scene: {name: number(values[index]) for name, values in metrics.items()}
            for index, scene in enumerate(scores.counts)
        }
    if options["confusion"] or request.has_digest:
        extras["confusion"] = confusion_cells(scores.confusion, [*scores.names, None])
    if options["bootstrap"]:
        extras["intervals"] = intervals(
            stacked, lambda counts: _metrics(scores, counts), options, scores.task, scores.warnings
        )
    return extras


def _table(scores: LabelScores, result: dict) -> Table:
    metrics = result["metrics"]
    columns = [name + kind for name in ("iou", "acc") for kind in scores.kinds]
    rows = [
        [name, *(shown(row[column]) for column in columns), str(row["gt"])]
        for name, row in result["per_class"].items()
        if row[columns[0]] is not None
    ]
    for group in sorted(set(scores.groups) - {""}):
        rows.append([group, *(_mean_cell(metrics, f"{group}_m{column}") for column in columns), ""])
    rows.append(["mean", *(_mean_cell(metrics, f"m{column}") for column in columns), str(result["counts"]["gt"])])
    for name in ("acc", "oa"):
        if name + scores.kinds[0] in metrics:
            cells = [shown(metrics[name + kind]) for kind in scores.kinds]
            rows.append([name.upper(), *[""] * len(cells), *cells, ""])
    return Table("", ["class", *(_heading(column) for column in columns), "gt"], rows)


def _mean_cell(metrics: dict, name: str) -> str:
    return shown(metrics[name]) if name in metrics else ""


def _heading(column: str) -> str:
    return column.replace("_", " ").replace("iou", "IoU").replace("acc", "Acc")

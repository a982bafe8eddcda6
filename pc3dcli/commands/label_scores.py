# SPDX-License-Identifier: Apache-2.0
"""What `eval` makes of labelled points, for meshes and for LiDAR scans alike: `result.json` and the tables.

The tasks `semantic` and `semantickitti` count (metrics/miou.py); how counts become numbers is theirs too: `summary`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pc3dcli import __version__
from pc3dcli.commands.evaluation import FEW_SCENES, Evaluation, Request, Table, shown, warning_records
from pc3dcli.formats.result_json import SCHEMA, digest
from pc3dcli.metrics.miou import class_accuracy, class_counts, class_iou, resampled

Summary = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass
class LabelScores:
    """The counts of all scenes.

    names, groups  of the C classes; groups may be empty
    summary        counts (..., 3, C) -> {metric: (...)}; its first metrics are the main ones
    kinds          endings of the metrics' names, for tasks that count in K ways
    counts         (K, 3, C) int64 of each scene
    confusion      (C, C+1) int64 of all scenes, in the first way
    num_points     points with a prediction, of which num_ignored are not scored
    truth_entries, prediction_entries  (relative path, SHA-256) of what was read, with has_digest
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
    num_scored: int = 0
    warnings: set[tuple[str, str, str]] = field(default_factory=set)
    truth_entries: list[tuple[str, str]] = field(default_factory=list)
    prediction_entries: list[tuple[str, str]] = field(default_factory=list)
    programs: list[dict] = field(default_factory=list)

    def add(self, scene: str, tables: list[np.ndarray], num_points: int) -> None:
        """Add a scene: its confusions (C, C+1), one a kind; num_points is 0 if it has no prediction."""
        self.counts[scene] = np.stack([class_counts(table) for table in tables])
        self.confusion = tables[0] if self.confusion is None else self.confusion + tables[0]
        self.num_points += num_points
        self.num_ignored += num_points - int(tables[0].sum()) if num_points else 0


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
    entries = (scores.truth_entries, scores.prediction_entries)
    digests = [digest(part) if request.has_digest else None for part in entries]
    given = request.options
    result = {
        "schema": SCHEMA,
        "task": scores.task,
        "preset": request.preset,
        "tool_version": __version__,
        "options": {
            "allow_missing": given["allow_missing"],
            "bootstrap": given["bootstrap"],
            "seed": given["seed"] if given["bootstrap"] else None,
            **options,
        },
        "inputs": {"scenes": len(stacked), "gt_digest": digests[0], "pred_digest": digests[1]},
        "metrics": {name: _number(value) for name, value in _metrics(scores, total).items()},
        "per_class": _per_class(scores, total),
        "counts": {
            "gt": int(num_true.sum()),
            "pred": scores.num_points,
            "ignored_pred": scores.num_ignored,
            "classes": len(scores.names),
            "undefined_classes": int((~is_defined).sum()),
        },
    }
    result |= _extras(scores, request, stacked)
    result["warnings"] = warning_records(scores.warnings)
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
        rows[name] = {"iou" + kind: _number(iou[k, index]) for k, kind in enumerate(scores.kinds)}
        rows[name] |= {"acc" + kind: _number(accuracy[k, index]) for k, kind in enumerate(scores.kinds)}
        rows[name]["gt"] = int(counts[0, 0, index] + counts[0, 2, index])
    return rows


def _extras(scores: LabelScores, request: Request, stacked: np.ndarray) -> dict:
    options, extras = request.options, {}
    if options["per_scene"] or request.has_digest:
        metrics = {name: value.tolist() for name, value in _metrics(scores, stacked).items()}
        extras["per_scene"] = {
            scene: {name: _number(values[index]) for name, values in metrics.items()}
            for index, scene in enumerate(scores.counts)
        }
    if options["confusion"] or request.has_digest:
        names = [*scores.names, None]
        cells = np.argwhere(scores.confusion).tolist()
        extras["confusion"] = [
            {"gt": names[i], "pred": names[j], "count": int(scores.confusion[i, j])} for i, j in cells
        ]
    if options["bootstrap"]:
        extras["intervals"] = _intervals(scores, options, stacked)
    return extras


def _intervals(scores: LabelScores, options: dict, stacked: np.ndarray) -> dict[str, list[float | None]]:
    """Return the 2.5 and 97.5 percentiles over resamples of the scenes; null for a single scene."""
    if len(stacked) == 1:
        scores.warnings.add(("one-scene", "", "an interval over one scene has no meaning"))
        return {name: [None, None] for name in _metrics(scores, stacked)}
    if len(stacked) < FEW_SCENES:
        scores.warnings.add(("few-scenes", "", f"an interval over {len(stacked)} scenes is unreliable"))
    drawn = resampled(stacked, options["bootstrap"], np.random.default_rng(options["seed"]))
    return {name: _percentiles(values) for name, values in _metrics(scores, drawn).items()}


def _percentiles(values: np.ndarray) -> list[float | None]:
    values = values[~np.isnan(values)]
    return np.percentile(values, [2.5, 97.5]).tolist() if values.size else [None, None]


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


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

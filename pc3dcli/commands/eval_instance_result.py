# SPDX-License-Identifier: Apache-2.0
"""What `eval --task instance` makes of its matches: `result.json`, the table, curves and the lines of --matches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pc3dcli.commands.evaluation import (
    Entries,
    Evaluation,
    Request,
    Table,
    base_result,
    confusion_cells,
    has_intervals,
    shown,
    warning_records,
)
from pc3dcli.formats.class_lists import ClassList
from pc3dcli.formats.result_names import shown_name
from pc3dcli.metrics import instance_ap, instance_extras
from pc3dcli.metrics.instance_ap import AT_25, AT_50, OVER_50, ClassScores, SceneMatches, TruthRule, mean_or_none

_COLUMNS = {"": OVER_50, "50": [AT_50], "25": [AT_25]}


@dataclass(frozen=True)
class Scored:
    """The matches of all scenes, by scene, and where they are from.

    rule, classes   of the preset, which `about` describes in a line
    digest_entries  (relative path, SHA-256) of the files of the ground truth and of the predictions, with has_digest
    """

    scenes: dict[str, SceneMatches]
    num_scored: int
    classes: ClassList
    rule: TruthRule
    about: str
    request: Request
    warnings: set[tuple[str, str, str]]
    programs: list[dict]
    digest_entries: tuple[Entries, Entries]

    @property
    def has_recall(self) -> bool:
        """Whether --recall asks for recall too."""
        return self.request.options["recall"]


def evaluation_of(scored: Scored) -> Evaluation:
    """Return the finished evaluation."""
    result = _result(scored)
    return Evaluation(
        result=result,
        num_scored=scored.num_scored,
        tables=list(_tables(result)),
        footnote=_footnote(result, scored),
        curves=_curves(scored) if scored.request.has_digest else {},
        matches=list(_match_lines(scored)),
        programs=scored.programs,
    )


def metric_names(classes: ClassList, has_recall: bool) -> list[str]:
    """Return the names of the flat metrics."""
    kinds = ["ap", *(["rc"] if has_recall else []), *(f"{group}_ap" for group in _groups(classes))]
    return [kind + suffix for kind in kinds for suffix in _COLUMNS]


def _result(scored: Scored) -> dict:
    matches, rule, request = list(scored.scenes.values()), scored.rule, scored.request
    scores = instance_ap.class_scores(matches, rule.num_classes)
    num_predictions = sum(scene.num_predictions for scene in matches)
    warnings = set(scored.warnings)
    if all(scene.score.size == 0 for scene in matches):
        why = "every prediction was dropped or ignored" if num_predictions else "there are no predictions"
        warnings.add(("no-prediction-counts", "", why))
    entries = scored.digest_entries if request.has_digest else None
    result = base_result("instance", request.preset, len(matches), entries) | {
        "options": _options(scored),
        "metrics": _summary(scores, scored.classes, scored.has_recall),
        "per_class": _per_class(scores, scored.classes, scored.has_recall),
        "counts": {
            "gt": int(scores.num_truth.sum()),
            "pred": num_predictions,
            "ignored_pred": sum(scene.num_ignored for scene in matches),
            "classes": rule.num_classes,
            "undefined_classes": int((scores.num_truth == 0).sum()),
        },
    }
    result |= _extras(scored, warnings)
    return result | {"warnings": warning_records(warnings)}


def _options(scored: Scored) -> dict:
    """Every option that changes a number."""
    options = scored.request.options
    return {
        "allow_missing": options["allow_missing"],
        "bootstrap": options["bootstrap"],
        "classes": scored.classes.source,
        "groups": options["groups"] and options["groups"].name,
        "instance_classes": options["instance_classes"] and options["instance_classes"].name,
        "label_void": list(scored.rule.void_labels),
        "min_region": scored.rule.min_region,
        "scores": options["scores"],
        "seed": options["seed"] if options["bootstrap"] else None,
        "vertex_masks": options["vertex_masks"] is not None,
    }


def _summary(scores: ClassScores, classes: ClassList, has_recall: bool) -> dict[str, float | None]:
    """Return the flat metrics: means over classes, and over the groups of the list if it has any."""
    metrics = _means(scores.ap, "ap")
    if has_recall:
        metrics |= _means(scores.recall, "rc")
    for group in _groups(classes):
        members = [index for index, name in enumerate(classes.groups) if name == group]
        metrics |= _means(scores.ap[members], f"{group}_ap")
    return metrics


def _groups(classes: ClassList) -> list[str]:
    return sorted(set(classes.groups) - {""})


def _means(values: np.ndarray, name: str) -> dict[str, float | None]:
    return {name + suffix: mean_or_none(values[:, columns]) for suffix, columns in _COLUMNS.items()}


def _per_class(scores: ClassScores, classes: ClassList, has_recall: bool) -> dict[str, dict]:
    rows = {}
    for index, name in enumerate(classes.names):
        rows[name] = _means(scores.ap[[index]], "ap")
        rows[name] |= _means(scores.recall[[index]], "rc") if has_recall else {}
        rows[name]["gt"] = int(scores.num_truth[index])
    return rows


def _extras(scored: Scored, warnings: set) -> dict:
    options, matches, extras = scored.request.options, list(scored.scenes.values()), {}
    has_all, num_classes = scored.request.has_digest, scored.rule.num_classes
    if options["per_scene"] or has_all:
        extras["per_scene"] = {
            name: _summary(instance_ap.class_scores([scene], num_classes), scored.classes, scored.has_recall)
            for name, scene in scored.scenes.items()
        }
    if options["size_bins"] or has_all:
        extras["size_bins"] = instance_extras.recall_by_size(matches)
    if options["confusion"] or has_all:
        table = instance_extras.confusion(matches, num_classes)
        extras["confusion"] = confusion_cells(table, [*scored.classes.names, None])
    if options["bootstrap"]:
        extras["intervals"] = _intervals(scored, warnings)
    return extras


def _intervals(scored: Scored, warnings: set) -> dict[str, list[float | None]]:
    """Return the bootstrap intervals, null for a single scene."""
    matches = list(scored.scenes.values())
    if not has_intervals(len(matches), "scene", warnings):
        return {"ap" + suffix: [None, None] for suffix in _COLUMNS}
    options = scored.request.options
    rng = np.random.default_rng(options["seed"])
    return instance_extras.bootstrap_intervals(matches, options["bootstrap"], rng)


def _match_lines(scored: Scored) -> Iterator[dict]:
    for name, scene in scored.scenes.items():
        for row in scene.rows:
            yield {
                "scene": name,
                "class": scored.classes.names[row.class_index],
                "threshold": round(float(instance_ap.THRESHOLDS[row.threshold]), 2),
                "gt": row.truth_id if row.truth_id >= 0 else None,
                "prediction": row.prediction if row.prediction >= 0 else None,
                "iou": row.iou,
                "outcome": instance_ap.OUTCOMES[row.outcome],
            }


def _curves(scored: Scored) -> dict[str, dict]:
    """Return the precision-recall points at IoU 0.5 of every class with ground truth."""
    curves = instance_extras.precision_recall(list(scored.scenes.values()), AT_50)
    return {
        scored.classes.names[index]: {
            "x": recall.tolist(),
            "y": precision.tolist(),
            "x_name": "recall at IoU > 0.5",
            "y_name": "precision",
        }
        for index, (precision, recall) in sorted(curves.items())
    }


def _footnote(result: dict, scored: Scored) -> str:
    counts = result["counts"]
    return (
        f"{result['preset']}: {scored.about}; instances of {scored.rule.min_region} vertices or more\n"
        f"ignored {counts['ignored_pred']} of {counts['pred']} predictions: not of the classes, smaller than that, "
        "or mostly on what is not scored"
    )


def _tables(result: dict) -> Iterator[Table]:
    metrics, counts = result["metrics"], result["counts"]
    names = [name for name in metrics if name.startswith(("ap", "rc"))]
    header = ["class", *map(shown_name, names), "gt"]
    rows = [
        [name, *(shown(row[column]) for column in names), str(row["gt"])]
        for name, row in result["per_class"].items()
        if row["ap"] is not None
    ]
    for group in sorted({name[: -len("_ap")] for name in metrics if name.endswith("_ap")}):
        rows.append([group, *(shown(metrics.get(f"{group}_{name}")) for name in names), ""])
    rows.append(["mean", *(shown(metrics[name]) for name in names), str(counts["gt"])])
    yield Table("", header, rows)

# SPDX-License-Identifier: Apache-2.0
"""What `eval --task nuscenes` makes of its matches: `result.json`, tables and curves."""

from __future__ import annotations

import math
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
from pc3dcli.formats.nuscenes_tables import Samples
from pc3dcli.formats.result_names import shown_name
from pc3dcli.metrics import nuscenes_detection, nuscenes_extras
from pc3dcli.metrics.bootstrap import percentile_interval
from pc3dcli.metrics.nuscenes_boxes import CLASSES, DISTANCES, ego_distance
from pc3dcli.metrics.nuscenes_detection import ERRORS, Matched, Scores, class_scores
from pc3dcli.metrics.nuscenes_pseudo import label_quality

_AP_NAMES = [f"ap_{distance}" for distance in DISTANCES]
_INTERVALS = ("map", "nds", "spnds")


@dataclass(frozen=True)
class Scored:
    """The matches and where they are from.

    found           boxes within the range of their class
    in_ranges       by the name of a range: boxes of that distance, whatever the range of their class
    ranges          metres, from and below, by name
    num_boxes       predicted boxes that were read; num_scored  scenes that had predictions
    digest_entries  (name, SHA-256) of tables and predictions, None without digests
    """

    found: Matched
    in_ranges: dict[str, Matched]
    ranges: dict[str, tuple[float, float]]
    samples: Samples
    num_boxes: int
    num_scored: int
    request: Request
    warnings: set[tuple[str, str, str]]
    programs: list[dict]
    digest_entries: tuple[Entries, Entries] | None

    @property
    def skips_absent(self) -> bool:
        """Whether classes without annotations are left out of the means."""
        return self.request.preset == "nuscenes-present"


def metric_names(is_pseudo: bool) -> list[str]:
    """Return the metrics of which higher is better."""
    return ["map", "nds_pseudo" if is_pseudo else "nds", "spnds"]


def evaluation_of(scored: Scored) -> Evaluation:
    """Return the finished evaluation."""
    scores = class_scores(scored.found)
    warnings = scored.warnings | set(_warnings(scored, scores))
    result = _result(scored, scores, warnings)
    return Evaluation(
        result=result,
        num_scored=scored.num_scored,
        tables=[_main_table(result), _class_table(result)],
        footnote=_footnote(result, scored),
        curves=_curves(scores) if scored.request.has_digest else {},
        programs=scored.programs,
    )


def _result(scored: Scored, scores: Scores, warnings: set[tuple[str, str, str]]) -> dict:
    request, num_kept = scored.request, len(scored.found.predicted)
    result = base_result("nuscenes", request.preset, len(scored.samples.scenes), scored.digest_entries)
    result["inputs"]["samples"] = len(scored.samples.tokens)
    result |= {
        "options": _options(scored),
        "metrics": _summary(scores, scored),
        "per_class": {name: _class_row(scores, index, scored) for index, name in enumerate(CLASSES)},
        "counts": {
            "gt": int(scores.num_truth.sum()),
            "pred": scored.num_boxes,
            "ignored_pred": scored.num_boxes - num_kept,
            "classes": len(CLASSES),
            "undefined_classes": int((scores.num_truth == 0).sum()) if scored.skips_absent else 0,
        },
        "breakdowns": _breakdowns(scored),
    }
    if request.options["per_scene"] or request.has_digest:
        result["per_scene"] = _per_scene(scored)
    if request.options["confusion"] or request.has_digest:
        result["confusion"] = confusion_cells(nuscenes_extras.confusion(scored.found), [*CLASSES, None])
    if request.options["bootstrap"]:
        result["intervals"] = _intervals(scored, warnings)
    return result | {"warnings": warning_records(warnings)}


def _options(scored: Scored) -> dict:
    options = scored.request.options
    return {
        "allow_missing": options["allow_missing"],
        "bootstrap": options["bootstrap"],
        "min_score": options["min_score"],
        "pseudo": options["pseudo"],
        "ranges": ",".join(scored.ranges),
        "seed": options["seed"] if options["bootstrap"] else None,
        "split": options["split"],
    }


def _summary(scores: Scores, scored: Scored) -> dict[str, float | None]:
    values = nuscenes_detection.summary(scores, skip_absent=scored.skips_absent)
    if scored.request.options["pseudo"]:  # labels are not detections: their score never goes by the name of NDS
        values = {"nds_pseudo" if name == "nds" else name: value for name, value in values.items()}
    return {name: _defined(value) for name, value in values.items()}


def _class_row(scores: Scores, index: int, scored: Scored) -> dict[str, float | int | None]:
    ap, errors = scores.ap[index], scores.errors[index]
    row = {"ap": ap.mean()} | dict(zip(_AP_NAMES, ap, strict=True)) | dict(zip(ERRORS, errors, strict=True))
    is_defined = scores.num_truth[index] > 0 or not scored.skips_absent
    values = {name: _defined(value) if is_defined else None for name, value in row.items()}
    return values | {"gt": int(scores.num_truth[index])}


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _breakdowns(scored: Scored) -> dict[str, dict[str, dict]]:
    """Return the numbers by distance, AP by class and distance, and with --pseudo the quality as labels."""
    by_distance, by_class = {}, {name: {} for name in CLASSES}
    for name, found in scored.in_ranges.items():
        scores = class_scores(found)
        by_distance[f"{name} m"] = _summary(scores, scored) | {"gt": int(scores.num_truth.sum())}
        for index, label in enumerate(CLASSES):
            by_class[label][f"ap_{name}m"] = _class_row(scores, index, scored)["ap"]
    titles = {"by distance from the ego vehicle": by_distance, "ap by class and distance": by_class}
    if scored.request.options["pseudo"]:
        titles |= {f"labels at {name} m": rows for name, rows in _label_rows(scored).items()}
    return titles


def _label_rows(scored: Scored) -> dict[str, dict[str, dict]]:
    found, ego = scored.found, scored.samples.ego_center[:, :2]
    distances = ego_distance(found.truth, ego), ego_distance(found.predicted, ego)
    rows = {name: label_quality(found, *distances, low, high) for name, (low, high) in scored.ranges.items()}
    return {
        name: {label: {key: _number(value) for key, value in row.items()} for label, row in table.items()}
        for name, table in rows.items()
    }


def _number(value: float | int) -> float | int | None:
    return value if isinstance(value, int) else _defined(value)


def _per_scene(scored: Scored) -> dict[str, dict[str, float | None]]:
    """Return the numbers of each scene alone, by the same preset."""
    found, scene = scored.found, scored.samples.scene
    truth_scene, box_scene = scene[found.truth.sample], scene[found.predicted.sample]
    return {
        name: _summary(class_scores(found.part(truth_scene == index, box_scene == index)), scored)
        for index, name in sorted(enumerate(scored.samples.scenes), key=lambda item: item[1])
    }


def _intervals(scored: Scored, warnings: set[tuple[str, str, str]]) -> dict[str, list[float | None]]:
    """Return 2.5 and 97.5 percentiles over scenes drawn with replacement; null for a single scene."""
    found, scene, count = scored.found, scored.samples.scene, len(scored.samples.scenes)
    names = metric_names(scored.request.options["pseudo"])
    if not has_intervals(count, "scene", warnings):
        return {name: [None, None] for name in names}
    rng = np.random.default_rng(scored.request.options["seed"])
    order = np.array(sorted(range(count), key=scored.samples.scenes.__getitem__))
    truth_scene, box_scene = scene[found.truth.sample], scene[found.predicted.sample]
    draws = []
    for _ in range(scored.request.options["bootstrap"]):
        times = np.bincount(order[rng.integers(count, size=count)], minlength=count)
        truth_rows = np.repeat(np.arange(len(found.truth)), times[truth_scene])
        rows = np.repeat(np.arange(len(found.predicted)), times[box_scene])
        values = _summary(class_scores(found.part(truth_rows, rows)), scored)
        draws.append([math.nan if values[name] is None else values[name] for name in names])
    return {name: percentile_interval(values) for name, values in zip(names, np.array(draws).T, strict=True)}


def _warnings(scored: Scored, scores: Scores) -> Iterator[tuple[str, str, str]]:
    absent = [name for name, count in zip(CLASSES, scores.num_truth, strict=True) if count == 0]
    if absent and not scored.skips_absent:
        detail = f"no annotation of {', '.join(absent)}: AP 0 and errors 1 in the means"
        yield "absent-class", "", f"{detail}, as the public scorer has it"
    if not len(scored.found.predicted):
        why = "every box is out of range or in a rack" if scored.num_boxes else "there are no boxes"
        yield "no-prediction-counts", "", why


def _curves(scores: Scores) -> dict[str, dict]:
    """Return precision over recall at 2 m of the classes with annotations."""
    return {
        name: {
            "x": nuscenes_detection.RECALLS.tolist(),
            "y": scores.precision[index].tolist(),
            "x_name": "recall at 2 m",
            "y_name": "precision",
        }
        for index, name in enumerate(CLASSES)
        if scores.num_truth[index]
    }


def _main_table(result: dict) -> Table:
    metrics = result["metrics"]
    return Table("", ["metric", *map(shown_name, metrics)], [["all classes", *map(shown, metrics.values())]])


def _class_table(result: dict) -> Table:
    rows = [
        [name, *(shown(value) for key, value in row.items() if key != "gt"), str(row["gt"])]
        for name, row in result["per_class"].items()
    ]
    return Table("per class", ["class", "AP", *(f"AP@{d:g}m" for d in DISTANCES), *map(shown_name, ERRORS), "gt"], rows)


def _footnote(result: dict, scored: Scored) -> str:
    counts = result["counts"]
    absent = "are left out of the means" if scored.skips_absent else "have AP 0 and errors 1"
    min_score = scored.request.options["min_score"]
    low = "" if min_score is None else f"of a score below {min_score:g}, "
    return (
        f"{result['preset']}: CVPR 2019 ranges of classes and distances; classes without annotations {absent}\n"
        f"ignored {counts['ignored_pred']} of {counts['pred']} boxes: {low}out of the range of their class, or in a "
        "rack; in a range of distance the ranges of classes do not apply"
    )

# SPDX-License-Identifier: Apache-2.0
"""What `eval --task kitti` makes of labels and results: curves, `result.json`, the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

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
from pc3dcli.metrics import kitti_ap, kitti_extras, kitti_pairs
from pc3dcli.metrics.bootstrap import percentile_interval
from pc3dcli.metrics.kitti_ap import DIFFICULTIES, NUM_STEPS, Curve, Subset
from pc3dcli.metrics.kitti_bootstrap import CurveSteps, curve_steps
from pc3dcli.metrics.kitti_pairs import CLASSES, OVERLAPS, Boxes

KINDS = ("3d", "bev", "bbox", "aos")  # the numbers, the most looked for first
STEPS = ("r40", "r11")
MODERATE, HARD = DIFFICULTIES.index("moderate"), DIFFICULTIES.index("hard")
CurvesByKey = Mapping[tuple[str, int, int], Curve]  # by overlap, class and difficulty
NAMES = (*CLASSES, "Van", "Person_sitting", "DontCare", "other")  # of kitti_pairs.KINDS


@dataclass(frozen=True)
class Scored:
    """Objects and detections of the frames, and where they are from.

    ranges          (low, high) metres of depth by their name
    digest_entries  (relative path, SHA-256) of the label and of the result files, with has_digest
    """

    frames: list[str]
    num_scored: int
    truth: Boxes
    found: Boxes
    ranges: dict[str, tuple[float, float]]
    request: Request
    warnings: set[tuple[str, str, str]]
    digest_entries: tuple[Entries, Entries]


def metric_names() -> list[str]:
    """Return the names of the flat metrics: means over classes, then moderate R40 of each class."""
    return [*_row_names(), *(f"{kind}_r40_moderate_{name.lower()}" for name in CLASSES for kind in KINDS)]


def evaluation_of(scored: Scored) -> Evaluation:
    """Return the finished evaluation."""
    curves = _Curves(scored)
    result = _result(scored, curves)
    return Evaluation(
        result=result,
        num_scored=scored.num_scored,
        tables=list(_tables(result)),
        footnote=_footnote(scored, curves),
        curves=curves.for_page() if scored.request.has_digest else {},
    )


class _Curves:
    """The curves of every overlap, class and difficulty."""

    def __init__(self, scored: Scored) -> None:
        self.scored = scored
        self.truth, self.found, request = scored.truth, scored.found, scored.request
        thresholds = kitti_pairs.LOOSE if request.options["loose"] else kitti_pairs.STRICT
        # the program asks DontCare for its overlap in space too; the ports do not
        names = OVERLAPS if request.preset == "kitti" else ("bbox",)
        self.excused = kitti_pairs.excused_by_dont_care(self.truth, self.found, thresholds, names)
        self.pairs = kitti_pairs.matching_pairs(self.truth, self.found, thresholds)
        self.seen = {key: self._subset(*key) for key in product(range(len(CLASSES)), range(len(DIFFICULTIES)))}
        self.has_orientation = not (self.found.alpha == -10).any()
        self.curves = {(name, *key): self.curve(name, *key) for name in OVERLAPS for key in self.seen}

    def _subset(self, c: int, difficulty: int) -> Subset:
        is_port = self.scored.request.preset == "kitti-py"
        return kitti_ap.subset(self.truth, self.found, c, difficulty, is_at_limit_ignored=is_port)

    def subset(self, name: str, c: int, difficulty: int) -> Subset:
        """Return the subset with what DontCare regions excuse."""
        seen = self.seen[c, difficulty]
        return Subset(seen.truth, seen.found, self.excused[name])

    def curve(self, name: str, c: int, difficulty: int, limits: tuple[float, float] | None = None) -> Curve:
        """Return a curve, only of objects of a depth with `limits`."""
        seen = self.subset(name, c, difficulty)
        if limits is not None:
            seen = kitti_extras.in_range(seen, self.truth, self.found, *limits)
        return kitti_ap.precision_curve(self.truth, self.found, self.pairs[name][c], seen)

    def values(self, c: int, curves: CurvesByKey) -> dict[str, float | None]:
        """Return the numbers of a class by metric name, `curves` being those of all frames or of a resample."""
        values = {}
        for kind, (difficulty, at) in product(KINDS, enumerate(DIFFICULTIES)):
            curve = curves["bbox" if kind == "aos" else kind, c, difficulty]
            height = curve.similarity if kind == "aos" else curve.precision
            is_defined = curve.num_truth > 0 and (kind != "aos" or self.has_orientation)
            both = kitti_ap.average_precision(height) if is_defined else (None, None)
            values |= {f"{kind}_{steps}_{at}": value for steps, value in zip(STEPS, both, strict=True)}
        return {name: values[name] for name in _row_names()}

    def steps(self) -> dict[tuple[str, int, int], CurveSteps]:
        """Return what the curves of resamples of the frames follow from."""
        count = len(self.scored.frames)
        return {
            (name, c, at): curve_steps(self.truth, self.found, self.pairs[name][c], self.subset(name, c, at), count)
            for name, c, at in self.curves
        }

    def operating_score(self, name: str, c: int) -> float | None:
        """Return the score at which a class has its largest F1 at moderate; None when it finds nothing."""
        curve = self.curves[name, c, MODERATE]
        step = curve.best_step()
        return None if step is None else float(curve.thresholds[step])

    def frame_f1(self, name: str) -> list[float | None]:
        """Return the F1 of each frame over all classes, each at its own score."""
        total = np.zeros((3, len(self.scored.frames)), np.int64)
        for c in range(len(CLASSES)):
            score = self.operating_score(name, c)
            limits = np.full((total.shape[1], 1), np.inf if score is None else score)
            seen, pairs = self.subset(name, c, MODERATE), self.pairs[name][c]
            counts = kitti_ap.frame_counts(self.truth, self.found, pairs, seen, limits)
            total += np.stack([counts.true_positives, counts.false_positives, counts.misses])[:, :, 0]
        return kitti_extras.f1(*total)

    def confusion(self) -> list[dict]:
        """Return which types were taken for which in the image."""
        scores = [self.operating_score("bbox", c) for c in range(len(CLASSES))]
        lowest = [np.inf if score is None else score for score in scores]
        wanted = np.any([self.seen[c, HARD].truth == kitti_ap.COUNTED for c in range(len(CLASSES))], axis=0)
        counts = kitti_extras.confusion(self.truth, self.found, self.excused["bbox"], lowest, wanted)
        return confusion_cells(counts, [*NAMES, None])

    def for_page(self) -> dict[str, dict]:
        """Return the curves at moderate as the report draws them."""
        recall = (np.arange(NUM_STEPS + 1) / NUM_STEPS).tolist()
        return {
            f"{CLASSES[c]} {name} moderate": {
                "x": recall,
                "y": self.curves[name, c, MODERATE].precision.tolist(),
                "x_name": "recall",
                "y_name": "precision",
            }
            for c, name in product(range(len(CLASSES)), ("3d", "bev", "bbox"))
            if self.curves[name, c, MODERATE].num_truth
        }


def _row_names() -> list[str]:
    order = ("moderate", "easy", "hard")  # the benchmark ranks by moderate
    return [f"{kind}_{steps}_{at}" for steps in STEPS for at in order for kind in KINDS]


def _result(scored: Scored, curves: _Curves) -> dict:
    request, found = scored.request, scored.found
    per_class = {name: _class_row(curves, c) for c, name in enumerate(CLASSES)}
    warnings = scored.warnings | _warnings(scored, curves)
    extras = _extras(scored, curves, warnings)
    can_count = (found.kind < len(CLASSES)) & (np.abs(found.image_height) >= min(kitti_ap.MIN_HEIGHT))
    entries = scored.digest_entries if request.has_digest else None
    result = base_result("kitti", request.preset, len(scored.frames), entries) | {
        "options": _options(scored),
        "metrics": _summary(per_class),
        "per_class": per_class,
        "counts": {
            "gt": sum(row["gt"] for row in per_class.values()),
            "pred": len(found),
            "ignored_pred": int(len(found) - can_count.sum()),
            "classes": len(CLASSES),
            "undefined_classes": sum(row["gt"] == 0 for row in per_class.values()),
        },
        "warnings": warning_records(warnings),
    }
    return result | extras


def _options(scored: Scored) -> dict:
    """Every option that changes a number."""
    options = scored.request.options
    return {
        "allow_missing": options["allow_missing"],
        "bootstrap": options["bootstrap"],
        "loose": options["loose"],
        "ranges": ",".join(scored.ranges) or None,
        "seed": options["seed"] if options["bootstrap"] else None,
        "split": options["split"] and Path(options["split"]).name,
    }


def _class_row(curves: _Curves, c: int) -> dict:
    counts = [curves.seen[c, difficulty].num_truth for difficulty in range(len(DIFFICULTIES))]
    named = {f"gt_{at}": count for at, count in zip(DIFFICULTIES, counts, strict=True)}
    return curves.values(c, curves.curves) | {"gt": counts[HARD]} | named


def _summary(per_class: dict[str, dict]) -> dict[str, float | None]:
    """Return means over the classes that have ground truth, and moderate R40 of each class."""
    metrics = {}
    for name in _row_names():
        values = [row[name] for row in per_class.values() if row[name] is not None]
        metrics[name] = float(np.mean(values)) if values else None
    for name, row in per_class.items():
        metrics |= {f"{kind}_r40_moderate_{name.lower()}": row[f"{kind}_r40_moderate"] for kind in KINDS}
    return metrics


def _warnings(scored: Scored, curves: _Curves) -> set[tuple[str, str, str]]:
    warnings = set()
    for c, name in enumerate(CLASSES):
        if curves.seen[c, HARD].num_truth and not (scored.found.kind == c).any():
            warnings.add(("no-detections", "", f"{name} has no detection and scores 0"))
    num_without = int((scored.found.alpha == -10).sum())
    if num_without:
        warnings.add(("no-orientation", "", f"{num_without} detections with alpha -10: aos is undefined"))
    return warnings


def _extras(scored: Scored, curves: _Curves, warnings: set[tuple[str, str, str]]) -> dict:
    """Return what --ranges, --per-scene, --confusion, --bootstrap and the report add."""
    options, extras = scored.request.options, {}
    if scored.ranges:
        extras["breakdowns"] = {"by depth in metres": dict(_by_range(curves, scored.ranges))}
    if options["per_scene"] or scored.request.has_digest:
        columns = {f"{name}_f1_moderate": curves.frame_f1(name) for name in ("3d", "bev", "bbox")}
        rows = zip(*columns.values(), strict=True)
        extras["per_scene"] = {
            frame: dict(zip(columns, row, strict=True)) for frame, row in zip(scored.frames, rows, strict=True)
        }
    if options["confusion"] or scored.request.has_digest:
        extras["confusion"] = curves.confusion()
    if options["bootstrap"]:
        extras["intervals"] = _intervals(scored, curves, warnings)
    return extras


def _intervals(scored: Scored, curves: _Curves, warnings: set[tuple[str, str, str]]) -> dict[str, list[float | None]]:
    """Return 2.5 and 97.5 percentiles over frames drawn with replacement; null for a single frame."""
    count, options = len(scored.frames), scored.request.options
    if not has_intervals(count, "frame", warnings):
        return {name: [None, None] for name in metric_names()}
    rng, steps, draws = np.random.default_rng(options["seed"]), curves.steps(), []
    for _ in range(options["bootstrap"]):
        weight = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn = {key: step.curve(weight) for key, step in steps.items()}
        draws.append(_summary({name: curves.values(c, drawn) for c, name in enumerate(CLASSES)}))
    return {name: percentile_interval(np.array([draw[name] for draw in draws], np.float64)) for name in draws[0]}


def _by_range(curves: _Curves, ranges: dict[str, tuple[float, float]]) -> Iterator[tuple[str, dict]]:
    for c, (name, limits) in product(range(len(CLASSES)), ranges.items()):
        row, count = {}, 0
        for overlap, (difficulty, at) in product(("3d", "bev"), enumerate(DIFFICULTIES)):
            curve = curves.curve(overlap, c, difficulty, limits)
            count = curve.num_truth  # the last is hard
            row[f"{overlap}_r40_{at}"] = kitti_ap.average_precision(curve.precision)[0] if count else None
        yield f"{CLASSES[c]} {name}", row | {"gt": count}


def _tables(result: dict) -> Iterator[Table]:
    rows = [(name, row) for name, row in result["per_class"].items()] + [("(mean)", result["metrics"])]
    header = ["", *(f"{steps.upper()} {at}" for steps in STEPS for at in DIFFICULTIES)]
    cells = [
        [f"{name} {kind}", *(shown(row[f"{kind}_{steps}_{at}"]) for steps in STEPS for at in DIFFICULTIES)]
        for name, row in rows
        for kind in KINDS
    ]
    yield Table("", header, cells)
    counts = [[name, *(str(row[f"gt_{at}"]) for at in DIFFICULTIES)] for name, row in result["per_class"].items()]
    yield Table("objects counted", ["class", *DIFFICULTIES], counts)


def _footnote(scored: Scored, curves: _Curves) -> str:
    loose = ", 0.5 and 0.25 in bev and 3d" if scored.request.options["loose"] else ""
    limit = "counts" if scored.request.preset == "kitti" else "is ignored"
    few = [name for c, name in enumerate(CLASSES) if 0 < curves.seen[c, MODERATE].num_truth <= NUM_STEPS]
    short = f"; with {NUM_STEPS} objects or fewer R40 cannot reach 1: {', '.join(few)}" if few else ""
    return (
        f"R40 is the main number{short}\n"
        f"overlap above 0.7 (Car) and 0.5{loose}; an object exactly as high as the minimum {limit}"
    )

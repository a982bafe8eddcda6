# SPDX-License-Identifier: Apache-2.0
"""`eval --task semantickitti`: labels of LiDAR scans against ground truth; presets are chosen here.

The rules of the numbers are in `metrics/miou.py` and evaluation.md section 5.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Evaluation, Request, check_partners
from pc3dcli.commands.label_scores import LabelScores, evaluation_of, keep_freed_memory
from pc3dcli.commands.label_scores import metric_names as result_names
from pc3dcli.errors import FormatError, UsageError
from pc3dcli.formats import semantickitti
from pc3dcli.metrics import miou

PRESETS = {
    "semkitti": "19 classes of single scans; a class without any point counts as 0, as in semantic-kitti-api",
    "semkitti-present": "19 classes of single scans; the mean is over the classes that occur",
    "semkitti-multi": "25 classes of several scans, moving ones on their own; a class without any point counts as 0",
}
OPTIONS = frozenset(("split", "per_scene", "confusion", "bootstrap", "seed", "allow_missing"))
MANUAL = """\
Ground truth is sequences/NN/labels/*.label and predictions are sequences/NN/predictions/*.label as the data set and
its benchmark have them: a little-endian uint32 a point whose low 16 bits are the raw label. Both folders may be
one. --split 08 or --split 00,02 names the sequences that are scored; without it all with labels are. A raw label
that the data set does not define is an error, in ground truth and in predictions (semantic-kitti-api maps some of
them to "unlabeled" and stops on others): training ids 0 to 19 are not raw labels.

Points whose ground truth is unlabeled, outlier, other-structure or other-object are not scored. A prediction of one
of these on another point is a miss for the true class. The IoU of a class is tp / (tp + fp + fn) over all scans
together. miou of preset semkitti is the mean over all 19 classes, a class without any point counting as 0: the
public rule, which lowers the number on short sequences. semkitti-present leaves such classes out. acc is the
accuracy that the public code prints, sum tp / sum (tp + fp): points predicted as unlabeled are not in its
denominator, so that predicting less raises it; oa is the share of scored points with the right class.

semkitti-multi scores the 25 classes of the multi-scan benchmark (semantic-kitti-all.yaml): moving cars, bicyclists,
persons, motorcyclists, trucks and other vehicles are classes of their own. moving_miou is the mean over these six
and static_miou over the other 19.

Which published numbers compare: mIoU of the single-scan benchmark with semkitti and of the multi-scan benchmark
with semkitti-multi, both in percent there; papers report sequence 08 for validation.
"""
_MOVING = "moving-"


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError for a split that names no sequences."""
    split_sequences(request.options["split"])
    return result_names(_scores(request, _labels(request)))


def run(request: Request) -> Evaluation:
    """Score predicted labels against ground truth.

    raises  UsageError for a split that names no sequences; InputError and FormatError for inputs
    """
    if len(request.predictions) != 1:
        raise UsageError("--task semantickitti takes one folder of predictions")
    labels, sequences = _labels(request), split_sequences(request.options["split"])
    scores = _scores(request, labels)
    folder = Path(request.predictions[0])
    truth = semantickitti.find_scans(request.gt, "labels", sequences)
    predicted = semantickitti.find_scans(folder, "predictions", sequences)
    allow_missing = request.options["allow_missing"]
    missing = check_partners(truth, predicted, request.gt, allow_missing=allow_missing, what="scan")
    is_by_scan = bool(request.options["bootstrap"] or request.options["per_scene"] or request.has_digest)
    counter = _ScanCounter(labels, scores, is_by_scan)
    keep_freed_memory()
    for number, (scan, path) in enumerate(truth.items(), 1):
        counter.add(scan, path, predicted.get(scan))
        request.progress(scan, number, len(truth))
    counter.finish()
    scores.warnings |= {("missing-scan", scan, "scored as a scan without predictions") for scan in missing}
    scores.num_scored = len(predicted)
    scores.truth_files = {f"{scan}.label": path for scan, path in truth.items()}
    scores.prediction_files = {f"{scan}.label": path for scan, path in predicted.items()}
    options = {"split": list(sequences) if sequences else None}
    return evaluation_of(scores, request, options, _footnote(request, scores))


def split_sequences(text: str | None) -> tuple[str, ...] | None:
    """Return the sequences that --split names, two digits each, sorted; None for all."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(re.fullmatch(r"[0-9]{1,2}", part) for part in parts):
        raise UsageError(f"--split {text}: expected sequence numbers separated by commas, as 08 or 00,02")
    return tuple(sorted({f"{int(part):02d}" for part in parts}))


def _labels(request: Request) -> semantickitti.LabelMap:
    return semantickitti.label_map("multi" if request.preset == "semkitti-multi" else "single")


def _scores(request: Request, labels: semantickitti.LabelMap) -> LabelScores:
    groups: tuple[str, ...] = ()
    if request.preset == "semkitti-multi":
        groups = tuple("moving" if name.startswith(_MOVING) else "static" for name in labels.names)
    absent_counts = request.preset != "semkitti-present"

    def summary(counts: np.ndarray) -> dict[str, np.ndarray]:
        iou = miou.class_iou(counts)
        return {
            "miou": np.nan_to_num(iou, nan=0.0).mean(axis=-1) if absent_counts else miou.mean_defined(iou),
            "acc": miou.overall_precision(counts),
            "oa": miou.overall_accuracy(counts),
        }

    return LabelScores("semantickitti", labels.names, groups, summary)


class _ScanCounter:
    """Counts pairs of raw labels scan by scan, and makes classes of them as late as the wanted numbers allow."""

    def __init__(self, labels: semantickitti.LabelMap, scores: LabelScores, is_by_scan: bool) -> None:
        self.labels, self.scores, self.is_by_scan = labels, scores, is_by_scan
        self.counter = miou.PairCounter(labels.num_raw, semantickitti.LABEL_BITS)
        self.known = np.ix_(labels.raw_labels, labels.raw_labels)
        self.pairs = {True: 0, False: 0}  # of the scans with and without predictions
        self.num_scans = {True: 0, False: 0}

    def add(self, scan: str, path: Path, predicted: Path | None) -> None:
        """Count one scan; without a prediction every point is missed."""
        pairs = self._count(path, predicted)
        has_prediction = predicted is not None
        self.pairs[has_prediction] = self.pairs[has_prediction] + pairs
        self.num_scans[has_prediction] += 1
        if self.is_by_scan:
            self._flush(scan)

    def finish(self) -> None:
        """Hand over what was counted."""
        self._flush("all scans")

    def _flush(self, name: str) -> None:
        for has_prediction, pairs in self.pairs.items():
            num_scans = self.num_scans[has_prediction]
            if num_scans:
                table = miou.merged_pairs(pairs, self.labels.class_ids, len(self.labels.names) + 1)
                # class ids count from 1 with 0 for none; the table wants 0 to C-1 and C for none
                table = np.roll(table[1:], -1, axis=1)
                num_points = int(pairs.sum()) if has_prediction else 0
                name = name if self.is_by_scan or has_prediction else "scans without predictions"
                self.scores.add(name, [table], num_points, num_scans)
        self.pairs, self.num_scans = {True: 0, False: 0}, {True: 0, False: 0}

    def _count(self, path: Path, predicted: Path | None) -> np.ndarray:
        """Return (R, R) int64 counts of pairs of the raw labels that the data set defines."""
        truth = semantickitti.read_labels(path)
        prediction = np.zeros_like(truth) if predicted is None else semantickitti.read_labels(predicted)
        if prediction.size != truth.size:
            raise FormatError(f"{prediction.size} points, expected {truth.size} as in the ground truth", file=predicted)
        pairs = self.counter.count(truth, prediction)
        known = None if pairs is None else pairs[self.known]
        if known is None or known.sum() != truth.size:
            semantickitti.check_labels(truth, self.labels, path)
            semantickitti.check_labels(prediction, self.labels, predicted or path)
        return known


def _footnote(request: Request, scores: LabelScores) -> str:
    return (
        f"{request.preset}: {PRESETS[request.preset]}\n"
        f"ignored {scores.num_ignored} of {scores.num_points} predicted points: unlabeled in the ground truth"
    )

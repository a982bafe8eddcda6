# SPDX-License-Identifier: Apache-2.0
"""`eval --task nuscenes`: boxes against the annotations of nuScenes; presets and ranges are chosen here.

The rules of the numbers are in `metrics/nuscenes_*.py` and evaluation.md section 3.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pc3dcli.commands.eval_nuscenes_boxes import Predictions, ReadRules, read_predictions
from pc3dcli.commands.eval_nuscenes_result import Scored, evaluation_of
from pc3dcli.commands.eval_nuscenes_result import metric_names as result_names
from pc3dcli.commands.evaluation import Entries, Evaluation, Request, check_partners, named, parse_ranges
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats.nuscenes_splits import split_scenes
from pc3dcli.formats.nuscenes_tables import TABLES, Annotations, Samples, TableReader, find_tables
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics.nuscenes_boxes import (
    CLASSES,
    Boxes,
    Racks,
    ego_distance,
    in_class_range,
    in_rack,
    quaternion_yaw,
    scoring_order,
)
from pc3dcli.metrics.nuscenes_detection import matched

PRESETS = {
    "nuscenes": "nuScenes detection, configuration CVPR 2019; a class without annotations has AP 0 and errors 1",
    "nuscenes-present": "the same, classes without annotations left out of the means",
}
OPTIONS = frozenset(
    ("split", "ranges", "pseudo", "min_score", "per_scene", "confusion", "bootstrap", "seed", "allow_missing",
     "allow_truncated")
)  # fmt: skip
DEFAULT_RANGES = "0-20,20-30,30-50"  # metres, evaluation.md section 9
MANUAL = """\
Ground truth is a folder of nuScenes tables (scene.json, sample.json, sample_annotation.json and seven more; neither
maps, images nor points are needed), or the folder above it when that holds one version. --split names an official
split (train, val, test, mini_train, mini_val, train_detect, train_track), a file of scene names one a line, or a name
of splits.json; without it every scene of the tables is scored, so that a submission for the validation split of the
trainval tables needs --split val. Tables are read through a window: the whole data set does not take the memory that
the public development kit needs.

Predictions are a submission in the public form: {"meta": {...}, "results": {sample token: [box, ...]}}, boxes in the
global frame, size as width, length, height, rotation as w, x, y, z. The sample tokens must be those of the split, at
most 500 boxes each; velocity alone may be NaN. Streams and --out folders of box3d records are read too: the scene is
called as in nuScenes, the frame is the sample token (a frame record without boxes is an empty sample), boxes are in
the coordinates of the frame's points: global by its world_from_points, or by the tables' LIDAR_TOP pose without one.

Both presets: boxes nearer to the ego vehicle than the range of their class (50 m car, truck, bus, trailer,
construction_vehicle; 40 m pedestrian, motorcycle, bicycle; 30 m traffic_cone, barrier), annotations with at least one
LiDAR or radar point, bicycles and motorcycles outside racks. Predictions by decreasing score, equal scores in reverse
order of the file, take the nearest annotation left within 0.5, 1, 2 and 4 m. AP is over recall above 0.1 and
precision above 0.1; map is the mean over distances and classes. mate, mase, maoe, mave and maae are means over
classes of the errors at 2 m. nds = (5 map + sum of max(0, 1 - error)) / 10. spnds leaves out velocity and attribute:
(5 map + the sum of three) / 8 (Point-DETR3D).

Preset nuscenes equals the public kit: classes that do not occur count with AP 0 and errors 1, predictions of score
exactly 0 do not extend the recall over which errors are averaged, and annotations given as predictions need not score
1. nuscenes-present leaves absent classes out. --ranges scores again only boxes, of both sides, in each range of
distance, which takes the place of the ranges of classes. --pseudo calls nds nds_pseudo and adds, by class and range,
recall and precision at 1 m and 2 m and the share of annotations that got exactly one box; with --min-score X boxes of
a lower score are no labels and are left out of every number. --confusion (ours) matches whatever the classes, the best
score first, centres nearer than 2 m, from the score on at which each class has its largest F1 at 2 m.

Which published numbers compare: mAP and NDS of the nuScenes detection leaderboard and of papers on its validation
split with preset nuscenes and --split val. Numbers of trackers and of the LiDAR-segmentation task do not compare.
"""


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError for options that do not fit."""
    _ranges(request)
    min_score = request.options["min_score"]
    if min_score is not None and not request.options["pseudo"]:
        raise UsageError("--min-score is for labels", hint="pass --pseudo, which calls the numbers as such")
    if min_score is not None and not math.isfinite(min_score):
        raise UsageError(f"--min-score {min_score}: expected a finite number")
    return result_names(request.options["pseudo"])


def run(request: Request) -> Evaluation:
    """Score predicted boxes against the annotations.

    raises  UsageError for options, InputError and FormatError for inputs
    """
    ranges = _ranges(request)
    tables = find_tables(request.gt)
    reader = TableReader(tables)
    warnings: set[tuple[str, str, str]] = set()
    samples = reader.samples(_wanted_scenes(request.options["split"], tables, reader, warnings))
    if not samples.tokens:
        raise InputError("no samples in the scenes that are scored", file=tables)
    annotations = reader.annotations(CLASSES)
    del reader
    predictions = read_predictions(request.predictions, _read_rules(request, samples))
    num_scored = _check_samples(request, samples, predictions, warnings)
    index = {token: number for number, token in enumerate(samples.tokens)}
    boxes = predictions.boxes(index)
    predictions.columns, num_boxes = {}, len(boxes)
    if request.options["min_score"] is not None:
        boxes = boxes.take(boxes.score >= request.options["min_score"])
    boxes = boxes.take(scoring_order(boxes.score))
    ego = samples.ego_center[:, :2]
    truth, racks = _truth(annotations)
    truth, boxes = _outside_racks(truth, racks), _outside_racks(boxes, racks)
    truth_distance, distance = ego_distance(truth, ego), ego_distance(boxes, ego)
    in_ranges = {}
    for name, (low, high) in ranges.items():
        rows = (truth_distance >= low) & (truth_distance < high)
        in_ranges[name] = matched(truth.take(rows), boxes.take((distance >= low) & (distance < high)))
    truth = truth.take(in_class_range(truth, truth_distance))
    boxes = boxes.take(in_class_range(boxes, distance))
    digests = _digests(tables, predictions) if request.has_digest else None
    return evaluation_of(
        Scored(
            found=matched(truth, boxes),
            in_ranges=in_ranges,
            ranges=ranges,
            samples=samples,
            num_boxes=num_boxes,
            num_scored=num_scored,
            request=request,
            warnings=warnings,
            programs=predictions.programs,
            digest_entries=digests,
        )
    )


def _ranges(request: Request) -> dict[str, tuple[float, float]]:
    text = request.options["ranges"]
    return parse_ranges(DEFAULT_RANGES if text is None else text)


def _wanted_scenes(
    split: str | None, tables: Path, reader: TableReader, warnings: set[tuple[str, str, str]]
) -> frozenset[str] | None:
    if split is None:
        return None
    wanted, is_whole = split_scenes(split, tables)
    missing = sorted(wanted - set(reader.scene_names()))
    if len(missing) == len(wanted) or (missing and is_whole):
        raise InputError(f"{named(missing)} of --split {split} not in the tables", file=tables)
    if missing:
        present = len(wanted) - len(missing)
        warnings.add(("partial-split", "", f"the tables hold {present} of the {len(wanted)} scenes of {split}"))
    return wanted


def _read_rules(request: Request, samples: Samples) -> ReadRules:
    seen: list[str] = []

    def progress(scene: str) -> None:
        seen.append(scene)
        request.progress(scene, len(seen), len(samples.scenes))

    return ReadRules(samples, progress, request.has_digest, request.options["allow_truncated"])


def _check_samples(
    request: Request, samples: Samples, predictions: Predictions, warnings: set[tuple[str, str, str]]
) -> int:
    """Compare the samples of both sides; return the number of scenes that have predictions."""
    allow_missing = request.options["allow_missing"]
    try:
        missing = check_partners(
            samples.tokens, predictions.samples, request.gt, allow_missing=allow_missing, what="sample"
        )
    except InputError as error:
        if predictions.failed and "without predictions" in error.message:
            failed = f"{error.message}; {named(sorted(predictions.failed))} failed"
            raise InputError(failed, file=error.file, hint=error.hint) from None
        if "without ground truth" in error.message and request.options["split"] is None:
            error.hint = error.hint or "--split chooses among the scenes of the tables"
        if "without predictions" in error.message and request.options["split"] is None:
            error.hint = f"--split NAME, such as val, scores the scenes of a split; {error.hint}"
        raise
    if missing:
        warnings.add(("missing-sample", "", f"{named(missing, 'sample')} scored without predictions"))
    given = set(predictions.samples)
    has_boxes = np.array([token in given for token in samples.tokens], bool)
    return np.unique(samples.scene[has_boxes]).size


def _truth(annotations: Annotations) -> tuple[Boxes, Racks]:
    """Return the annotations that hold a point, and the racks."""
    columns = dict(annotations.boxes)
    columns["yaw"] = quaternion_yaw(columns.pop("rotation"))
    truth = Boxes(**columns, score=np.zeros(annotations.num_points.size))
    return truth.take(annotations.num_points != 0), Racks(**annotations.racks)


def _outside_racks(boxes: Boxes, racks: Racks) -> Boxes:
    return boxes.take(~in_rack(boxes, racks)) if racks.sample.size else boxes


def _digests(tables: Path, predictions: Predictions) -> tuple[Entries, Entries]:
    return [(f"{name}.json", file_sha256(tables / f"{name}.json")) for name in TABLES], predictions.entries

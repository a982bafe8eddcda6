# SPDX-License-Identifier: Apache-2.0
"""`eval --task instance`: pair scenes with their ground truth and match them; presets are chosen here.

The rules of the numbers are in `metrics/instance_ap.py` and evaluation.md section 1.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np

from pc3dcli.commands.eval_instance_result import InstanceOptions, Scored, evaluation_of
from pc3dcli.commands.eval_instance_result import metric_names as result_names
from pc3dcli.commands.eval_predictions import (
    FolderScene,
    Overlaps,
    PredictionRules,
    StreamScene,
    Truth,
    prediction_scenes,
    scene_files,
)
from pc3dcli.commands.evaluation import Evaluation, Request, named
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats import scannet_aggregation, scannet_instances
from pc3dcli.formats.class_lists import ClassList, grouped_classes, instance_classes
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics import instance_ap
from pc3dcli.metrics.instance_ap import SceneMatches, TruthRule

PRESETS = {
    "scannet": "the 18 instance classes of ScanNet",
    "scannet200": "the 198 instance classes of ScanNet200, with means of head, common and tail",
    "scannetpp": "classes by position in --classes, those of --instance-classes; vertices of --vertex-masks left out",
    "agnostic-segment3d": "one class; every id but 0 is an instance, walls and floors too",
    "agnostic-maskclustering": "one class; ids modulo 1000, so that what is unlabelled is one instance too",
    "agnostic-valid": "one class; only ids whose label is in --classes (scannet200) are instances",
}
OPTIONS = frozenset(
    ("class_agnostic", "scores", "classes", "instance_classes", "vertex_masks", "label_void", "min_region", "recall",
     "size_bins", "matches", "groups", "per_scene", "confusion", "bootstrap", "seed", "allow_missing",
     "allow_truncated")
)  # fmt: skip
MANUAL = """
3D instances of the ScanNet family. AP is the mean over the IoU thresholds 0.50, 0.55, ..., 0.90 (0.95 is not among
them); AP50 and AP25 are those at 0.5 and 0.25, all by the rules of the public ScanNet script: no interpolation, every
threshold strict, unlabelled and small instances ignored.

The first three presets are for predictions with classes, the agnostic ones for masks without, as pc3d-lift3d(1) makes
them; --class-agnostic means agnostic-valid. Agnostic numbers differ so much between presets (on random cases by 0.17
in AP50 on average) that one without its preset says nothing. A stream of 2D masks, as pc3d-track2d(1) writes it,
holds no predictions yet; a scene in which pc3d lift3d found nothing counts as zero predictions.

Ground truth: <scene>.txt, one integer per vertex, label x 1000 + instance, 0 or -100 for none; looked for in the
folder, in its gt/, and in gt/ of each scene folder. Or the annotations of ScanNet, in the folder or in one folder a
scan: <scene>.aggregation.json with <scene>_vh_clean_2.0.010000.segs.json, each instance label x 1000 + objectId + 1
as the public exporter has it. The label is that of the raw category in scannetv2-labels.combined.tsv, which must lie
in the folder or in one of the two above it: its nyu40id, or its id where the classes are those of ScanNet200.

Predictions: streams, --out folders, or a folder of <scene>.txt (a line a mask: path relative to that file, label id,
score; the mask has one integer per vertex, or is a run-length JSON file of ScanNet++), <scene>.npz or
<scene>.safetensors with pred_masks (N x K), pred_scores and pred_classes. Nothing is ever unpickled. Two lines that
name one mask file are one prediction under preset scannet, as in its script, and two under the others.

Published numbers: scannet compares with tables of ScanNet v2 validation, scannet200 with those of ScanNet200 and its
head, common and tail, scannetpp with the ScanNet++ benchmark, agnostic-segment3d with Segment3D, agnostic-
maskclustering with MaskClustering; agnostic-valid is ours and compares with nothing else. With --scores uniform every
mask counts the same, as papers without scores do.
"""
_MERGE = {"agnostic-segment3d": "all", "agnostic-maskclustering": "modulo", "agnostic-valid": "listed"}


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError when an option does not fit the preset."""
    options = instance_options(request)
    return result_names(preset_rule(options)[0], options.recall)


def run(request: Request) -> Evaluation:
    """Score predictions against ground truth.

    raises  UsageError for options that do not fit the preset; InputError and FormatError for inputs
    """
    options, gt = instance_options(request), request.gt
    classes, rule = preset_rule(options)
    if not gt.exists():
        raise InputError("no such file or folder", file=gt)
    run = _Run(gt, scannet_instances.find_truth(gt), classes, rule, options)
    files = scene_files(request.predictions)
    if files is not None:
        run.check_scenes(set(files))
    for number, scene in enumerate(prediction_scenes(request.predictions, files, run.rules), 1):
        run.add(scene)
        request.progress(scene.scene, number, len(run.truth_files))
    return run.finish()


def instance_options(request: Request) -> InstanceOptions:
    """Return the options of this task from those of the command."""
    known = {field.name for field in fields(InstanceOptions)} - {"preset", "label_void"}
    values = {name: value for name, value in request.options.items() if name in known}
    return InstanceOptions(
        preset=request.preset,
        label_void=_labels(request.options.get("label_void")),
        keeps_matches=request.options.get("matches") is not None,
        has_digest=request.has_digest,
        **values,
    )


def _labels(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise UsageError(f"--label-void {text}: expected label ids separated by commas") from None


def preset_rule(options: InstanceOptions) -> tuple[ClassList, TruthRule]:
    """Return the classes of a preset and its rule.

    raises  UsageError when an option does not belong to the preset
    """
    preset, merge = options.preset, _MERGE.get(options.preset)
    takes_classes = preset in ("scannetpp", "agnostic-valid")
    if options.classes is not None and not takes_classes:
        raise UsageError(f"--classes does not apply to preset {preset}, whose classes are fixed")
    if options.instance_classes is not None and options.classes is None:
        raise UsageError("--instance-classes chooses among --classes: pass both")
    if preset == "scannetpp" and (options.classes is None or options.instance_classes is None):
        raise UsageError("preset scannetpp needs --classes FILE and --instance-classes FILE")
    if options.vertex_masks is not None and preset != "scannetpp":
        raise UsageError(f"--vertex-masks applies to preset scannetpp, not to {preset}")
    if options.label_void and not merge:
        raise UsageError(f"--label-void applies to the agnostic presets, not to {preset}")
    source = options.classes or ("scannet" if preset == "scannet" else "scannet200")
    if options.groups is not None and merge:
        raise UsageError(f"--groups means over classes, and {preset} has one")
    classes = instance_classes(source, options.instance_classes)
    if options.groups is not None:
        classes = grouped_classes(classes, options.groups)
    rule = TruthRule(classes.ids, merge, options.label_void, options.min_region)
    return (ClassList(source, (1,), ("object",)) if merge else classes), rule


class _Run:
    """One evaluation in progress; of a finished scene only its matches are kept."""

    def __init__(
        self, gt: Path, truth_files: dict[str, Path], classes: ClassList, rule: TruthRule, options: InstanceOptions
    ) -> None:
        self.gt = gt if gt.is_dir() else gt.parent
        self.truth_files, self.classes, self.rule, self.options = truth_files, classes, rule, options
        self.rules = PredictionRules(
            truth=rule,
            classes=classes,
            keeps_last=options.preset == "scannet",
            is_uniform=options.scores == "uniform",
            has_digest=options.has_digest,
            allow_truncated=options.allow_truncated,
        )
        self.matches: dict[str, SceneMatches] = {}
        self.warnings: set[tuple[str, str, str]] = set()
        self.truth_entries: set[tuple[str, str]] = set()
        self.prediction_entries: dict[str, list[tuple[str, str]]] = {}
        self.programs: dict[str, dict] = {}
        self.failed: set[str] = set()
        self.unlifted: set[str] = set()
        self.extra: set[str] = set()

    def check_scenes(self, names: set[str]) -> None:
        """Compare the scenes of both sides; raises InputError naming up to ten that have no partner."""
        extra = sorted(names - self.truth_files.keys())
        if extra:
            raise InputError(f"{named(extra)} without ground truth", file=self.gt)
        missing = sorted(self.truth_files.keys() - names)
        if missing and not self.options.allow_missing:
            failed = "; their producer failed" if self.failed.issuperset(missing) else ""
            hint = "--allow-missing scores them as scenes without predictions"
            raise InputError(f"{named(missing)} without predictions{failed}", file=self.gt, hint=hint)

    def add(self, scene: FolderScene | StreamScene) -> None:
        """Match one scene."""
        self.programs |= {record["id"]: record for record in scene.programs}
        if scene.scene not in self.truth_files:
            self.extra.add(scene.scene)
            return
        if not scene.is_ok:
            self.failed.add(scene.scene)
            return
        if scene.scene in self.matches and not scene.lines:
            return  # the same scene again with other records: a producer's stream in front of its consumer's
        if scene.needs_lifting:
            self.unlifted.add(scene.scene)
            return
        truth = self._truth(scene.scene)
        overlaps = scene.overlaps(truth)
        self.warnings |= set(overlaps.warnings)
        self.matches[scene.scene] = self._match(truth, overlaps)
        if self.options.has_digest:
            self.prediction_entries[scene.scene] = scene.entries()

    def _match(self, truth: Truth, overlaps: Overlaps) -> SceneMatches:
        return instance_ap.match_scene(
            truth.scene,
            overlaps.table,
            overlaps.class_index,
            overlaps.score,
            num_classes=self.rule.num_classes,
            keep_rows=self.options.keeps_matches,
        )

    def _truth(self, scene: str) -> Truth:
        path = self.truth_files[scene]
        ids = self._read_truth(path)
        num_vertices, keep = ids.size, None
        if self.options.vertex_masks is not None:
            mask_path = scannet_instances.find_vertex_mask(self.options.vertex_masks, scene)
            keep = ~scannet_instances.read_vertex_mask(mask_path, num_vertices)
            self._remember(mask_path, self.options.vertex_masks, "vertex-masks/")
            ids = ids[keep]
        elif self.options.preset == "scannetpp":
            self.warnings.add(("no-vertex-masks", "", "every vertex is scored; --vertex-masks names the mask files"))
        return Truth(instance_ap.scene_truth(ids, self.rule), num_vertices, keep)

    def _read_truth(self, path: Path) -> np.ndarray:
        """Return one id per vertex, from a text file or from the annotations of ScanNet."""
        self._remember(path, self.gt, "")
        if not path.name.endswith(scannet_aggregation.SUFFIX):
            return scannet_instances.read_truth(path)
        self._remember(scannet_aggregation.segments_file(path), self.gt, "")
        return scannet_aggregation.read_instance_ids(path, self.label_ids)

    @cached_property
    def label_ids(self) -> dict[str, int]:
        """The label ids of ScanNet's raw categories, in the numbering of the class list."""
        if self.options.preset == "scannetpp":
            raise InputError("the annotations of ScanNet do not fit preset scannetpp", file=self.gt)
        path = scannet_aggregation.find_label_map(self.gt)
        self._remember(path, path.parent, "")
        column = "id" if self.classes.source == "scannet200" else "nyu40id"
        return scannet_aggregation.read_label_map(path, column)

    def _remember(self, path: Path, root: Path, prefix: str) -> None:
        if self.options.has_digest:
            self.truth_entries.add((prefix + path.relative_to(root).as_posix(), file_sha256(path)))

    def finish(self) -> Evaluation:
        """Score what was added; scenes without predictions count as such under --allow-missing."""
        scored = set(self.matches)
        unlifted = sorted(self.unlifted - scored)
        if unlifted:
            raise InputError(f"{named(unlifted)} with 2D masks but no 3D instances", hint="run `pc3d lift3d` first")
        self.check_scenes(scored | self.extra)
        for scene in sorted(self.truth_files.keys() - scored):
            truth = self._truth(scene)
            none = np.zeros(0, np.int64)
            table = np.zeros((0, truth.scene.ids.size + 2), np.int64)
            self.matches[scene] = self._match(truth, Overlaps(table, none, none.astype(np.float64)))
            code = "failed-scene" if scene in self.failed else "missing-scene"
            self.warnings.add((code, scene, "scored as a scene without predictions"))
        predictions = [entry for part in self.prediction_entries.values() for entry in part]
        return evaluation_of(
            Scored(
                scenes=dict(sorted(self.matches.items())),
                num_scored=len(scored),
                classes=self.classes,
                rule=self.rule,
                options=self.options,
                warnings=self.warnings,
                programs=list(self.programs.values()),
                digest_entries=(sorted(self.truth_entries), predictions),
            )
        )

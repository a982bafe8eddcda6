# SPDX-License-Identifier: Apache-2.0
"""`eval --task instance`: pair scenes with their ground truth and match them; presets are chosen here.

The rules of the numbers are in `metrics/instance_ap.py` and evaluation.md section 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.commands.eval_instance_result import Scored, evaluation_of
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
from pc3dcli.commands.evaluation import Evaluation, Request, check_partners, named
from pc3dcli.commands.pairing import Pairing
from pc3dcli.datasets.instance_truth import InstanceTruth
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats import scannet_instances
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

The agnostic presets also take, as pc3d finds scans, ScanNet++ (scans/segments_anno.json and segments.json), S3DIS
(Annotations/<class>_<number>.txt), Replica (the faces of habitat/mesh_semantic.ply and info_semantic.json) and PLY
files whose points have instance_id, negative for none, or instance, 0 or negative for none. Their classes are names,
of PLY files the number label: agnostic-valid counts those that --classes lists, so for S3DIS give a list of its names.

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
    return result_names(preset_rule(request)[0], request.options["recall"])


def run(request: Request) -> Evaluation:
    """Score predictions against ground truth.

    raises  UsageError for options that do not fit the preset; InputError and FormatError for inputs
    """
    classes, rule = preset_rule(request)
    if not request.gt.exists():
        raise InputError("no such file or folder", file=request.gt)
    run = _Run(request, classes, rule)
    files = scene_files(request.predictions)
    if files is not None:
        _check_files(files, run.pairing)
    for number, scene in enumerate(prediction_scenes(request.predictions, files, run.rules), 1):
        run.add(scene)
        request.progress(scene.scene, number, len(run.truth.files))
    return run.finish()


def _check_files(files: dict[str, Path], pairing: Pairing) -> None:
    """Compare the scenes of a folder with the ground truth; raises InputError, with a hint for masks among them."""
    try:
        check_partners(pairing.truth, files, pairing.gt, allow_missing=pairing.allow_missing)
    except InputError as error:
        extra = [path for name, path in sorted(files.items()) if name not in pairing.truth]
        if extra and scannet_instances.looks_like_mask(extra[0]):
            error.hint = f"{extra[0].name} looks like a mask: put masks into a subfolder, files beside lists are scenes"
        raise


def preset_rule(request: Request) -> tuple[ClassList, TruthRule]:
    """Return the classes of a preset and its rule.

    raises  UsageError when an option does not belong to the preset
    """
    preset, options, merge = request.preset, request.options, _MERGE.get(request.preset)
    _check_options(preset, options)
    source = options["classes"] or ("scannet" if preset == "scannet" else "scannet200")
    classes = instance_classes(source, options["instance_classes"])
    if options["groups"] is not None:
        classes = grouped_classes(classes, options["groups"])
    rule = TruthRule(classes.ids, merge, _labels(options["label_void"]), options["min_region"])
    return (ClassList(source, (1,), ("object",)) if merge else classes), rule


def _check_options(preset: str, options: dict) -> None:
    """Refuse options that do not belong to the preset."""
    is_merged = preset in _MERGE
    if options["classes"] is not None and preset not in ("scannetpp", "agnostic-valid"):
        raise UsageError(f"--classes does not apply to preset {preset}, whose classes are fixed")
    if options["instance_classes"] is not None and options["classes"] is None:
        raise UsageError("--instance-classes chooses among --classes: pass both")
    if preset == "scannetpp" and (options["classes"] is None or options["instance_classes"] is None):
        raise UsageError("preset scannetpp needs --classes FILE and --instance-classes FILE")
    if options["vertex_masks"] is not None and preset != "scannetpp":
        raise UsageError(f"--vertex-masks applies to preset scannetpp, not to {preset}")
    if _labels(options["label_void"]) and not is_merged:
        raise UsageError(f"--label-void applies to the agnostic presets, not to {preset}")
    if options["groups"] is not None and is_merged:
        raise UsageError(f"--groups means over classes, and {preset} has one")


def _labels(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise UsageError(f"--label-void {text}: expected label ids separated by commas") from None


class _Run:
    """One evaluation in progress; of a finished scene only its matches are kept."""

    def __init__(self, request: Request, classes: ClassList, rule: TruthRule) -> None:
        """Find the ground truth; raises InputError without, and where the preset cannot use it."""
        self.request, self.classes, self.rule = request, classes, rule
        named = instance_classes(request.options["classes"] or "scannet200", request.options["instance_classes"])
        label_ids = {name.lower(): number for name, number in zip(named.names, named.ids, strict=True)}
        self.truth = InstanceTruth(request.gt, "id" if classes.source == "scannet200" else "nyu40id", label_ids)
        if self.truth.by_name and not rule.merge:
            hint = "the agnostic presets can be used"
            raise InputError(f"preset {request.preset} needs <scene>.txt", file=request.gt, hint=hint)
        gt = request.gt if request.gt.is_dir() else request.gt.parent
        self.pairing = Pairing(self.truth.files.keys(), gt, request.options["allow_missing"])
        self.rules = PredictionRules(
            truth=rule,
            classes=classes,
            keeps_last=request.preset == "scannet",
            is_uniform=request.options["scores"] == "uniform",
            has_digest=request.has_digest,
            allow_truncated=request.options["allow_truncated"],
        )
        self.matches: dict[str, SceneMatches] = {}
        self.unlifted: set[str] = set()
        self.warnings: set[tuple[str, str, str]] = set()
        self.entries: tuple[set[tuple[str, str]], list[tuple[str, str]]] = set(), []  # of truth and predictions

    def add(self, scene: FolderScene | StreamScene) -> None:
        """Match one scene."""
        if not self.pairing.accepts(scene.scene, is_ok=scene.is_ok, programs=scene.programs):
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
        self.pairing.scored.add(scene.scene)
        if self.request.has_digest:
            self.entries[1].extend(scene.entries())

    def _match(self, truth: Truth, overlaps: Overlaps) -> SceneMatches:
        return instance_ap.match_scene(
            truth.scene,
            overlaps.table,
            overlaps.class_index,
            overlaps.score,
            num_classes=self.rule.num_classes,
            keep_rows=self.request.options["matches"] is not None,
        )

    def _truth(self, scene: str) -> Truth:
        if self.request.preset == "scannetpp" and self.truth.is_scannet(scene):
            raise InputError("the annotations of ScanNet do not fit preset scannetpp", file=self.request.gt)
        ids = self.truth.ids(scene)
        self._remember(self.truth.digest_files(scene))
        num_vertices, keep = ids.size, None
        masks = self.request.options["vertex_masks"]
        if masks is not None:
            path = scannet_instances.find_vertex_mask(masks, scene)
            keep = ~scannet_instances.read_vertex_mask(path, num_vertices)
            self._remember({f"vertex-masks/{path.relative_to(masks).as_posix()}": path})
            ids = ids[keep]
        elif self.request.preset == "scannetpp":
            self.warnings.add(("no-vertex-masks", "", "every vertex is scored; --vertex-masks names the mask files"))
        return Truth(instance_ap.scene_truth(ids, self.rule), num_vertices, keep)

    def _remember(self, files: dict[str, Path]) -> None:
        """Keep what was read of the ground truth for its digest, where it is wanted."""
        if self.request.has_digest:
            self.entries[0].update((name, file_sha256(path)) for name, path in files.items())

    def finish(self) -> Evaluation:
        """Score what was added; scenes without predictions count as such under --allow-missing."""
        unlifted = sorted(self.unlifted - self.pairing.scored)
        if unlifted:
            raise InputError(f"{named(unlifted)} with 2D masks but no 3D instances", hint="run `pc3d lift3d` first")
        missing = self.pairing.missing()
        for scene in missing:
            truth = self._truth(scene)
            none = np.zeros(0, np.int64)
            table = np.zeros((0, truth.scene.ids.size + 2), np.int64)
            self.matches[scene] = self._match(truth, Overlaps(table, none, none.astype(np.float64)))
        return evaluation_of(
            Scored(
                scenes=dict(sorted(self.matches.items())),
                num_scored=len(self.pairing.scored),
                classes=self.classes,
                rule=self.rule,
                about=PRESETS[self.request.preset],
                request=self.request,
                warnings=self.warnings | self.pairing.warnings_of(missing),
                programs=list(self.pairing.programs.values()),
                digest_entries=(sorted(self.entries[0]), self.entries[1]),
            )
        )

# SPDX-License-Identifier: Apache-2.0
"""`eval --task semantic`: labels of vertices against ground truth; presets are chosen here.

The rules of the numbers are in `metrics/miou.py` and evaluation.md section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pc3dcli.commands.eval_semantic_predictions import FileLabels, StreamLabels, label_files, stream_labels
from pc3dcli.commands.evaluation import Evaluation, Request, check_partners
from pc3dcli.commands.label_scores import LabelScores, evaluation_of, keep_freed_memory
from pc3dcli.commands.label_scores import metric_names as result_names
from pc3dcli.commands.pairing import Pairing
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import scannet_aggregation, semantic_labels
from pc3dcli.formats.class_lists import ClassList, grouped_classes, semantic_classes
from pc3dcli.formats.scannet_instances import find_vertex_mask, read_vertex_mask
from pc3dcli.metrics import miou

PRESETS = {
    "scannet": "the 20 classes of ScanNet, NYU40 ids",
    "scannet200": "the 200 classes of ScanNet200, with means of head, common and tail",
    "scannetpp": "classes by position in --classes, up to three labels a vertex, top-1 and top-3",
}
OPTIONS = frozenset(
    ("classes", "vertex_masks", "groups", "per_scene", "confusion", "bootstrap", "seed", "allow_missing",
     "allow_truncated")
)  # fmt: skip
MANUAL = """\
Files hold one label id a vertex and are called as the scene, <scene>.txt. Ground truth may also be a folder of
ScanNet scans with <scene>_vh_clean_2.labels.ply (preset scannet; those files hold NYU40 ids), or with
<scene>.aggregation.json, the segs.json it belongs to and scannetv2-labels.combined.tsv (both presets of ScanNet).
Predictions may be a stream or an --out folder with one labels3d record of kind semantic a scene: one label a point,
or a row of several, best first; label ids, or positions in the record's own classes, which are names.

Presets scannet and scannet200: vertices whose ground truth is not in the list of classes are not scored. A
prediction outside the list is a miss for the true class and a false positive for no class. The IoU of a class is tp
/ (tp + fp + fn) over all scenes together, never a mean of scenes; miou is the mean over the classes that occur in
ground truth or predictions. The public evaluate_semantic_label.py stops with a type error where a class does not
occur; here the class is undefined and left out. macc is the mean over classes with ground truth of tp / (tp + fn),
oa the share of vertices with the right class. scannet200 adds head_, common_ and tail_ means over all 200 classes,
wall and floor included, as its authors do.

Preset scannetpp: ground truth has up to three labels a vertex, separated by commas, -100 for none; predictions have
one or three, best first. Vertices that --vertex-masks lists are left out, then those without a label of the list.
For top-k (k = 1, 3) the first of the k guesses that is any label of the vertex makes the pair (label, label);
without a hit the pair is (first label, first guess). Labels are positions in --classes, from 0. A prediction
outside the list is an error, as is a vertex without hit whose first label is none: the public code fails on both.
One guess a vertex counts as all three.

Which published numbers compare: mIoU of the ScanNet and ScanNet200 benchmarks (validation split) with scannet and
scannet200; Top-1 and Top-3 mIoU of ScanNet++ with scannetpp. Numbers that were measured on voxels or on subsampled
points do not compare: labels have to be carried to the vertices of the mesh first. Papers on ScanNet that report
mAcc divide by the vertices of each class, as macc does.
"""


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows; raises UsageError when an option does not fit the preset."""
    return result_names(_scores(request))


def run(request: Request) -> Evaluation:
    """Score predicted labels against ground truth.

    raises  UsageError for options that do not fit the preset; InputError and FormatError for inputs
    """
    scores = _scores(request)
    if not request.gt.exists():
        raise InputError("no such file or folder", file=request.gt)
    truth = semantic_labels.find_label_files(request.gt)
    pairing = Pairing(truth.keys(), request.gt, request.options["allow_missing"])
    scorer = _TopScorer(request, scores) if request.preset == "scannetpp" else _Scorer(request, scores)
    keep_freed_memory()
    for number, found in enumerate(_predictions(request, pairing, scorer.classes), 1):
        is_taken = pairing.accepts(found.scene, is_ok=found.is_ok, programs=found.programs)
        if is_taken and found.has_labels:  # a stream may name a scene again, with other records
            scorer.add(found.scene, truth[found.scene], found)
            pairing.scored.add(found.scene)
        request.progress(found.scene, number, len(truth))
    missing = pairing.missing()
    for scene in missing:
        scorer.add(scene, truth[scene], None)
    scores.counts = dict(sorted(scores.counts.items()))
    scores.warnings |= pairing.warnings_of(missing)
    scores.num_scored, scores.programs = len(pairing.scored), list(pairing.programs.values())
    options = {
        "classes": scorer.classes.source,
        "groups": request.options["groups"] and request.options["groups"].name,
        "vertex_masks": request.options["vertex_masks"] is not None,
    }
    return evaluation_of(scores, request, options, _footnote(request, scores))


def _predictions(request: Request, pairing: Pairing, classes: ClassList) -> Iterator[FileLabels | StreamLabels]:
    """Yield the scenes of the predictions; those of a folder are compared with the ground truth before any is read."""
    files = label_files(request.predictions)
    if files is None:
        is_cut = request.options["allow_truncated"]
        yield from stream_labels(request.predictions, classes, allow_truncated=is_cut)
        return
    check_partners(pairing.truth, files, request.gt, allow_missing=pairing.allow_missing)
    yield from (FileLabels(scene, path) for scene, path in files.items())


def preset_classes(request: Request) -> ClassList:
    """Return the classes of a preset, in the groups of --groups.

    raises  UsageError when an option does not belong to the preset, FormatError for a malformed list
    """
    preset, options = request.preset, request.options
    if preset == "scannetpp" and options["classes"] is None:
        raise UsageError("preset scannetpp needs --classes FILE, one class a line")
    for name in ("classes", "vertex_masks"):
        if preset != "scannetpp" and options[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')} applies to preset scannetpp, not to {preset}")
    classes = semantic_classes(options["classes"] or preset)
    return classes if options["groups"] is None else grouped_classes(classes, options["groups"])


def _scores(request: Request) -> LabelScores:
    classes = preset_classes(request)
    kinds = ("_top1", "_top3") if request.preset == "scannetpp" else ("",)
    return LabelScores("semantic", classes.names, classes.groups, _summary, kinds)


def _summary(counts: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "miou": miou.mean_defined(miou.class_iou(counts)),
        "macc": miou.mean_defined(miou.class_accuracy(counts)),
        "oa": miou.overall_accuracy(counts),
    }


class _Scorer:
    """Presets scannet and scannet200: one label a vertex."""

    def __init__(self, request: Request, scores: LabelScores) -> None:
        self.request, self.scores = request, scores
        self.classes = preset_classes(request)
        self.table = miou.label_table(self.classes.ids)
        self.root = request.gt if request.gt.is_dir() else request.gt.parent
        column = "id" if request.preset == "scannet200" else "nyu40id"
        self.annotations = scannet_aggregation.Annotations(self.root, column)

    def add(self, scene: str, path: Path, found: FileLabels | StreamLabels | None) -> None:
        """Count one scene; without a prediction every vertex is missed."""
        truth = self._truth(path)
        prediction = np.zeros(truth.size, np.int64) - 1
        if found is not None:
            prediction = found.labels()
            _check_size(len(prediction), truth.size, found)
            _remember(self.scores, self.request, found)
        table = miou.label_confusion(truth, prediction, self.table, len(self.classes.ids))
        self.scores.add(scene, [table], truth.size if found is not None else 0)

    def _truth(self, path: Path) -> np.ndarray:
        """Return one label id per vertex, from a text file, a label mesh or the annotations of ScanNet."""
        if path.name.endswith(scannet_aggregation.SUFFIX):
            self.scores.truth_files |= self.annotations.files(path)
            return self.annotations.instance_ids(path) // 1000
        if path.suffix == ".ply" and self.request.preset != "scannet":
            raise InputError("label meshes hold NYU40 ids", file=path, hint="export <scene>.txt with ScanNet200 ids")
        self.scores.truth_files[path.relative_to(self.root).as_posix()] = path
        return semantic_labels.read_labels(path)


class _TopScorer:
    """Preset scannetpp: several labels and one or three guesses a vertex."""

    def __init__(self, request: Request, scores: LabelScores) -> None:
        self.request, self.scores = request, scores
        self.classes = preset_classes(request)
        self.root = request.gt if request.gt.is_dir() else request.gt.parent
        if request.options["vertex_masks"] is None:
            detail = "every vertex is scored; --vertex-masks names the mask files"
            scores.warnings.add(("no-vertex-masks", "", detail))

    def add(self, scene: str, path: Path, found: FileLabels | StreamLabels | None) -> None:
        """Count one scene; without a prediction every vertex is missed."""
        num_classes = len(self.classes.ids)
        if path.name.endswith((scannet_aggregation.SUFFIX, semantic_labels.LABEL_MESH)):
            raise InputError("the annotations of ScanNet do not fit preset scannetpp", file=path)
        truth = semantic_labels.read_label_table(path)
        self.scores.truth_files[path.relative_to(self.root).as_posix()] = path
        if found is None:
            truth, guesses = _first_labels(truth, num_classes), np.full((len(truth), 1), num_classes)
        else:
            guesses = self._guesses(found, len(truth))
            _remember(self.scores, self.request, found)
        keep = self._scored_vertices(scene, len(truth))
        tables = []
        for k in (1, 3):
            label, guess, point = miou.any_label_pairs(truth[keep], guesses[keep, :k], num_classes)
            is_none = (label < 0) | (label >= num_classes)
            if is_none.any():
                line = int(keep[point[np.argmax(is_none)]]) + 1
                problem = f"first label is {truth[line - 1, 0]} and no guess hits another; expected a class there"
                raise FormatError(problem, file=path, line=line)
            tables.append(miou.confusion(label, guess, num_classes))
        self.scores.add(scene, tables, len(truth) if found is not None else 0)

    def _guesses(self, found: FileLabels | StreamLabels, num_vertices: int) -> np.ndarray:
        guesses = found.guesses()
        if guesses.shape[1] not in (1, 3):
            raise found.fault(f"{guesses.shape[1]} labels a vertex, expected 1 or 3")
        wrong = ((guesses < 0) | (guesses >= len(self.classes.ids))).any(axis=1)
        if wrong.any():
            vertex = int(np.argmax(wrong))
            problem = f"found {guesses[vertex].tolist()}, expected labels from 0 to {len(self.classes.ids) - 1}"
            raise found.fault(problem, vertex)
        _check_size(len(guesses), num_vertices, found)
        return guesses

    def _scored_vertices(self, scene: str, num_vertices: int) -> np.ndarray:
        """Return the (M,) vertices that are scored."""
        folder = self.request.options["vertex_masks"]
        if folder is None:
            return np.arange(num_vertices)
        path = find_vertex_mask(folder, scene)
        self.scores.truth_files[f"vertex-masks/{path.relative_to(folder).as_posix()}"] = path
        return np.flatnonzero(~read_vertex_mask(path, num_vertices))


def _remember(scores: LabelScores, request: Request, found: FileLabels | StreamLabels) -> None:
    """Keep what was read for the digest, where it is wanted."""
    if request.has_digest:
        scores.prediction_entries += found.entries()


def _first_labels(truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (N, 1) the first label of each vertex that is a class of the list."""
    column = ((truth >= 0) & (truth < num_classes)).argmax(axis=1)
    return truth[np.arange(len(truth)), column][:, None]


def _check_size(count: int, expected: int, found: FileLabels | StreamLabels) -> None:
    if count != expected:
        raise found.fault(f"{count} vertices, expected {expected} as in the ground truth")


def _footnote(request: Request, scores: LabelScores) -> str:
    return (
        f"{request.preset}: {PRESETS[request.preset]}; IoU over all scenes together\n"
        f"ignored {scores.num_ignored} of {scores.num_points} predicted vertices: no class of the list is true there"
    )

# SPDX-License-Identifier: Apache-2.0
"""`eval --task instance`: pair scenes with their ground truth, score them, and put the result together.

The rules of the numbers are in `metrics/instance_ap.py` and evaluation.md section 1; presets are chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc3dcli import __version__
from pc3dcli.commands.eval_predictions import (
    FolderScene,
    Overlaps,
    PredictionRules,
    StreamScene,
    Truth,
    prediction_scenes,
    scene_files,
)
from pc3dcli.errors import InputError, UsageError
from pc3dcli.formats import scannet_instances
from pc3dcli.formats.class_lists import ClassList, instance_classes
from pc3dcli.formats.result_json import SCHEMA, digest, file_sha256
from pc3dcli.metrics import instance_ap, instance_extras
from pc3dcli.metrics.instance_ap import AT_25, AT_50, OVER_50, SceneMatches, TruthRule, mean_or_none

# preset -> how classes are merged; the three that keep classes differ in their lists
PRESETS = {
    "scannet": None,
    "scannet200": None,
    "scannetpp": None,
    "agnostic-segment3d": "all",
    "agnostic-maskclustering": "modulo",
    "agnostic-valid": "listed",
}
MAX_NAMED = 10  # missing scenes named in a message
FEW_SCENES = 10  # below it bootstrap intervals are unreliable; ours
_COLUMNS = {"": OVER_50, "50": [AT_50], "25": [AT_25]}


@dataclass(frozen=True)
class InstanceOptions:
    """The options of `eval --task instance` that change a number or add one."""

    preset: str = "scannet"
    classes: str | None = None
    instance_classes: Path | None = None
    vertex_masks: Path | None = None
    label_void: tuple[int, ...] = ()
    scores: str = "model"  # or "uniform"
    min_region: int = 100  # vertices
    recall: bool = False
    per_scene: bool = False
    size_bins: bool = False
    confusion: bool = False
    bootstrap: int = 0  # resamples
    seed: int = 0
    allow_missing: bool = False
    allow_truncated: bool = False
    keeps_matches: bool = False
    has_digest: bool = False


@dataclass
class Evaluation:
    """A finished evaluation.

    result      the object of `result.json`
    num_scored  scenes that had predictions
    matches     lines of --matches
    programs    program records of the input
    """

    result: dict
    num_scored: int
    matches: list[dict] = field(default_factory=list)
    programs: list[dict] = field(default_factory=list)

    @property
    def warnings(self) -> list[dict]:
        return self.result["warnings"]


def evaluate_instances(
    predictions: list[str], gt: Path, options: InstanceOptions, report: Callable[[str, int, int], None] | None = None
) -> Evaluation:
    """Score predictions against ground truth.

    predictions  streams ("-", files, --out folders), or one folder in a public format
    report       report(scene, number, count) follows the scenes as they are read
    raises       UsageError for options that do not fit the preset; InputError and FormatError for inputs
    """
    classes, rule = preset_rule(options)
    if not gt.exists():
        raise InputError("no such file or folder", file=gt)
    run = _Run(gt, scannet_instances.find_truth(gt), classes, rule, options)
    files = scene_files(predictions)
    if files is not None:
        run.check_scenes(set(files))
    for number, scene in enumerate(prediction_scenes(predictions, files, run.rules), 1):
        run.add(scene)
        if report is not None:
            report(scene.scene, number, len(run.truth_files))
    return run.finish()


def preset_rule(options: InstanceOptions) -> tuple[ClassList, TruthRule]:
    """Return the classes of a preset and its rule.

    raises  UsageError when an option does not belong to the preset
    """
    preset, merge = options.preset, PRESETS[options.preset]
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
    classes = instance_classes(source, options.instance_classes)
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
            raise InputError(f"{_named(extra)} without ground truth", file=self.gt)
        missing = sorted(self.truth_files.keys() - names)
        if missing and not self.options.allow_missing:
            failed = "; their producer failed" if self.failed.issuperset(missing) else ""
            hint = "--allow-missing scores them as scenes without predictions"
            raise InputError(f"{_named(missing)} without predictions{failed}", file=self.gt, hint=hint)

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
        ids = scannet_instances.read_truth(path)
        self._remember(path, self.gt, "")
        num_vertices, keep = ids.size, None
        if self.options.vertex_masks is not None:
            mask_path = _vertex_mask_file(self.options.vertex_masks, scene)
            keep = ~scannet_instances.read_vertex_mask(mask_path, num_vertices)
            self._remember(mask_path, self.options.vertex_masks, "vertex-masks/")
            ids = ids[keep]
        elif self.options.preset == "scannetpp":
            self.warnings.add(("no-vertex-masks", "", "every vertex is scored; --vertex-masks names the mask files"))
        return Truth(instance_ap.scene_truth(ids, self.rule), num_vertices, keep)

    def _remember(self, path: Path, root: Path, prefix: str) -> None:
        if self.options.has_digest:
            self.truth_entries.add((prefix + path.relative_to(root).as_posix(), file_sha256(path)))

    def finish(self) -> Evaluation:
        """Score what was added; scenes without predictions count as such under --allow-missing."""
        scored = set(self.matches)
        unlifted = sorted(self.unlifted - scored)
        if unlifted:
            raise InputError(f"{_named(unlifted)} with 2D masks but no 3D instances", hint="run `pc3d lift3d` first")
        self.check_scenes(scored | self.extra)
        for scene in sorted(self.truth_files.keys() - scored):
            truth = self._truth(scene)
            none = np.zeros(0, np.int64)
            table = np.zeros((0, truth.scene.ids.size + 2), np.int64)
            self.matches[scene] = self._match(truth, Overlaps(table, none, none.astype(np.float64)))
            code = "failed-scene" if scene in self.failed else "missing-scene"
            self.warnings.add((code, scene, "scored as a scene without predictions"))
        scenes = dict(sorted(self.matches.items()))
        return Evaluation(
            result=self._result(scenes),
            num_scored=len(scored),
            matches=list(self._match_lines(scenes)),
            programs=list(self.programs.values()),
        )

    def _result(self, scenes: dict[str, SceneMatches]) -> dict:
        kept = list(scenes.values())
        scores = instance_ap.class_scores(kept, self.rule.num_classes)
        num_ignored = sum(scene.num_ignored for scene in kept)
        num_predictions = sum(scene.num_predictions for scene in kept)
        if all(scene.score.size == 0 for scene in kept):
            why = "every prediction was dropped or ignored" if num_predictions else "there are no predictions"
            self.warnings.add(("no-prediction-counts", "", why))
        result = {
            "schema": SCHEMA,
            "task": "instance",
            "preset": self.options.preset,
            "tool_version": __version__,
            "options": self._options(),
            "inputs": {"scenes": len(kept), "gt_digest": None, "pred_digest": None},
            "metrics": summary(scores, self.classes, self.options.recall),
            "per_class": self._per_class(scores),
            "counts": {
                "gt": int(scores.num_truth.sum()),
                "pred": num_predictions,
                "ignored_pred": num_ignored,
                "classes": self.rule.num_classes,
                "undefined_classes": int((scores.num_truth == 0).sum()),
            },
        }
        if self.options.has_digest:
            result["inputs"]["gt_digest"] = digest(self.truth_entries)
            entries = [entry for part in self.prediction_entries.values() for entry in part]
            result["inputs"]["pred_digest"] = digest(entries)
        result |= self._extras(scenes)
        result["warnings"] = [{"code": c, "file": f, "detail": d} for c, f, d in sorted(self.warnings)]
        return result

    def _options(self) -> dict:
        """Every option that changes a number."""
        options, rule = self.options, self.rule
        return {
            "allow_missing": options.allow_missing,
            "bootstrap": options.bootstrap,
            "classes": self.classes.source,
            "instance_classes": options.instance_classes and options.instance_classes.name,
            "label_void": list(rule.void_labels),
            "min_region": rule.min_region,
            "scores": options.scores,
            "seed": options.seed if options.bootstrap else None,
            "vertex_masks": options.vertex_masks is not None,
        }

    def _per_class(self, scores: instance_ap.ClassScores) -> dict[str, dict]:
        rows = {}
        for index, name in enumerate(self.classes.names):
            rows[name] = _means(scores.ap[[index]], "ap")
            rows[name] |= _means(scores.recall[[index]], "rc") if self.options.recall else {}
            rows[name]["gt"] = int(scores.num_truth[index])
        return rows

    def _extras(self, scenes: dict[str, SceneMatches]) -> dict:
        kept, extras = list(scenes.values()), {}
        if self.options.per_scene:
            extras["per_scene"] = {}
            for name, scene in scenes.items():
                scores = instance_ap.class_scores([scene], self.rule.num_classes)
                extras["per_scene"][name] = summary(scores, self.classes, self.options.recall)
        if self.options.size_bins:
            extras["size_bins"] = instance_extras.recall_by_size(kept)
        if self.options.confusion:
            table = instance_extras.confusion(kept, self.rule.num_classes)
            names = [*self.classes.names, None]  # None: missed, or on nothing
            extras["confusion"] = [
                {"gt": names[i], "pred": names[j], "count": int(table[i, j])} for i, j in np.argwhere(table).tolist()
            ]
        if self.options.bootstrap:
            extras["intervals"] = self._intervals(kept)
        return extras

    def _intervals(self, scenes: list[SceneMatches]) -> dict[str, list[float | None]]:
        """Return the bootstrap intervals, null for a single scene: each resample would be that scene."""
        if len(scenes) == 1:
            self.warnings.add(("one-scene", "", "an interval over one scene has no meaning"))
            return {"ap" + suffix: [None, None] for suffix in _COLUMNS}
        if len(scenes) < FEW_SCENES:
            self.warnings.add(("few-scenes", "", f"an interval over {len(scenes)} scenes is unreliable"))
        rng = np.random.default_rng(self.options.seed)
        return instance_extras.bootstrap_intervals(scenes, self.rule.num_classes, self.options.bootstrap, rng)

    def _match_lines(self, scenes: dict[str, SceneMatches]) -> Iterator[dict]:
        for name, scene in scenes.items():
            for row in scene.rows:
                yield {
                    "scene": name,
                    "class": self.classes.names[row.class_index],
                    "threshold": round(float(instance_ap.THRESHOLDS[row.threshold]), 2),
                    "gt": row.truth_id if row.truth_id >= 0 else None,
                    "prediction": row.prediction if row.prediction >= 0 else None,
                    "iou": row.iou,
                    "outcome": instance_ap.OUTCOMES[row.outcome],
                }


def summary(scores: instance_ap.ClassScores, classes: ClassList, has_recall: bool) -> dict[str, float | None]:
    """Return the flat metrics: means over classes, and over the groups of the list if it has any."""
    metrics = _means(scores.ap, "ap")
    if has_recall:
        metrics |= _means(scores.recall, "rc")
    for group in sorted(set(classes.groups)):
        members = [index for index, name in enumerate(classes.groups) if name == group]
        metrics |= _means(scores.ap[members], f"{group}_ap")
    return metrics


def metric_names(classes: ClassList, has_recall: bool) -> list[str]:
    """Return the names that `summary` will give."""
    kinds = ["ap", *(["rc"] if has_recall else []), *(f"{group}_ap" for group in sorted(set(classes.groups)))]
    return [kind + suffix for kind in kinds for suffix in _COLUMNS]


def _means(values: np.ndarray, name: str) -> dict[str, float | None]:
    return {name + suffix: mean_or_none(values[:, columns]) for suffix, columns in _COLUMNS.items()}


def _named(scenes: list[str]) -> str:
    more = f" and {len(scenes) - MAX_NAMED} more" if len(scenes) > MAX_NAMED else ""
    return f"{len(scenes)} scene{'s' * (len(scenes) > 1)} ({', '.join(scenes[:MAX_NAMED])}{more})"


def _vertex_mask_file(folder: Path, scene: str) -> Path:
    tried = (f"{scene}.txt", f"{scene}/scans/mesh_aligned_0.05_mask.txt")
    for name in tried:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"no vertex mask of scene {scene}; tried {' and '.join(tried)}", file=folder)

# SPDX-License-Identifier: Apache-2.0
"""Where `eval --task instance` takes predictions from: a stream, an `--out` folder, or a folder in a public format.

Every source yields one scene at a time; a scene is asked for its overlaps with the ground truth once that is read, so
that masks are decoded one by one and never held together (but for the one array of an `.npz`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Entries
from pc3dcli.commands.inputs import holds_stream, stream_entry, stream_scenes
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import scannet_instances
from pc3dcli.formats.class_lists import ClassList
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics.instance_ap import SceneTruth, TruthRule
from pc3dcli.stream.reader import Line, SceneRecords


@dataclass(frozen=True)
class PredictionRules:
    """What of the options decides how predictions are read.

    keeps_last  two lines that name one mask are one prediction: position of the first, label and score of the last
    is_uniform  every score is 1
    has_digest  the digests of what was read are wanted
    """

    truth: TruthRule
    classes: ClassList
    keeps_last: bool
    is_uniform: bool
    has_digest: bool
    allow_truncated: bool


@dataclass
class Overlaps:
    """Predictions of one scene against its ground truth, rows in file order.

    table (P, G+2) int64, class_index (P,) int64, score (P,) float64; warnings of (code, file, detail)
    """

    table: np.ndarray
    class_index: np.ndarray
    score: np.ndarray
    warnings: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Truth:
    """Ground truth of one scene as predictions see it: keep (N,) bool, None when every vertex is scored."""

    scene: SceneTruth
    num_vertices: int
    keep: np.ndarray | None

    def overlaps(self, mask: np.ndarray) -> np.ndarray:
        """Return the vertices that a mask (N,) shares with each instance, see `SceneTruth.overlaps`."""
        return self.scene.overlaps(mask if self.keep is None else mask[self.keep])


class FolderScene:
    """A scene of a folder in a public format."""

    needs_lifting = False

    def __init__(self, scene: str, path: Path, rules: PredictionRules) -> None:
        self.scene, self.path, self.rules, self.is_ok = scene, path, rules, True
        self.programs: list[dict] = []  # such a folder does not say who made it
        self._files = {path.name: path}

    def overlaps(self, truth: Truth) -> Overlaps:
        """Read the predictions; raises FormatError and InputError naming the file at fault."""
        if self.path.suffix != ".txt":
            return self._arrays(truth)
        folder = self.path.parent
        listed = scannet_instances.read_prediction_list(self.path, folder)
        warnings = []
        if self.rules.keeps_last:
            last = {item.name: item for item in listed}  # a dict keeps the position of the first
            warnings = _duplicate_warnings(listed, self.path)
            listed = list(last.values())
        labels = np.array([item.label_id for item in listed], np.int64)
        class_index = self.rules.truth.class_index(labels)
        table = np.zeros((len(listed), truth.scene.ids.size + 2), np.int64)
        for row, item in enumerate(listed):
            self._files[item.name] = item.path
            if class_index[row] >= 0:
                table[row] = truth.overlaps(scannet_instances.read_mask(item.path, truth.num_vertices))
        score = np.array([item.score for item in listed], np.float64)
        return Overlaps(table, class_index, self._scores(score), warnings)

    def _arrays(self, truth: Truth) -> Overlaps:
        arrays = scannet_instances.read_mask_arrays(self.path, truth.num_vertices)
        labels = arrays.label_ids
        if labels is None:
            if not self.rules.truth.merge:
                raise FormatError("holds no pred_classes", file=self.path, hint="pass --class-agnostic")
            labels = np.zeros(arrays.scores.size, np.int64)
        masks = arrays.masks if truth.keep is None else arrays.masks[truth.keep]
        table = truth.scene.overlaps_of_columns(masks)
        return Overlaps(table, self.rules.truth.class_index(labels), self._scores(arrays.scores))

    def _scores(self, score: np.ndarray) -> np.ndarray:
        return np.ones_like(score) if self.rules.is_uniform else score

    def entries(self) -> Entries:
        """Return what was read, for the digest."""
        return [(name, file_sha256(path)) for name, path in self._files.items()]


def _duplicate_warnings(listed: list, path: Path) -> list[tuple[str, str, str]]:
    seen: set[str] = set()
    warnings = []
    for item in listed:
        if item.name in seen:
            detail = f"line {item.line}: {item.name} again; its label and confidence replace the earlier ones"
            warnings.append(("duplicate-mask-path", path.name, detail))
        seen.add(item.name)
    return warnings


class StreamScene:
    """A scene of a record stream: its `instance3d` records."""

    def __init__(self, found: SceneRecords, rules: PredictionRules) -> None:
        self.scene, self.record, self.lines, self.is_ok = found.id, found.scene, found.kept, found.ok
        self.programs, self.source, self.rules = found.programs, found.source, rules

    @property
    def needs_lifting(self) -> bool:
        """Tell whether the scene has 2D masks only; one that `lift3d` found no instance in has no predictions."""
        makers = {program["program"] for program in self.programs}
        if self.lines or "pc3d lift3d" in makers:
            return False
        return self.lines.has_images or makers == {"pc3d track2d"}  # a scene may have no frame that was tracked

    def overlaps(self, truth: Truth) -> Overlaps:
        """Decode the masks one by one; raises FormatError and InputError naming the line at fault."""
        from pc3dcli.formats.coco_rle import decode_points

        num_points = self.record.get("num_points", truth.num_vertices)
        if num_points != truth.num_vertices:
            problem = f"scene {self.scene} has {num_points} points, its ground truth {truth.num_vertices}"
            raise InputError(problem, file=self.source, hint="labels and ground truth must speak of the same cloud")
        table = np.zeros((len(self.lines), truth.scene.ids.size + 2), np.int64)
        labels, scores = [], []
        for row, line in enumerate(self.lines):
            try:
                table[row] = truth.overlaps(decode_points(line.record["rle"], truth.num_vertices))
                labels.append(self._label_id(line.record))
                scores.append(self._score(line.record))
            except FormatError as error:
                raise FormatError(error.message, file=self.source, line=line.number, hint=error.hint) from None
        class_index = self.rules.truth.class_index(np.array(labels, np.int64))
        return Overlaps(table, class_index, np.array(scores, np.float64))

    def _label_id(self, record: dict) -> int:
        """Return the label of a record by its id, else by its name; -1 is no class of any list."""
        if self.rules.truth.merge:
            return 0
        label_id, label = record.get("label_id"), record.get("label")
        if label_id is not None:
            if type(label_id) is not int or abs(label_id) >= 1 << 62:
                raise FormatError(f"label_id is {label_id!r}, expected an integer")
            return label_id
        if not isinstance(label, str):
            raise FormatError("instance3d has no label", hint="pass --class-agnostic")
        names = self.rules.classes.names
        return self.rules.classes.ids[names.index(label)] if label in names else -1

    def _score(self, record: dict) -> float:
        if self.rules.is_uniform:
            return 1.0
        score = record.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise FormatError(f"score is {score!r}, expected a finite number", hint="pass --scores uniform")
        return float(score)

    def entries(self) -> Entries:
        """Return what was read, for the digest."""
        return [stream_entry(self.scene, self.lines)]


def scene_files(sources: list[str]) -> dict[str, Path] | None:
    """Return the scenes of a folder in a public format, known before any is read; None when `sources` are streams.

    raises  InputError naming the patterns tried when there is none, UsageError for such a folder beside others
    """
    others = [source for source in sources if not holds_stream(source)]
    if not others:
        return None
    if len(sources) > 1:
        raise UsageError(f"{others[0]} is no stream: expected streams, or one folder in a public format")
    path = Path(others[0])
    if not path.is_dir():
        problem = "no such file or folder" if not path.exists() else "expected a folder or a .ndjson stream"
        raise InputError(problem, file=path)
    scenes = scannet_instances.find_scenes(path)
    if not scenes:
        raise InputError("no predictions; tried *.ndjson, *.txt, *.npz, *.safetensors", file=path)
    return scenes


def prediction_scenes(
    sources: list[str], files: dict[str, Path] | None, rules: PredictionRules
) -> Iterator[FolderScene | StreamScene]:
    """Yield the scenes of `sources`, of which `scene_files` found `files`."""
    if files is None:
        yield from _stream_scenes(sources, rules)
        return
    for scene, path in files.items():
        yield FolderScene(scene, path, rules)


def _stream_scenes(sources: list[str], rules: PredictionRules) -> Iterator[StreamScene]:
    found = stream_scenes(sources, lambda line: line, store=_Instances, allow_truncated=rules.allow_truncated)
    yield from (StreamScene(records, rules) for records in found if records.scene is not None)


class _Instances(list):
    """The `instance3d` lines of a scene; others are dropped at once, a stream may carry thousands of 2D masks."""

    has_images = False  # whether there were records of frames

    def append(self, line: Line) -> None:
        if line.type == "instance3d":
            super().append(line)
        self.has_images |= line.type in ("frame", "mask2d")

# SPDX-License-Identifier: Apache-2.0
"""Where `eval --task nuscenes` takes boxes from: a submission, or `box3d` records of a stream or an `--out` folder.

In a stream the scene is the name of a nuScenes scene and the frame is a sample token.  Boxes are in the coordinates of
the frame's points: global by its `world_from_points`, by the tables' poses of LIDAR_TOP where the record has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc3dcli.commands.inputs import holds_stream, stream_entry, stream_scenes
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats.nuscenes_results import MAX_BOXES, read_submission
from pc3dcli.formats.nuscenes_tables import ATTRIBUTES, Samples
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics.nuscenes_boxes import CLASSES, Boxes, quaternion_yaw, rotation_matrices
from pc3dcli.stream.reader import Line, SceneRecords

_COLUMNS = ("sample", "label", "center", "size", "yaw", "velocity", "attribute", "score")


@dataclass
class Predictions:
    """What was read.

    samples   tokens that have a list of boxes, be it empty
    columns   the fields of Boxes; sample is an index in `samples`
    entries   (name, SHA-256) of the inputs, with digests
    programs  program records
    failed    scenes whose producer failed
    """

    samples: list[str]
    columns: dict[str, np.ndarray]
    entries: list[tuple[str, str]] = field(default_factory=list)
    programs: list[dict] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def boxes(self, index: dict[str, int]) -> Boxes:
        """Return the boxes with the sample numbers of `index`, by token."""
        numbers = np.array([index[token] for token in self.samples], np.int32)
        return Boxes(**self.columns | {"sample": numbers[self.columns["sample"]]})


@dataclass(frozen=True)
class ReadRules:
    """How predictions are read: the samples scored, and progress(scene) to call when the boxes of a scene begin."""

    samples: Samples
    progress: Callable[[str], None]
    has_digest: bool
    allow_truncated: bool


def read_predictions(sources: list[str], rules: ReadRules) -> Predictions:
    """Read a submission, or streams; raises UsageError for both together, FormatError and InputError for inputs."""
    paths = [_submission_file(Path(source)) for source in sources if not holds_stream(source)]
    if not paths:
        return _read_streams(sources, rules)
    if len(sources) > 1:
        raise UsageError(f"{paths[0]} is no stream: expected streams, or one submission")
    scene_of = dict(zip(rules.samples.tokens, rules.samples.scene.tolist(), strict=True))
    seen: set[int] = set()

    def began(token: str) -> None:
        scene = scene_of.get(token)
        if scene is not None and scene not in seen:
            seen.add(scene)
            rules.progress(rules.samples.scenes[scene])

    submission = read_submission(paths[0], CLASSES, began)
    columns = dict(submission.boxes)
    columns["yaw"] = quaternion_yaw(columns.pop("rotation"))
    entries = [(paths[0].name, file_sha256(paths[0]))] if rules.has_digest else []
    return Predictions(list(submission.samples), columns, entries)


def _submission_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise InputError("no such file or folder", file=path)
        return path
    found = sorted(file for file in path.glob("*.json") if file.name != "run.json")
    if len(found) != 1:
        raise InputError(f"expected one submission (*.json) or *.ndjson in it, found {len(found)}", file=path)
    return found[0]


def _read_streams(sources: list[str], rules: ReadRules) -> Predictions:
    read = Predictions([], {})
    index = {token: number for number, token in enumerate(rules.samples.tokens)}
    poses = _LidarPoses(rules.samples, index)
    parts: list[dict[str, np.ndarray]] = [_StreamScene([], {}, "").columns()]
    programs: dict[str, dict] = {}
    for records in stream_scenes(sources, _kept, allow_truncated=rules.allow_truncated):
        if records.scene is None:
            continue
        programs |= {record["id"]: record for record in records.programs}
        if not records.ok:
            read.failed.append(records.id)
            continue
        scene = _StreamScene(records.kept, _frames(records, poses), records.source)
        if not scene.frames:
            continue
        rules.progress(records.id)
        twice = sorted(set(read.samples) & scene.frames.keys()) if read.samples else []
        if twice:
            raise FormatError(f"sample {twice[0]} stands in two scenes", file=records.source)
        columns = scene.columns()
        columns["sample"] += len(read.samples)
        parts.append(columns)
        read.samples += scene.frames
        if rules.has_digest:
            read.entries.append(stream_entry(records.id, records.kept))
    read.columns = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    read.programs = list(programs.values())
    return _in_table_order(read, index)


def _in_table_order(read: Predictions, index: dict[str, int]) -> Predictions:
    """Sort boxes by the sample's place in its table: the order of scenes in a stream has no meaning, but ties do."""
    place = np.array([index.get(token, -1) for token in read.samples], np.int64)
    order = np.argsort(place[read.columns["sample"]], kind="stable")
    read.columns = {name: values[order] for name, values in read.columns.items()}
    return read


def _kept(line: Line) -> Line | None:
    return line if line.type in ("frame", "box3d") else None


def _frames(records: SceneRecords, poses: _LidarPoses) -> dict[str, np.ndarray]:
    """Return (4, 4) global from points of every frame that the scene names."""
    found: dict[str, np.ndarray] = {}
    for line in records.kept:
        frame = line.record.get("frame")
        if not isinstance(frame, str):
            problem = "box3d has no frame, expected the token of its sample"
            raise FormatError(problem, file=records.source, line=line.number)
        if line.type == "frame" and "world_from_points" in line.record:
            found[frame] = _matrix(line, records.source)
        elif frame not in found:
            found[frame] = poses.world_from_points(frame)
    return found


def _matrix(line: Line, source: str) -> np.ndarray:
    try:
        matrix = np.array(line.record["world_from_points"], np.float64)
    except (ValueError, TypeError):
        matrix = np.zeros(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise FormatError("world_from_points is no 4 x 4 matrix", file=source, line=line.number)
    return matrix


class _LidarPoses:
    """Global from LIDAR_TOP, of the tables."""

    def __init__(self, samples: Samples, index: dict[str, int]) -> None:
        self.samples, self.index = samples, index

    def world_from_points(self, token: str) -> np.ndarray:
        """Return (4, 4); the identity for a token that is not scored, which is complained about later."""
        matrix, row = np.eye(4), self.index.get(token)
        if row is None:
            return matrix
        samples = self.samples
        for rotation, center in (
            (samples.lidar_rotation[row], samples.lidar_center[row]),
            (samples.ego_rotation[row], samples.ego_center[row]),
        ):
            step = np.eye(4)
            step[:3, :3], step[:3, 3] = rotation_matrices(rotation[None])[0], center
            matrix = step @ matrix
        return matrix


class _StreamScene:
    """The boxes of one scene of a stream; frames are the (4, 4) global from points by sample token."""

    def __init__(self, lines: list[Line], frames: dict[str, np.ndarray], source: str) -> None:
        self.lines = [line for line in lines if line.type == "box3d"]
        self.frames, self.source = frames, source

    def columns(self) -> dict[str, np.ndarray]:
        """Return the fields of Boxes, in the global frame; sample is an index in the frames."""
        number = {frame: index for index, frame in enumerate(self.frames)}
        sample = np.array([number[line.record["frame"]] for line in self.lines], np.int32)
        self._check_counts(sample)
        matrices = np.array(list(self.frames.values())).reshape(-1, 4, 4)[sample]
        turn = matrices[:, :3, :3]
        center, size = self._vectors("center", 3), self._vectors("size", 3)
        for row in np.flatnonzero(~(size > 0).all(axis=1))[:1]:
            raise self._fault(row, f"size is {size[row].tolist()}, expected more than 0")
        yaw = self._vectors("yaw", 1)[:, 0]
        heading = np.einsum("nij,nj->ni", turn, np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1))
        velocity = np.pad(self._vectors("velocity", 2, is_optional=True), ((0, 0), (0, 1)))
        return {
            "sample": sample,
            "label": self._codes("label", {name: code for code, name in enumerate(CLASSES)}, "detection class"),
            "center": np.einsum("nij,nj->ni", turn, center) + matrices[:, :3, 3],
            "size": size[:, [1, 0, 2]],  # ours are length, width, height
            "yaw": np.arctan2(heading[:, 1], heading[:, 0]),
            "velocity": np.einsum("nij,nj->ni", turn, velocity)[:, :2],
            "attribute": self._codes("attribute", {name: code for code, name in enumerate(ATTRIBUTES)}, "attribute"),
            "score": self._vectors("score", 1)[:, 0],
        }

    def _check_counts(self, sample: np.ndarray) -> None:
        counts = np.bincount(sample, minlength=len(self.frames))
        for frame, count in zip(self.frames, counts.tolist(), strict=True):
            if count > MAX_BOXES:
                raise FormatError(f"sample {frame} has {count} boxes, expected {MAX_BOXES} at most", file=self.source)

    def _vectors(self, name: str, width: int, *, is_optional: bool = False) -> np.ndarray:
        values = np.full((len(self.lines), width), np.nan)
        for row, line in enumerate(self.lines):
            value = line.record.get(name)
            if value is None and is_optional:
                continue
            numbers = value if isinstance(value, list) else [value]
            kinds = set(map(type, numbers))
            if len(numbers) != width or kinds - {int, float} or not all(abs(x) < math.inf for x in numbers):
                expected = f"{width} finite numbers" if width > 1 else "a finite number"
                raise self._fault(row, f"{name} is {value!r:.60}, expected {expected}")
            values[row] = numbers
        return values

    def _codes(self, name: str, known: dict[str, int], what: str) -> np.ndarray:
        codes = np.full(len(self.lines), -1, np.int16)
        for row, line in enumerate(self.lines):
            value = line.record.get(name)
            if what == "attribute" and value in (None, ""):
                continue
            if not isinstance(value, str) or value not in known:
                raise self._fault(row, f"{name} {value!r:.60} is no {what}")
            codes[row] = known[value]
        return codes

    def _fault(self, row: int, message: str) -> FormatError:
        return FormatError(message, file=self.source, line=self.lines[row].number)

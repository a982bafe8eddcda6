# SPDX-License-Identifier: Apache-2.0
"""Read the nuScenes tables as far as the detection task needs them: samples, poses of the LiDAR, annotations.

Tables are JSON arrays of up to a gigabyte (`json_window`); of each only a few fields are kept, as arrays.  Boxes are in
the global frame, sizes width, length, height, rotations quaternions w x y z (evaluation.md 3.1 and 3.2).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.json_window import Batch, JsonWindow

CATEGORY_CLASS = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
RACK = "static_object.bicycle_rack"
ATTRIBUTES = (
    "pedestrian.moving",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "cycle.with_rider",
    "cycle.without_rider",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "sample", "sample_annotation", "sample_data",
    "scene", "sensor",
)  # fmt: skip
_MAX_GAP = 1.5  # seconds between an annotation and its neighbour, twice that between its two neighbours
_OTHER, _RACK = -1, -2  # class codes of categories that are not scored
_HEX = re.compile("[0-9a-f]*")
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Samples:
    """The samples of a split, S of them, in the order of their table.

    tokens      their tokens
    scene       (S,) int32, index in `scenes`, the names in the order of their table
    ego_center  (S, 3) metres, ego_rotation (S, 4): global from ego at the key frame of LIDAR_TOP
    lidar_center (S, 3) metres, lidar_rotation (S, 4): ego from LiDAR
    """

    tokens: tuple[str, ...]
    scene: np.ndarray
    scenes: tuple[str, ...]
    ego_center: np.ndarray
    ego_rotation: np.ndarray
    lidar_center: np.ndarray
    lidar_rotation: np.ndarray


@dataclass(frozen=True)
class Annotations:
    """The annotations of a split.

    boxes       columns sample, label, center, size, rotation, velocity, attribute of the classes of the task
    num_points  (N,) int64, LiDAR and radar points in each
    racks       columns sample, center, size, rotation of bicycle racks
    """

    boxes: dict[str, np.ndarray]
    num_points: np.ndarray
    racks: dict[str, np.ndarray]


def find_tables(path: Path) -> Path:
    """Return the folder of the tables: `path` or its one folder `v1.0-*`; raises InputError when there is none."""
    if (path / "sample.json").is_file():
        return path
    if not path.is_dir():
        raise InputError("no such folder" if not path.exists() else "expected the folder of the tables", file=path)
    found = sorted(file.parent for file in path.glob("*/sample.json"))
    if not found:
        raise InputError("no nuScenes tables; tried sample.json and */sample.json", file=path)
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found[:10])
        raise InputError(f"holds tables of {len(found)} versions: {names}", file=path, hint=f"--gt {found[0]}")
    return found[0]


class TableReader:
    """Tables of one folder, read once each as `samples` and `annotations` are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._times = np.zeros(0, np.int64)  # microseconds, of all samples
        self._index: dict[str, int] = {}  # token of a sample -> position in its table
        self._split = np.zeros(0, np.int32)  # position in the table -> index in the split, -1 outside

    def scene_names(self) -> list[str]:
        """Return the names of all scenes in the order of their table."""
        return list(self._scenes()[1])

    def _scenes(self) -> tuple[dict[str, int], list[str]]:
        index: dict[str, int] = {}
        names: list[str] = []
        for batch in self._batches("scene"):
            _add_tokens(index, batch)
            names += batch.strings("name")
        if len(set(names)) < len(names):
            double = next(name for i, name in enumerate(names) if name in names[:i])
            raise FormatError(f"two scenes of the name {double!r}", file=self._path("scene"))
        return index, names

    def samples(self, wanted: frozenset[str] | None) -> Samples:
        """Read the samples of the scenes `wanted`, of all scenes for None."""
        scene_index, names = self._scenes()
        times, scenes = [], []
        for batch in self._batches("sample"):
            _add_tokens(self._index, batch)
            times.append(batch.integers("timestamp"))
            scenes.append(batch.codes("scene_token", scene_index, "scene of scene.json"))
        self._times, scene = _joined(times, np.int64), _joined(scenes, np.int64)
        is_wanted = np.array([wanted is None or name in wanted for name in names], bool)
        rows = np.flatnonzero(is_wanted[scene])
        self._split = np.full(scene.size, -1, np.int32)
        self._split[rows] = np.arange(rows.size)
        tokens = list(self._index)
        poses = self._poses([tokens[row] for row in rows])
        new = np.cumsum(is_wanted) - 1
        kept = tuple(name for name, flag in zip(names, is_wanted, strict=True) if flag)
        return Samples(tuple(tokens[row] for row in rows), new[scene[rows]].astype(np.int32), kept, *poses)

    def _poses(self, tokens: list[str]) -> tuple[np.ndarray, ...]:
        """Return center and rotation of the ego vehicle and of the LiDAR in it for samples of the split."""
        sensors, lidars = self._lidars()
        pose_of = np.full(len(tokens), -1)
        lidar_of = np.zeros(len(tokens), np.int64)
        wanted: dict[str, int] = {}
        for batch in self._batches("sample_data"):
            sensor = batch.codes("calibrated_sensor_token", sensors, "sensor of calibrated_sensor.json")
            position = batch.codes("sample_token", self._index, "sample of sample.json")
            is_key = np.array(batch.values("is_key_frame", {bool}, "true or false"), bool)
            rows = np.flatnonzero(is_key & (lidars[0][sensor] >= 0) & (self._split[position] >= 0))
            poses = batch.take(rows).strings("ego_pose_token")
            sample = self._split[position[rows]]
            pose_of[sample] = [wanted.setdefault(token, len(wanted)) for token in poses]
            lidar_of[sample] = lidars[0][sensor[rows]]
        if (pose_of < 0).any():
            token = tokens[int(np.argmax(pose_of < 0))]
            raise FormatError(f"sample {token} has no key frame of LIDAR_TOP", file=self._path("sample_data"))
        center, rotation = self._ego_poses(wanted)
        return center[pose_of], rotation[pose_of], lidars[1][lidar_of], lidars[2][lidar_of]

    def _lidars(self) -> tuple[dict[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return calibrated sensors by token; for each its row among the LIDAR_TOP ones or -1, and those's poses."""
        channels: dict[str, int] = {}
        is_lidar: list[bool] = []
        for batch in self._batches("sensor"):
            _add_tokens(channels, batch)
            is_lidar += [channel == "LIDAR_TOP" for channel in batch.strings("channel")]
        index: dict[str, int] = {}
        row_of, centers, rotations = [], [np.zeros((0, 3))], [np.zeros((0, 4))]
        for batch in self._batches("calibrated_sensor"):
            _add_tokens(index, batch)
            chosen = np.array(is_lidar, bool)[batch.codes("sensor_token", channels, "sensor of sensor.json")]
            lidars = batch.take(np.flatnonzero(chosen))
            row_of.append(np.where(chosen, sum(map(len, centers)) + np.cumsum(chosen) - 1, -1))
            centers.append(lidars.vectors("translation", 3))
            rotations.append(lidars.vectors("rotation", 4))
        return index, (_joined(row_of, np.int64), np.concatenate(centers), np.concatenate(rotations))

    def _ego_poses(self, wanted: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return (P, 3) and (P, 4) of the poses `wanted`, token -> row; the others are only looked at."""
        center, rotation = np.zeros((len(wanted), 3)), np.zeros((len(wanted), 4))
        is_read = np.zeros(len(wanted), bool)
        for batch in self._batches("ego_pose"):
            tokens = batch.strings("token")
            chosen = [index for index, token in enumerate(tokens) if token in wanted]
            rows = [wanted[tokens[index]] for index in chosen]
            for index, row in zip(chosen, rows, strict=True):
                if is_read[row]:
                    raise batch.fault(index, f"duplicate token {tokens[index]}")
                is_read[row] = True
            poses = batch.take(chosen)
            center[rows], rotation[rows] = poses.vectors("translation", 3), poses.vectors("rotation", 4)
        if not is_read.all():
            token = list(wanted)[int(np.argmin(is_read))]
            raise FormatError(f"no pose {token}, which sample_data.json names", file=self._path("ego_pose"))
        return center, rotation

    def annotations(self, classes: Sequence[str]) -> Annotations:
        """Read the annotations of the split; `samples` comes first.

        classes  names of the classes, whose positions become the labels
        """
        codes, attributes = self._class_of_instance(classes), self._attributes()
        keys, centers, samples, parts = [], [], [], []
        none = Batch(self._path("sample_annotation"), len)  # makes the columns of a table without annotations
        for batch in chain(self._batches("sample_annotation"), [none]):
            position = batch.codes("sample_token", self._index, "sample of sample.json")
            code = batch.codes("instance_token", codes, "instance of instance.json")
            keys.append(token_keys(batch.strings("token")))
            center = batch.vectors("translation", 3)
            centers.append(center[:, :2].copy())
            samples.append(position.astype(np.int32))
            rows = np.flatnonzero((code != _OTHER) & (self._split[position] >= 0))
            columns = _box_columns(batch.take(rows), code[rows], attributes)
            columns |= {"row": rows + sum(map(len, keys[:-1])), "center": center[rows], "label": code[rows]}
            parts.append(columns | {"sample": self._split[position[rows]]})
        columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
        times = 1e-6 * self._times[_joined(samples, np.int32)]
        columns["velocity"] = self._velocities(columns, _joined(keys, "S16"), centers, times)
        return _annotations(columns)

    def _class_of_instance(self, classes: Sequence[str]) -> dict[str, int]:
        """Return the class code of every instance."""
        index: dict[str, int] = {}
        codes: list[int] = []
        for batch in self._batches("category"):
            _add_tokens(index, batch)
            for name in batch.strings("name"):
                label = CATEGORY_CLASS.get(name)
                codes.append(_RACK if name == RACK else _OTHER if label is None else classes.index(label))
        instances: dict[str, int] = {}
        rows = []
        for batch in self._batches("instance"):
            _add_tokens(instances, batch)
            rows.append(batch.codes("category_token", index, "category of category.json"))
        return dict(zip(instances, np.array(codes, np.int64)[_joined(rows, np.int64)].tolist(), strict=True))

    def _attributes(self) -> dict[str, int]:
        index: dict[str, int] = {}
        codes: list[int] = []
        for batch in self._batches("attribute"):
            _add_tokens(index, batch)
            known = {name: code for code, name in enumerate(ATTRIBUTES)}
            codes += batch.codes("name", known, "attribute of the detection task").tolist()
        return dict(zip(index, codes, strict=True))

    def _velocities(
        self, columns: dict[str, np.ndarray], keys: np.ndarray, centers: list[np.ndarray], times: np.ndarray
    ) -> np.ndarray:
        """Return (N, 2) metres per second: the way from the annotation before to the one after over its time.

        keys (A,), times (A,) seconds and centers (parts of (A, 2)) are of all annotations
        """
        order = np.argsort(keys)
        sorted_keys = keys[order]
        double = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
        if double.size:
            raise self._fault_at(int(order[double[0] : double[0] + 2].max()), "duplicate token {token}")
        row = columns.pop("row")
        ends = []
        for name in ("prev", "next"):
            key, is_there = columns.pop(name), columns.pop(f"has_{name}")
            found = order[np.minimum(np.searchsorted(sorted_keys, key), keys.size - 1)] if keys.size else row
            wrong = np.flatnonzero(is_there & (keys[found] != key))
            if wrong.size:
                raise self._fault_at(int(row[wrong[0]]), f"{name} {{{name}}} is no annotation")
            ends.append(np.where(is_there, found, row))
            columns[f"has_{name}"] = is_there
        is_there = [columns.pop("has_prev"), columns.pop("has_next")]
        center = _joined(centers, np.float64)
        seconds = times[ends[1]] - times[ends[0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            velocity = (center[ends[1]] - center[ends[0]]) / seconds[:, None]
        limit = np.where(is_there[0] & is_there[1], 2 * _MAX_GAP, _MAX_GAP)
        velocity[(seconds > limit) | ~(is_there[0] | is_there[1])] = np.nan
        return velocity

    def _fault_at(self, row: int, message: str) -> FormatError:
        """Read the annotations again for the line of one."""
        for batch in self._batches("sample_annotation"):
            if row < len(batch):
                return batch.fault(row, message.format(**batch.records[row]))
            row -= len(batch)
        raise InputError("changed while it was read", file=self._path("sample_annotation"))

    def _path(self, table: str) -> Path:
        return self.folder / f"{table}.json"

    def _batches(self, table: str) -> Iterator[Batch]:
        with JsonWindow(self._path(table)) as window:
            yield from window.batches()
            window.finish()


def _box_columns(batch: Batch, code: np.ndarray, attributes: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the columns of annotations that are kept, but for those that all have."""
    columns = {"size": batch.vectors("size", 3), "rotation": batch.vectors("rotation", 4)}
    for index in islice(np.flatnonzero(~(columns["size"] > 0).all(axis=1) & (code != _RACK)), 1):
        raise batch.fault(index, f"size is {columns['size'][index].tolist()}, expected more than 0")
    columns["num_points"] = batch.integers("num_lidar_pts") + batch.integers("num_radar_pts")
    lists = batch.values("attribute_tokens", {list}, "a list of tokens")
    attribute = np.full(len(batch), -1, np.int16)
    for index in np.flatnonzero([len(tokens) > 0 for tokens in lists]):
        if code[index] == _RACK:
            continue
        if len(lists[index]) > 1:
            raise batch.fault(index, f"{len(lists[index])} attributes, expected one at most")
        token = lists[index][0]
        if not isinstance(token, str) or token not in attributes:
            raise batch.fault(index, f"attribute {token!r} is not in attribute.json")
        attribute[index] = attributes[token]
    columns["attribute"] = attribute
    for name in ("prev", "next"):
        tokens = batch.strings(name)
        columns[name] = token_keys(tokens)
        columns[f"has_{name}"] = np.array([token != "" for token in tokens], bool)
    return columns


def _annotations(columns: dict[str, np.ndarray]) -> Annotations:
    is_rack = columns["label"] == _RACK
    racks = {name: columns[name][is_rack] for name in ("sample", "center", "size", "rotation")}
    boxes = {name: values[~is_rack] for name, values in columns.items()}
    boxes["label"] = boxes["label"].astype(np.int8)
    return Annotations(boxes, boxes.pop("num_points"), racks)


def token_keys(tokens: list[str]) -> np.ndarray:
    """Return (N,) S16, 16 bytes that stand for each token: the number it is in hexadecimal, else a digest."""
    joined = "".join([token or "0" * 2 * _TOKEN_BYTES for token in tokens])
    if set(map(len, tokens)) <= {0, 2 * _TOKEN_BYTES} and _HEX.fullmatch(joined):
        return np.frombuffer(bytes.fromhex(joined), f"S{_TOKEN_BYTES}")
    return np.frombuffer(b"".join(map(_key, tokens)), f"S{_TOKEN_BYTES}")


def _key(token: str) -> bytes:
    if len(token) == 2 * _TOKEN_BYTES and _HEX.fullmatch(token):
        return bytes.fromhex(token)
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=_TOKEN_BYTES).digest()


def _add_tokens(index: dict[str, int], batch: Batch) -> None:
    """Number the tokens of a batch on; raises FormatError for one that was there."""
    for row, token in enumerate(batch.strings("token")):
        if token in index:
            raise batch.fault(row, f"duplicate token {token}")
        index[token] = len(index)


def _joined(parts: list[np.ndarray], kind: object) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)

# SPDX-License-Identifier: Apache-2.0
"""Scenes with instances to learn from: clouds of scans or of streams, labels of streams or of ScanNet's formats.

Clouds and labels meet by the id of their scene, and a cloud must be the one that its labels were made for: the same
points in the same order, by their hash where a stream says it, else by their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc3dcli.commands.inputs import found_scenes, holds_stream, stream_scenes
from pc3dcli.datasets.instance_truth import InstanceTruth
from pc3dcli.datasets.scene import Frame, RgbdFrame, Scene, SceneRef
from pc3dcli.datasets.voxel_batches import LabelledCloud, LabelledClouds
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_lists import semantic_classes
from pc3dcli.formats.cloud import Cloud, read_cloud, xyz_sha256
from pc3dcli.formats.coco_rle import decode_points
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.geometry.viewpoints import upright
from pc3dcli.papers.granularity.votes import PointBlocks
from pc3dcli.stream.provenance import file_digest
from pc3dcli.stream.reader import Line, SceneRecords

VIEW_GAP = 0.05  # metres, of the depth test, as lift3d's max_gap
Instances = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]  # points of each, and those that do not count


@dataclass(frozen=True)
class SceneCloud:
    """Where the cloud of a scene is, and which points it must have: their number and hash, None where not known.

    file   None where the scan must be asked
    up     signed axis that points up
    scan   the scan on disk, which is opened when it is needed; None of streams
    """

    file: Path | None
    num_points: int | None = None
    xyz_sha256: str | None = None
    up: str = "z"
    scan: SceneRef | None = None

    def read(self) -> Cloud:
        """Read it; raises InputError when it is another cloud."""
        cloud = read_cloud(self.file)
        self.check(cloud, self.file)
        return cloud

    def check(self, cloud: Cloud, file: Path) -> None:
        """Raise InputError where the cloud of a file is not this one."""
        if self.num_points is not None and len(cloud.xyz) != self.num_points:
            raise InputError(f"found {len(cloud.xyz)} points, its record says {self.num_points!r}", file=file)
        if self.xyz_sha256 is not None and xyz_sha256(cloud.xyz) != self.xyz_sha256:
            raise InputError("its points are not those that the labels were made for", file=file)

    def digest(self) -> str:
        """Return what tells that a cloud was replaced, as far as that is cheap; scans of frames are not opened."""
        if self.scan is not None and self.scan.path.is_file():
            return file_digest(self.scan.path)
        return str(self.xyz_sha256)


@dataclass(frozen=True)
class SceneLabels:
    """The labels of a scene: `read` gives the instances for a number of points; `digest` follows from what they say.

    cloud  that they name, None where they name none
    """

    read: Callable[[int], Instances]
    digest: Callable[[], str]
    cloud: SceneCloud | None = None


@dataclass(frozen=True)
class LabelledScenes:
    """Scenes that have both, in the order of the clouds.

    digest    of which scenes they are and what their labels say
    unlabelled  ids of clouds without labels, which are left out
    failed    ids of scenes that failed in an earlier command, which are left out too
    is_truth  whether the labels are ground truth, of which some label ids are left out
    """

    clouds: LabelledClouds
    digest: str
    unlabelled: tuple[str, ...]
    failed: tuple[str, ...]
    is_truth: bool

    def check_targets(self, min_points: int) -> None:
        """Read scenes until one has an instance to learn; raises InputError where none has, and as their `load`."""
        for index in range(len(self.clouds.names)):
            if any(len(points) >= min_points for points in self.clouds.load(index).instances):
                return
        message = f"no scene of {len(self.clouds.names)} has an instance of {min_points} points or more to learn"
        raise InputError(message, hint="-D min_points=N takes smaller ones; skip_labels are those that are none")


def labelled_scenes(
    names: list[str], labels: str | None, *, dataset: str, structure: Iterable[int], view_stride: int = 0
) -> LabelledScenes:
    """Find scenes to learn from; clouds, and labels that have a file of their own, are read when they are asked for.

    names        scans, folders of them, or streams whose scenes name their clouds
    labels       a stream of `instance3d` records, a folder of them, or ground truth; None: those of `names`
    structure    label ids of ground truth that are no instances: walls and floors
    view_stride  frames of a scan from one whose view of the cloud is asked for to the next; 0: none is
    raises       InputError where nothing is found, FormatError for broken streams
    """
    failed: list[str] = []
    found, of_names = _clouds(names, dataset, failed)
    of_labels = of_names if labels is None else _labels(labels, frozenset(structure), failed)
    both = [scene for scene in found if scene in of_labels]
    if not both:
        place = names[0] if labels is None else labels
        hint = f"labels are matched by scene id, such as {next(iter(found), None)}"
        if not found:
            raise InputError(
                "its scenes name no clouds", file=names[0], hint="pass the scans or clouds, and these with --labels"
            )
        if not of_labels:
            hint = "pc3d lift3d and pseudo-label make labels, the latter fewer with a high --min-score"
        raise InputError("holds instances of none of the scenes", file=place, hint=hint)
    if view_stride:
        first = found[both[0]]
        _frames_with_depth(first, first.scan and first.scan.open())  # before hours of training

    def load(index: int) -> LabelledCloud:
        scene = both[index]
        return _labelled(found[scene], of_labels[scene], view_stride)

    text = "\n".join(f"{scene} {found[scene].digest()} {of_labels[scene].digest()}" for scene in both)
    digest = f"{len(both)} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    unlabelled = tuple(scene for scene in found if scene not in of_labels)
    is_truth = labels is not None and not holds_stream(labels)
    failed = [scene for scene in dict.fromkeys(failed) if scene not in both]
    return LabelledScenes(LabelledClouds(tuple(both), load), digest, unlabelled, tuple(failed), is_truth)


def _labelled(place: SceneCloud, labels: SceneLabels, view_stride: int) -> LabelledCloud:
    """Read a scene: its own cloud, which must be the one that its labels name; theirs where it has none."""
    scan = None if place.scan is None else place.scan.open()
    if scan is not None:
        place = replace(place, file=None if scan.points is None else scan.root / scan.points, up=scan.up)
    if place.file is None and labels.cloud is not None:
        place = replace(labels.cloud, up=place.up)
    if place.file is None:
        hint = "pc3d lift3d --out labels/ writes one"
        raise InputError("has no cloud to learn on", file=scan and scan.root, hint=hint)
    file, up = place.file, place.up
    cloud = place.read()
    if labels.cloud is not None and labels.cloud != place:
        labels.cloud.check(cloud, file)
    try:
        xyz = upright_points(cloud.xyz, up)
        instances, ignored = labels.read(len(cloud.xyz))
    except (FormatError, InputError) as error:
        error.file = error.file or file
        raise
    views = None
    if view_stride:
        views = FrameViews(scan.root, _frames_with_depth(place, scan)[::view_stride], cloud.xyz)
    return LabelledCloud(xyz, cloud.rgb, instances, ignored, views)


def upright_points(xyz: np.ndarray, up: str) -> np.ndarray:
    """Turn points (N, 3) so that `up` is z, which networks learn; in their type, and as they are where it is z.

    raises  FormatError for an `up` that is no signed axis
    """
    if up == "z":
        return xyz
    try:
        return (xyz @ upright(up).T).astype(xyz.dtype)
    except ValueError as error:
        raise FormatError(str(error)) from None


def _frames_with_depth(place: SceneCloud, scan: Scene | None) -> tuple[Frame, ...]:
    frames = () if scan is None else tuple(frame for frame in scan.frames if frame.depth is not None)
    if not frames:
        file = place.file if scan is None else scan.root
        hint = "pass the scans, and --labels; or leave partial_share out"
        raise InputError("has no frames with depth, which partial views need", file=file, hint=hint)
    return frames


class FrameViews:
    """Which points of a cloud the frames of its scan see; a frame is projected when it is first asked for."""

    def __init__(self, root: Path, frames: tuple[Frame, ...], xyz: np.ndarray) -> None:
        self.root, self.frames, self.num_points = root, frames, len(xyz)
        self._known = np.flatnonzero(np.isfinite(xyz).all(axis=1))
        self._blocks = PointBlocks(xyz[self._known])
        self._bits: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def nbytes(self) -> int:
        """What it takes once all frames were asked for, without the points."""
        return len(self.frames) * (self.num_points // 8 + 1)

    def seen(self, first: int, last: int) -> np.ndarray:
        """Return (N,) bool what the frames first, ..., last see, as far as there are so many."""
        bits = [self._seen(number) for number in range(first, min(last + 1, len(self)))]
        return np.unpackbits(np.bitwise_or.reduce(bits), count=self.num_points).astype(bool)

    def _seen(self, number: int) -> np.ndarray:
        if number not in self._bits:
            view = RgbdFrame(self.root, self.frames[number])
            index, _ = self._blocks.visible(view.depth, view.K, view.world_from_cam, VIEW_GAP)
            is_seen = np.zeros(self.num_points, bool)
            is_seen[self._known[index]] = True
            self._bits[number] = np.packbits(is_seen)
        return self._bits[number]


def _clouds(names: list[str], dataset: str, failed: list[str]) -> tuple[dict[str, SceneCloud], dict[str, SceneLabels]]:
    """Return the clouds of all inputs by scene, and the labels that the streams among them have."""
    clouds, labels = {}, {}
    streams = [name for name in names if holds_stream(name)]
    for scene, source_labels in _labelled_streams(streams, failed):
        cloud = _stream_cloud(scene)
        if cloud is not None:
            clouds[scene.id] = cloud
        if scene.kept:
            labels[scene.id] = source_labels
    for ref in found_scenes([name for name in names if name not in streams], dataset):
        clouds[ref.scene] = SceneCloud(None, scan=ref)
    return clouds, labels


def _stream_cloud(scene: SceneRecords) -> SceneCloud | None:
    record = scene.scene
    if record.get("points") is None:
        return None
    try:
        file = resolve_inside(Path(record["root"]), record["points"])
    except FormatError as error:
        raise FormatError(f"points of {scene.id}: {error.message}", file=scene.source) from None
    return SceneCloud(file, record.get("num_points"), record.get("xyz_sha256"), str(record.get("up", "z")))


def _labels(name: str, structure: frozenset[int], failed: list[str]) -> dict[str, SceneLabels]:
    if holds_stream(name):
        return {scene.id: labels for scene, labels in _labelled_streams([name], failed) if scene.kept}
    source = Path(name)
    if not source.exists():
        raise InputError("no such file or folder", file=source)
    classes = semantic_classes("scannet200")
    truth = InstanceTruth(source, "id", dict(zip(classes.names, classes.ids, strict=True)))
    return {scene: _truth_labels(truth, scene, structure) for scene in truth.files}


def _labelled_streams(names: list[str], failed: list[str]) -> Iterator[tuple[SceneRecords, SceneLabels]]:
    """Yield the scenes of streams that did not fail, with their labels; the ids of the others go to `failed`.

    Masks of a whole data set are gigabytes: those of a folder, which has a file a scene, are read again when needed.
    """
    for name in names:
        is_folder = Path(name).is_dir()
        for scene in stream_scenes([name], _instance3d):
            if scene.scene is not None and scene.ok:
                yield scene, _stream_labels(scene, is_folder)
            elif scene.id is not None:
                failed.append(scene.id)


def _instance3d(line: Line) -> dict | None:
    return line.record if line.type == "instance3d" else None


def _stream_labels(scene: SceneRecords, is_folder: bool) -> SceneLabels:
    source, name = scene.source, scene.id
    kept = _masks(scene)
    digest = hashlib.sha256(repr(kept).encode()).hexdigest()
    if is_folder:
        kept = None

    def masks() -> list[tuple[dict, dict | None]]:
        if kept is not None:
            return kept
        again = next((_masks(one) for one in stream_scenes([source], _instance3d) if one.id == name), None)
        if again is None or hashlib.sha256(repr(again).encode()).hexdigest() != digest:
            raise InputError(f"its labels of {name} have changed since they were first read", file=source)
        return again

    def read(num_points: int) -> Instances:
        try:
            pairs = [
                (_points(rle, num_points), np.zeros(0, np.int64) if ignore is None else _points(ignore, num_points))
                for rle, ignore in masks()
            ]
        except FormatError as error:
            error.file = error.file or source
            raise
        return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)

    return SceneLabels(read, lambda: digest, _stream_cloud(scene))


def _masks(scene: SceneRecords) -> list[tuple[dict, dict | None]]:
    return [(record["rle"], record.get("ignore")) for record in scene.kept]


def _points(rle: dict, num_points: int) -> np.ndarray:
    return np.flatnonzero(decode_points(rle, num_points))


def _truth_labels(truth: InstanceTruth, scene: str, structure: frozenset[int]) -> SceneLabels:
    def read(num_points: int) -> Instances:
        ids = truth.ids(scene)
        if len(ids) != num_points:
            message = f"labels {len(ids)} vertices, its cloud has {num_points}"
            raise InputError(message, file=truth.files[scene][0])
        wanted = [number for number in np.unique(ids) if number > 0 and number // 1000 not in structure]
        found = tuple(np.flatnonzero(ids == number) for number in wanted)
        return found, tuple(np.zeros(0, np.int64) for _ in found)

    def digest() -> str:
        return " ".join(file_digest(file) for file in truth.digest_files(scene).values())

    return SceneLabels(read, digest)

# SPDX-License-Identifier: Apache-2.0
"""Scenes with instances to learn from: clouds of scans or of streams, labels of streams or of ScanNet's formats.

Clouds and labels meet by the id of their scene, and a cloud must be the one that its labels were made for: the same
points in the same order, by their hash where a stream says it, else by their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc3dcli.commands.inputs import found_scenes, holds_stream, stream_scenes
from pc3dcli.datasets.instance_truth import InstanceTruth
from pc3dcli.datasets.scene import RgbdFrame, Scene
from pc3dcli.datasets.voxel_batches import LabelledCloud, LabelledClouds
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_lists import semantic_classes
from pc3dcli.formats.cloud import Cloud, read_cloud, xyz_sha256
from pc3dcli.formats.coco_rle import decode_points
from pc3dcli.formats.paths import resolve_inside
from pc3dcli.papers.granularity.votes import PointBlocks
from pc3dcli.stream.provenance import file_digest
from pc3dcli.stream.reader import Line, SceneRecords

VIEW_GAP = 0.05  # metres, of the depth test, as lift3d's max_gap
Instances = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]  # points of each, and those that do not count


@dataclass(frozen=True)
class SceneCloud:
    """Where the cloud of a scene is, and which points it must have: their number and hash, None where not known.

    file   None where a scan has frames alone
    scan   the scan on disk, None of streams
    """

    file: Path | None
    num_points: int | None = None
    xyz_sha256: str | None = None
    scan: Scene | None = None

    def read(self) -> Cloud:
        """Read it; raises InputError when it is another cloud."""
        cloud = read_cloud(self.file)
        if self.xyz_sha256 is not None and xyz_sha256(cloud.xyz) != self.xyz_sha256:
            raise InputError("its points are not those that the labels were made for", file=self.file)
        if self.num_points is not None and len(cloud.xyz) != self.num_points:
            message = f"found {len(cloud.xyz)} points, its labels are for {self.num_points}"
            raise InputError(message, file=self.file)
        return cloud


@dataclass(frozen=True)
class SceneLabels:
    """The labels of a scene: `read` gives the instances for a number of points; `digest` follows from what they say.

    cloud  that they name, None where they name none
    """

    read: Callable[[int], Instances]
    digest: str
    cloud: SceneCloud | None = None


@dataclass(frozen=True)
class LabelledScenes:
    """Scenes that have both, in the order of the clouds.

    digest    of which scenes they are and what their labels say
    unlabelled  ids of clouds without labels, which are left out
    """

    clouds: LabelledClouds
    digest: str
    unlabelled: tuple[str, ...]


def labelled_scenes(
    names: list[str], labels: str | None, *, dataset: str, structure: Iterable[int], view_stride: int = 0
) -> LabelledScenes:
    """Open scenes to learn from.

    names        scans, folders of them, or streams whose scenes name their clouds
    labels       a stream of `instance3d` records, a folder of them, or ScanNet ground truth; None: those of `names`
    structure    label ids of ground truth that are no instances: walls and floors
    view_stride  frames of a scan from one whose view of the cloud is kept to the next; 0 keeps none
    raises       InputError where nothing is found, FormatError for broken streams
    """
    found, of_names = _clouds(names, dataset)
    of_labels = of_names if labels is None else _labels(labels, frozenset(structure))
    both = [scene for scene in found if scene in of_labels]
    if not both:
        place = names[0] if labels is None else labels
        hint = f"labels are matched by scene id, such as {next(iter(found), None)}"
        if not of_labels:
            hint = "pc3d lift3d and pseudo-label make labels, the latter fewer with a high --min-score"
        raise InputError("holds instances of none of the scenes", file=place, hint=hint)
    if view_stride and not any(found[scene].scan and found[scene].scan.frames for scene in both):
        raise InputError("partial views need scans with frames", file=names[0], hint="pass the scans, and --labels")

    def load(index: int) -> LabelledCloud:
        scene = both[index]
        return _labelled(found[scene], of_labels[scene], view_stride)

    text = "\n".join(f"{scene} {of_labels[scene].digest}" for scene in both)
    digest = f"{len(both)} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    unlabelled = tuple(scene for scene in found if scene not in of_labels)
    return LabelledScenes(LabelledClouds(tuple(both), load), digest, unlabelled)


def _labelled(place: SceneCloud, labels: SceneLabels, view_stride: int) -> LabelledCloud:
    """Read a scene: the cloud that its labels name where it is there, else that of the scan."""
    known = labels.cloud or place
    file = known.file if known.file is not None and known.file.exists() else place.file
    if file is None:
        hint = "pc3d lift3d --out labels/ writes one"
        raise InputError("has no cloud to learn on", file=place.scan and place.scan.root, hint=hint)
    cloud = replace(known, file=file).read()
    try:
        instances, ignored = labels.read(len(cloud.xyz))
    except (FormatError, InputError) as error:
        error.file = error.file or file
        raise
    views = packed_views(place.scan, cloud.xyz, view_stride) if view_stride and place.scan else ()
    return LabelledCloud(cloud.xyz, cloud.rgb, instances, ignored, views)


def packed_views(scan: Scene, xyz: np.ndarray, stride: int) -> tuple[np.ndarray, ...]:
    """Return which points (N, 3) every `stride`-th frame with depth sees, as (ceil(N / 8),) uint8 bits each."""
    known = np.flatnonzero(np.isfinite(xyz).all(axis=1))
    blocks, views = PointBlocks(xyz[known]), []
    for frame in scan.frames[::stride]:
        view = RgbdFrame(scan.root, frame)
        if view.depth is not None:
            index, _ = blocks.visible(view.depth, view.K, view.world_from_cam, VIEW_GAP)
            is_seen = np.zeros(len(xyz), bool)
            is_seen[known[index]] = True
            views.append(np.packbits(is_seen))
    return tuple(views)


def _clouds(names: list[str], dataset: str) -> tuple[dict[str, SceneCloud], dict[str, SceneLabels]]:
    """Return the clouds of all inputs by scene, and the labels that the streams among them have."""
    clouds, labels = {}, {}
    streams = [name for name in names if holds_stream(name)]
    for scene in _labelled_streams(streams):
        cloud = _stream_cloud(scene.scene)
        if cloud is not None:
            clouds[scene.id] = cloud
        if scene.kept:
            labels[scene.id] = _stream_labels(scene)
    for ref in found_scenes([name for name in names if name not in streams], dataset):
        scene = ref.open()
        clouds[ref.scene] = SceneCloud(None if scene.points is None else scene.root / scene.points, scan=scene)
    return clouds, labels


def _stream_cloud(record: dict) -> SceneCloud | None:
    if record.get("points") is None:
        return None
    file = resolve_inside(Path(record["root"]), record["points"])
    return SceneCloud(file, record.get("num_points"), record.get("xyz_sha256"))


def _labels(name: str, structure: frozenset[int]) -> dict[str, SceneLabels]:
    if holds_stream(name):
        return {scene.id: _stream_labels(scene) for scene in _labelled_streams([name]) if scene.kept}
    source = Path(name)
    if not source.exists():
        raise InputError("no such file or folder", file=source)
    classes = semantic_classes("scannet200")
    truth = InstanceTruth(source, "id", dict(zip(classes.names, classes.ids, strict=True)))
    return {scene: _truth_labels(truth, scene, structure) for scene in truth.files}


def _labelled_streams(names: list[str]) -> Iterable[SceneRecords]:
    """Yield the scenes of streams that did not fail, with the `instance3d` records that they keep."""

    def keep(line: Line) -> dict | None:
        return line.record if line.type == "instance3d" else None

    for scene in stream_scenes(names, keep):
        if scene.scene is not None and scene.ok:
            yield scene


def _stream_labels(scene: SceneRecords) -> SceneLabels:
    masks = [(record["rle"], record.get("ignore")) for record in scene.kept]
    source = scene.source

    def read(num_points: int) -> Instances:
        try:
            pairs = [(_points(rle, num_points), _points(ignore, num_points)) for rle, ignore in masks]
        except FormatError as error:
            error.file = error.file or source
            raise
        return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)

    digest = hashlib.sha256(repr(masks).encode()).hexdigest()
    return SceneLabels(read, digest, _stream_cloud(scene.scene))


def _points(rle: dict | None, num_points: int) -> np.ndarray:
    return np.zeros(0, np.int64) if rle is None else np.flatnonzero(decode_points(rle, num_points))


def _truth_labels(truth: InstanceTruth, scene: str, structure: frozenset[int]) -> SceneLabels:
    def read(num_points: int) -> Instances:
        ids = truth.ids(scene)
        if len(ids) != num_points:
            message = f"labels {len(ids)} vertices, its cloud has {num_points}"
            raise InputError(message, file=truth.files[scene][0])
        wanted = [number for number in np.unique(ids) if number > 0 and number // 1000 not in structure]
        found = tuple(np.flatnonzero(ids == number) for number in wanted)
        return found, tuple(np.zeros(0, np.int64) for _ in found)

    return SceneLabels(read, " ".join(file_digest(file) for file in truth.digest_files(scene).values()))

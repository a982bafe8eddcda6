# SPDX-License-Identifier: Apache-2.0
"""What there is to see of a scene: its points, its instances, and some of its frames with their masks.

Sources are a stream (`frame`, `mask2d`, `instance3d`, `patch_score` and `labels3d` records), a scan on disk, or a cloud
file, whose property `instance_id` (as `lift3d --write ply` gives it) counts as instances.  A scene without a cloud is
fused from depth.  Objects, with scores or parts, are `view_shapes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pc3dcli.errors import FormatError, InputError

if TYPE_CHECKING:
    import numpy as np

    from pc3dcli.commands.view_shapes import PointHeat
    from pc3dcli.datasets.scene import Frame, Scene
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.stream.reader import Line

MAX_COORDINATE = 1e9  # metres; ours
MAX_DISTANCE = 1e4  # metres from the middle of the scene; what strays further is not drawn.  Ours
MAX_INSTANCES = 65_000  # labels are 16 bits in the page
FUSED_FRAMES = 80  # at most, evenly spaced; ours
FUSED_VOXEL = (0.004, 0.02)  # metres, least and greatest edge; ours
SHAPE_COMMANDS = ("pc3d mask-score", "pc3d segment")  # whose clouds are objects
VOXEL_PIXELS = 4  # width of a voxel in pixels at the typical depth; ours


@dataclass(frozen=True)
class ShownInstance:
    """An instance with its points (n,) among those shown, ascending, and how many it has in the whole cloud."""

    instance: int
    points: np.ndarray
    num_points: int
    label: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class ShownCloud:
    """Points to be drawn, N at most what was asked for.

    xyz         (N, 3) float, metres, finite; rgb (N, 3) uint8 or None
    normal      (N, 3) float32 towards the scanner, None where that is not known
    num_points  points of the whole cloud
    heat        scores of the points, None where nothing scored them
    is_object   a single thing, whose instances are its parts; category  what it is, None where that is not known
    """

    xyz: np.ndarray
    rgb: np.ndarray | None
    normal: np.ndarray | None
    num_points: int
    instances: tuple[ShownInstance, ...] = ()
    heat: PointHeat | None = None
    is_object: bool = False
    category: str | None = None


@dataclass
class SceneContent:
    """What an input says of one scene, masks still compressed.

    record     its `scene` record
    frames     `frame` records, in order
    masks      frame id -> its `mask2d` records, for a bounded number of frames
    instances  `instance3d` records
    patches    its `patch_score` record; parts  its `labels3d` record of kind "parts"
    maker      the command that wrote its cloud, None where that is not known
    folder     where files beside the stream lie
    digest     SHA-256 over the records above
    root       folder of the frames' pictures, that of the record where it is None
    """

    record: dict
    frames: list[dict] = field(default_factory=list)
    masks: dict[str, list[dict]] = field(default_factory=dict)
    instances: list[dict] = field(default_factory=list)
    patches: dict | None = None
    parts: dict | None = None
    maker: str | None = None
    folder: Path | None = None
    digest: str = ""
    root: str | None = None

    @property
    def image_root(self) -> Path:
        return Path(self.record["root"] if self.root is None else self.root)

    @property
    def side_folders(self) -> tuple[Path, ...]:
        return (*([] if self.folder is None else [self.folder]), Path(self.record["root"]))

    @property
    def is_object(self) -> bool:
        return self.patches is not None or self.parts is not None or self.maker in SHAPE_COMMANDS

    def merged(self, other: SceneContent) -> SceneContent:
        """Return what two streams say of one scene, as tracks and the labels made from them: one of them has each."""
        images = self if self.frames else other
        labels = other if other.instances or self is images else self
        return replace(
            images,
            record=labels.record,
            instances=labels.instances,
            patches=labels.patches or images.patches,
            parts=labels.parts or images.parts,
            folder=labels.folder if labels.parts else images.folder,
            digest=hashlib.sha256("".join(sorted((self.digest, other.digest))).encode()).hexdigest(),
            root=str(images.image_root),
        )


class Collector:
    """Keeps what can be shown while a stream is read; pass it as `keep`, and `take` a scene when it is complete.

    Of the masks only those of evenly spaced frames are kept, at least `num_frames` of them.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = max(num_frames, 1)
        self._start()

    def __call__(self, line: Line) -> bool:
        kind, record = line.type, line.record
        is_parts = kind == "labels3d" and record.get("kind") == "parts"
        if is_parts or kind in ("frame", "mask2d", "instance3d", "patch_score"):
            self._hash.update(line.text.encode() + b"\n")
        if kind == "frame":
            self._add_frame(record)
        elif kind == "mask2d":
            if record["frame"] in self._content.masks:
                self._content.masks[record["frame"]].append(record)
        elif kind == "instance3d":
            self._content.instances.append(record)
        elif kind == "patch_score":
            self._content.patches = record
        elif is_parts:
            self._content.parts = record
        return False  # nothing is passed on

    def take(self, record: dict, folder: Path | None = None) -> SceneContent:
        """Return what was collected since the last call, from a stream in `folder`."""
        content = self._content
        content.record, content.digest, content.folder = record, self._hash.hexdigest(), folder
        self._start()
        return content

    def _start(self) -> None:
        self._content, self._stride, self._hash = SceneContent({}), 1, hashlib.sha256()

    def _add_frame(self, record: dict) -> None:
        frames, masks = self._content.frames, self._content.masks
        if len(frames) % self._stride == 0:
            masks[record["frame"]] = []
        frames.append(record)
        if len(masks) >= 4 * self.num_frames:  # every other one goes, so the rest stays evenly spaced
            self._stride *= 2
            for dropped in list(masks)[1::2]:
                del masks[dropped]


def content_of_scan(scene: Scene) -> SceneContent:
    """Return the content of a scan on disk; no picture and no point is read, of a PLY its comments."""
    from pc3dcli.datasets.scene import frame_to_record
    from pc3dcli.stream.records import dump_record

    record = {"scene": scene.scene, "root": str(scene.root), "up": scene.up}
    maker = None
    if scene.points is not None:
        record["points"] = scene.points
        maker = _maker(scene.root / scene.points)
    frames = [frame_to_record(scene.scene, frame) for frame in scene.frames]
    digest = hashlib.sha256("\n".join(dump_record(one) for one in (record, *frames)).encode()).hexdigest()
    return SceneContent(record, frames=frames, digest=digest, maker=maker)


def _maker(path: Path) -> str | None:
    if path.suffix.lower() != ".ply":
        return None
    from pc3dcli.commands.view_shapes import ply_maker

    return ply_maker(path)


def spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` evenly spaced numbers below `count`, the first and the last among them."""
    if wanted >= count:
        return list(range(count))
    return [round(place * (count - 1) / max(wanted - 1, 1)) for place in range(wanted)]


def usable_frames(content: SceneContent) -> list[Frame]:
    """Return the frames that have a picture, a camera and a pose."""
    from pc3dcli.datasets.scene import frame_from_record

    needed = ("image", "size", "K", "world_from_cam")
    return [frame_from_record(record) for record in content.frames if all(record.get(name) for name in needed)]


def shown_cloud(content: SceneContent, max_points: int) -> ShownCloud | None:
    """Read or fuse the points and decode the instances.

    max_points  of a larger cloud an even random choice is shown
    returns     None for a scene with neither a cloud nor depth
    raises      FormatError, InputError; also where the cloud is not the one the instances were made for
    """
    cloud = _read_points(content)
    if cloud is None and content.instances:
        raise InputError(f"scene {content.record['scene']} has instances, but its points were not found")
    cloud = cloud or _fused(content)
    if cloud is None:
        return None
    xyz = cloud.xyz
    chosen = _chosen(xyz, max_points, content.record["scene"])
    if content.is_object:
        from pc3dcli.commands.view_shapes import shown_shape

        return shown_shape(content, cloud, chosen)
    if len(content.instances) > MAX_INSTANCES:
        raise FormatError(f"{len(content.instances)} instances, at most {MAX_INSTANCES} can be shown")
    instances = _decoded(content.instances, len(xyz), chosen)
    if "instance_id" in cloud.extra and not content.instances:
        instances = _numbered(cloud.extra["instance_id"], chosen)
    rgb = None if cloud.rgb is None else cloud.rgb[chosen]
    return ShownCloud(xyz[chosen], rgb, _scanner_normals(cloud, chosen), len(xyz), tuple(instances))


def _chosen(xyz: np.ndarray, max_points: int, scene: str) -> np.ndarray:
    """Return the indices of the points to be drawn, at most `max_points`; raises FormatError when there are none."""
    import numpy as np

    chosen = _drawable(xyz)
    if len(chosen) == 0:
        raise FormatError(f"scene {scene} has no points with finite coordinates near each other")
    if len(chosen) > max_points:
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.choice(chosen, max_points, replace=False))
    return chosen


def _drawable(xyz: np.ndarray) -> np.ndarray:
    """Return the indices of the points that are finite and within `MAX_DISTANCE` of the middle."""
    import numpy as np

    finite = np.flatnonzero((np.abs(xyz) < MAX_COORDINATE).all(1))  # false for NaN
    if len(finite) == 0:
        return finite
    middle = np.median(xyz[finite[:: max(1, len(finite) // 20_000)]], axis=0)
    return finite[(np.abs(xyz[finite] - middle) < MAX_DISTANCE).all(1)]


def _scanner_normals(cloud: Cloud, chosen: np.ndarray) -> np.ndarray | None:
    """Return the normals of the points `chosen` where they, or the faces of a mesh, say which side was scanned."""
    import numpy as np

    from pc3dcli.geometry.viewpoints import faces_inwards, mesh_normals

    normal = cloud.normal
    if normal is None and cloud.faces is not None and len(cloud.faces):
        normal = mesh_normals(cloud.xyz, cloud.faces)
    if normal is None:
        return None
    normal = np.nan_to_num(normal[chosen]).astype(np.float32)
    return normal if faces_inwards(cloud.xyz[chosen], normal) else None


def _read_points(content: SceneContent) -> Cloud | None:
    """Return the scene's cloud, None where it names none."""
    from pc3dcli.formats.cloud import read_cloud, xyz_sha256
    from pc3dcli.formats.paths import resolve_inside

    record = content.record
    name = record.get("points")
    if name is None and content.is_object:
        from pc3dcli.commands.view_shapes import read_shape_points

        return read_shape_points(record)
    if name is None:
        return None
    if not isinstance(name, str):
        raise FormatError(f'"points" of scene {record["scene"]} is {name!r}, expected a file name')
    path = resolve_inside(Path(record["root"]), name)
    cloud = read_cloud(path)
    expected = record.get("xyz_sha256")
    if expected is not None and xyz_sha256(cloud.xyz) != expected:
        raise FormatError("the points are not those that the records were made for (xyz_sha256 differs)", file=path)
    return cloud


def _fused(content: SceneContent) -> Cloud | None:
    """Return a cloud fused from evenly spaced frames, None without depth."""
    from pc3dcli.datasets.scene import MAX_DEPTH, check_reach
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.geometry.fusion import fuse_points

    frames = [frame for frame in usable_frames(content) if frame.depth is not None]
    if not frames:
        return None
    chosen = [frames[index] for index in spread(len(frames), FUSED_FRAMES)]
    root = content.image_root
    voxel = _voxel(root, chosen)
    for frame in chosen:
        check_reach(frame, MAX_DEPTH, voxel)
    # what only one of many frames saw is mostly noise
    return Cloud(*fuse_points(_views(root, chosen), voxel, min_frames=2 if len(chosen) > 10 else 1))


def _voxel(root: Path, frames: list[Frame]) -> float:
    """Return a voxel edge that suits the scene, a shelf or a hall, from the depth in its middle frame."""
    import numpy as np

    frame = frames[len(frames) // 2]
    _, depth, K, _ = next(_views(root, [frame]))
    typical = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    return float(np.clip(VOXEL_PIXELS * typical / K[0, 0], *FUSED_VOXEL))


def _views(root: Path, frames: list[Frame]) -> Iterator[tuple]:
    from pc3dcli.datasets.scene import RgbdFrame

    for frame in frames:
        view = RgbdFrame(root, frame)
        yield view.rgb, view.depth, frame.K, frame.world_from_cam


def _decoded(records: list[dict], num_points: int, chosen: np.ndarray) -> Iterator[ShownInstance]:
    """Yield the instances of records, each mask decoded on its own, reduced to the points `chosen`."""
    import numpy as np

    from pc3dcli.formats.coco_rle import decode_points

    for record in records:
        mask = decode_points(record["rle"], num_points)
        points = np.flatnonzero(mask[chosen])
        label, score, number = record.get("label"), record.get("score"), record["instance"]
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise FormatError(f'"instance" is {number!r}, expected a whole number from 0 to 2^31')
        if not isinstance(label, str | None) or not isinstance(score, int | float | None):
            raise FormatError(f"instance {number} has label {label!r} and score {score!r}, expected text and a number")
        yield ShownInstance(number, points, int(np.count_nonzero(mask)), label, score)


def _numbered(ids: np.ndarray, chosen: np.ndarray) -> Iterator[ShownInstance]:
    """Yield the instances of a cloud that has an instance id per point, negative for none."""
    import numpy as np

    ids = np.where(np.abs(ids.astype(np.float64)) < 1 << 31, ids, -1).astype(np.int64)  # NaN is none as well
    numbers, counts = np.unique(ids[ids >= 0], return_counts=True)
    shown = ids[chosen]
    order = np.argsort(shown, kind="stable")
    starts = np.searchsorted(shown[order], numbers)
    ends = np.searchsorted(shown[order], numbers, side="right")
    for number, count, start, end in zip(numbers.tolist(), counts.tolist(), starts, ends, strict=True):
        yield ShownInstance(number, order[start:end], count)

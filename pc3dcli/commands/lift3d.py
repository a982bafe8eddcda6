# SPDX-License-Identifier: Apache-2.0
"""`pc3d lift3d`: tracked 2D masks -> `instance3d` records on the points of the scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced
from pc3dcli.stream.pipeline import Context, SceneTask

if TYPE_CHECKING:
    import numpy as np

    from pc3dcli.commands.label_output import Labels
    from pc3dcli.datasets.scene import RgbdFrame
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.papers.granularity.lift import Lifter
    from pc3dcli.stream.reader import SceneRecords

EXAMPLES = (
    "  pc3d track2d scans/ | pc3d lift3d --out labels/\n"
    "  pc3d lift3d tracks.ndjson --merge tracks --out labels/ --write ply,scannet"
)
CONSUMED = frozenset({"frame", "mask2d", "detection2d"})


@dataclass(frozen=True)
class Settings:
    """What decides the instances of a scene; picklable."""

    merge: str
    per_view: bool
    snap: bool
    max_depth: float
    formats: tuple[str, ...]
    lift: Any


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches."""
    from pc3dcli.papers.granularity.lift import LiftConfig

    return [LiftConfig()]


def lift3d(
    ctx: typer.Context,
    scenes: options.Streams = None,
    merge: Annotated[
        Literal["consensus", "tracks", "none"],
        typer.Option("--merge", metavar="HOW", help="How masks become instances: consensus, tracks or none."),
    ] = "consensus",
    min_views: Annotated[
        int | None, typer.Option("--min-views", min=1, metavar="N", help="Drop instances seen in fewer frames.")
    ] = None,
    merge_iou: Annotated[
        float | None, typer.Option("--merge-iou", min=0, max=1, metavar="X", help="Overlap at which two ids are one.")
    ] = None,
    max_gap: Annotated[
        float | None, typer.Option("--max-gap", min=0, metavar="M", help="Tolerance of the depth test, metres.")
    ] = None,
    per_view: Annotated[
        bool, typer.Option("--per-view", help="One scene per frame, to train on single views.")
    ] = False,
    out: options.Out = "-",
    write: Annotated[
        str | None, typer.Option("--write", metavar="FMT,...", help="Also write ply and/or scannet files.")
    ] = None,
    jobs: options.Jobs = 1,
    dry_run: options.DryRun = False,
    snap: Annotated[
        bool, advanced("--snap/--no-snap", help="Snap instances to superpoints of the mesh or cloud.")
    ] = False,
    max_depth: options.MaxDepth = 10.0,
    force: options.Force = False,
    skip_done: options.SkipDone = None,
    limit: options.Limit = None,
    shard: options.Shard = None,
    config: options.Config = None,
    define: options.Define = None,
    print_config: options.PrintConfig = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    fail_fast: options.FailFast = False,
    no_provenance: options.NoProvenance = False,
    unordered: options.Unordered = False,
    root: options.Root = None,
    allow_truncated: options.AllowTruncated = False,
    debug: options.Debug = False,
) -> None:
    """Lift tracked 2D masks to 3D instances.

    \b
    Examples:
      pc3d track2d scans/ | pc3d lift3d --out labels/
      pc3d lift3d tracks.ndjson --merge tracks --out labels/ --write ply,scannet
    """
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.execute import Execution
    from pc3dcli.commands.label_output import FORMATS
    from pc3dcli.errors import UsageError

    (lift,) = common.configure(ctx, *configs())
    if print_config:
        common.print_config(ctx, [lift])
    if per_view and out == "-":
        raise UsageError("--per-view needs a place for its points", hint="add --out views/")
    formats = options.written_formats(write, out, FORMATS, "labels/")
    settings = Settings(merge=merge, per_view=per_view, snap=snap, max_depth=max_depth, formats=formats, lift=lift)
    program = common.program(ctx, [lift], weights={}, exclude=("min_views", "merge_iou", "max_gap"))
    process = lift_view if per_view else lift_scene
    needed = tuple(FORMATS[name] for name in settings.formats)
    Execution(ctx, program).run(_tasks(ctx, settings), process, needed_files=needed)


def _tasks(ctx: typer.Context, settings: Settings) -> Iterator[SceneTask]:
    from pc3dcli.commands.inputs import expand_names, is_stream, sharded, stream_scenes
    from pc3dcli.errors import InputError
    from pc3dcli.stream.spool import RecordSpool

    params = ctx.params
    names = expand_names(ctx, params["scenes"], EXAMPLES)
    for name in names:
        if not is_stream(name):
            hint = f"pc3d track2d {name} | pc3d lift3d --out labels/" if Path(name).exists() else None
            raise InputError("expected a stream or the --out folder of pc3d track2d", file=name, hint=hint)
    streams = stream_scenes(
        names,
        lambda line: line.text if line.type in CONSUMED else None,
        store=RecordSpool,
        roots=params["root"],
        allow_truncated=params["allow_truncated"],
    )
    for scene in sharded(streams, params["shard"]):
        if settings.per_view and scene.ok and scene.scene is not None:
            yield from _view_tasks(scene, settings)
        else:
            yield _task(scene, scene.scene, (settings, scene.kept), tuple(scene.passed))


def _task(scene: SceneRecords, record: dict | None, payload: Any, passed: tuple[str, ...]) -> SceneTask:
    return SceneTask(record, payload, passed, scene.ok, tuple(scene.programs), scene.segment)


def _view_tasks(scene: SceneRecords, settings: Settings) -> Iterator[SceneTask]:
    """Yield a task for each frame that has masks, named <scene>/<frame>.

    raises  FormatError for a frame whose id cannot be the end of such a name
    """
    from pc3dcli.errors import FormatError
    from pc3dcli.stream.records import is_scene_id

    for frame in _frames(scene.kept):
        if frame.tracks or frame.detections:
            name = f"{scene.id}/{frame.record['frame']}"
            if not is_scene_id(name):
                raise FormatError(f"frame {frame.record['frame']!r} of scene {scene.id} cannot be a file name")
            record = {"type": "scene", "scene": name, "root": scene.scene["root"]}
            record |= {"up": scene.scene["up"]} if "up" in scene.scene else {}
            yield _task(scene, record, (settings, frame), ())


@dataclass(frozen=True)
class FrameMasks:
    """One frame of a stream: its `frame` record, its tracks (track, rle) and its detections (rle)."""

    record: dict
    tracks: list[tuple[int, dict]]
    detections: list[dict]


def _frames(records: Iterable[dict]) -> Iterator[FrameMasks]:
    """Group records into frames: the masks of a frame follow its record.

    raises  FormatError for a mask whose frame was not just given
    """
    from pc3dcli.errors import FormatError

    frame: FrameMasks | None = None
    for record in records:
        if record["type"] == "frame":
            if frame is not None:
                yield frame
            frame = FrameMasks(record, [], [])
            continue
        if frame is None or record["frame"] != frame.record["frame"]:
            message = f'{record["type"]} of frame "{record["frame"]}" does not follow its frame record'
            raise FormatError(message, hint="a frame record comes first, then all masks of that frame, then the next")
        if record["type"] == "mask2d":
            frame.tracks.append((_track_id(record), record["rle"]))
        else:
            frame.detections.append(record["rle"])
    if frame is not None:
        yield frame


def _track_id(record: dict) -> int:
    from pc3dcli.errors import FormatError
    from pc3dcli.stream.records import TRACK_LIMIT, is_track_id

    if not is_track_id(record["track"]):
        problem = f'track {record["track"]!r} of frame "{record["frame"]}"'
        raise FormatError(f"{problem}: expected an integer from 0 to {TRACK_LIMIT - 1}")
    return record["track"]


def lift_scene(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one scene: the scene with its points, the conflict rate, the instances.

    task.payload  (Settings, records of the scene: `frame`, `mask2d`, `detection2d`)
    """
    import numpy as np

    from pc3dcli.commands.label_output import Labels, instance_record
    from pc3dcli.commands.scene_superpoints import superpoints
    from pc3dcli.errors import InputError
    from pc3dcli.geometry.voxels import voxel_reach
    from pc3dcli.papers.granularity.lift import Lifter

    settings, records = task.payload
    root = Path(task.scene["root"])
    scene, cloud = _points(task.scene, settings, records, context)
    lift = settings.lift
    reach = voxel_reach(min(lift.unit, lift.merge_voxel, lift.cluster_eps / 2))
    known = np.flatnonzero((np.abs(cloud.xyz) < reach).all(axis=1))  # false for NaN
    if not len(known):
        raise InputError(f"no point of its cloud lies within {reach:.0f} m of the origin", file=root)
    lifter = Lifter(cloud.xyz[known], settings.lift)
    done = 0
    for done, frame in enumerate(_frames(records), 1):
        _add_frame(lifter, frame, root, settings)
        context.report(done, None)
    if done == 0:
        raise InputError("scene has no frames", hint="lift3d needs the frame and mask2d records of pc3d track2d")
    instances = lifter.instances(settings.merge, superpoints(cloud, known) if settings.snap else None)
    kappa = lifter.conflict_rate()
    context.warn(f"{len(instances)} instances from {done} frames, conflict rate {kappa:.4f}")
    yield scene
    yield {"type": "metric", "name": "conflict_rate", "value": kappa, "scene": task.id}
    indices = [known[instance.point_index] for instance in instances]
    for number, (instance, index) in enumerate(zip(instances, indices, strict=True)):
        record = instance_record(task.id, number, index, len(cloud.xyz))
        yield record | {"score": instance.score, "views": instance.views, "source": f"lift3d {settings.merge}"}
    if context.side is not None:
        votes = np.zeros((len(cloud.xyz), 2), np.float32)  # share of the winner, frames that see the point
        votes[known] = np.stack([lifter.winning_share(), lifter.votes.seen], axis=1)
        scores = [instance.score for instance in instances]
        arrays = {"vote_share": votes[:, 0], "seen": votes[:, 1].astype(np.int32)}
        _write(context, settings, Labels(cloud, indices, scores, arrays))


def lift_view(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one frame as a scene of its own, a sample of training stage 1 (spec section 3.5).

    The masks are the frame's own detections after the containment filter, painted large to small; where a stream
    has none (--propagate none), its tracks.

    task.payload  (Settings, FrameMasks)
    """
    import numpy as np

    from pc3dcli.commands.label_output import Labels, instance_record, write_points
    from pc3dcli.errors import InputError
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.papers.granularity.single_view import view_sample

    settings, frame = task.payload
    view = _view(frame.record, Path(task.scene["root"]), settings)
    labels = _view_labels(frame, view.size)
    xyz, rgb, label = view_sample(view.rgb, view.depth, view.K, view.world_from_cam, labels)
    if not len(xyz):
        raise InputError("its depth image holds no point within reach", hint="see --max-depth")
    cloud = Cloud(xyz, rgb)
    indices = [np.flatnonzero(label == number) for number in range(label.max() + 1)]
    yield write_points(task.scene, cloud, context)
    for number, index in enumerate(indices):
        yield instance_record(task.id, number, index, len(xyz)) | {"views": 1, "source": "lift3d per-view"}
    arrays = {"vote_share": (label >= 0).astype(np.float32), "seen": np.ones(len(xyz), np.int32)}
    _write(context, settings, Labels(cloud, indices, [1.0] * len(indices), arrays))


def _write(context: Context, settings: Settings, labels: Labels) -> None:
    from pc3dcli.commands.label_output import write_files

    method = f"lift3d {settings.merge}"
    write_files(context, labels, method=method, config=settings.lift, formats=settings.formats)


def _view_labels(frame: FrameMasks, size: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) int32 label image of a single view, -1 for none."""
    import numpy as np

    from pc3dcli.formats.coco_rle import decode_mask, paint_labels
    from pc3dcli.papers.granularity.containment import containment_filter

    if not frame.detections:
        return paint_labels(frame.tracks, size)
    pixels = [np.flatnonzero(decode_mask(rle)) for rle in frame.detections]
    kept = containment_filter(pixels, size[0] * size[1])
    return paint_labels([(number, frame.detections[k]) for number, k in enumerate(kept)], size)


def _points(scene: dict, settings: Settings, records: Iterable[dict], context: Context) -> tuple[dict, Cloud]:
    """Return the scene record and the points that are to be labelled: the scan's own, else fused from depth.

    raises  InputError when the cloud is not the one that the record describes, or when fused points have no place
    """
    from pc3dcli.commands.label_output import write_points
    from pc3dcli.errors import InputError
    from pc3dcli.formats.cloud import Cloud, read_cloud, xyz_sha256
    from pc3dcli.formats.paths import resolve_inside
    from pc3dcli.geometry.fusion import fuse_points

    root = Path(scene["root"])
    if scene.get("points") is not None:
        cloud = read_cloud(resolve_inside(root, scene["points"]))
        found, expected = xyz_sha256(cloud.xyz), scene.get("xyz_sha256")
        if expected not in (None, found):
            message = f"its points hash to {found[:12]}, expected {str(expected)[:12]}: not the cloud of this stream"
            raise InputError(message, file=root / scene["points"])
        return scene | {"num_points": len(cloud.xyz), "xyz_sha256": found}, cloud
    if context.side is None:
        raise InputError("scene has no cloud, and points fused from depth need a place", hint="add --out labels/")
    views = (_view(frame.record, root, settings, is_fused=True) for frame in _frames(records))
    cloud = Cloud(*fuse_points(((v.rgb, v.depth, v.K, v.world_from_cam) for v in views), settings.lift.voxel))
    if not len(cloud.xyz):
        raise InputError("its depth images hold no point within reach", file=root, hint="see --max-depth")
    return write_points(scene, cloud, context), cloud


def _view(record: dict, root: Path, settings: Settings, *, is_fused: bool = False) -> RgbdFrame:
    from pc3dcli.datasets.scene import RgbdFrame, check_reach, frame_from_record
    from pc3dcli.errors import InputError

    view = RgbdFrame(root, frame_from_record(record), max_depth=settings.max_depth)
    if is_fused:
        check_reach(view.frame, settings.max_depth, settings.lift.voxel)
    if view.depth is None:
        raise InputError(f"frame {record['frame']} has no depth, which lifting needs", file=root)
    return view


def _add_frame(lifter: Lifter, frame: FrameMasks, root: Path, settings: Settings) -> None:
    from pc3dcli.formats.coco_rle import decode_masks, paint_labels

    view = _view(frame.record, root, settings)
    labels = paint_labels(frame.tracks, view.size)
    detections = decode_masks(frame.detections) if settings.merge == "consensus" else None
    lifter.add_frame(view.depth, view.K, view.world_from_cam, labels, detections)

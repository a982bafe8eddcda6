# SPDX-License-Identifier: Apache-2.0
"""`pc3d track2d`: posed RGB-D video -> `frame` and `mask2d` records with consistent track ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced
from pc3dcli.stream.pipeline import Context, SceneTask

if TYPE_CHECKING:
    from pc3dcli.datasets.scene import Frame, RgbdFrame, Scene
    from pc3dcli.masks2d.grid_prompts import GridPromptsConfig
    from pc3dcli.masks2d.sam2_video import Sam2Video
    from pc3dcli.masks2d.sam2_video_config import Sam2VideoConfig
    from pc3dcli.papers.granularity.policy import MaskSource, Propagator, TrackedFrame

EXAMPLES = (
    "  pc3d track2d scans/ | pc3d lift3d --out labels/\n"
    "  pc3d track2d scans/scene0011_00 --stride 5 --out tracks.ndjson"
)


@dataclass(frozen=True)
class Settings:
    """What decides the masks of a scene; picklable, so that worker processes can have it."""

    masks: str
    propagate: str
    stride: int
    prompts: Path | None
    sam_weights: Path | None
    sam2_weights: Path | None
    max_depth: float
    depth_scale: float | None
    skip_bad_poses: bool
    device: str
    seed: int
    regions: Any
    policy: Any
    reproject: Any
    oracle: Any
    grid: Any
    video: Any


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches."""
    from pc3dcli.masks2d.grid_prompts import GridPromptsConfig
    from pc3dcli.masks2d.oracle import OracleConfig
    from pc3dcli.masks2d.regions import RegionsConfig
    from pc3dcli.masks2d.reproject import ReprojectConfig
    from pc3dcli.masks2d.sam2_video_config import Sam2VideoConfig
    from pc3dcli.papers.granularity.policy import PolicyConfig

    return [
        PolicyConfig(), RegionsConfig(), ReprojectConfig(), OracleConfig(), GridPromptsConfig(), Sam2VideoConfig()
    ]  # fmt: skip


def track2d(
    ctx: typer.Context,
    scenes: options.Scenes = None,
    masks: Annotated[
        Literal["regions", "sam", "sam2", "files", "oracle"],
        typer.Option("--masks", metavar="SOURCE", help="Source of masks: regions, sam, sam2, files or oracle."),
    ] = "regions",
    propagate: Annotated[
        Literal["reproject", "sam2", "none"],
        typer.Option("--propagate", metavar="HOW", help="How ids are carried on: reproject, sam2 or none."),
    ] = "reproject",
    stride: Annotated[int, typer.Option("--stride", min=1, metavar="N", help="Use every N-th frame.")] = 1,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="PATH", help="Masks of another tool, for --masks files.")
    ] = None,
    sam_weights: Annotated[
        Path | None,
        typer.Option("--sam-weights", dir_okay=False, metavar="FILE", help="A segment-anything checkpoint."),
    ] = None,
    sam2_weights: Annotated[
        Path | None, typer.Option("--sam2-weights", dir_okay=False, metavar="FILE", help="A SAM 2 checkpoint.")
    ] = None,
    out: options.Out = "-",
    jobs: options.Jobs = 1,
    dry_run: options.DryRun = False,
    chunk: Annotated[
        int, advanced("--chunk", min=1, metavar="N", help="Frames of video memory that SAM 2 keeps per object.")
    ] = 16,
    max_depth: options.MaxDepth = 10.0,
    depth_scale: options.DepthScale = None,
    skip_bad_poses: options.SkipBadPoses = False,
    dataset: options.Dataset = "auto",
    force: options.Force = False,
    skip_done: options.SkipDone = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
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
    """Segment posed RGB-D video into 2D masks with one track id per object.

    \b
    Examples:
      pc3d track2d scans/ | pc3d lift3d --out labels/
      pc3d track2d scans/scene0011_00 --stride 5 --out tracks.ndjson
    """
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.execute import Execution

    found = common.configure(ctx, *configs())
    if print_config:
        common.print_config(ctx, found)
    policy, regions, reproject, oracle, grid, video = found
    settings = Settings(
        masks=masks,
        propagate=propagate,
        stride=stride,
        prompts=prompts,
        sam_weights=sam_weights,
        sam2_weights=sam2_weights,
        max_depth=max_depth,
        depth_scale=depth_scale,
        skip_bad_poses=skip_bad_poses,
        device=device,
        seed=seed,
        regions=regions,
        policy=policy,
        reproject=reproject,
        oracle=oracle,
        grid=grid,
        video=video,
    )
    weights = _check(settings)
    program = common.program(ctx, found, weights=weights, exclude=("prompts", "sam_weights", "sam2_weights"))
    Execution(ctx, program).run(_tasks(ctx, settings), track_scene, describe=_describe)


def _check(settings: Settings) -> dict[str, str]:
    """Check that the options fit together; return the digests of the files that decide the result."""
    from pc3dcli.commands.inputs import digest
    from pc3dcli.errors import UsageError

    needs = {
        "--sam-weights": (settings.sam_weights, settings.masks == "sam"),
        "--sam2-weights": (settings.sam2_weights, "sam2" in (settings.masks, settings.propagate)),
        "--prompts": (settings.prompts, settings.masks == "files"),
    }
    for name, (path, is_needed) in needs.items():
        if is_needed and path is None:
            raise UsageError(f"--masks {settings.masks} --propagate {settings.propagate} needs {name}")
        if path is not None and not is_needed:
            raise UsageError(f"{name} has no use with --masks {settings.masks} --propagate {settings.propagate}")
    return {name[2:]: digest(path) for name, (path, _) in needs.items() if path is not None}


def _tasks(ctx: typer.Context, settings: Settings) -> Iterator[SceneTask]:
    """Yield a task for each scan on disk, then for each scene of the streams among the inputs.

    raises  UsageError for frames of one scene from two places
    """
    from pc3dcli.commands.inputs import expand_names, found_scenes, is_stream, sharded, stream_scenes
    from pc3dcli.errors import UsageError

    params = ctx.params
    names = expand_names(ctx, params["scenes"], EXAMPLES)
    refs = found_scenes([name for name in names if not is_stream(name)], params["dataset"])
    for ref in sharded(refs, params["shard"]):
        scene = {"type": "scene", "scene": ref.scene, "root": str(ref.path.resolve())}
        yield SceneTask(scene, (settings, ref))
    streams = stream_scenes(
        [name for name in names if is_stream(name)],
        lambda line: line.record if line.type == "frame" else None,
        roots=params["root"],
        allow_truncated=params["allow_truncated"],
    )
    places = {ref.scene: str(ref.path) for ref in refs}
    for scene in sharded(streams, params["shard"]):
        if scene.kept:
            if scene.id in places:
                found = f"scene {scene.id} is in {places[scene.id]} and in {scene.source}"
                raise UsageError(found, hint="leave one of them out, or run once for each")
            places[scene.id] = scene.source
        segment = scene.segment + (1 if refs else 0)
        payload = (settings, scene.kept)
        yield SceneTask(scene.scene, payload, tuple(scene.passed), scene.ok, tuple(scene.programs), segment)


def track_scene(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one scene: the scene, then each frame with its masks.

    task.payload  (Settings, SceneRef) for a scan on disk, (Settings, list of `frame` records) for one of a stream
    """
    from pc3dcli.datasets.scene import frame_to_record
    from pc3dcli.formats.label_rle import encode_labels

    settings, source = task.payload
    scene = _open(task, settings, source)
    yield _scene_record(task, scene)
    frames = scene.frames[:: settings.stride]
    _introduce(scene, frames, settings.max_depth, context)
    detections = _Recorder(_mask_source(settings, scene.scene))
    for done, tracked in enumerate(_track(settings, scene, frames, detections), 1):
        frame = frames[tracked.t]
        key = {"scene": scene.scene, "frame": frame.frame}
        yield frame_to_record(scene.scene, frame)
        for track, rle in encode_labels(tracked.labels).items():
            yield {"type": "mask2d", **key, "track": track, "rle": rle, "score": tracked.scores[track]}
        proposals = detections.take(frame.frame)
        if settings.propagate != "none":  # else each of them is a track already
            for rle, score in proposals:
                yield {"type": "detection2d", **key, "rle": rle, "score": score}
        context.report(done, len(frames))


def _open(task: SceneTask, settings: Settings, source: Any) -> Scene:
    """Open a scan, or rebuild it from the frame records of a stream.

    raises  InputError for a scene without frames, or one that is too far from the origin
    """
    from pc3dcli.datasets.scene import Scene, check_reach, frame_from_record
    from pc3dcli.errors import InputError

    if isinstance(source, list):
        scale = {} if settings.depth_scale is None else {"depth_scale": settings.depth_scale}
        frames = tuple(frame_from_record(record | scale) for record in source)
        record = task.scene
        scene = Scene(task.id, Path(record["root"]), record.get("dataset", "stream"), frames, record.get("points"))
    else:
        scene = source.open(depth_scale=settings.depth_scale, skip_bad_poses=settings.skip_bad_poses)
    if not scene.frames:
        reasons = "; ".join(f"{frame}: {reason}" for frame, reason in scene.skipped[:3])
        raise InputError(f"scene has no usable frame{f' ({reasons})' if reasons else ''}", file=scene.root)
    if settings.propagate == "reproject":
        for frame in scene.frames:
            check_reach(frame, settings.max_depth, settings.reproject.voxel)
    return scene


def _scene_record(task: SceneTask, scene: Scene) -> dict:
    """Return the scene record with the identity of its cloud, if it has one."""
    from pc3dcli.formats.cloud import read_cloud, xyz_sha256
    from pc3dcli.formats.paths import resolve_inside

    record = task.scene | {"root": str(scene.root.resolve()), "dataset": scene.dataset, "up": scene.up}
    if scene.points is not None:
        xyz = read_cloud(resolve_inside(scene.root, scene.points)).xyz
        record |= {"points": scene.points, "num_points": len(xyz), "xyz_sha256": xyz_sha256(xyz)}
    return record


def _describe(task: SceneTask) -> str:
    """Say for --dry-run what a scene is: layout, frames, image size and depth unit, between tabs."""
    from pc3dcli.errors import Pc3dError

    try:
        scene = _open(task, *task.payload)
    except Pc3dError as error:
        return f"cannot be read: {error}"
    size, skipped = scene.frames[0].size, f" ({len(scene.skipped)} skipped)" if scene.skipped else ""
    unit = f"depth unit {scene.frames[0].depth_scale:.6g} m" if scene.frames[0].depth else "no depth"
    return f"{scene.dataset}\t{len(scene.frames)} frames{skipped}\t{size[1]} x {size[0]}\t{unit}"


def _introduce(scene: Scene, frames: tuple[Frame, ...], max_depth: float, context: Context) -> None:
    """Say what a scene is, what was assumed, which frames are skipped and why, and whether its depth can be right."""
    from pc3dcli.datasets.depth_unit import fitting_unit, sample_depth

    sample = sample_depth(scene.root, frames, max_depth)
    depth = f"depth unit {sample.unit:.6g} m, median {sample.median:.2f} m" if sample else "no depth"
    context.note(f"{len(frames)} frames of {frames[0].size[1]} x {frames[0].size[0]}, {depth}")
    for note in scene.notes:
        context.warn(note)
    if scene.skipped:
        reasons = Counter(reason for _, reason in scene.skipped).most_common()
        shown = "; ".join(reason if count == 1 else f"{reason} ({count})" for reason, count in reasons[:3])
        usable = f"{len(scene.frames)}/{len(scene.frames) + len(scene.skipped)} frames usable"
        context.warn(f"{usable}, {len(scene.skipped)} skipped: {shown}{'; ...' if len(reasons) > 3 else ''}")
    unit = fitting_unit(scene.root, frames)
    if unit is not None:
        found = f"its frames agree about what they see with a depth unit of {unit:.6g} m, not of {sample.unit:.6g} m"
        context.warn(f"{found}: is the unit right? --depth-scale {unit:.6g}")
    elif sample and sample.doubt():
        context.warn(sample.doubt())


def _track(settings: Settings, scene: Scene, frames: tuple[Frame, ...], source: MaskSource) -> Iterator[TrackedFrame]:
    from pc3dcli.datasets.scene import RgbdFrame
    from pc3dcli.papers.granularity.policy import track_masks

    views = ((t, RgbdFrame(scene.root, frame, max_depth=settings.max_depth)) for t, frame in enumerate(frames))
    return track_masks(views, source, _propagator(settings), settings.policy)


class _Recorder:
    """A mask source that remembers what it proposed, for the `detection2d` records of the frame."""

    def __init__(self, source: MaskSource) -> None:
        self.source = source
        self.proposals: dict[str, list[tuple[dict, float]]] = {}

    def masks(self, view: RgbdFrame) -> list:
        from pc3dcli.formats.coco_rle import encode_mask

        found = self.source.masks(view)
        self.proposals[view.frame.frame] = [(encode_mask(item.mask), item.score) for item in found]
        return found

    def take(self, frame: str) -> list[tuple[dict, float]]:
        return self.proposals.pop(frame, [])


def _mask_source(settings: Settings, scene: str) -> MaskSource:
    if settings.masks == "regions":
        from pc3dcli.masks2d.regions import Regions

        return Regions(settings.regions)
    if settings.masks == "files":
        from pc3dcli.masks2d.files import MaskFiles

        return MaskFiles(settings.prompts, scene)
    if settings.masks == "oracle":
        from pc3dcli.masks2d.oracle import OracleMasks

        return OracleMasks(settings.oracle)
    weights = settings.sam_weights if settings.masks == "sam" else settings.sam2_weights
    return _network_masks(settings.masks, weights, _device(settings), settings.grid)


def _propagator(settings: Settings) -> Propagator | None:
    if settings.propagate == "none":
        return None
    if settings.propagate == "sam2":
        network = _network_video(settings.sam2_weights, _device(settings), settings.video)
        network.reset()
        return network
    from pc3dcli.masks2d.reproject import Reproject

    return Reproject(settings.reproject)


@lru_cache(maxsize=1)
def _network_masks(kind: str, weights: Path, device: str, config: GridPromptsConfig) -> MaskSource:
    """Load a network once for all scenes."""
    if kind == "sam":
        from pc3dcli.masks2d.sam import Sam

        return Sam(weights, device, config)
    from pc3dcli.masks2d.sam2 import Sam2

    return Sam2(weights, device, config)


@lru_cache(maxsize=1)
def _network_video(weights: Path, device: str, config: Sam2VideoConfig) -> Sam2Video:
    from pc3dcli.masks2d.sam2_video import Sam2Video

    return Sam2Video(weights, device, config)


def _device(settings: Settings) -> str:
    if settings.device != "auto":
        return settings.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

# SPDX-License-Identifier: Apache-2.0
"""`pc3d track2d`: posed RGB-D video -> `frame` and `mask2d` records with consistent track ids."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pc3dcli.commands import options
from pc3dcli.commands.options import advanced
from pc3dcli.stream.pipeline import Context, SceneTask

if TYPE_CHECKING:
    import numpy as np

    from pc3dcli.datasets.scene import Frame, Scene, SceneRef
    from pc3dcli.papers.granularity.policy import PolicyConfig

EXAMPLES = "  pc3d track2d scans/ | pc3d lift3d --out labels/\n  pc3d track2d scans/scene0011_00 --stride 5 --out t.ndjson"


@dataclass(frozen=True)
class Settings:
    """What decides the masks of a scene; picklable, so that worker processes can have it."""

    masks: str
    propagate: str
    stride: int
    prompts: Path | None
    sam_weights: Path | None
    sam2_weights: Path | None
    chunk: int
    max_depth: float
    depth_scale: float | None
    skip_bad_poses: bool
    device: str
    seed: int
    regions: Any
    policy: Any
    reproject: Any


def configs() -> list[Any]:
    """Return the configs whose fields -D reaches."""
    from pc3dcli.masks2d.regions import RegionsConfig
    from pc3dcli.masks2d.reproject import ReprojectConfig
    from pc3dcli.papers.granularity.policy import PolicyConfig

    return [PolicyConfig(), RegionsConfig(), ReprojectConfig()]


def track2d(
    ctx: typer.Context,
    scenes: options.Scenes = None,
    masks: Annotated[
        Literal["regions", "sam", "sam2", "files", "oracle"],
        typer.Option("--masks", metavar="SOURCE", help="regions, sam, sam2, files or oracle."),
    ] = "regions",
    propagate: Annotated[
        Literal["reproject", "sam2", "none"],
        typer.Option("--propagate", metavar="HOW", help="reproject, sam2 or none."),
    ] = "reproject",
    stride: Annotated[int, typer.Option("--stride", min=1, metavar="N", help="Use every N-th frame.")] = 1,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="PATH", help="Masks of another tool, for --masks files.")
    ] = None,
    sam_weights: Annotated[
        Path | None, typer.Option("--sam-weights", metavar="FILE", help="A segment-anything checkpoint.")
    ] = None,
    sam2_weights: Annotated[
        Path | None, typer.Option("--sam2-weights", metavar="FILE", help="A SAM 2 checkpoint.")
    ] = None,
    out: options.Out = "-",
    jobs: options.Jobs = 1,
    dry_run: options.DryRun = False,
    chunk: Annotated[
        int, advanced("--chunk", min=1, metavar="N", help="Frames of video memory that SAM 2 keeps per object.")
    ] = 16,
    max_depth: Annotated[
        float, advanced("--max-depth", min=0.1, metavar="M", help="Depth beyond M metres counts as missing.")
    ] = 10.0,
    depth_scale: Annotated[
        float | None, advanced("--depth-scale", metavar="M", help="Metres per stored depth unit, if no file says it.")
    ] = None,
    skip_bad_poses: Annotated[
        bool, advanced("--skip-bad-poses", help="Skip frames whose pose file is malformed.")
    ] = False,
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

    policy, regions, reproject = common.configure(ctx, *configs())
    if print_config:
        common.print_config(ctx, [policy, regions, reproject])
    settings = Settings(
        masks, propagate, stride, prompts, sam_weights, sam2_weights, chunk, max_depth, depth_scale, skip_bad_poses,
        device, seed, regions, policy, reproject,
    )  # fmt: skip
    weights = _check(settings)
    program = common.program(
        ctx, [policy, regions, reproject], weights=weights, exclude=("prompts", "sam_weights", "sam2_weights")
    )
    execution = Execution(ctx, program)
    execution.run(_tasks(ctx, execution, settings), track_scene)


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


def _tasks(ctx: typer.Context, execution: Any, settings: Settings) -> Iterator[SceneTask]:
    from pc3dcli.commands.inputs import expand_names, found_scenes, is_stream, sharded, stream_scenes

    names = expand_names(ctx, ctx.params["scenes"], EXAMPLES)
    streams = [name for name in names if is_stream(name)]
    refs = found_scenes([name for name in names if not is_stream(name)], ctx.params["dataset"])
    scene_tasks = [
        SceneTask({"type": "scene", "scene": ref.scene, "root": str(ref.path.resolve())}, (settings, ref))
        for ref in refs
    ]
    yield from sharded(scene_tasks, ctx.params["shard"])
    first = 1 if refs else 0
    roots, allow_truncated = ctx.params["root"], ctx.params["allow_truncated"]
    for scene in sharded(stream_scenes(streams, _keep, roots=roots, allow_truncated=allow_truncated), ctx.params["shard"]):
        payload = (settings, scene.kept)
        yield SceneTask(
            scene.scene, payload, tuple(scene.passed), scene.ok, tuple(scene.programs), scene.segment + first
        )


def _keep(line: Any) -> dict | None:
    return line.record if line.type == "frame" else None


def track_scene(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one scene: the scene, then each frame with its masks.

    task.payload  (Settings, SceneRef) for a scan on disk, (Settings, list of `frame` records) for one of a stream
    """
    from pc3dcli.datasets.scene import frame_to_record
    from pc3dcli.formats.coco_rle import encode_mask

    settings, source = task.payload
    scene = _open(task, settings, source)
    yield _scene_record(task, scene)
    frames = scene.frames[:: settings.stride]
    recorder = _DetectionRecorder(_mask_source(settings, scene))
    for done, tracked in enumerate(_tracked_frames(settings, scene, frames, recorder), 1):
        frame = frames[tracked.t]
        yield frame_to_record(scene.scene, frame)
        key = {"scene": scene.scene, "frame": frame.frame}
        for track, mask in tracked.masks.items():
            yield {"type": "mask2d"} | key | {"track": track, "rle": encode_mask(mask)} | _score(tracked, track)
        if settings.propagate != "none":  # without propagation each detection is a track already
            for rle, score in recorder.take(tracked.t):
                yield {"type": "detection2d"} | key | {"rle": rle, "score": score}
        context.report(done, len(frames))

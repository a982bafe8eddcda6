# SPDX-License-Identifier: Apache-2.0
"""`pc3d segment` without --parts: clouds and scenes -> `instance3d` records with scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import pc3dcli
from pc3dcli.errors import UsageError
from pc3dcli.stream.pipeline import Context, SceneTask

if TYPE_CHECKING:
    import numpy as np

    from pc3dcli.datasets.scene import SceneRef
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.papers.granularity.mask_instances import MaskInstance
    from pc3dcli.stream.reader import SceneRecords

ROOMS_NETWORK = Path(pc3dcli.__file__).with_name("models") / "rooms"  # without --weights
FUSED_VOXEL, MAX_DEPTH = 0.02, 10.0  # metres, of clouds fused from depth, as lift3d's defaults


@dataclass(frozen=True)
class Settings:
    """What decides the instances of a scene; picklable."""

    weights: Path
    device: str
    snap: bool
    min_score: float
    formats: tuple[str, ...]
    find: Any
    chunks: Any


def run(ctx: typer.Context, examples: str) -> None:
    """Segment scenes and leave with the exit code."""
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.execute import Execution
    from pc3dcli.commands.label_output import FORMATS
    from pc3dcli.commands.options import written_formats
    from pc3dcli.commands.segment import configs
    from pc3dcli.commands.weights import weights_digest

    params = ctx.params
    find, chunks = common.configure(ctx, *configs(is_ours=params["weights"] is None))
    if params["print_config"]:
        common.print_config(ctx, [find, chunks])
    if ctx.get_parameter_source("seed").name in ("COMMANDLINE", "ENVIRONMENT"):
        raise UsageError("--seed: nothing is random without --parts")
    if params["category"] is not None or params["split"] != "all":
        raise UsageError(f"--{'category' if params['category'] is not None else 'split'}: only with --parts")
    weights = params["weights"] or ROOMS_NETWORK
    formats = written_formats(params["write"], params["out"], FORMATS, "pred/")
    settings = Settings(weights, params["device"], params["snap"], params["min_score"], formats, find, chunks)
    digest = {"weights": weights_digest(weights)}
    program = common.program(ctx, [find, chunks], weights=digest, exclude=("weights", "dataset", "split"))
    needed = tuple(FORMATS[name] for name in formats)
    Execution(ctx, program).run(_tasks(ctx, settings, examples), segment_scene, needed_files=needed)


def _tasks(ctx: typer.Context, settings: Settings, examples: str) -> Iterator[SceneTask]:
    """Yield a task for each scene of streams, then for each scan on disk."""
    from pc3dcli.commands.inputs import expand_names, found_scenes, holds_stream, sharded, stream_scenes

    params = ctx.params
    names = expand_names(ctx, params["scenes"], examples)
    streams = [name for name in names if holds_stream(name) or name == "-"]
    refs = found_scenes([name for name in names if name not in streams], params["dataset"])
    records = stream_scenes(
        streams,
        lambda line: line.type == "instance3d" or None,  # of another program; ours stand in their place
        roots=params["root"],
        allow_truncated=params["allow_truncated"],
    )
    of_streams = (
        SceneTask(one.scene, (settings, None), tuple(one.passed), one.ok, tuple(one.programs), one.segment)
        for one in _apart(records, refs)
    )
    of_scans = (
        SceneTask(
            {"type": "scene", "scene": ref.scene, "dataset": ref.dataset, "root": str(ref.path.resolve())},
            (settings, ref),
        )
        for ref in refs
    )
    yield from sharded((task for tasks in (of_streams, of_scans) for task in tasks), params["shard"])


def _apart(records: Iterator[SceneRecords], refs: list[SceneRef]) -> Iterator[SceneRecords]:
    """Pass the scenes of streams on; raises UsageError for one that is a scan of the input too."""
    scans = {ref.scene: ref.path for ref in refs}
    for one in records:
        if one.id in scans:
            raise UsageError(f"scene {one.id} is in {one.source} and is {scans[one.id]}", hint="run once for each")
        yield one


def segment_scene(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one scene: the scene with its points, then its instances, the best first.

    task.payload  (Settings, SceneRef of a scan on disk or None)
    """
    import numpy as np

    from pc3dcli.commands.label_output import Labels, instance_record, write_files
    from pc3dcli.commands.labelled_scenes import upright_points

    settings, ref = task.payload
    scene, cloud = _cloud(task.scene, context) if ref is None else _cloud_of_scan(task.scene, ref, context)
    upright = replace(cloud, xyz=upright_points(cloud.xyz, str(scene.get("up", "z"))))
    found = _segmenter(settings).instances(upright, context.warn)
    if settings.snap:
        found = _snapped(found, cloud, settings)
    found = [instance for instance in found if instance.score >= settings.min_score]
    yield scene
    for number, instance in enumerate(found):
        record = instance_record(task.id, number, instance.index, len(cloud.xyz))
        yield record | {"score": instance.score, "source": "segment"}
    _say(len(found), settings, context)
    if context.side is not None:
        confidence = np.concatenate([one.confidence for one in found] or [np.zeros(0, np.float32)])
        indices, scores = [one.index for one in found], [one.score for one in found]
        labels = Labels(cloud, indices, scores, {"confidence": confidence})
        write_files(context, labels, method="segment instances", config=settings.find, formats=settings.formats)


def _say(num: int, settings: Settings, context: Context) -> None:
    """Say how many instances a scene has, and who found them where the user did not choose."""
    if settings.weights == ROOMS_NETWORK:
        context.warn(f"{num} instances, found by the network of rendered rooms that comes with pc3d")
    else:
        context.note(f"{num} instances")


@lru_cache(maxsize=1)
def _segmenter(settings: Settings) -> Any:
    """Load the network once a process."""
    from pc3dcli.commands.instance_segmenter import InstanceSegmenter

    return InstanceSegmenter(settings.weights, settings.device, settings.find, settings.chunks)


def _snapped(found: list[MaskInstance], cloud: Cloud, settings: Settings) -> list[MaskInstance]:
    import numpy as np

    from pc3dcli.commands.scene_superpoints import superpoints
    from pc3dcli.papers.granularity.mask_instances import snapped

    known = np.flatnonzero(np.isfinite(cloud.xyz).all(axis=1))
    of_known = superpoints(cloud, known)
    superpoint = np.full(len(cloud.xyz), of_known.max(initial=-1) + 1)  # what is not finite is one of its own
    superpoint[known] = of_known
    return snapped(found, superpoint, settings.find)


def _cloud(scene: dict, context: Context) -> tuple[dict, Cloud]:
    """Return the scene record and cloud of a stream; raises InputError without one or when it is another."""
    from pc3dcli.commands.labelled_scenes import SceneCloud
    from pc3dcli.errors import InputError
    from pc3dcli.formats.cloud import xyz_sha256
    from pc3dcli.formats.paths import resolve_inside

    if scene.get("points") is None:
        raise InputError("scene has no cloud", hint="name the scan itself, or the --out folder of pc3d lift3d")
    file = resolve_inside(Path(scene["root"]), scene["points"])
    cloud = SceneCloud(file, scene.get("num_points"), scene.get("xyz_sha256")).read()
    return scene | {"num_points": len(cloud.xyz), "xyz_sha256": xyz_sha256(cloud.xyz)}, cloud


def _cloud_of_scan(record: dict, ref: Any, context: Context) -> tuple[dict, Cloud]:
    """Return the scene record and the cloud of a scan: its own, else fused from its depth images."""
    from pc3dcli.errors import InputError

    scene = ref.open()
    record = record | {"root": str(scene.root.resolve()), "up": scene.up}
    if scene.points is not None:
        return _cloud(record | {"points": scene.points}, context)
    if not scene.frames:
        raise InputError("holds neither cloud nor frames", file=ref.path)
    if context.side is None:
        raise InputError("scene has no cloud, and points fused from depth need a place", hint="add --out pred/")
    return _fused(record, scene, context)


def _fused(record: dict, scene: Any, context: Context) -> tuple[dict, Cloud]:
    from pc3dcli.commands.label_output import write_points
    from pc3dcli.datasets.scene import RgbdFrame, check_reach
    from pc3dcli.errors import InputError
    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.geometry.fusion import fuse_points

    def views() -> Iterator[tuple[np.ndarray, ...]]:
        for frame in scene.frames:
            check_reach(frame, MAX_DEPTH, FUSED_VOXEL)
            view = RgbdFrame(scene.root, frame, max_depth=MAX_DEPTH)
            if view.depth is None:
                raise InputError(f"frame {frame.frame} has no depth, and the scene no cloud", file=scene.root)
            yield view.rgb, view.depth, view.K, view.world_from_cam

    cloud = Cloud(*fuse_points(views(), FUSED_VOXEL))
    if not len(cloud.xyz):
        raise InputError("its depth images hold no point within reach", file=scene.root)
    return write_points(record, cloud, context), cloud

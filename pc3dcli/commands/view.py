# SPDX-License-Identifier: Apache-2.0
"""`pc3d view`: streams, label folders, scans and clouds -> PNG pictures and one offline HTML page a scene."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pc3dcli.commands import options

if TYPE_CHECKING:
    from pc3dcli.commands.progress import ProgressReporter
    from pc3dcli.commands.view_scene import SceneContent
    from pc3dcli.stream.pipeline import Summary
    from pc3dcli.stream.provenance import Program

EXAMPLES = "  pc3d view labels/ --out pictures/\n  pc3d track2d scans/ | pc3d view --out pictures/ --write png"
FORMATS = ("png", "html")
MARK = "view.json"  # says what a scene's pictures were made from; written last


@dataclass(frozen=True)
class Settings:
    """What decides the pictures of a scene; size is (H, W)."""

    out: Path
    formats: tuple[str, ...]
    frames: int
    size: tuple[int, int]
    max_points: int


@dataclass(frozen=True)
class _Job:
    """A scene to be drawn: `open` returns its content, or raises what is wrong with it."""

    scene: str
    open: Callable[[], SceneContent]
    programs: tuple[dict, ...] = ()


def view(
    ctx: typer.Context,
    scenes: options.Scenes = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the pictures.")] = None,
    write: Annotated[str, typer.Option("--write", metavar="FMT,...", help="png and/or html.")] = "png,html",
    frames: Annotated[int, typer.Option("--frames", min=0, metavar="N", help="Frames shown with their masks.")] = 9,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Of a picture, in pixels.")] = "1280x960",
    max_points: Annotated[
        int, typer.Option("--max-points", min=1, max=2_000_000, metavar="N", help="Of a larger cloud show N points.")
    ] = 500_000,
    dry_run: options.DryRun = False,
    depth_scale: options.DepthScale = None,
    skip_bad_poses: options.SkipBadPoses = False,
    dataset: options.Dataset = "auto",
    force: options.Force = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    config: options.Config = None,
    print_config: options.PrintConfig = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    fail_fast: options.FailFast = False,
    root: options.Root = None,
    allow_truncated: options.AllowTruncated = False,
    debug: options.Debug = False,
) -> None:
    """Draw scenes and their instances: PNG pictures, and a page for the browser.

    \b
    Examples:
      pc3d view labels/ --out pictures/
      pc3d track2d scans/ | pc3d view --out pictures/ --write png
    """
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.progress import ProgressReporter
    from pc3dcli.errors import UsageError

    if print_config:
        common.print_config(ctx, [])
    if out is None:
        raise UsageError("no place for the pictures", hint="add --out pictures/")
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, expected a folder", file=out)
    settings = Settings(out, _formats(write), frames, _size(size), max_points)
    program = common.program(ctx, [], weights={})
    reporter = ProgressReporter(ctx.info_name, quiet=quiet, verbose=verbose, progress=progress)
    with reporter:
        summary = _run(ctx, settings, program, reporter)
    reporter.summary(summary)
    raise typer.Exit(summary.exit_code)


def _formats(text: str) -> tuple[str, ...]:
    from pc3dcli.errors import UsageError

    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UsageError(f"--write {text}: expected {' and/or '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def _size(text: str) -> tuple[int, int]:
    """Return (H, W) of a text like 1280x960."""
    from pc3dcli.errors import UsageError

    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and all(16 <= int(side) <= 8192 for side in (width, height))):
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT, each from 16 to 8192")
    return int(height), int(width)


def _run(ctx: typer.Context, settings: Settings, program: Program, reporter: ProgressReporter) -> Summary:
    """Draw every scene; a broken one is reported and the others are drawn."""
    from pc3dcli.errors import Pc3dError, UsageError
    from pc3dcli.stream.pipeline import Summary
    from pc3dcli.stream.writer import remove_stale_temporaries

    summary, params = Summary(), ctx.params
    remove_stale_temporaries(settings.out)
    for job in islice(_jobs(ctx, settings, summary), params["limit"]):
        reporter.scene_progress(job.scene, 0, None)
        try:
            status = _draw(job, settings, program, is_forced=params["force"], is_dry=params["dry_run"])
        except UsageError:
            raise
        except Pc3dError as error:
            if params["fail_fast"]:
                raise
            summary.failed.append(job.scene)
            reporter.scene_finished(job.scene, "failed", error.with_hint())
            continue
        (summary.skipped if status == "skipped" else summary.done).append(job.scene)
        reporter.scene_finished(job.scene, status, None)
    return summary


def _jobs(ctx: typer.Context, settings: Settings, summary: Summary) -> Iterator[_Job]:
    """Yield the scans among the inputs, then the scenes of the streams, one in memory at a time."""
    from pc3dcli.commands.inputs import expand_names, found_scenes, is_stream, sharded
    from pc3dcli.commands.view_scene import content_of_scan
    from pc3dcli.errors import InputError

    params = ctx.params
    names = expand_names(ctx, params["scenes"], EXAMPLES)
    refs = found_scenes([name for name in names if not is_stream(name)], params["dataset"])
    seen = {ref.scene for ref in refs}
    for ref in sharded(refs, params["shard"]):
        opened = partial(ref.open, depth_scale=params["depth_scale"], skip_bad_poses=params["skip_bad_poses"])
        yield _Job(ref.scene, lambda opened=opened: content_of_scan(opened()))
    streams = _stream_jobs([name for name in names if is_stream(name)], params, settings, summary)
    for job in sharded(streams, params["shard"]):
        if job.scene in seen:
            raise InputError(f"scene {job.scene} comes twice", hint="streams of one scene are merged, scans are not")
        seen.add(job.scene)
        yield job


def _stream_jobs(names: list[str], params: dict, settings: Settings, summary: Summary) -> Iterator[_Job]:
    """Yield the scenes of streams; those of several inputs, as tracks and the labels made from them, are merged."""
    from pc3dcli.commands.inputs import STDIN, stream_scenes
    from pc3dcli.commands.view_scene import Collector

    collector = Collector(settings.frames)
    scenes = stream_scenes(names, collector, roots=params["root"], allow_truncated=params["allow_truncated"])
    found: dict[str, tuple[SceneContent | None, tuple[dict, ...]]] = {}
    for scene in scenes:
        if scene.scene is None:
            summary.has_loose_errors |= not scene.ok
            continue
        folder = Path.cwd() if scene.source == STDIN else Path(scene.source).parent.resolve()
        taken = collector.take(scene.scene, folder)
        content = taken if scene.ok else None
        if len(names) == 1:
            yield _Job(scene.id, _opener(scene.id, content), tuple(scene.programs))
        else:
            found[scene.id] = _both(found.get(scene.id), (content, tuple(scene.programs)))
    for scene, (content, programs) in found.items():
        yield _Job(scene, _opener(scene, content), programs)


def _both(first: tuple | None, second: tuple) -> tuple[SceneContent | None, tuple[dict, ...]]:
    """Merge (content, program records) of one scene in two streams; None if it failed in one."""
    if first is None:
        return second
    programs = {record["id"]: record for record in (*first[1], *second[1])}
    content = first[0].merged(second[0]) if first[0] and second[0] else None
    return content, tuple(programs.values())


def _opener(scene: str, content: SceneContent | None) -> Callable[[], SceneContent]:
    def opened() -> SceneContent:
        from pc3dcli.errors import InputError

        if content is None:
            raise InputError(f"{scene}: failed in an earlier stage")
        return content

    return opened


def _draw(job: _Job, settings: Settings, program: Program, *, is_forced: bool, is_dry: bool) -> str:
    """Write the files of one scene unless they are there already; return what happened.

    raises  UsageError when they were made from something else, FormatError and InputError for what cannot be read
    """
    content = job.open()
    made = _identity(content, job, settings, program)
    mark = settings.out / job.scene / MARK
    is_done = not is_forced and _is_done(mark, made)
    if is_dry:
        print(f"{job.scene}\t{settings.out / job.scene}\t{'skip' if is_done else 'do'}")
        return "skipped" if is_done else "done"
    if not is_done:
        _write_files(content, settings, _origin(job.programs))
        _write(mark, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())
    first = settings.out / (f"{job.scene}.html" if "html" in settings.formats else f"{job.scene}/overview.png")
    if first.is_file():  # a stream without points has only the sheet of its frames
        print(first)
    return "skipped" if is_done else "done"


def _identity(content: SceneContent, job: _Job, settings: Settings, program: Program) -> dict:
    """Return the program record of the pictures, with the SHA-256 of the records that were drawn."""
    from pc3dcli.stream.provenance import heads

    config = program.config | {"write": list(settings.formats)}
    record = dataclasses.replace(program, config=config).record(heads(list(job.programs)))
    return record | {"records_sha256": content.digest}


def _origin(programs: tuple[dict, ...]) -> list[str]:
    """Return the command lines and versions that made the input, one a line."""
    lines = []
    for one in programs:
        words = one["argv"] if isinstance(one["argv"], list) else []
        lines.append(f"{shlex.join([*one['program'].split(), *map(str, words)])} (version {one['version']})")
    return lines


def _is_done(mark: Path, made: dict) -> bool:
    from pc3dcli.errors import UsageError
    from pc3dcli.stream.provenance import first_difference

    if not mark.is_file():
        return False
    try:
        old = json.loads(mark.read_text(encoding="utf-8"))
        is_same_run = old["id"] == made["id"]
        if is_same_run and old["records_sha256"] == made["records_sha256"]:
            return True
        difference = "but shows other records" if is_same_run else first_difference(made, old)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        difference = "but its marker cannot be read"
    raise UsageError(
        f"exists, {difference}", file=mark.parent, hint="pass --force to draw it anew, or name another --out"
    )


def _write_files(content: SceneContent, settings: Settings, origin: list[str]) -> None:
    from pc3dcli.commands import view_pictures as drawn
    from pc3dcli.commands.view_scene import shown_cloud
    from pc3dcli.errors import InputError
    from pc3dcli.formats.overlay import contact_sheet, png_bytes

    scene = content.record["scene"]
    folder = settings.out / scene
    cloud = shown_cloud(content, settings.max_points)
    frames = drawn.frame_pictures(content, settings.frames)
    if cloud is None and not any(content.masks.values()):
        raise InputError(f"scene {scene} has neither points, nor depth, nor masks to show")
    if frames and "png" in settings.formats:
        captions, pictures = zip(*frames, strict=True)
        _write(folder / "frames.png", png_bytes(contact_sheet(pictures, captions)))
    if cloud is None:
        return
    surface = drawn.picture_surface(cloud)
    views = drawn.scene_views(cloud, content, surface, settings.size)
    palette = drawn.instance_palette(cloud, content)
    if "png" in settings.formats:
        for name, picture in drawn.cloud_pictures(cloud, scene, views, surface, palette):
            _write(folder / f"{name}.png", png_bytes(picture))
    if "html" in settings.formats:
        strip = drawn.page_frames(content, frames)
        page = drawn.scene_page(cloud, content, views, surface, palette, frames=strip, origin=origin)
        _write(settings.out / f"{scene}.html", page.encode())


def _write(path: Path, data: bytes) -> None:
    from pc3dcli.stream.writer import atomic_file

    with atomic_file(path) as file:
        file.write(data)

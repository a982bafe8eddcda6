# SPDX-License-Identifier: Apache-2.0
"""`pc3d demo`: render a furnished room, run the main pipeline on it, and say where the result can be seen.

With `--shapes` it writes small objects in twelve classes instead, for `pc3d pretrain` and `pc3d distill` to learn from;
with `--rooms` scans of rooms, for the curriculum of pc3d-pipelines(7).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pc3dcli.commands import options

SCENE = "room0"


def demo(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of everything it makes.")] = Path(
        "pc3d-demo"
    ),
    frames: Annotated[int, typer.Option("--frames", min=8, metavar="N", help="Frames of the video.")] = 40,
    shapes: Annotated[
        int | None,
        typer.Option(
            "--shapes", min=12, max=100_000, metavar="N", help="Write N objects to train on and N to test, no room."
        ),
    ] = None,
    rooms: Annotated[
        int | None,
        typer.Option(
            "--rooms", min=1, max=10_000, metavar="N", help="Write N rooms to train on, a quarter of N to test."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Another seed is another world.")] = 0,
    force: options.Force = False,
    debug: options.Debug = False,
) -> None:
    """Render a small room, label it, score the labels: the main job in under a minute.

    \b
    Examples:
      pc3d demo
      pc3d demo --seed 7 --out /tmp/room7
      pc3d demo --shapes 600 --out shapes/
    """
    from pc3dcli.errors import UsageError

    if out.exists() and not out.is_dir():
        raise UsageError("is a file, expected a folder", file=out)
    if shapes is not None and rooms is not None:
        raise UsageError("--shapes and --rooms write different data: pass one of them")
    if rooms is not None:
        _write_rooms(out, rooms, frames, seed, force)
    elif shapes is None:
        _label_room(out, frames, seed, force)
    elif ctx.get_parameter_source("frames").name == "COMMANDLINE":
        raise UsageError("--frames is for the room, --shapes writes none")
    else:
        _write_shapes(out, shapes, seed, force)


def _label_room(out: Path, frames: int, seed: int, force: bool) -> None:
    """Render a room, run the pipeline and print what it ran."""
    labels, scans = out / "labels", out / "scans"
    is_new = _render(scans / SCENE, frames, seed, force)
    is_stale = force or (is_new and labels.exists())  # labels of another room
    redo, save = (["--force"], []) if is_stale else ([], ["--skip-done", f"{labels}/"])
    lift = ["pc3d", "lift3d", "--out", f"{labels}/", "--write", "ply", "--snap", *redo]
    _run_pipe(["pc3d", "track2d", f"{scans}/", *save], lift)
    _run_pipe(["pc3d", "eval", f"{labels}/", "--task", "instance", "--class-agnostic", "--gt", f"{scans}/"])
    _run_pipe(["pc3d", "view", f"{labels}/", "--out", f"{out / 'pictures'}/", *redo])
    pictures = sorted(str(path) for path in (out / "pictures").rglob("*") if path.suffix in (".png", ".html"))
    print("\nlook at\n" + "\n".join(f"  {path}" for path in pictures))


def _write_rooms(out: Path, num: int, frames: int, seed: int, force: bool) -> None:
    """Write scans of rooms into train/ and test/; finished ones of the same seed and length are kept."""
    for number, (split, count) in enumerate((("train", num), ("test", max(1, num // 4)))):
        for index in range(count):
            _render(out / split / f"{split}{index:03d}", frames, (seed, number, index), force, varied=True)
        print(out / split)


def _write_shapes(out: Path, num: int, seed: int, force: bool) -> None:
    """Write train.npz and test.npz; refuse to replace files of other content, which may be somebody's data."""
    import io

    from pc3dcli.errors import UsageError
    from pc3dcli.stream.writer import atomic_file
    from pc3dcli.worlds.shapes import make_shapes, write_shapes

    content = {}
    for number, split in enumerate(("train", "test")):
        file = io.BytesIO()
        write_shapes(file, make_shapes(num, (seed, number)), split)
        content[out / f"{split}.npz"] = file.getvalue()
    for path, data in content.items():
        if path.exists() and not force and path.read_bytes() != data:
            raise UsageError("exists and holds something else", file=path, hint="--force replaces it")
    for path, data in content.items():
        with atomic_file(path) as file:
            file.write(data)
        print(path)


def _render(folder: Path, frames: int, seed: int | tuple[int, ...], force: bool, *, varied: bool = False) -> bool:
    """Write the scan of a room; return False where a finished one of the same seed and length is kept.

    varied  the room's size and how full it is are drawn too
    """
    import numpy as np

    from pc3dcli.stream.writer import atomic_file
    from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

    done = folder / "rendered.txt"  # written last
    recipe = f"seed {seed}, {frames} frames{', varied' * varied}\n"
    if not force and done.is_file() and done.read_text() == recipe:
        return False
    done.unlink(missing_ok=True)
    rng = np.random.default_rng(seed)
    config = RoomConfig.varied(rng) if varied else RoomConfig(sensor_noise=True, missing_depth=True)
    room = make_room(config, rng)
    capture = CaptureConfig(num_frames=frames, size=(480, 640), turns=1.0)
    print(f"rendering {folder.name} with {len(room.objects)} objects, {frames} frames", file=sys.stderr)
    write_room(room, folder, capture, rng)
    with atomic_file(done) as file:
        file.write(recipe.encode())
    return True


def _run_pipe(*commands: list[str]) -> None:
    """Print a pipeline and run it; leave with the code of the first stage that failed."""
    print("\n$ " + " | ".join(shlex.join(command) for command in commands), flush=True)
    previous, stages = None, []
    for command in commands:
        is_last = command is commands[-1]
        stage = subprocess.Popen(
            [sys.executable, "-m", "pc3dcli", *command[1:]],
            stdin=previous if previous is not None else subprocess.DEVNULL,
            stdout=None if is_last else subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if previous is not None:
            previous.close()
        previous = stage.stdout
        stages.append(stage)
    codes = [stage.wait() for stage in stages]
    failed = next((code for code in codes if code), 0)
    if failed:
        raise typer.Exit(failed if failed > 0 else 1)

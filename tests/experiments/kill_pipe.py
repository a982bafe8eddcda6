# SPDX-License-Identifier: Apache-2.0
"""Kill -9 either side of `track2d | lift3d` at random moments, run it again, compare with an uninterrupted run.

    python tests/experiments/kill_pipe.py [MOMENTS] [SEED]

Every rerun must give the same bytes and leave no temporary file.  tests/faults/test_kill.py does a few moments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PC3D = [sys.executable, "-m", "pc3dcli"]
SIDES = ("track2d", "lift3d")


@dataclass(frozen=True)
class Outcome:
    """What became of one kill: when (seconds after the start), which side, exit codes of both, what was left behind,
    and the files that the rerun made in another way than the uninterrupted run."""

    moment_s: float
    side: str
    codes: tuple[int, int]
    num_finished: int
    num_temporaries: int
    differing: tuple[str, ...]


def write_scans(folder: Path, num_scenes: int, num_frames: int) -> None:
    """Write small rooms as scans."""
    from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

    for seed in range(num_scenes):
        rng = np.random.default_rng(seed)
        room = make_room(RoomConfig(num_furniture=(4, 4), num_small=(0, 0)), rng)
        capture = CaptureConfig(num_frames=num_frames, size=(48, 64), turns=1.0, voxel=0.08, color="png")
        write_room(room, folder / f"room{seed}", capture, rng)


def start_pipe(scans: Path, folder: Path) -> list[subprocess.Popen]:
    """Start `pc3d track2d scans/ | pc3d lift3d --out labels/ --write ply` in `folder`."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "messages.txt").open("wb") as messages:
        return _start(scans, {"cwd": folder, "env": environment, "stderr": messages})


def _start(scans: Path, settings: dict) -> list[subprocess.Popen]:
    source = [*PC3D, "track2d", str(scans), "--masks", "oracle", "-D", "stride_key=2"]
    track = subprocess.Popen(source, stdout=subprocess.PIPE, **settings)
    lift = subprocess.Popen([*PC3D, "lift3d", "--out", "labels/", "--write", "ply"], stdin=track.stdout, **settings)
    track.stdout.close()
    return [track, lift]


def _run(scans: Path, folder: Path) -> None:
    codes = finish(start_pipe(scans, folder))
    if codes != (0, 0):
        raise RuntimeError(f"ended with {codes}: {(folder / 'messages.txt').read_text()}")


def finish(stages: list[subprocess.Popen]) -> tuple[int, int]:
    """Wait for both stages and return their exit codes."""
    return stages[0].wait(120), stages[1].wait(120)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def kill_and_rerun(scans: Path, work: Path, moments: int, seed: int) -> Iterator[Outcome]:
    """Yield what became of each of `moments` kills; sides alternate, times are uniform over an uninterrupted run.

    raises  RuntimeError when the uninterrupted run or a rerun does not end with 0
    """
    rng = np.random.default_rng(seed)
    durations_s = []
    for name in ("whole", "again"):  # the second with warm caches
        start = time.monotonic()
        _run(scans, work / name)
        durations_s.append(time.monotonic() - start)
    duration_s = min(durations_s)
    expected = tree(work / "whole/labels")
    if tree(work / "again/labels") != expected:
        raise RuntimeError("two uninterrupted runs differ")
    for number, moment_s in enumerate(rng.uniform(0, duration_s, moments)):
        folder = work / f"kill{number}"
        stages = start_pipe(scans, folder)
        time.sleep(moment_s)
        stages[number % 2].kill()
        codes = finish(stages)
        left = tree(folder / "labels")
        temporaries = [name for name in left if name.endswith(".tmp")]
        _run(scans, folder)
        found = tree(folder / "labels")
        differing = tuple(name for name in sorted(found | expected) if found.get(name) != expected.get(name))
        num_finished = sum(name.endswith(".ndjson") for name in left)
        yield Outcome(float(moment_s), SIDES[number % 2], codes, num_finished, len(temporaries), differing)


def main() -> None:
    moments, seed = (int(text) for text in (*sys.argv[1:], *("20", "0")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_scans(work / "scans", 4, 24)
        same = 0
        print("killed   after    exit codes   scenes  temporaries  rerun")
        for one in kill_and_rerun(work / "scans", work, moments, seed):
            same += not one.differing
            codes = " ".join(f"{code:4d}" for code in one.codes)
            verdict = f"DIFFERS in {', '.join(one.differing)}" if one.differing else "same bytes"
            left = f"{one.num_finished:6d}  {one.num_temporaries:11d}"
            print(f"{one.side:8s} {one.moment_s:5.2f} s  {codes}   {left}  {verdict}", flush=True)
        print(f"{same} of {moments} reruns equal the uninterrupted run byte for byte")
    raise SystemExit(0 if same == moments else 1)


if __name__ == "__main__":
    main()

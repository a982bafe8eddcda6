# SPDX-License-Identifier: Apache-2.0
"""The default pipe, from pictures alone, on rendered rooms: AP of every --merge mode over seeds.

    python tests/experiments/rooms_pipe.py [--seeds 0 1 2 3] [--noise] [--frames 60] [--keep DIR] [--track ...]

Rooms as worlds/room.py makes them (8 to 10 pieces of furniture, small objects on tables, textures), 320 x 240, two
turns of the camera.  --noise adds sensor noise and missing depth.  Preset agnostic-valid on the room's own cloud.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

PC3D = [sys.executable, "-m", "pc3dcli"]
MERGES = ("none", "tracks", "consensus")
METRICS = ("ap", "ap50", "ap25")


def render(folder: Path, seed: int, noise: bool, frames: int) -> None:
    """Write the room of a seed unless it is there."""
    if (folder / "done").exists():
        return
    rng = np.random.default_rng(seed)
    room = make_room(RoomConfig(sensor_noise=noise, missing_depth=noise), rng)
    write_room(room, folder, CaptureConfig(num_frames=frames, size=(240, 320), voxel=0.03), rng)
    (folder / "done").touch()


def score(labels: Path, scans: Path, uniform: bool) -> dict[str, float]:
    """Return AP, AP50 and AP25 of the one scene in `labels`."""
    command = [*PC3D, "eval", str(labels), "--gt", str(scans), "--class-agnostic", "--json"]
    result = subprocess.run([*command, "--scores", "uniform" if uniform else "model"], check=True, capture_output=True)
    metrics = [json.loads(line) for line in result.stdout.splitlines()]
    return {m["name"]: m["value"] for m in metrics if m["type"] == "metric" and "class" not in m}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--track", default="")
    parser.add_argument("--lift", default="")
    args = parser.parse_args()
    rows: dict[str, list[list[float]]] = {merge: [] for merge in MERGES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        for seed in args.seeds:
            name = f"room{seed}{'n' if args.noise else ''}"
            scans = folder / name / "scans"
            render(scans / name, seed, args.noise, args.frames)
            tracks = folder / name / "tracks.ndjson"
            track = ["track2d", str(scans), "-q", "--force", "--out", str(tracks), *shlex.split(args.track)]
            subprocess.run(PC3D + track, check=True)
            for merge in MERGES:
                labels = folder / name / merge
                lift = ["lift3d", str(tracks), "-q", "--force", "--merge", merge, "--out", str(labels)]
                subprocess.run(PC3D + lift + shlex.split(args.lift), check=True)
                records = [json.loads(line) for line in next(labels.glob("*.ndjson")).open()]
                count = sum(record["type"] == "instance3d" for record in records)
                kappa = next(record["value"] for record in records if record.get("name") == "conflict_rate")
                uniform, model = score(labels, scans, True), score(labels, scans, False)
                row = [uniform[n] for n in METRICS] + [model[n] for n in METRICS]
                rows[merge].append([*row, count, kappa])
                print(name, merge, *(f"{value:.3f}" for value in rows[merge][-1]), flush=True)
    print("mean (sd over rooms): AP AP50 AP25 uniform | AP AP50 AP25 model | instances kappa")
    for merge, values in rows.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=min(1, len(values) - 1))
        print(f"{merge:10}", *(f"{m:.3f} ({s:.3f})" for m, s in zip(mean, spread, strict=True)))


if __name__ == "__main__":
    main()

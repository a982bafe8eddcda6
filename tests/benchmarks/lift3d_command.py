# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and peak memory of the command `pc3d lift3d`, start-up and JSON included.

    python tests/benchmarks/lift3d_command.py [--keep DIR] [--runs 3] [--rounds 1]

100 frames of 640 x 480 of a room with 30 objects, its own cloud thinned to 215,000 points.  Two streams: masks of the
renderer (`--masks oracle`) and of the default (`--masks regions`).  --rounds 10 repeats the frames ten times: 1,000
frames of the same points, with the same track ids or, with --new-ids, others in every round (memory at its worst).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PC3D = [sys.executable, "-m", "pc3dcli"]
NUM_POINTS, NUM_FRAMES = 215_000, 100
MASKS = ("oracle", "regions")


def prepare(folder: Path) -> None:
    """Film the room, thin its cloud, track it with both sources of masks."""
    if (folder / "regions.ndjson").exists():
        return
    import numpy as np  # in a process of its own: a child starts with the peak memory of this one

    from pc3dcli.formats.cloud import Cloud, read_cloud
    from pc3dcli.formats.ply import write_ply
    from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

    rng, scan = np.random.default_rng(0), folder / "crowd"
    room = make_room(RoomConfig(num_furniture=(10, 10), num_small=(20, 20)), rng)
    write_room(room, scan, CaptureConfig(num_frames=NUM_FRAMES, size=(480, 640), voxel=0.02), rng)
    path = scan / "crowd_vh_clean_2.ply"
    cloud = read_cloud(path)
    keep = np.sort(np.random.default_rng(0).permutation(len(cloud.xyz))[:NUM_POINTS])
    write_ply(path, Cloud(xyz=cloud.xyz[keep], rgb=cloud.rgb[keep]))
    for masks in MASKS:
        command = [*PC3D, "track2d", str(scan), "--masks", masks, "--quiet", "--out", str(folder / f"{masks}.ndjson")]
        subprocess.run(command, check=True)


def repeat(source: Path, target: Path, rounds: int, new_ids: int) -> None:
    """Write the stream `rounds` times over as one scene; track ids grow by `new_ids` from round to round."""
    lines = [json.loads(line) for line in source.open()]
    of_frames = [line for line in lines if line["type"] in ("frame", "mask2d", "detection2d")]
    head = lines[: lines.index(of_frames[0])]
    tail = [line for line in lines[len(head) :] if line not in of_frames]
    with target.open("w") as file:
        for line in head:
            file.write(json.dumps(line) + "\n")
        for number in range(rounds):
            for line in of_frames:
                other = line | {"frame": f"{number}{line['frame']}"}
                if "track" in line:
                    other["track"] = line["track"] + new_ids * number
                file.write(json.dumps(other) + "\n")
        for line in tail:
            counts = {key: value * rounds for key, value in line.get("counts", {}).items()}
            file.write(json.dumps(line | ({"counts": counts} if counts else {})) + "\n")


def measure(stream: Path, merge: str, out: Path) -> tuple[float, float]:
    """Return CPU seconds and peak MiB of one run."""
    command = [*PC3D, "lift3d", str(stream), "--merge", merge, "--out", str(out), "--force", "--quiet"]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lift3d ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--new-ids", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f"_{args.rounds}{'new' if args.new_ids else ''}"
        many = [
            (repeat, folder / f"{m}.ndjson", folder / f"{m}{suffix}.ndjson", args.rounds, 10_000 * args.new_ids)
            for m in MASKS
        ]
        for step, *values in ((prepare, folder), *(many if args.rounds > 1 else [])):
            process = multiprocessing.get_context("spawn").Process(target=step, args=values)
            process.start()
            process.join()
        frames = NUM_FRAMES * args.rounds
        print(f"load {os.getloadavg()[0]:.2f}; {frames} frames, {NUM_POINTS} points; medians of {args.runs}")
        for masks in MASKS:
            stream = folder / f"{masks}.ndjson"
            if args.rounds > 1:
                stream = folder / f"{masks}{suffix}.ndjson"
            for merge in ("none", "tracks", "consensus"):
                runs = [measure(stream, merge, folder / "out.ndjson") for _ in range(args.runs)]
                cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
                print(f"{masks:8} {merge:10} {cpu:6.2f} CPU s  {frames / cpu:5.1f} frames/CPU s  {peak:.0f} MiB")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Does the segmenter fit one room? AP50 on the room that it was trained on, all by commands of pc3d.

    python tests/experiments/overfit_room.py --out overfit/ [--seeds 0-2] [--steps 300]

Room of worlds/room.py, 120 frames of 128 x 96, ground truth as labels, no augmentation; a seed is a room and a run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

PC3D = [sys.executable, "-W", "ignore", "-m", "pc3dcli"]
SETTINGS = {
    "voxel": 0.08, "stem": 16, "planes": [16, 24, 32, 48, 48, 32, 24, 24], "depths": [1] * 8, "dim": 48, "heads": 4,
    "ffn_dim": 128, "num_queries": 40, "sampled_voxels": [100, 200, 400, 800], "query_features": True,
    "place_waves": 32, "batch_size": 1, "lr": 4e-3, "clip": 1, "augment": False,
}  # fmt: skip
SURE = ("--min-score", "0.5", "-D", "min_voxels=4")  # a bottle has fewer than 16 voxels of 8 cm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        folder = arguments.out / f"seed{seed}"
        scans = folder / "scans"
        rng = np.random.default_rng(seed)
        write_room(make_room(RoomConfig(), rng), scans / "room", CaptureConfig(), rng)
        print(json.dumps({"seed": seed} | fit(folder, scans, seed, arguments.steps)), flush=True)


def fit(folder: Path, scans: Path, seed: int, steps: int) -> dict[str, float]:
    """Train on a room and return what is found in it, with the seconds that training took."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    settings = [part for name, value in SETTINGS.items() for part in ("-D", f"{name}={json.dumps(value)}")]
    labels = ["--labels", scans, "--epochs", steps, "--seed", seed, "--force", "-q", "--out", folder / "run"]
    pc3d("distill", scans, "--method", "instances", *settings, *labels)
    result = {"wall_s": round(time.monotonic() - start)}
    result["cpu_s"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    found = folder / "found"
    pc3d("segment", scans, "--weights", folder / "run", "-D", "test_queries=40", *SURE, "-q", "--force", "--out", found)
    for kind, suffix in (("uniform", ""), ("model", "_ranked")):
        lines = pc3d("eval", found, "--gt", scans, "--class-agnostic", "--scores", kind, "--json").splitlines()
        metrics = [record for record in map(json.loads, lines) if record["type"] == "metric"]
        result |= {record["name"] + suffix: round(record["value"], 3) for record in metrics if "class" not in record}
    return result


def pc3d(*arguments: object) -> str:
    return subprocess.run([*PC3D, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()

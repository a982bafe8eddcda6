# SPDX-License-Identifier: Apache-2.0
"""What a network that saw rendered rooms finds in real ones: two ScanNet scans, and a kitchen fused from its video.

    python tests/experiments/real_rooms.py --data ../shared/data --out real/ [--segment '--weights runs/3']

ScanNet's instances but walls, floors and ceilings are the truth of the first two, class-agnostic, with and without
their colours.  The kitchen has none; its pictures stand beside those of what `track2d | lift3d` finds in the frames.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import write_ply
from pc3dcli.formats.scannet_instances import write_truth

PC3D = [sys.executable, "-W", "ignore", "-m", "pc3dcli"]
STRUCTURE = (1, 2, 22)  # NYU40 wall, floor, ceiling
OBJECT = 2  # a ScanNet200 label that is an instance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--segment", default="", help="options of pc3d segment, such as --weights")
    arguments = parser.parse_args()
    out, options = arguments.out, shlex.split(arguments.segment)
    write_scans(arguments.data / "scannet", out)
    for gray in (False, True):
        found = out / ("found_gray" if gray else "found")
        pc3d("segment", out / ("gray" if gray else "scans"), *options, "-f", "--out", found)
        for kind in ("model", "uniform"):
            print(json.dumps({"gray": gray, "scores": kind} | scores(found, out / "gt", kind)), flush=True)
    kitchen = out / "kitchen"
    if not (kitchen / "lifted").exists():
        tracks = out / "kitchen.ndjson"
        pc3d("track2d", arguments.data / "rgbd_redkitchen", "-f", "--out", tracks)
        pc3d("lift3d", tracks, "-f", "--out", kitchen / "lifted")
    pc3d("segment", kitchen / "lifted", *options, "-f", "--out", kitchen / "found")
    for folder in (out / "found", kitchen / "lifted", kitchen / "found"):
        pc3d("view", folder, "-f", "--out", out / "pictures" / folder.parent.name / folder.name)


def write_scans(source: Path, out: Path) -> None:
    """Write the scans as PLY, with and without colour, and their instances."""
    for name in ("scans", "gray", "gt"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("scene*.npz")):
        data = np.load(path)
        for folder, rgb in (("scans", data["rgb"]), ("gray", None)):
            with (out / folder / f"{path.stem}.ply").open("wb") as file:
                write_ply(file, Cloud(data["xyz"], rgb))
        is_object = (data["instance"] > 0) & ~np.isin(data["semantic_nyu40"], STRUCTURE)
        write_truth(
            out / "gt" / f"{path.stem}.txt", np.where(is_object, OBJECT * 1000 + data["instance"].astype(int), 0)
        )


def scores(found: Path, truth: Path, kind: str) -> dict[str, float]:
    lines = pc3d("eval", found, "--gt", truth, "--class-agnostic", "--scores", kind, "--json").splitlines()
    metrics = [record for record in map(json.loads, lines) if record["type"] == "metric"]
    return {record["name"]: round(record["value"], 3) for record in metrics if "class" not in record}


def pc3d(*arguments: object) -> str:
    return subprocess.run([*PC3D, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()

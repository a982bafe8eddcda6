# SPDX-License-Identifier: Apache-2.0
"""AP of the whole pipe on the real shelf (15 posed views, 4 labelled objects) for every --merge mode.

    python tests/experiments/shelf.py ../shared/data/rgbd_gt_shelf [--track ...]

The points are those that lift3d fuses from depth; the truth is the majority of the 15 label images on each point, with
the depth test of the pipe.  Points that no labelled pixel sees are void.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.formats.cloud import read_cloud
from pc3dcli.formats.images import read_label_image
from pc3dcli.papers.granularity.votes import PointVotes

PC3D = [sys.executable, "-m", "pc3dcli"]
DEPTH_SCALE = 0.0001  # metres per unit, data/README.md
VOXEL = 0.005  # metres: the objects are 10 to 20 cm wide, and instances below 100 points do not count


def truth(scans: Path, points: np.ndarray) -> np.ndarray:
    """Return (N,) int64, 1000 + instance of each point, 0 where no view labels it."""
    (ref,) = open_scenes(scans)
    scene = ref.open(depth_scale=DEPTH_SCALE)
    votes = PointVotes(points)
    for frame in scene.frames:
        view = RgbdFrame(scene.root, frame)
        image = read_label_image(scene.root / frame.image.replace("color.jpg", "instance.png")).astype(np.int32)
        # structure votes too: a point is an object's only where most views say so
        votes.add_frame(view.depth, view.K, view.world_from_cam, image)
    best, label = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for point, track, count in zip(*votes.pairs(), strict=True):
        if count > best[point]:
            best[point], label[point] = count, track
    return np.where(label > 0, 1000 + label, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--track", default="")
    parser.add_argument("--lift", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tracks = Path(folder) / "tracks.ndjson"
        track = ["track2d", str(args.scans), "--depth-scale", str(DEPTH_SCALE), "--out", str(tracks)]
        subprocess.run(PC3D + track + shlex.split(args.track), check=True)
        for merge in ("none", "tracks", "consensus"):
            labels = Path(folder) / merge
            lift = ["lift3d", str(tracks), "--merge", merge, "-D", f"voxel={VOXEL}", "--out", str(labels)]
            lift += shlex.split(args.lift)
            subprocess.run(PC3D + lift, check=True)
            (points,) = labels.glob("*.points.ply")
            gt = Path(folder) / "gt"
            gt.mkdir(exist_ok=True)
            name = points.name.removesuffix(".points.ply")
            np.savetxt(gt / f"{name}.txt", truth(args.scans, read_cloud(points).xyz), fmt="%d")
            print(f"--merge {merge}", flush=True)
            evaluate = ["eval", str(labels), "--task", "instance", "--gt", str(gt), "--preset", "agnostic-segment3d"]
            subprocess.run(PC3D + evaluate, check=True)


if __name__ == "__main__":
    main()

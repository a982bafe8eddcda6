# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and peak memory of `pc3d eval --task track2d` against the public DAVIS scorer on the same masks.

    python tests/benchmarks/eval_track2d.py --peer .../davis2017-evaluation --peer-python .../bin/python

The videos are disks that wander over 480 x 854 pixels; predictions are the same disks, moved and in noise.  PEER is a
checkout of davis2017-evaluation with its evaluation_method.py; its Python needs numpy, pandas, opencv, scikit-image and
tqdm.  Both are run as programs with their own reading of PNG files.  Without --peer only our side is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from programs import our_cost, print_ratio, script_cost

from pc3dcli.formats.images import write_png

SIZE = (480, 854)


def write_videos(root: Path, num_videos: int, num_frames: int, num_objects: int) -> None:
    """Write a data set as DAVIS has it, with predictions in `pred/`."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    names = [f"video{number}" for number in range(num_videos)]
    for name in names:
        place = rng.uniform((50, 50), (SIZE[0] - 50, SIZE[1] - 50), (num_objects, 2))
        speed, radius = rng.normal(0, 3, (num_objects, 2)), rng.uniform(30, 90, num_objects)
        folders = [root / part / name for part in ("Annotations/480p", "JPEGImages/480p", "pred")]
        for folder in folders:
            folder.mkdir(parents=True)
        for frame in range(num_frames):
            for folder, noise in ((folders[0], 0.0), (folders[2], 3.0)):
                labels = np.zeros(SIZE, np.uint8)
                for k, (centre, r) in enumerate(zip(place + frame * speed, radius, strict=True), 1):
                    cy, cx = centre + noise * rng.normal(size=2)
                    labels[(y - cy) ** 2 + (x - cx) ** 2 < (r + noise * rng.normal()) ** 2] = k
                write_png(folder / f"{frame:05d}.png", labels)
            (folders[1] / f"{frame:05d}.jpg").write_bytes(b"")  # only counted by the peer
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(names) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--objects", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_videos(root, options.videos, options.frames, options.objects)
        ours = our_cost(["eval", root / "pred", "--task", "track2d", "--gt", root, "-q"], root / "bytecode", 2)
        theirs = None
        if options.peer:
            arguments = ["--davis_path", root, "--set", "val", "--task", "semi-supervised"]
            arguments += ["--results_path", root / "pred"]
            settings = {"python": options.peer_python, "cwd": options.peer, "repeats": 1}
            theirs = script_cost("evaluation_method.py", arguments, root / "bytecode", **settings)
        print_ratio(f"{options.videos} videos of {options.frames} frames, as programs", ours, theirs)


if __name__ == "__main__":
    main()

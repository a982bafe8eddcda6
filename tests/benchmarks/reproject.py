# SPDX-License-Identifier: Apache-2.0
"""CPU seconds a frame of tracking by reprojection: 640 x 480, about 30 objects, PNG depth in, run lengths out.

python tests/benchmarks/reproject.py [frames [small]]   prints milliseconds of CPU a frame by stage, and the rate

`small` is the number of small objects on the furniture: 8 gives about 21 masks a frame, 24 about 33.

The masks of a keyframe come from the renderer and cost nothing here; rendering is not counted either.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pc3dcli.formats.images import read_depth_raw, write_png
from pc3dcli.formats.label_rle import encode_labels
from pc3dcli.masks2d.mask2d import Mask2d
from pc3dcli.masks2d.reproject import Reproject
from pc3dcli.papers.granularity.policy import PolicyConfig, track_masks
from pc3dcli.worlds.room import CaptureConfig, RoomConfig, camera_path, make_room

SIZE = (480, 640)
spent: dict[str, float] = {}


@dataclass
class View:
    path: Path
    K: np.ndarray
    world_from_cam: np.ndarray
    part: np.ndarray
    size: tuple = SIZE

    @cached_property
    def depth(self):
        start = time.process_time()
        depth = read_depth_raw(self.path) * np.float32(0.001)
        spent["decode"] = spent.get("decode", 0) + time.process_time() - start
        return depth


class Parts:
    def masks(self, view):
        start = time.process_time()
        found = [Mask2d(view.part == k, 1.0) for k in np.unique(view.part) if k]
        spent["masks"] = spent.get("masks", 0) + time.process_time() - start
        return found


def main(num_frames: int, num_small: int) -> None:
    """Film a crowded room at hand-held speed and track its parts."""
    config = RoomConfig(num_furniture=(10, 10), num_small=(num_small, num_small), sensor_noise=True, missing_depth=True)
    room = make_room(config, np.random.default_rng(0))
    capture = CaptureConfig(num_frames=num_frames, size=SIZE, turns=num_frames * 0.0035)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        views = []
        for t, pose in enumerate(camera_path(config, capture)):
            shot = room.render(capture.K, pose, SIZE, rng)
            path = Path(folder) / f"{t}.png"
            write_png(path, np.rint(shot.depth * 1000).astype(np.uint16))
            views.append(View(path, capture.K, pose, shot.part))
        tracked = 0
        policy = PolicyConfig(refresh=True, tau_refresh=0.5)
        start = time.process_time()
        for frame in track_masks(enumerate(views), Parts(), Reproject(), policy):
            before = time.process_time()
            tracked += len(encode_labels(frame.labels))
            spent["encode"] = spent.get("encode", 0) + time.process_time() - before
        total = time.process_time() - start - spent["masks"]
    spent["track"] = total - spent["decode"] - spent["encode"]
    for stage in ("decode", "track", "encode"):
        print(f"{stage:8s}{spent[stage] / num_frames * 1000:8.1f} ms a frame")
    print(f"{tracked / num_frames:.1f} masks a frame, {num_frames / total:.1f} frames a CPU second")


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:], *("60", "8")[len(sys.argv) - 1 :])))

# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of lifting: 100 frames of 640 x 480, about 215,000 points, 30 objects (issue 3, section 5).

    python -m tests.benchmarks.lift3d [--frames 100] [--cache DIR]

Prints CPU seconds of: voting alone (depth and labels decoded), the whole lift (depth PNG and run lengths decoded,
votes, each way of merging, instances encoded), fusing a cloud from the frames, and superpoints; and the peak memory.
Frames beyond the rendered ones repeat them, with other ids for the tracks of every round.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from pc3dcli.formats.coco_rle import decode_mask, encode_mask, encode_points
from pc3dcli.geometry.fusion import fuse_points
from pc3dcli.geometry.superpoints import cloud_superpoints
from pc3dcli.papers.granularity.lift import Lifter
from pc3dcli.worlds.room import CaptureConfig, RoomConfig, camera_path, make_room

SIZE, RENDERED, NUM_POINTS, STRIDE = (480, 640), 100, 215_000, 5


def prepare(folder: Path) -> None:
    """Render the frames once: depth PNGs in millimetres, masks as run lengths, fused points."""
    if (folder / "points.npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    room = make_room(RoomConfig(num_furniture=(10, 10), num_small=(20, 20)), np.random.default_rng(0))
    capture = CaptureConfig(num_frames=RENDERED, size=SIZE)
    poses = camera_path(room.config, capture)
    frames = []
    for t, pose in enumerate(poses):
        view = room.render(capture.K, pose, SIZE)
        cv2.imwrite(str(folder / f"{t}.png"), np.rint(view.depth * 1000).astype(np.uint16))
        masks = [(int(k), view.instance == k) for k in np.unique(view.instance) if k]
        masks = [(k, encode_mask(mask)) for k, mask in masks if mask.sum() > 150]
        (folder / f"{t}.json").write_text(json.dumps(masks))
        frames.append((view.rgb, view.depth, capture.K, pose))
    start = time.process_time()
    points, _, normals = fuse_points(frames, 0.02)
    print(f"fuse_points: {len(frames) / (time.process_time() - start):.1f} frames/CPU s, {len(points)} points")
    keep = np.sort(np.random.default_rng(0).permutation(len(points))[:NUM_POINTS])
    np.savez(folder / "points.npz", points=points[keep], normals=normals[keep], K=capture.K, poses=poses)


def decode_frame(folder: Path, t: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return depth (H, W) float32, labels (H, W) int32 and the masks of a keyframe."""
    depth = cv2.imread(str(folder / f"{t % RENDERED}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) * np.float32(0.001)
    labels = np.full(SIZE, -1, np.int32)
    masks = []
    for track, rle in json.loads((folder / f"{t % RENDERED}.json").read_text()):
        mask = decode_mask(rle)
        labels[mask] = track + 100 * (t // RENDERED)
        masks.append(mask)
    return depth, labels, masks if t % STRIDE == 0 else []


def time_voting(folder: Path, data) -> float:
    """Return CPU seconds a frame of projection, depth test and voting."""
    lifter, frames = Lifter(data["points"]), [decode_frame(folder, t)[:2] for t in range(0, RENDERED, 4)]
    start = time.process_time()
    for t, (depth, labels) in enumerate(frames):
        lifter.add_frame(depth, data["K"], data["poses"][4 * t], labels)
    lifter.votes.pairs()
    return (time.process_time() - start) / len(frames)


def lift_all(folder: Path, data, num_frames: int) -> None:
    """Print CPU seconds of lifting from files to encoded instances."""
    start = time.process_time()
    lifter = Lifter(data["points"])
    for t in range(num_frames):
        depth, labels, masks = decode_frame(folder, t)
        lifter.add_frame(depth, data["K"], data["poses"][t % RENDERED], labels, masks)
    collected = time.process_time() - start
    print(f"decode, vote, keyframe evidence: {collected:.2f} s, {num_frames / collected:.1f} frames/CPU s")
    for merge in ("none", "tracks", "consensus"):
        start = time.process_time()
        instances = lifter.instances(merge)
        for instance in instances:
            mask = np.zeros(len(data["points"]), bool)
            mask[instance.point_index] = True
            encode_points(mask)
        seconds = time.process_time() - start
        rate = num_frames / (collected + seconds)
        print(f"{merge}: {len(instances)} instances in {seconds:.2f} s; whole lift {rate:.1f} frames/CPU s")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=RENDERED)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pc3d_lift3d_bench")
    parser.add_argument("--superpoints", action="store_true")
    args = parser.parse_args()
    prepare(args.cache)
    data = dict(np.load(args.cache / "points.npz"))
    print(f"{len(data['points'])} points; imports and points: {_peak_mib():.0f} MiB")
    lift_all(args.cache, data, args.frames)
    print(f"peak resident memory {_peak_mib():.0f} MiB")
    print(f"voting alone: {1 / time_voting(args.cache, data):.0f} frames/CPU s")
    if args.superpoints:
        for normals in (data["normals"], None):
            start = time.process_time()
            count = cloud_superpoints(data["points"], normals).max() + 1
            print(f"superpoints of the cloud: {count} in {time.process_time() - start:.2f} CPU s")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

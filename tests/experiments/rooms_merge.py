# SPDX-License-Identifier: Apache-2.0
"""Rooms experiment of granularity_tracking.md section 13: which way of merging masks gives the best 3D instances?

Eight rooms, 128x96 pixels, 120 poses in two circles, oracle SAM on every fifth frame, oracle SAM2 between; points are
4 cm voxels, the structure is void, least size 50.  All variants of one seed read the same rendered frames.

    python -m tests.experiments.rooms_merge [--seeds 0:8] [--cache DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pc3dcli.geometry.cameras import back_project
from pc3dcli.geometry.voxels import voxel_groups
from pc3dcli.masks2d.oracle import OracleConfig, OracleMasks, OracleTracks
from pc3dcli.metrics.instance_ap import AT_25, AT_50, OVER_50, TruthRule, class_scores, match_scene, scene_truth
from pc3dcli.papers.granularity.containment import containment_filter
from pc3dcli.papers.granularity.lift import LiftConfig, Lifter
from pc3dcli.papers.granularity.policy import PolicyConfig, track_masks
from pc3dcli.worlds.room import CaptureConfig, RoomConfig, camera_path, make_room

SETTINGS = {"p_w .8, p_m .05": (0.8, 0.05), "p_w .5, p_m .1": (0.5, 0.1)}
POINT_VOXEL = 0.04  # metres, section 13
RULE = TruthRule(class_ids=(), merge="all", min_region=50)
LIFT = LiftConfig()


@dataclass
class RoomFrames:
    """One filmed room: (T, H, W) depth float32, instance and part; K, poses (T, 4, 4), points and their objects."""

    depth: np.ndarray
    instance: np.ndarray
    part: np.ndarray
    K: np.ndarray
    poses: np.ndarray
    points: np.ndarray
    point_object: np.ndarray

    def views(self) -> Iterator[tuple[int, SimpleNamespace]]:
        """Yield what the policy asks of a frame."""
        for t in range(len(self.depth)):
            yield t, SimpleNamespace(t=t, size=self.depth.shape[1:], frame=SimpleNamespace(frame=f"{t:06d}"))

    def labels(self, view) -> tuple[np.ndarray, np.ndarray]:
        """Return the true objects and parts of a frame, for the oracles."""
        return self.instance[view.t], self.part[view.t]


class RecordingMasks:
    """A mask source that remembers, per frame, the masks that pass the containment filter."""

    def __init__(self, source: OracleMasks, config: PolicyConfig):
        self.source, self.config = source, config
        self.detections: dict[int, list[np.ndarray]] = {}

    def masks(self, view) -> list:
        """Return the masks of the source."""
        found = self.source.masks(view)
        num_pixels = view.size[0] * view.size[1]
        large = [m.mask for m in found if m.mask.sum() >= max(1, self.config.area_min_share * num_pixels)]
        kept = containment_filter([np.flatnonzero(m) for m in large], num_pixels, self.config.tau_contain, "coarse")
        self.detections[view.t] = [large[k] for k in kept]
        return found


def film_room(seed: int, cache: Path) -> RoomFrames:
    """Render a room, or read it from the cache."""
    path = cache / f"room_{seed}.npz"
    if not path.exists():
        config, capture = RoomConfig(num_small=(0, 0), textures=False), CaptureConfig()
        room = make_room(config, np.random.default_rng(1000 + seed))
        poses = camera_path(config, capture)
        frames = [room.render(capture.K, pose, capture.size) for pose in poses]
        cache.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            depth=np.stack([f.depth for f in frames]),
            instance=np.stack([f.instance for f in frames]).astype(np.int16),
            part=np.stack([f.part for f in frames]).astype(np.int16),
            K=capture.K,
            poses=poses,
        )
    data = dict(np.load(path))
    return RoomFrames(**data, **_fused_points(data))


def _fused_points(data) -> dict[str, np.ndarray]:
    """Return voxel means of all frames and the object that most of a voxel's pixels show."""
    clouds = [back_project(d, data["K"], pose) for d, pose in zip(data["depth"], data["poses"], strict=True)]
    points = np.concatenate([cloud.reshape(-1, 3) for cloud in clouds])
    keys, group, count = voxel_groups(points, POINT_VOXEL)
    means = np.stack([np.bincount(group, points[:, i]) / count for i in range(3)], axis=1).astype(np.float32)
    objects = int(data["instance"].max()) + 1
    shares = np.bincount(group * objects + data["instance"].reshape(-1), minlength=len(keys) * objects)
    return {"points": means, "point_object": shares.reshape(-1, objects).argmax(axis=1)}


def lift_variant(room: RoomFrames, oracle: OracleConfig, policy: PolicyConfig, *, track: bool) -> Lifter:
    """Track a room's frames and vote."""
    source = RecordingMasks(OracleMasks(oracle, room.labels), policy)
    propagator = OracleTracks(oracle, room.labels) if track else None
    lifter = Lifter(room.points, LIFT)
    for frame in track_masks(room.views(), source, propagator, policy):
        if not (track or frame.is_keyframe):
            continue
        t = frame.t
        labels = np.where(frame.labels > 0, frame.labels, -1).astype(np.int32)
        lifter.add_frame(room.depth[t], room.K, room.poses[t], labels, source.detections.pop(t, None))
    return lifter


def greedy_overlap_merge(lifter: Lifter, min_seen: float, min_overlap: float = 0.5) -> list[np.ndarray]:
    """Merge the masks of independent frames: each joins the object with which it shares most of the smaller.

    min_seen  share of the keyframes that see a point and must label it
    """
    point, track, count = lifter.votes.pairs()
    objects: list[set[int]] = []
    votes: list[np.ndarray] = []
    for k in np.unique(track):
        mine = set(point[track == k].tolist())
        overlap = [len(mine & other) / min(len(mine), len(other)) for other in objects]
        best = int(np.argmax(overlap)) if overlap else -1
        if best < 0 or overlap[best] <= min_overlap:
            objects.append(set())
            votes.append(np.zeros(len(lifter.points), np.int32))
            best = -1
        objects[best] |= mine
        votes[best][list(mine)] += 1
    table = np.stack(votes)
    total = table.sum(axis=0)
    winner = np.where((total > 0) & (total >= min_seen * lifter.votes.seen), table.argmax(axis=0), -1)
    return [np.flatnonzero(winner == k) for k in range(len(objects))]


def score_scene(room: RoomFrames, indices: list[np.ndarray], scores: np.ndarray) -> dict[str, float]:
    """Return AP, AP50, AP25 in percent and the number of predictions of at least the least size."""
    ids = np.where(room.point_object > 0, 1000 + room.point_object, 0)
    truth = scene_truth(ids.astype(np.int64), RULE)
    masks = np.zeros((len(indices), len(room.points)), bool)
    for mask, index in zip(masks, indices, strict=True):
        mask[index] = True
    table = np.stack([truth.overlaps(mask) for mask in masks])
    matches = match_scene(truth, table, np.zeros(len(indices), np.int64), scores, num_classes=1)
    ap = class_scores([matches], 1).ap[0]
    number = sum(len(index) >= RULE.min_region for index in indices)
    return {"AP": 100 * ap[OVER_50].mean(), "AP50": 100 * ap[AT_50], "AP25": 100 * ap[AT_25], "pred": number}


def run_seed(seed: int, setting: tuple[float, float], cache: Path) -> dict[str, dict[str, float]]:
    """Return the figures of every variant on one room."""
    room = film_room(seed, cache)
    oracle = OracleConfig(p_whole=setting[0], p_merge=setting[1], seed=seed)
    base = PolicyConfig()
    policies = {
        "tracks": base,
        "tracks, tau_dorm 20": replace(base, tau_dorm=20),
        "tracks, no re-identification": replace(base, reid="none"),
    }
    rows = {}
    for name, policy in policies.items():
        lifter = lift_variant(room, oracle, policy, track=True)
        rows[name] = _figures(room, lifter, "tracks")
        if name == "tracks":
            rows["consensus"] = _figures(room, lifter, "consensus")
            lifter.evidence.views.clear()
            rows["consensus, no detections"] = _figures(room, lifter, "consensus")
    lifter = lift_variant(room, oracle, base, track=False)
    rows["none"] = _figures(room, lifter, "none")
    for name, min_seen in (("independent + overlap merge", 0.0), ("the same, gated as tracks", LIFT.min_seen_share)):
        merged = greedy_overlap_merge(lifter, min_seen)
        rows[name] = _with_both_scores(room, merged, np.ones(len(merged))) | {"kappa": np.nan}
    return rows


def _figures(room, lifter, merge) -> dict[str, float]:
    start = time.process_time()
    instances = lifter.instances(merge)
    seconds = time.process_time() - start
    indices = [instance.point_index for instance in instances]
    row = _with_both_scores(room, indices, np.array([instance.score for instance in instances]))
    return row | {"kappa": 100 * lifter.conflict_rate(), "s": seconds}


def _with_both_scores(room, indices, scores) -> dict[str, float]:
    row = score_scene(room, indices, np.ones(len(indices)))
    model = score_scene(room, indices, scores)
    return row | {f"{name} model": model[name] for name in ("AP", "AP50", "AP25")}


def print_table(rows: list[dict[str, dict[str, float]]]) -> None:
    """Print mean (standard deviation) of each variant, and the paired difference of consensus to it."""
    columns = ("AP", "AP50", "AP25", "pred", "kappa", "AP model", "AP50 model")
    print("| variant | " + " | ".join(columns) + " | consensus - it: AP | AP50 |")
    print("|---|" + "---|" * (len(columns) + 2))
    for name in rows[0]:
        cells = []
        for column in columns:
            values = np.array([row[name][column] for row in rows])
            cells.append(f"{values.mean():.1f} ({values.std(ddof=1):.1f})")
        for column in ("AP", "AP50"):
            gap = np.array([row["consensus"][column] - row[name][column] for row in rows])
            cells.append(f"{gap.mean():+.1f} +- {1.96 * gap.std(ddof=1) / np.sqrt(len(gap)):.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:8", help="first:last+1")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pc3d_rooms")
    args = parser.parse_args()
    seeds = range(*map(int, args.seeds.split(":")))
    for name, setting in SETTINGS.items():
        start = time.process_time()
        rows = [run_seed(seed, setting, args.cache) for seed in seeds]
        print(f"\n{name}; seeds {args.seeds}; {time.process_time() - start:.0f} CPU s\n")
        print_table(rows)


if __name__ == "__main__":
    main()

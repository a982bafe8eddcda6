# SPDX-License-Identifier: Apache-2.0
"""Does the curriculum help? One network, trained on single views, on fused labels, on its own, and on mixtures.

    python tests/experiments/curriculum_effect.py --out curriculum/ [--arms 1,2,12,13,123] [--merge tracks]
    python tests/experiments/curriculum_effect.py --out curriculum/ --table

Rooms of worlds/room.py (granularity_tracking.md section 13; textures, sensor noise, missing depth), 40 to train on and
10 to test, 120 frames of 128 x 96 each.  Masks are those of the simulated SAM (p_whole .8, p_merge .05).  Stage 1:
every tenth frame with the fragments of that frame alone.  Stage 2: what a few frames see, with labels lifted from all
of them (--merge: by consensus, ours, or tracks, the paper's).  Stage 3: whole rooms, with the network's own sure
labels, masks alone.  Every arm takes the same number of steps (`steps` tells where whole epochs are not as many), each
stage a one-cycle of its own.  All runs are commands of pc3d; scores of an arm become one line of OUT/results.ndjson,
and what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

PC3D = [sys.executable, "-W", "ignore", "-m", "pc3dcli"]
NUM_ROOMS = {"train": 40, "test": 10}
VIEWS = 12  # a room, of stage 1: the key frames, which are every fifth, of every second frame
STEPS = {1: (960,), 2: (480, 480), 3: (480, 240, 240)}  # of the stages, by their number; an epoch of stage 1 has 480
NETWORK = {
    "voxel": 0.1, "stem": 16, "planes": [16, 24, 32, 48, 48, 32, 24, 24], "depths": [1] * 8, "dim": 48, "heads": 4,
    "ffn_dim": 128, "num_queries": 40, "sampled_voxels": [100, 200, 400, 800], "query_features": True,
    "place_waves": 32,
}  # fmt: skip
COMMON = {"batch_size": 1, "lr": 3e-3, "clip": 1, "min_points": 50, "max_voxels": 10_000}
ASKED = ("-D", "test_queries=150", "-D", "max_overlap=0.5")  # without the second, dozens of each object; all arms alike
STAGES = {
    "1": {},
    "2": {"partial_share": 0.8},
    "3": {"class_weight": 0},
}
SCORES = ("ap", "ap50", "ap25", "ap_ranked", "ap50_ranked", "ap25_ranked", "boundary_f")
REACH = 0.05  # metres, of the boundary F-score


def main() -> None:
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "results.ndjson"
    if arguments.table:
        print_table(results)
        return
    world = make_world(arguments.out)
    first, _, last = arguments.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        for arm in arguments.arms.split(","):
            key = {"arm": arm, "merge": arguments.merge if "2" in arm else None, "seed": seed}
            key["confidence"] = arguments.confidence if "3" in arm else None
            if not is_done(results, key):
                result = run_arm(world, key, arguments.out)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(key | result) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--arms", default="1,2,12,13,123")
    parser.add_argument("--merge", choices=("consensus", "tracks"), default="consensus")
    parser.add_argument("--confidence", type=float, default=0.8, help="least probability of a point in stage 3")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def is_done(path: Path, key: dict) -> bool:
    return path.exists() and any(key.items() <= json.loads(line).items() for line in path.open(encoding="utf-8"))


def pc3d(*arguments: object) -> str:
    command = [*PC3D, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def make_world(out: Path) -> dict[str, Path]:
    """Render the rooms and label the training ones, once."""
    world = {split: out / "rooms" / split for split in NUM_ROOMS}
    world |= {name: out / name for name in ("views", "consensus", "tracks")}
    if (out / "tracks" / "run.json").exists():
        return world
    for split, num in NUM_ROOMS.items():
        for number in range(num):
            render(world[split] / f"{split}{number:02d}", number + 1000 * (split == "test"))
    scans, tracks = world["train"], out / "tracks.ndjson"
    fragments = out / "fragments.ndjson"
    oracle = ("--masks", "oracle", "-q", "--force", "--out")
    pc3d("track2d", scans, "--propagate", "none", "--stride", "2", *oracle, fragments)
    pc3d("track2d", scans, *oracle, tracks)
    pc3d("lift3d", fragments, "--per-view", "-q", "--force", "--out", world["views"])
    for merge in ("consensus", "tracks"):
        pc3d("lift3d", tracks, "--merge", merge, "-q", "--force", "--out", world[merge])
    return world


def render(folder: Path, seed: int) -> None:
    from pc3dcli.worlds.room import CaptureConfig, RoomConfig, make_room, write_room

    if (folder / "done").exists():
        return
    rng = np.random.default_rng(seed)
    room = make_room(RoomConfig(sensor_noise=True, missing_depth=True), rng)
    write_room(room, folder, CaptureConfig(), rng)
    (folder / "done").touch()


def run_arm(world: dict[str, Path], key: dict, out: Path) -> dict:
    """Train the stages of an arm, each from the weights of the one before; return the scores on the test rooms."""
    before = _children_s()
    stages, weights, name, taken = key["arm"], None, f"seed{key['seed']}", 0
    for stage, steps in zip(stages, STEPS[len(stages)], strict=True):
        name += f"-{stage}" + {"2": f"-{key['merge']}", "3": f"-{key['confidence']}"}.get(stage, "")
        folder = out / "runs" / f"{name}-{steps}"
        labels = world["views"]
        if stage == "2":
            labels = world[key["merge"]]
        elif stage == "3":
            labels = sure_labels(world["train"], weights, folder, key["confidence"])
        weights = train(stage, world["train"], labels, steps, weights, key["seed"], folder)
        taken += num_steps(folder)
    found = test(world["test"], weights, out / "runs" / f"{name}-{steps}-test")
    return found | {"steps": taken, "cpu_s": round(_children_s() - before)}


def train(
    stage: str, scans: Path, labels: Path, steps: int, init: Path | None, seed: int, folder: Path
) -> Path:  # fmt: skip
    """Run one stage unless it is there; return its weights."""
    settings = (NETWORK if init is None else {}) | COMMON | STAGES[stage]
    num_scenes = num_labelled(labels)
    if not num_scenes:  # sure of nothing: the stage leaves the weights as they are
        return init
    settings["epochs"] = max(1, round(steps / num_scenes))
    arguments = [part for name, value in settings.items() for part in ("-D", f"{name}={json.dumps(value)}")]
    arguments += ["--init", str(init)] if init else []
    data = [str(labels)] if stage == "1" else [str(scans), "--labels", str(labels)]
    command = ["distill", *data, "--method", "instances", *arguments, "--seed", seed, "--out", folder, "-q"]
    return Path(pc3d(*command))


def num_steps(folder: Path) -> int:
    log = folder / "log.ndjson"
    return sum(1 for _ in log.open(encoding="utf-8")) if log.exists() else 0


def num_labelled(labels: Path) -> int:
    """Return how many scenes of a folder have instances: those are what an epoch consists of."""
    return sum('"type":"instance3d"' in path.read_text(encoding="utf-8") for path in labels.rglob("*.ndjson"))


def sure_labels(scans: Path, weights: Path, folder: Path, confidence: float) -> Path:
    """Return the labels that a network gives its own training rooms."""
    found, sure = folder.with_name(folder.name + "-found"), folder.with_name(folder.name + "-sure")
    pc3d("segment", scans, "--weights", weights, *ASKED, "-D", "keep_share=1", "-q", "--out", found)
    pc3d("pseudo-label", found, "--min-confidence", confidence, "-q", "--out", sure)
    return sure


def test(scans: Path, weights: Path, found: Path) -> dict[str, float]:
    """Return the scores on the test rooms: one network pass, both ways of scoring; `found` gets what was found."""
    pc3d("segment", scans, "--weights", weights, *ASKED, "-q", "--out", found)
    scores: dict[str, float] = {}
    for kind, suffix in (("uniform", ""), ("model", "_ranked")):
        lines = pc3d("eval", found, "--gt", scans, "--class-agnostic", "--scores", kind, "--json").splitlines()
        metrics = [json.loads(line) for line in lines]
        scores |= {m["name"] + suffix: m["value"] for m in metrics if m["type"] == "metric" and "class" not in m}
    return scores | boundary_scores(scans, found)


def boundary_scores(scans: Path, found: Path) -> dict[str, float]:
    """Return the mean F-score of the boundaries of objects that were found, and the share of objects that were.

    An object is found where a prediction has an IoU above 0.25 with it.  The boundary of a mask is its points with a
    point of the scene within 5 cm that is not in it, and the other way round; one of a prediction is right within 5 cm
    of one of the object.
    """
    from scipy.spatial import cKDTree

    from pc3dcli.formats.cloud import read_cloud
    from pc3dcli.formats.coco_rle import decode_points
    from pc3dcli.formats.scannet_instances import read_truth

    values, count = [], 0
    for scan in sorted(path for path in scans.iterdir() if path.is_dir()):
        xyz = read_cloud(scan / f"{scan.name}_vh_clean_2.ply").xyz
        ids = read_truth(scan / "gt" / f"{scan.name}.txt")
        pairs = cKDTree(xyz).query_pairs(REACH, output_type="ndarray")
        records = [json.loads(line) for line in (found / f"{scan.name}.ndjson").open(encoding="utf-8")]
        masks = [decode_points(record["rle"], len(xyz)) for record in records if record["type"] == "instance3d"]
        for number in np.unique(ids[ids > 0]):
            truth = ids == number
            if np.count_nonzero(truth) < 100:
                continue
            count += 1
            overlaps = [np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) for mask in masks]
            if overlaps and max(overlaps) > 0.25:
                values.append(f_score(xyz, boundary(masks[int(np.argmax(overlaps))], pairs), boundary(truth, pairs)))
    return {"boundary_f": float(np.mean(values)) if values else 0.0, "found": len(values) / count}


def boundary(mask: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the points (n,) where a mask (N,) bool ends, given the neighbours (P, 2) of the scene."""
    return np.unique(pairs[mask[pairs[:, 0]] != mask[pairs[:, 1]]])


def f_score(xyz: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> float:
    from scipy.spatial import cKDTree

    if not len(predicted) or not len(true):
        return 0.0
    precision = np.mean(cKDTree(xyz[true]).query(xyz[predicted])[0] <= REACH)
    recall = np.mean(cKDTree(xyz[predicted]).query(xyz[true])[0] <= REACH)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def print_table(path: Path) -> None:
    """Print mean and spread over seeds, and paired differences from stage 1 alone."""
    arms: dict[tuple, dict[int, dict]] = defaultdict(dict)
    for result in map(json.loads, path.open(encoding="utf-8")):
        arms[result["arm"], result["merge"], result["confidence"]][result["seed"]] = result
    print("| stages | labels | tau | " + " | ".join(SCORES) + " | AP minus stage 1 |")
    print("|---" * (len(SCORES) + 4) + "|")
    base = arms.get(("1", None, None), {})
    for (arm, merge, confidence), seeds in sorted(arms.items(), key=str):
        cells = [_spread([100 * result[name] for result in seeds.values()]) for name in SCORES]
        shared = sorted(seeds.keys() & base.keys())
        gaps = [100 * (seeds[seed]["ap"] - base[seed]["ap"]) for seed in shared]
        gap = f"{_spread(gaps)}, {sum(gap > 0 for gap in gaps)} of {len(gaps)}" if arm != "1" and gaps else ""
        print("| " + " | ".join(["+".join(arm), merge or "", str(confidence or ""), *cells, gap]) + " |")


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()

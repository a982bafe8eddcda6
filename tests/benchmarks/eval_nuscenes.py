# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and peak memory of `pc3d eval --task nuscenes` against the public development kit on the same inputs.

    python tests/benchmarks/eval_nuscenes.py --peer .../bin/python

PEER is the Python of an environment with nuscenes-devkit 1.2.0.  The inputs are drawn: tables of the 150 scenes of the
validation split, 6,000 samples, 600,000 predicted boxes.  Both sides load tables and submission and score them once,
without drawing curves.  Without --peer only our side is timed.  --cases N instead compares all numbers on N small
random worlds with the awkward traits of the specification.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("nuscenes_world", ROOT / "tests" / "metrics" / "nuscenes_world.py")
nuscenes_world = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = nuscenes_world
_spec.loader.exec_module(nuscenes_world)

PEER = """
import json, sys, warnings
warnings.simplefilter("ignore")
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
for line in sys.stdin:
    folder, version, split = line.split()
    tables = NuScenes(version, folder, verbose=False)
    try:
        scorer = DetectionEval(tables, config_factory("detection_cvpr_2019"), folder + "/submission.json", split,
                               output_dir=folder + "/out", verbose=False)
        found = scorer.evaluate()[0].serialize()
    except Exception as error:  # it fails when one side has no box at all
        found = None
        print(line.strip(), repr(error), file=sys.stderr)
    print("result", json.dumps(found))
print(open("/proc/self/status").read())
"""
OURS = "import sys; from pc3dcli import main; main._run(sys.argv[1:]); print(open('/proc/self/status').read())"
ERRORS = {"trans_err": "ate", "scale_err": "ase", "orient_err": "aoe", "vel_err": "ave", "attr_err": "aae"}


class LargeWorld(nuscenes_world.World):
    """A world with as many boxes in each sample, drawn as arrays."""

    num_boxes = 100

    def predictions(self, token, ego, near):
        rng, count = self.rng, self.num_boxes
        items = [(nuscenes_world.name_of(category), item) for category, item in near]
        items = [(name, item) for name, item in items if name]
        center = ego + rng.normal(0, 25, (count, 3)) * [1, 1, 0.02]
        names = rng.choice(nuscenes_world.CLASSES, count).tolist()
        for row in range(min(2 * len(items), count)):  # two boxes around each annotation
            names[row], item = items[row % len(items)]
            center[row] = np.array(item["translation"]) + rng.normal(0, 0.6, 3)
        angle = rng.uniform(-np.pi, np.pi, count) / 2
        columns = zip(
            center.tolist(), rng.uniform(0.5, 5, (count, 3)).tolist(), np.cos(angle).tolist(), np.sin(angle).tolist(),
            rng.normal(0, 2, (count, 2)).tolist(), names, rng.random(count).tolist(),
            rng.choice(nuscenes_world.ATTRIBUTES, count).tolist(), strict=True,
        )  # fmt: skip
        return [
            {"sample_token": token, "translation": center, "size": size, "rotation": [cosine, 0.0, 0.0, sine],
             "velocity": velocity, "detection_name": name, "detection_score": score, "attribute_name": attribute}
            for center, size, cosine, sine, velocity, name, score, attribute in columns
        ]  # fmt: skip


def child(command, **options):
    """Run a program; return its user + system CPU seconds, its peak memory in MiB and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = next(int(line.split()[1]) for line in output.splitlines() if line.startswith("VmHWM")) / 1024
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak, output


def run_ours(folder, version, split, *options):
    """Score one world with our program; return seconds, MiB and the `metric` records."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    arguments = ["eval", "--task", "nuscenes", folder / "submission.json", "--gt", folder / version]
    command = [sys.executable, "-c", OURS, *arguments, "--split", split, "--json", "-q", *options]
    seconds, peak, output = child(command, env=environment)
    return seconds, peak, [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def run_peer(peer, cases, *flags):
    """Score worlds with the kit; return seconds, MiB and its summaries."""
    lines = "".join(" ".join(map(str, case)) + "\n" for case in cases)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    seconds, peak, output = child([peer, *flags, "-c", PEER], input=lines, env=environment)
    results = [line.split(" ", 1)[1] for line in output.splitlines() if line.startswith("result ")]
    return seconds, peak, [json.loads(line) for line in results]


def differences(records, summary):
    """Return |difference| of every number that both have."""
    ours = {(r["name"], r.get("class")): r["value"] for r in records if r["type"] == "metric" and "by" not in r}
    theirs = {("map", None): summary["mean_ap"], ("nds", None): summary["nd_score"]}
    for name, short in ERRORS.items():
        theirs["m" + short, None] = summary["tp_errors"][name]
    for label in nuscenes_world.CLASSES:
        theirs["ap", label] = summary["mean_dist_aps"][label]
        theirs |= {(f"ap_{distance}", label): ap for distance, ap in summary["label_aps"][label].items()}
        theirs |= {(ERRORS[name], label): error for name, error in summary["label_tp_errors"][label].items()}
    found = []
    for key, value in theirs.items():
        assert (ours[key] is None) == bool(np.isnan(value)), (key, ours[key], value)
        found.append(0.0 if ours[key] is None else abs(ours[key] - value))
    return found


def time_both(arguments):
    """Print the ratio on the large inputs."""
    scenes = tuple(sorted(split_scenes("val")))
    config = nuscenes_world.WorldConfig(
        scenes=scenes[: arguments.scenes], others=(), num_samples=40, num_instances=90, grid=0, score_steps=0
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        world = LargeWorld(config, np.random.default_rng(0))
        num_boxes = sum(map(len, world.results.values()))
        size = (len(world.tables["sample"]), len(world.tables["sample_annotation"]), num_boxes)
        world.write(folder, "v1.0-trainval")
        del world
        print("samples {}, annotations {}, boxes {}".format(*size), flush=True)
        run_ours(folder, "v1.0-trainval", "val")  # byte code is there, as after an installation
        seconds, peak, records = run_ours(folder, "v1.0-trainval", "val")
        print(f"ours   {seconds:7.1f} CPU s  {peak:6.0f} MiB", flush=True)
        if arguments.peer:
            theirs, their_peak, summaries = run_peer(arguments.peer, [(folder, "v1.0-trainval", "val")])
            print(f"devkit {theirs:7.1f} CPU s  {their_peak:6.0f} MiB")
            print(f"ratio  {theirs / seconds:7.1f}        {their_peak / peak:8.1f}")
            found = differences(records, summaries[0])
            print(f"{len(found)} numbers, largest difference {max(found):.1e}")


def split_scenes(name):
    """Return the scenes of an official split."""
    sys.path.insert(0, str(ROOT))
    from pc3dcli.formats.nuscenes_splits import official_splits

    return official_splits()[name]


def compare_cases(arguments):
    """Print the largest difference over small worlds; the kit fails on negative scores unless its asserts are off."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        cases = []
        for seed in range(arguments.cases):
            rng = np.random.default_rng(seed)
            categories = nuscenes_world.CATEGORIES
            if seed % 3 == 0:  # some classes are missing
                categories = tuple(rng.choice(categories, 4, replace=False))
            config = nuscenes_world.WorldConfig(
                num_instances=int(rng.choice([2, 10, 40])), num_samples=int(rng.integers(1, 7)),
                categories=categories, grid=float(rng.choice([0, 0.25, 0.5, 1])),
                min_score=float(rng.choice([0, -1])), score_steps=int(rng.choice([0, 1, 3, 10])),
                copies=int(rng.choice([1, 3, 5])), false_boxes=int(rng.choice([8, 30])),
                noise=float(rng.choice([0.2, 0.7, 2])),
            )  # fmt: skip
            world = nuscenes_world.World(config, rng)
            world.write(Path(name) / str(seed))
            cases.append((Path(name) / str(seed), "v1.0-mini", "mini_val"))
        _, _, summaries = run_peer(arguments.peer, cases, "-O")
        found, num_failed = [], 0
        for case, summary in zip(cases, summaries, strict=True):
            records = run_ours(*case)[2]
            if summary is None:
                num_failed += 1
            else:
                found += differences(records, summary)
        print(
            f"{len(cases)} cases, {len(found)} numbers, largest difference {max(found):.1e}; kit failed on {num_failed}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python of an environment with nuscenes-devkit")
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--cases", type=int, default=0, help="compare numbers on that many small worlds")
    parser.add_argument("--folder", help="where the inputs are written for the time of the run")
    chosen = parser.parse_args()
    compare_cases(chosen) if chosen.cases else time_both(chosen)

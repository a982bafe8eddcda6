# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and numbers of `pc3d eval --task semantickitti` against semantic-kitti-api on the same files.

    python tests/benchmarks/eval_semantickitti.py --peer .../semantic-kitti-api [--python PEER_PYTHON]
    python tests/benchmarks/eval_semantickitti.py --peer ... --equality 60

Both run as programs.  --equality compares random small cases with what evaluate_semantics.py writes for the benchmark
server, with the configurations of single scans and of moving classes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from programs import our_cost, print_ratio, script_cost

from pc3dcli.commands import eval_semantickitti
from pc3dcli.commands.evaluation import Request
from pc3dcli.formats.semantickitti import label_map, write_labels

OPTIONS = {"split": None, "per_scene": False, "confusion": False, "bootstrap": 0, "seed": 0, "allow_missing": False}
RAW = label_map("single").raw_labels
CONFIGS = {
    "semkitti": "semantic-kitti.yaml",
    "semkitti-multi": "semantic-kitti-all.yaml",
    "semkitti-present": "semantic-kitti.yaml",
}


def write_scan(folder, index, truth, prediction, rng):
    instance = rng.integers(0, 1 << 16, truth.size) << 16
    write_labels(folder / "sequences" / "08" / "labels" / f"{index:06d}.label", truth + instance)
    write_labels(folder / "sequences" / "08" / "predictions" / f"{index:06d}.label", prediction)


def speed(options):
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(options.scans):
            truth = np.repeat(rng.choice(RAW, options.points // 10), 10)
            prediction = np.where(rng.random(truth.size) < 0.8, truth, rng.choice(RAW, truth.size))
            write_scan(folder, index, truth, prediction, rng)
        bytecode = folder / "bytecode"
        ours = our_cost(["eval", folder, "--gt", folder, "--task", "semantickitti"], bytecode)
        theirs = None
        if options.peer:
            arguments = ["-d", folder]
            settings = {"python": options.python, "cwd": options.peer}
            theirs = script_cost("evaluate_semantics.py", arguments, bytecode, **settings)
    print_ratio(f"{options.scans} scans of {options.points} points, as programs", ours, theirs)


def equality(options):
    rng = np.random.default_rng(0)
    for preset, config in CONFIGS.items():
        largest, compared = 0.0, 0
        for _ in range(options.equality):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                draw_case(folder, rng)
                found = eval_semantickitti.run(Request([name], folder, preset, OPTIONS)).result
                command = [options.python, "evaluate_semantics.py", "-d", name, "-dc", f"config/{config}"]
                subprocess.run([*command, "--codalab", name], cwd=options.peer, check=True, stdout=subprocess.DEVNULL)
                expected = dict(re.findall(r"^(\S+): (\S+)$", (folder / "scores.txt").read_text(), re.M))
            ours = {"iou_mean": found["metrics"]["miou"], "accuracy_mean": found["metrics"]["acc"]}
            ours |= {f"iou_{label}": row["iou"] for label, row in found["per_class"].items()}
            assert ours.keys() == expected.keys(), ours.keys() ^ expected.keys()
            if preset == "semkitti-present":  # the public code has the classes, not their mean
                classes = [name for name in list(ours)[2:] if ours[name] is not None]  # after both means
                expected["iou_mean"] = np.mean([float(expected[name]) for name in classes]) if classes else 0
            for key, value in ours.items():  # the public code writes 0 for what is undefined
                largest = max(largest, abs((value or 0.0) - float(expected[key])))
            compared += len(ours)
        print(f"{preset:15s} {options.equality} cases, {compared} numbers, largest {largest:.1e}")


def draw_case(folder, rng):
    """Draw scans: empty, one point, everything ignored, few classes, predictions of nothing."""
    for index in range(int(rng.integers(1, 4))):
        size = int(rng.choice([0, 1, 3, 200, 2000]))
        known = [rng.choice(RAW, int(rng.integers(1, 12))), [0, 1, 52, 99], RAW][rng.choice(3, p=[0.5, 0.1, 0.4])]
        truth = rng.choice(known, size)
        others = [[0], RAW, known][rng.choice(3, p=[0.1, 0.5, 0.4])]
        prediction = np.where(rng.random(size) < rng.random(), truth, rng.choice(others, size))
        write_scan(folder, index, truth, prediction, rng)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--equality", type=int, default=0)
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--points", type=int, default=120_000)
    options = parser.parse_args()
    if options.equality:
        equality(options)
    else:
        speed(options)


if __name__ == "__main__":
    main()

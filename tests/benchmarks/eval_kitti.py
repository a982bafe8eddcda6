# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and peak memory of `pc3d eval --task kitti` against the official C++ program on the same inputs.

    python tests/benchmarks/eval_kitti.py --peer .../evaluate_object_3d_offline [--frames 3769] [--detections 25]

PEER is evaluate_object_3d_offline.cpp compiled with -O3; its plots (gnuplot, ps2pdf) are best taken out, since they
are no part of the evaluation.  The numbers of both are compared.  Without --peer only our side is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

KINDS = ("Car", "Pedestrian", "Cyclist", "Van", "Truck", "Person_sitting", "Tram", "Misc")
SHARE = np.array([0.62, 0.1, 0.04, 0.07, 0.03, 0.01, 0.01, 0.12])  # about those of the training labels
SIZE = {"Car": (1.53, 1.63, 3.88), "Van": (2.2, 1.9, 5.1), "Truck": (3.2, 2.6, 10.0)}  # h w l
CLASSES, DIFFICULTIES = ("car", "pedestrian", "cyclist"), ("easy", "moderate", "hard")
FILES = {"bbox": "detection", "bev": "detection_ground", "3d": "detection_3d", "aos": "orientation"}


def draw_object(rng):
    """Draw (kind, alpha x1 y1 x2 y2 h w l x y z ry) of a box on the road seen by a camera of 720 pixels."""
    kind = str(rng.choice(KINDS, p=SHARE / SHARE.sum()))
    h, w, length = np.array(SIZE.get(kind, (1.75, 0.65, 1.2))) * rng.normal(1, 0.08, 3)
    z = float(rng.gamma(3.0, 9.0)) + 4
    x, yaw = rng.uniform(-0.6, 0.6) * z, float(rng.choice([-1.57, 1.57, 0.0]) + rng.normal(0, 0.2))
    u, v, half = 610 + 720 * x / z, 175 + 720 * 1.65 / z, 360 * max(w, length * 0.6) / z
    image = np.clip([u - half, v - 720 * h / z, u + half, v], 0, [1242, 375, 1242, 375])
    return kind, np.array([yaw - np.arctan2(x, z), *image, h, w, length, x, 1.65, z, yaw])


def draw_frame(rng, num_detections):
    """Draw the lines of a label file and of a result file, as a detector with a low score limit writes them."""
    labels, results = [], []
    for _ in range(rng.poisson(6)):
        kind, box = draw_object(rng)
        occluded, truncated = rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]), rng.choice([0.0, 0.1, 0.4], p=[0.85, 0.1, 0.05])
        labels.append(f"{kind} {truncated:.2f} {occluded} " + " ".join(f"{v:.2f}" for v in box))
        for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.7, 0.15])):
            noise = np.array([0.1, *[2] * 4, 0.05, 0.05, 0.15, 0.12, 0.05, 0.25, 0.08]) * rng.normal(0, 1, 12)
            results.append((kind, box + noise, rng.beta(4, 2)))
    for _ in range(rng.poisson(2.5)):
        image = draw_object(rng)[1][1:5]
        area = " ".join(f"{v:.2f}" for v in image)
        labels.append(f"DontCare -1 -1 -10 {area} -1 -1 -1 -1000 -1000 -1000 -10")
    while len(results) < num_detections:
        kind, box = draw_object(rng)
        results.append((kind, box, rng.beta(1, 4)))
    return labels, [
        f"{kind if kind in KINDS[:3] else 'Car'} -1 -1 " + " ".join(f"{v:.4f}" for v in [*box, score])
        for kind, box, score in sorted(results, key=lambda row: -row[2])
    ]


def write_set(folder, num_frames, num_detections):
    rng = np.random.default_rng(0)
    for name in ("label_2", "results/data"):
        (folder / name).mkdir(parents=True)
    for frame in range(num_frames):
        for name, lines in zip(("label_2", "results/data"), draw_frame(rng, num_detections), strict=True):
            (folder / name / f"{frame:06d}.txt").write_text("".join(line + "\n" for line in lines))


def measured(command):
    """Run a program; return its CPU seconds, its peak memory in MiB and what it printed."""
    # wait4 tells the peak of this child alone, but a fork starts with ours: a small shell stands between
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            ["sh", "-c", '"$0" "$@"', *map(str, command)], stdout=output, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{command[0]} ended with {child.returncode}")
        output.seek(0)
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output.read().decode()


def largest_difference(folder, result):
    """Compare R40 and R11 of every class, overlap and difficulty with what the peer wrote; returns (largest, count)."""
    differences = []
    for name in CLASSES:
        for kind, suffix in FILES.items():
            path = folder / "results" / f"stats_{name}_{suffix}.txt"
            for at, line in zip(DIFFICULTIES, path.read_text().splitlines(), strict=True):
                precision = np.array(line.split(), float)
                row = result["per_class"][name.capitalize()]
                differences.append(abs(precision[1:].mean() - row[f"{kind}_r40_{at}"]))
                differences.append(abs(precision[::4].mean() - row[f"{kind}_r11_{at}"]))
    return max(differences), len(differences)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--frames", type=int, default=3769)
    parser.add_argument("--detections", type=int, default=25, help="at least so many a frame")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder, arguments.frames, arguments.detections)
        program = [sys.executable, "-m", "pc3dcli", "eval", "--task", "kitti", folder / "results", "--gt", folder]
        ours, our_peak, _ = measured([*program, "--quiet"])
        print(f"ours {ours:.2f} CPU s, peak {our_peak:.0f} MiB")
        if arguments.peer:
            theirs, peak, _ = measured([arguments.peer, folder / "label_2", folder / "results"])
            print(f"peer {theirs:.2f} CPU s, peak {peak:.0f} MiB: ratio {theirs / ours:.1f}")
            measured([*program, "--quiet", "--report", folder / "report"])
            result = json.loads((folder / "report" / "result.json").read_text())
            print("largest difference {:.2g} of {} numbers".format(*largest_difference(folder, result)))


if __name__ == "__main__":
    main()

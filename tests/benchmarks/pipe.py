# SPDX-License-Identifier: Apache-2.0
"""Run `pc3d track2d SCANS | pc3d lift3d --out OUT/labels`; print wall and CPU seconds and peak memory of both.

python tests/benchmarks/pipe.py ../shared/data/rgbd_redkitchen --out /tmp/redkitchen [--track ...] [--lift ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

PC3D = [sys.executable, "-m", "pc3dcli"]


def run_pipe(stages: list[list[str]]) -> tuple[float, list[tuple[int, float, int]]]:
    """Return wall seconds, and for each stage its exit code, CPU seconds and peak resident KiB."""
    start = time.monotonic()
    processes, previous = [], None
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        process = subprocess.Popen(PC3D + stage, stdin=previous, stdout=None if is_last else subprocess.PIPE)
        if previous is not None:
            previous.close()
        previous = process.stdout
        processes.append(process)
    usage = []
    for process in processes:
        _, status, rusage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        usage.append((process.returncode, rusage.ru_utime + rusage.ru_stime, rusage.ru_maxrss))
    return time.monotonic() - start, usage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--track", default="", help="further options of track2d")
    parser.add_argument("--lift", default="", help="further options of lift3d")
    args = parser.parse_args()
    track = ["track2d", args.scans, *shlex.split(args.track)]
    lift = ["lift3d", "--out", str(args.out / "labels"), "--write", "ply", "--force", *shlex.split(args.lift)]
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    wall, usage = run_pipe([track, lift])
    print(f"wall {wall:.1f} s")
    for name, (code, cpu, peak) in zip(("track2d", "lift3d"), usage, strict=True):
        print(f"{name}: exit {code}, {cpu:.1f} CPU s, peak {peak / 1024:.0f} MiB")
    for path in sorted((args.out / "labels").rglob("*.ndjson")):
        records = [json.loads(line) for line in path.open()]
        kappa = [r["value"] for r in records if r["type"] == "metric" and r["name"] == "conflict_rate"]
        print(f"{path.stem}: {sum(r['type'] == 'instance3d' for r in records)} instances, kappa {kappa}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of the readers, beside what OpenCV alone takes for the same files: python tests/benchmarks/readers.py"""

import runpy
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.formats.cloud import Cloud, read_cloud
from pc3dcli.formats.images import read_color, read_depth_raw
from pc3dcli.formats.pcd import decode_lzf
from pc3dcli.formats.ply import write_ply

HERE = Path(__file__).resolve()
small = runpy.run_path(str(HERE.parents[1] / "faults" / "small_files.py"))


def cpu_s(run: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU seconds of `repeats` runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def pictures(folder: Path, count: int = 40) -> None:
    scene = open_scenes(folder)[0].open()
    pairs = [(str(folder / frame.image), str(folder / frame.depth)) for frame in scene.frames[:count]]

    def ours():
        for color, depth in pairs:
            read_color(color)
            read_depth_raw(depth)

    def opencv():
        for color, depth in pairs:
            cv2.cvtColor(cv2.imread(color, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            cv2.imread(depth, cv2.IMREAD_UNCHANGED)

    def views():
        for frame in scene.frames[:count]:
            view = RgbdFrame(scene.root, frame)
            _ = view.rgb, view.depth

    a, b, c = (cpu_s(run) / count * 1e3 for run in (ours, opencv, views))
    print(f"colour + depth 640 x 480: ours {a:.2f} ms, OpenCV {b:.2f} ms, ratio {a / b:.3f}; RgbdFrame {c:.2f} ms")


def poses(folder: Path, count: int = 5000) -> None:
    small["scannet"](folder, numbers=tuple(range(4)))
    for number in range(4, count):
        for kind in ("color/0.png", "depth/0.png", "pose/0.txt"):
            source = folder / kind
            shutil.copy(source, source.with_name(f"{number}{source.suffix}"))
    print(f"open a ScanNet export of {count} frames: {cpu_s(open_scenes(folder)[0].open, 3):.2f} s")
    sens = small["sens"](folder.with_suffix(".sens"), count=count)
    print(f"open a .sens file of {count} frames: {cpu_s(open_scenes(sens)[0].open, 1):.2f} s")


def clouds(folder: Path, N: int = 1_000_000) -> None:
    rng = np.random.default_rng(0)
    xyz, rgb = rng.normal(size=(N, 3)).astype(np.float32), rng.integers(0, 256, (N, 3)).astype(np.uint8)
    cloud = Cloud(xyz, rgb, None, rng.integers(0, N, (2 * N, 3)).astype(np.int32))
    file = folder / "mesh.ply"
    print(f"write a PLY of {N} points, {2 * N} faces: {cpu_s(lambda: write_ply(file, cloud), 2):.2f} s")
    print(f"read it: {cpu_s(lambda: read_cloud(file), 3):.2f} s")
    rows = [f"{x:.4f} {y:.4f} {z:.4f}" for x, y, z in xyz[: N // 5].tolist()]
    head = f"ply\nformat ascii 1.0\nelement vertex {N // 5}\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    file.write_text(head + "end_header\n" + "\n".join(rows) + "\n")
    print(f"read an ascii PLY of {N // 5} points: {cpu_s(lambda: read_cloud(file), 3):.2f} s")
    plain = np.repeat(xyz[: N // 10].round(1), 2, axis=0).tobytes()
    packed = small["lzf"](plain)
    print(f"LZF to {len(plain)} bytes: {cpu_s(lambda: decode_lzf(packed, len(plain), 'x'), 2):.2f} s")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    data = HERE.parents[2].parent / "shared" / "data" / "rgbd_redkitchen"
    if data.is_dir():
        pictures(data)
    with tempfile.TemporaryDirectory() as name:
        poses(Path(name) / "scene0000_00")
        clouds(Path(name))

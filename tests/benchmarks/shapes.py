# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of making, reading and batching object clouds: python tests/benchmarks/shapes.py [FOLDER]

FOLDER holds modelnet10/, modelnet_off/, shapenetpart_cap/ and meshes_cc0/; text, .npy and .h5 files are made here in
the sizes of the public data sets.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from pc3dcli.datasets.shape import Shape, ShapeSet
from pc3dcli.datasets.shape_batches import SCALE_SHIFT, BatchConfig, ShapeData
from pc3dcli.datasets.shape_set import open_shapes
from pc3dcli.worlds.shapes import make_shapes

RNG = np.random.default_rng(0)


def timed(name: str, count: int, run: Callable) -> None:
    start = time.process_time()
    run()
    seconds = time.process_time() - start
    print(f"{name:<48}{count:>6} shapes{seconds:>8.2f} CPU s{count / seconds:>9.0f} a second")


def read_all(folder: Path, name: str, split: str = "all") -> None:
    shapes = open_shapes(folder, split=split)
    timed(name, len(shapes), lambda: [shapes.read(index) for index in range(len(shapes))])


def text_rows(values: np.ndarray, separator: str, decimals: int) -> str:
    return "".join(separator.join(f"{value:.{decimals}f}" for value in row) + "\n" for row in values)


def modelnet40(folder: Path, count: int = 20) -> Path:
    (folder / "bed").mkdir(parents=True)
    (folder / "modelnet40_shape_names.txt").write_text("bed\n")
    for split in ("train", "test"):
        names = [f"bed_{index:04d}" for index in range(count)] if split == "train" else []
        (folder / f"modelnet40_{split}.txt").write_text("\n".join(names))
        for name in names:
            (folder / "bed" / f"{name}.txt").write_text(text_rows(RNG.uniform(-1, 1, (10_000, 6)), ",", 6))
    return folder


def shapenet_part(folder: Path, count: int = 40) -> Path:
    (folder / "02954340").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text("Cap\t02954340\n")
    for index in range(count):
        rows = np.column_stack([RNG.uniform(-1, 1, (2600, 6)), np.full(2600, 6)])
        (folder / f"02954340/s{index}.txt").write_text(text_rows(rows, " ", 5))
    return folder


def shapenet55(folder: Path, count: int = 500) -> Path:
    (folder / "ShapeNet-55").mkdir(parents=True)
    (folder / "shapenet_pc").mkdir()
    names = [f"02691156-{index:06d}.npy" for index in range(count)]
    (folder / "ShapeNet-55/train.txt").write_text("\n".join(names))
    for name in names:
        np.save(folder / "shapenet_pc" / name, RNG.normal(size=(8192, 3)).astype(np.float32))
    return folder


def scanobjectnn(folder: Path, count: int = 500) -> Path:
    folder.mkdir()
    with h5py.File(folder / "training_objectdataset.h5", "w") as file:
        file["data"], file["label"] = RNG.normal(size=(count, 2048, 3)).astype(np.float32), np.zeros(count, np.int32)
    return folder


def batches(num_points: int, sampling: str, *, count: int = 512) -> None:
    clouds = [RNG.normal(size=(num_points, 3)).astype(np.float32) for _ in range(count)]
    shapes = ShapeSet(
        "memory", Path(), "all", tuple(map(str, range(count))), (), None, lambda index: Shape(clouds[index])
    )
    normalize = "cloud" if sampling.startswith("farthest") else "sample"
    data = ShapeData(shapes, BatchConfig(sampling=sampling, normalize=normalize, augment=SCALE_SHIFT))
    for turn in ("first", "again"):
        order = data.order(0, 0)
        timed(
            f"batches of 128, {sampling} 1,024 of {num_points:,}, {turn}",
            count,
            lambda order=order: [data.batch(order[start : start + 128]) for start in range(0, count, 128)],
        )


if __name__ == "__main__":
    timed("procedural shapes of 1,024 points", 2140, lambda: make_shapes(2140, 0))
    with tempfile.TemporaryDirectory() as name:
        read_all(modelnet40(Path(name) / "m"), "ModelNet40 text, 10,000 rows of 6")
        read_all(shapenet_part(Path(name) / "p"), "ShapeNetPart text, 2,600 rows of 7")
        read_all(shapenet55(Path(name) / "s"), "ShapeNet55 .npy, 8,192 points")
        scans = scanobjectnn(Path(name) / "o")
        timed("ScanObjectNN .h5, 2,048 points", 500, lambda: open_shapes(scans))
    for folder in sys.argv[1:]:
        for place in ("modelnet10", "modelnet_off", "shapenetpart_cap", "meshes_cc0"):
            read_all(Path(folder) / place, place)
    for num_points in (1024, 8192):
        batches(num_points, "random")
    batches(10_000, "farthest-random", count=64)

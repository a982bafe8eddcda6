# SPDX-License-Identifier: Apache-2.0
"""Small shapes and a small pretrained network for the tests of commands that use both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from pc3dcli.nn.model_files import write_model
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.worlds.shapes import make_shapes, write_shapes

MAE = PointMaeConfig(num_points=64, num_patches=8, patch_size=8, dim=24, depth=3, heads=2, decoder_depth=1)
M2AE = PointM2aeConfig(
    num_points=64, scale_patches=(32, 16, 8), patch_sizes=(8, 4, 4), dims=(8, 16, 24), depth=1, heads=2
)  # fmt: skip


def write_data(folder: Path, num_train: int = 48, num_test: int = 24, num_points: int = 96) -> Path:
    """Write train.npz and test.npz of procedural shapes in twelve classes."""
    folder.mkdir()
    for seed, (name, number) in enumerate((("train", num_train), ("test", num_test))):
        write_shapes(folder / f"{name}.npz", make_shapes(number, seed, num_points), name)
    return folder


def write_part_data(folder: Path) -> Path:
    """Write shapes of two ShapeNetPart categories: bags (parts 4, 5) are flat, caps (6, 7) are tall."""
    folder.mkdir()
    for seed, (name, number) in enumerate((("train", 24), ("test", 8))):
        rng = np.random.default_rng(seed)
        points = rng.uniform(-1, 1, (number, 96, 3)).astype(np.float32)
        is_cap = np.arange(number) % 2
        points[..., 2] *= np.where(is_cap, 1.0, 0.2)[:, None]
        part = 4 + 2 * is_cap[:, None] + (points[..., 0] > 0)
        names = np.array([f"{name}_{index}" for index in range(number)])
        np.savez(folder / f"{name}.npz", points=points, part=part.astype(np.uint8), id=names)
    return folder


def write_weights(
    folder: Path, base: str = "point-mae", config: PointMaeConfig | PointM2aeConfig | None = None
) -> Path:
    """Write a base model with random weights as `pc3d pretrain` would."""
    config = config or (MAE if base == "point-mae" else M2AE)
    torch.manual_seed(7)
    model = PointMae(config) if base == "point-mae" else PointM2ae(config)
    about = {"method": "geomask3d", "kind": "pretrain", "base": base, "config": dataclasses.asdict(config)}
    write_model(folder, model.state_dict(), about)
    return folder

# SPDX-License-Identifier: Apache-2.0
"""Object clouds as others made them: ModelNet10 as arrays and as meshes, ShapeNetPart's caps, coloured PLY meshes."""

import numpy as np
import pytest

from pc3dcli.datasets.shape_batches import SCALE_SHIFT, BatchConfig, ShapeData
from pc3dcli.datasets.shape_set import open_shapes
from pc3dcli.formats.off import read_off

COUNTS = {"bathtub_0001": (3514, 3546), "chair_0891": (14396, 4821)}


def test_modelnet10(shared_data):
    train = open_shapes(shared_data / "modelnet10")
    test = open_shapes(shared_data / "modelnet10", split="test")
    assert (len(train), len(test)) == (543 + 889 + 465, 181) and train.class_names == test.class_names
    assert train.class_names[2] == "chair" and (train.label == 2).sum() > 889
    assert not set(train.names) & set(test.names)
    data = ShapeData(train, BatchConfig(augment=SCALE_SHIFT, min_points=32))
    indices = data.order(0, 0)[:64]
    batch = data.batch(indices)
    assert batch.clouds.shape == (64, 1024, 3) and batch.label.tolist() == train.label[indices].tolist()
    assert np.linalg.norm(batch.plain, axis=2).max(axis=1) == pytest.approx(1, abs=1e-5)


def test_modelnet_meshes(shared_data):
    shapes = open_shapes(shared_data / "modelnet_off")
    assert len(shapes) == 9 and shapes.class_names == ()
    for name, counts in COUNTS.items():
        mesh = read_off(shared_data / "modelnet_off" / f"{name}.off")
        assert (len(mesh.xyz), len(mesh.faces)) == counts
    for index in range(len(shapes)):
        points = shapes.read(index).xyz
        mesh = read_off(shared_data / "modelnet_off" / f"{shapes.names[index]}.off")
        corners = mesh.xyz[np.unique(mesh.faces)]
        slack = 1e-5 * np.abs(corners).max()
        assert (points >= corners.min(axis=0) - slack).all() and (points <= corners.max(axis=0) + slack).all()


def test_shapenetpart_caps(shared_data):
    shapes = open_shapes(shared_data / "shapenetpart_cap", split="test")
    assert len(shapes) == 8 and len(open_shapes(shared_data / "shapenetpart_cap", split="val")) == 5
    batch = ShapeData(shapes, BatchConfig(num_points=2048, sampling="replacement", normalize="cloud")).batch(range(8))
    assert set(np.unique(batch.part)) == {6, 7} and batch.clouds.shape == (8, 2048, 3)


def test_coloured_meshes(shared_data):
    shapes = open_shapes(shared_data / "meshes_cc0")
    assert len(shapes) == 43 and shapes.names[0] == "apple"
    points = shapes.read(0).xyz
    assert points.shape == (8192, 3) and np.ptp(points, axis=0).max() < 2 * np.ptp(points, axis=0).min()  # round

# SPDX-License-Identifier: Apache-2.0
import hashlib
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.cloud import read_cloud, xyz_sha256

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))


def test_read_by_suffix(tmp_path):
    for name, data in {"a.PLY": small["ply"](), "a.pcd": small["pcd"]()}.items():
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(read_cloud(tmp_path / name).xyz, small["mesh"]()["xyz"])
    values = np.arange(20, dtype="<f4")
    (tmp_path / "kitti.bin").write_bytes(values.tobytes())
    cloud = read_cloud(tmp_path / "kitti.bin")
    assert cloud.xyz.tolist() == values.reshape(5, 4)[:, :3].tolist() and cloud.extra["remission"].tolist() == [
        3,
        7,
        11,
        15,
        19,
    ]
    (tmp_path / "sweep.pcd.bin").write_bytes(values.tobytes())
    cloud = read_cloud(tmp_path / "sweep.pcd.bin")
    assert cloud.xyz.shape == (4, 3) and cloud.extra["ring"].tolist() == [4, 9, 14, 19]


def test_incomplete_and_unknown_files(tmp_path):
    (tmp_path / "kitti.bin").write_bytes(bytes(20))
    with pytest.raises(FormatError, match="found 20 bytes, expected a multiple of 16"):
        read_cloud(tmp_path / "kitti.bin")
    with pytest.raises(InputError, match="unknown kind, expected .ply, .pcd, .bin"):
        read_cloud(tmp_path / "x.obj")
    with pytest.raises(InputError, match="no such file"):
        read_cloud(tmp_path / "x.ply")


def test_hash_is_of_little_endian_float32():
    xyz = np.array([[1, 2, 3], [4, 5, 6.5]])
    expected = hashlib.sha256(struct.pack("<6f", 1, 2, 3, 4, 5, 6.5)).hexdigest()
    assert (
        xyz_sha256(xyz) == xyz_sha256(np.asfortranarray(xyz, np.float32)) == xyz_sha256(xyz.astype(">f8")) == expected
    )

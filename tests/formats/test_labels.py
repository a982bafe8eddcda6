# SPDX-License-Identifier: Apache-2.0
import io
import json
import subprocess
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load

from pc3dcli.formats.cloud import Cloud, read_cloud
from pc3dcli.formats.labels import point_labels, write_label_ply, write_label_tensors

METADATA = {"format": "pc3d", "method": "lift3d consensus", "config": {"é": [1, 2.5]}, "pc3d": "[]"}


def tensors(metadata=METADATA) -> bytes:
    file = io.BytesIO()
    labels = np.array([0, -1, 2], np.int32)
    arrays = {
        "instance": labels,
        "vote_share": np.array([0.5, 0, 1], np.float32),
        "seen": np.array([1, 0, 9], np.int32),
    }
    write_label_tensors(file, arrays, metadata)
    return file.getvalue()


def test_first_instance_has_the_point():
    found = point_labels(5, [np.array([1, 2]), np.array([2, 3]), np.array([], np.int64)])
    assert found.dtype == np.int32
    assert found.tolist() == [-1, 0, 0, 1, -1]
    assert point_labels(0, []).shape == (0,)


def test_tensors(tmp_path):
    data = tensors()
    arrays = load(data)
    assert arrays["instance"].tolist() == [0, -1, 2]
    assert arrays["vote_share"].tolist() == [0.5, 0, 1]
    assert arrays["seen"].tolist() == [1, 0, 9]
    assert (arrays["instance"].dtype, arrays["vote_share"].dtype, arrays["seen"].dtype) == ("int32", "float32", "int32")
    (tmp_path / "x.safetensors").write_bytes(data)
    with safe_open(tmp_path / "x.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata["method"] == "lift3d consensus"
    assert json.loads(metadata["config"]) == METADATA["config"]
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0


def test_same_labels_give_the_same_bytes_in_every_process():
    code = "from test_labels import tensors; import sys; sys.stdout.buffer.write(tensors())"
    folder = __file__.rsplit("/", 1)[0]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[folder, *sys.path]!r}; {code}"]
    found = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(3)}
    assert found == {tensors()}
    assert tensors() == tensors(dict(reversed(METADATA.items())))


def test_ply(tmp_path):
    xyz = np.arange(9, dtype=np.float32).reshape(3, 3)
    cloud = Cloud(xyz, np.full((3, 3), 7, np.uint8), faces=np.array([[0, 1, 2]], np.int32))
    with (tmp_path / "x.ply").open("wb") as file:
        write_label_ply(file, cloud, np.array([0, -1, 4], np.int32), ("pc3d []",))
    found = read_cloud(tmp_path / "x.ply")
    np.testing.assert_array_equal(found.xyz, xyz)
    assert found.extra["instance_id"].tolist() == [0, -1, 4]
    assert found.extra["label"].tolist() == [-1, -1, -1]
    assert found.faces is None or not len(found.faces)
    assert b"comment pc3d []" in (tmp_path / "x.ply").read_bytes()

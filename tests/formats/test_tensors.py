# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from safetensors.numpy import save_file

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.tensors import read_tensor, tensor_file


def test_numbers_in_the_record():
    array = read_tensor({"dtype": "I32", "shape": [2, 2], "data": [0, -1, 5, 7]}, [])
    assert array.dtype == np.int32 and array.tolist() == [[0, -1], [5, 7]]
    assert read_tensor({"dtype": "F32", "shape": [2], "data": [1, 0.5]}, []).tolist() == [1, 0.5]
    assert read_tensor({"dtype": "BOOL", "shape": [1], "data": [True]}, []).tolist() == [True]
    assert read_tensor({"dtype": "U8", "shape": [0], "data": []}, []).shape == (0,)


def test_a_file_beside_the_stream_or_in_the_root(tmp_path):
    stream, root = tmp_path / "labels", tmp_path / "scan"
    stream.mkdir()
    root.mkdir()
    tensor = {"file": "a.safetensors", "name": "pred", "dtype": "I32", "shape": [3]}
    save_file({"pred": np.array([1, 2, 3], np.int32), "other": np.zeros(3)}, root / "a.safetensors")
    assert read_tensor(tensor, [stream, root]).tolist() == [1, 2, 3]
    save_file({"pred": np.array([4, 5, 6], np.int32)}, stream / "a.safetensors")
    assert read_tensor(tensor, [stream, root]).tolist() == [4, 5, 6]
    assert tensor_file(tensor, [stream, root]) == stream / "a.safetensors"
    assert tensor_file({"dtype": "I32", "shape": [0], "data": []}, [stream]) is None


INLINE = {"dtype": "I32", "shape": [2], "data": [0, 1]}


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "I31"}, {"dtype": None}, {"shape": [3]}, {"shape": 2}, {"shape": [-2]}, {"shape": [True, 2]},
        {"shape": ["2"]}, {"data": None}, {"data": [0, 1.5]}, {"data": [0, True]}, {"data": [0, None]},
        {"data": [0, 2**31]}, {"data": [[0], [1]]}, {"dtype": "U8", "data": [0, -1]},
        {"dtype": "BOOL"}, {"file": "../a.safetensors"}, {"file": "/etc/passwd"}, {"file": 3}, {"file": ""},
    ],
)  # fmt: skip
def test_malformed_tensors(change, tmp_path):
    assert read_tensor(INLINE, [tmp_path]).tolist() == [0, 1]
    with pytest.raises(FormatError):
        read_tensor(INLINE | change, [tmp_path])


@pytest.mark.parametrize("tensor", [None, 3, [], "x", {}])
def test_no_tensor_at_all(tensor):
    with pytest.raises(FormatError):
        read_tensor(tensor, [])


def test_files_that_are_not_what_the_record_says(tmp_path):
    save_file({"pred": np.array([1, 2, 3], np.int32)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "c.npy").write_bytes(b"")
    good = {"file": "a.safetensors", "name": "pred", "dtype": "I32", "shape": [3]}
    assert read_tensor(good, [tmp_path]).tolist() == [1, 2, 3]
    for change in (
        {"dtype": "I64"}, {"shape": [4]}, {"shape": [3, 1]}, {"name": "x"}, {"name": None}, {"file": "b.safetensors"},
        {"file": "c.npy"},
    ):  # fmt: skip
        with pytest.raises(FormatError):
            read_tensor(good | change, [tmp_path])
    with pytest.raises(InputError, match="no such file"):
        read_tensor(good | {"file": "d.safetensors"}, [tmp_path, tmp_path])

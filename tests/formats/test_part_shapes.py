# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.part_shapes import read_prediction, read_shapes


def test_one_shape_as_text_and_as_arrays(tmp_path):
    (tmp_path / "a.txt").write_text("0\n300\n1\n")
    np.savez(tmp_path / "a.npz", pred=np.array([0, 300, 1], np.uint16), index=np.array([2, 0, 0]))
    for name in ("a.txt", "a.npz"):
        np.testing.assert_array_equal(read_prediction(tmp_path / name, 301).part, [0, 300, 1])
    np.testing.assert_array_equal(read_prediction(tmp_path / "a.npz", 301).index, [2, 0, 0])
    with pytest.raises(FormatError, match="a.txt:2: found part 300, expected 0 to 299"):
        read_prediction(tmp_path / "a.txt", 300)


def test_many_shapes_of_equal_and_of_other_sizes(tmp_path):
    np.savez(tmp_path / "x.npz", pred=np.arange(6).reshape(2, 3))
    assert [part.tolist() for part in read_shapes(tmp_path / "x.npz", "pred", num_parts=6)["pred"]] == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    np.savez(tmp_path / "x.npz", pred=np.arange(6), start=np.array([0, 4, 6]))
    assert [part.tolist() for part in read_shapes(tmp_path / "x.npz", "pred", "label", num_parts=6)["pred"]] == [
        [0, 1, 2, 3],
        [4, 5],
    ]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pred": np.zeros(4, int)}, "expected shapes x points"),
        ({"pred": np.zeros((2, 2))}, "expected integers"),
        ({"pred": np.full((2, 2), -1)}, "found part -1"),
        ({"pred": np.full((2, 2), 2**63, np.uint64)}, "found part 9223372036854775808"),
        ({"pred": np.zeros(4, int), "start": np.array([0, 3])}, "start does not cut"),
        ({"pred": np.zeros(4, int), "start": np.array([0, 3, 2, 4])}, "start does not cut"),
        ({"pred": np.zeros(4, int), "start": np.array(4)}, "start does not cut"),
    ],
)
def test_arrays_of_other_forms(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FormatError, match=words):
        read_shapes(tmp_path / "x.npz", "pred", num_parts=5)


@pytest.mark.parametrize("arrays", [{}, {"pred": [[0, 0], [0, 0]]}, {"pred": [0, 0, 0], "index": [0.5] * 3}])
def test_one_shape_of_other_forms(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FormatError):
        read_prediction(tmp_path / "x.npz", 5)

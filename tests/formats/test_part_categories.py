# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.part_categories import PartCategories, category_arrays, read_categories

FOUND = PartCategories(("cup", "pot"), ((0, 300), (0, 2)), np.array([1, 0, 1]))


def test_round_trip(tmp_path):
    np.savez(tmp_path / "x.npz", **category_arrays(FOUND, ("body", "lid")), pred=np.zeros((3, 4), int))
    names, again = read_categories(tmp_path / "x.npz")
    assert names == again.names == FOUND.names and again.parts == FOUND.parts
    np.testing.assert_array_equal(again.category, FOUND.category)


def test_a_file_may_say_nothing(tmp_path):
    np.savez(tmp_path / "x.npz", pred=np.zeros((3, 4), int))
    assert read_categories(tmp_path / "x.npz") == ((), None)
    np.savez(tmp_path / "x.npz", class_names=np.array(["cup"]))
    assert read_categories(tmp_path / "x.npz") == (("cup",), None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category": None}, "holds no category"),
        ({"category": np.array([0, 2, 1])}, "category 2, expected 0 to 1"),
        ({"category": np.array([[0]])}, r"category is \(1, 1\)"),
        ({"category": np.array([0.5])}, "expected integers"),
        ({"category_parts": np.array([[0, 10**9]])}, "part 1000000000, expected 0 to 9999"),
        ({"category_parts": np.array([[2**63, 0]], np.uint64)}, "expected 0 to 1"),
        ({"category_parts": np.array([[0, 1]])}, "has no part of pot"),
        ({"category_parts": np.arange(3)}, "expected .* and .K, 2"),
        ({"class_names": np.array(["cup", "cup"])}, "different ones"),
        ({"class_names": np.array([], "U1")}, "0 class_names"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, words):
    arrays = category_arrays(FOUND, ()) | change
    np.savez(tmp_path / "x.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(FormatError, match=words):
        read_categories(tmp_path / "x.npz")

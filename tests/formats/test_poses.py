# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.poses import check_intrinsics, check_rigid, read_matrix


def write(tmp_path, text: str):
    file = tmp_path / "pose.txt"
    file.write_text(text)
    return file


def test_matrices_with_comments_commas_and_infinity(tmp_path):
    file = write(tmp_path, "# pose\n\n1 0 0 -inf\n0, 1, 0, 2e-3\r\n0 0 1 nan\n0 0 0 1")
    matrix = read_matrix(file)
    assert matrix.shape == (4, 4) and matrix[1, 3] == 2e-3 and np.isneginf(matrix[0, 3]) and np.isnan(matrix[2, 3])
    assert read_matrix(write(tmp_path, "\ufeff1 2\n3 4\n"), 2, 2).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1\n", "pose.txt:2: expected 4 numbers, found 3"),
        ("1 0 0 0\n0 1 0 0 0\n0 0 1 0\n0 0 0 1\n", "pose.txt:2: expected 4 numbers, found 5"),
        ("1 0 0 0\n\n0 1 O 0\n0 0 1 0\n0 0 0 1\n", "pose.txt:3: expected a number, found 'O'"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n", "pose.txt: expected 4 lines of numbers, found 3"),
        ("1 0 0 0\n" * 5, "pose.txt:5: expected 4 lines of numbers, found another one"),
        ("", "the file is empty"),
        ("0" * 70000, "found 70000 bytes, expected at most 65536"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, text, message):
    with pytest.raises(FormatError, match=message):
        read_matrix(write(tmp_path, text))


def test_bytes_and_missing_files(tmp_path):
    file = tmp_path / "pose.txt"
    file.write_bytes(b"\xff\xfe1")
    with pytest.raises(FormatError, match="expected text, found byte 0xff"):
        read_matrix(file)
    with pytest.raises(InputError, match="no such file"):
        read_matrix(tmp_path / "other.txt")


def test_rigid_motions_only():
    pose = np.eye(4)
    assert check_rigid(pose, "x") is pose
    for place, value, message in [((3, 0), 1, "last row"), ((0, 0), 2, "not a rotation"), ((0, 3), 1e9, "1000 km")]:
        bad = np.eye(4)
        bad[place] = value
        with pytest.raises(FormatError, match=message):
            check_rigid(bad, "x")
    with pytest.raises(FormatError, match="not a rotation"):
        check_rigid(np.diag([1.0, 1, -1, 1]), "x")  # a mirror


def test_intrinsics_must_fit_their_image():
    K = np.array([[1170.2, 0, 647.8], [0, 1170.2, 483.8], [0, 0, 1]])
    assert check_intrinsics(K, (968, 1296), "x") is K
    with pytest.raises(FormatError, match="cx 647.8 cy 483.8 cannot be those of an image of 640 x 480"):
        check_intrinsics(K, (480, 640), "x")
    for place, value in [((0, 0), -1), ((0, 0), np.nan), ((2, 2), 0), ((1, 0), 3)]:
        bad = K.copy()
        bad[place] = value
        with pytest.raises(FormatError, match="not a camera matrix"):
            check_intrinsics(bad, (968, 1296), "x")

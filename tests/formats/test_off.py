# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.off import read_off

POINTS = "0 0 0\n1 0 0\n1 1 0\n0 1 0.5\n"
FACES = "3 0 1 2\n4 0 1 2 3\n"


@pytest.mark.parametrize(
    "text",
    [
        f"OFF\n4 2 0\n{POINTS}{FACES}",
        f"OFF4 2 0\n{POINTS}{FACES}",  # the defect of ModelNet
        f"OFF 4 2 0\n{POINTS}{FACES}",
        f"OFF\n4 2\n{POINTS}{FACES}",
        f"# by hand\nOFF # magic\n\n4 2 5  # counts\n# points\n{POINTS}\n# faces\n\n{FACES}\n\n",
        f"OFF\r\n4 2 0\r\n{POINTS}{FACES}".replace("\n", "\r\n").replace("\r\r", "\r"),
        f"OFF\n4 2 0\n{POINTS}{FACES}trailing nonsense\n",
        "COFF\n4 2 0\n" + POINTS.replace("\n", " 255 0 0 1\n") + "3 0 1 2 0.5 0.5 0.5\n4 0 1 2 3 255 0 0\n",
        "NOFF\n4 2 0\n" + POINTS.replace("\n", " 0 0 1\n") + FACES,
        f"OFF\n4 2 0\n{POINTS}3  0 1   2 \n 4 0 1 2 3\n",
    ],
)
def test_headers_colours_and_polygons(text, tmp_path):
    (tmp_path / "x.off").write_bytes(text.encode())
    mesh = read_off(tmp_path / "x.off")
    assert mesh.xyz.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]] and mesh.faces.dtype == np.int32


def test_triangles_alone_are_read_at_once(tmp_path):
    rng = np.random.default_rng(0)
    points, faces = rng.normal(size=(50, 3)), rng.integers(0, 50, (90, 3))
    text = "OFF\n50 90 0\n" + "".join(" ".join(f"{v:.6f}" for v in row) + "\n" for row in points)
    (tmp_path / "x.off").write_text(text + "".join(f"3 {a} {b} {c}\n" for a, b, c in faces))
    mesh = read_off(tmp_path / "x.off")
    assert np.allclose(mesh.xyz, points, atol=1e-6) and np.array_equal(mesh.faces, faces)


def test_clouds_and_degenerate_faces(tmp_path):
    file = tmp_path / "x.off"
    file.write_text("OFF\n2 0 0\n1 2 3\n4 5 6\n")
    assert read_off(file).faces is None and read_off(file).xyz.shape == (2, 3)
    file.write_text("OFF\n2 2 0\n1 2 3\n4 5 6\n2 0 1\n1 0\n")
    assert read_off(file).faces.shape == (0, 3)
    file.write_text("OFF\n0 0 0\n")
    assert read_off(file).xyz.shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "expected OFF"),
        ("PLY\n1 2 3\n", "expected OFF"),
        ("OFF BINARY\n\0\0\0", "expected OFF"),
        ("4OFF\n1 0 0\n0 0 0 0\n", "expected OFF"),
        ("OFF\n-4 2 0\n", "expected OFF"),
        (f"OFF\n5 2 0\n{POINTS}", "found 4 lines, expected 5 vertices and 2 faces"),
        (f"OFF\n999999999999999999999 2 0\n{POINTS}", "found 4 lines"),
        (f"OFF\n4 2 0\n{POINTS}3 0 1 2\n", "found 5 lines"),
        (f"OFF\n4 1 0\n{POINTS}3 0 1 4\n", "vertex 4, expected 0 to 3"),
        (f"OFF\n4 1 0\n{POINTS}3 0 1 -1\n", "'3 0 1 -1'|vertex -1"),
        (f"OFF\n4 1 0\n{POINTS}4 0 1 2\n", "found face '4 0 1 2'"),
        (f"OFF\n4 1 0\n{POINTS}3 0 1 x\n", "found face '3 0 1 x'"),
        (f"OFF\n4 1 0\n{POINTS}99999 0 1 2\n", "found face"),
        (f"OFF\n5 1 0\n{POINTS}3 0 1 2\n3 0 1 2\n", "found 4 numbers, expected 3"),
        (f"OFF\n4 1 0\n{POINTS.replace('0.5', 'a')}3 0 1 2\n", "expected 3 numbers"),
    ],
)
def test_damage(text, found, tmp_path):
    (tmp_path / "x.off").write_text(text)
    with pytest.raises(FormatError, match=found):
        read_off(tmp_path / "x.off")


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "x.off").write_text("# c\nOFF\n4 1 0\n" + POINTS.replace("0.5", "a") + "3 0 1 2\n")
    with pytest.raises(FormatError) as caught:
        read_off(tmp_path / "x.off")
    assert caught.value.line == 7


def test_missing(tmp_path):
    with pytest.raises(InputError):
        read_off(tmp_path / "x.off")

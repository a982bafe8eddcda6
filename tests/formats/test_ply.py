# SPDX-License-Identifier: Apache-2.0
import io
import runpy
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import read_ply, write_ply

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))

HAND_WRITTEN = """ply
format ascii 1.0
comment written by hand
obj_info nothing
element vertex 4
property double x
property double y
property double z
property list uchar int neighbours
property float quality
element edge 1
property int vertex1
property int vertex2
element face 2
property list uchar uint vertex_index
property uchar flags
end_header
0 0 0 2 1 2 0.5
1.0000000001 0 0 0 -1

0 1e0 0 1 3 nan
0 0 1 0 2
0 1
3 0 1 2 7
4 0 1 2 3 8
"""


def read(tmp_path, data: bytes) -> Cloud:
    file = tmp_path / "x.ply"
    file.write_bytes(data)
    return read_ply(file)


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_all_encodings_say_the_same(tmp_path, order):
    cloud, parts = read(tmp_path, small["ply"](order)), small["mesh"]()
    assert cloud.xyz.dtype == np.float32 and np.array_equal(cloud.xyz, parts["xyz"])
    assert np.array_equal(cloud.rgb, parts["rgb"])
    assert cloud.extra["label"].dtype == np.uint16 and np.array_equal(cloud.extra["label"], parts["label"])
    assert cloud.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]  # a triangle, a square as a fan


def test_a_file_written_by_hand(tmp_path):
    cloud = read(tmp_path, HAND_WRITTEN.encode())
    assert cloud.xyz.dtype == np.float64 and cloud.xyz[1, 0] == 1.0000000001
    assert cloud.rgb is None and cloud.normal is None and list(cloud.extra) == ["quality"]
    assert np.array_equal(cloud.extra["quality"], np.float32([0.5, -1, np.nan, 2]), equal_nan=True)
    assert cloud.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]
    assert read(tmp_path, HAND_WRITTEN.replace("\n", "\r\n").encode()).faces.shape == (3, 3)


def random_cloud(N: int = 200, kind=np.float32) -> Cloud:
    rng = np.random.default_rng(3)
    extra = {
        "label": rng.integers(0, 60000, N).astype(np.uint16),
        "instance_id": rng.integers(-1, 9, N).astype(np.int32),
    }
    return Cloud(
        rng.normal(size=(N, 3)).astype(kind),
        rng.integers(0, 256, (N, 3)).astype(np.uint8),
        rng.normal(size=(N, 3)).astype(np.float32),
        rng.integers(0, N, (2 * N, 3)).astype(np.int32),
        extra,
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_write_and_read_back(tmp_path, kind):
    cloud = random_cloud(kind=kind)
    write_ply(tmp_path / "x.ply", cloud, ["made by a test", "second"])
    back = read_ply(tmp_path / "x.ply")
    assert back.xyz.dtype == kind
    for name in ("xyz", "rgb", "normal", "faces"):
        assert np.array_equal(getattr(back, name), getattr(cloud, name)), name
    for name, values in cloud.extra.items():
        assert back.extra[name].dtype == values.dtype and np.array_equal(back.extra[name], values)
    head = (tmp_path / "x.ply").read_bytes()[:100]
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\ncomment made by a test\ncomment second\nelement")


def test_writing_to_an_open_file_and_empty_clouds(tmp_path):
    stream = io.BytesIO()
    write_ply(stream, Cloud(np.zeros((0, 3), np.float32), faces=np.zeros((0, 3), np.int32)))
    cloud = read(tmp_path, stream.getvalue())
    assert cloud.xyz.shape == (0, 3) and cloud.faces.shape == (0, 3)


def test_what_cannot_be_written_is_refused():
    cloud = random_cloud(3)
    with pytest.raises(ValueError, match="one line of ascii"):
        write_ply(io.BytesIO(), cloud, ["a\nb"])
    for extra in ({"label": np.zeros(2, np.int32)}, {"label": np.zeros(3, np.int64)}, {"a b": np.zeros(3, np.int32)}):
        with pytest.raises(ValueError, match="cannot write point property"):
            write_ply(io.BytesIO(), Cloud(cloud.xyz, extra=extra))


def with_vertices(properties: str, body: bytes, count: int = 1, form: str = "binary_little_endian") -> bytes:
    lines = ["ply", f"format {form} 1.0", f"element vertex {count}"]
    lines += [f"property {words}" for words in properties.split(", ")]
    return ("\n".join(lines) + "\nend_header\n").encode() + body


def test_colours_and_coordinates_of_other_types(tmp_path):
    names = "int x, int y, int z, float red, float green, float blue"
    cloud = read(tmp_path, with_vertices(names, struct.pack("<iiifff", 1, -2, 3, 0.0, 0.5, 1.0)))
    assert cloud.xyz.tolist() == [[1, -2, 3]] and cloud.xyz.dtype == np.float64
    assert cloud.rgb.tolist() == [[0, 128, 255]]
    with pytest.raises(FormatError, match="colour outside"):
        read(tmp_path, with_vertices(names, struct.pack("<iiifff", 1, -2, 3, 0.0, 0.5, 200.0)))
    big = "float x, float y, float z, ushort r, ushort g, ushort b"
    assert read(tmp_path, with_vertices(big, struct.pack("<fffHHH", 1, 2, 3, 4, 5, 255))).rgb.tolist() == [[4, 5, 255]]


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_every_truncation_is_refused(tmp_path, order):
    data = small["ply"](order)
    for length in range(1, len(data) - 1):  # the last byte of the ascii file is a line end
        with pytest.raises(FormatError):
            read(tmp_path, data[:length])


def test_a_lying_count_allocates_nothing(tmp_path):
    start = time.process_time()
    for form in ("ascii", "binary_little_endian"):
        for count in (10**15 - 1, 10**9):
            with pytest.raises(FormatError, match="truncated or its header wrong"):
                read(tmp_path, with_vertices("float x, float y, float z", b"1 2 3\n", count, form))
    face = b"element face 1\nproperty list uint int vertex_indices\n"
    data = with_vertices("float x, float y, float z", bytes(12)).replace(b"end_header", face + b"end_header")
    with pytest.raises(FormatError, match="found a list of 4294967295 numbers with 4 bytes left"):
        read(tmp_path, data + b"\xff\xff\xff\xff" + bytes(4))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"ply\n", b"pla\n", "expected a PLY"),
        (b"format ascii 1.0", b"format ascii 2.0", "x.ply:2: .*expected a PLY header line"),
        (b"format ascii 1.0", b"format morse 1.0", "found no 'format"),
        (b"property double x", b"property triple x", "x.ply:6: .*expected a property"),
        (b"property double y", b"property double x", "appears twice"),
        (b"property double x", b"property double w", "found no vertex property 'x'"),
        (b"element edge 1", b"element vertex 1", "one name"),
        (b"element vertex 4", b"element vertex -4", "x.ply:5"),
        (b"0 0 0 2 1 2 0.5", b"0 0 zero 2 1 2 0.5", "x.ply:18: expected numbers"),
        (b"0 0 0 2 1 2 0.5", b"0 0 0 9 1 2 0.5", "x.ply:18: found 7 numbers"),
        (b"0 0 0 2 1 2 0.5", b"0 0 0 1 1 2 0.5", "x.ply:18: expected 6 numbers"),
        (b"3 0 1 2 7", b"3 0 1 4 7", "face corners 0 to 4, expected 0 to 3"),
        (b"3 0 1 2 7", b"2 0 1 7", "a face with 2 corners"),
        (b"3 0 1 2 7", b"3 0 1 2 300", "does not fit its type"),
        (b"4 0 1 2 3 8", b"4 0 1 2 3 8\n1", "x.ply:26: found more lines"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, old, new, message):
    with pytest.raises(FormatError, match=message):
        read(tmp_path, HAND_WRITTEN.encode().replace(old, new, 1))


def test_bytes_after_the_end_are_refused(tmp_path):
    data = small["ply"]("<")
    assert len(read(tmp_path, data + b"\n").xyz) == 5
    with pytest.raises(FormatError, match="found 12 bytes after the last element"):
        read(tmp_path, data + bytes(range(12)))
    with pytest.raises(FormatError):  # a smaller count leaves points over
        read(tmp_path, data.replace(b"vertex 5", b"vertex 4"))


def test_large_polygon_meshes_match_a_slow_fan(tmp_path):
    rng = np.random.default_rng(0)
    polygons = [rng.integers(0, 50, rng.integers(3, 7)).tolist() for _ in range(300)]
    expected = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1)]
    lines = ["0 0 0"] * 50 + [f"{len(p)} {' '.join(map(str, p))}" for p in polygons]
    head = "ply\nformat ascii 1.0\nelement vertex 50\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 300\nproperty list uchar int vertex_indices\nend_header\n"
    assert read(tmp_path, (head + "\n".join(lines) + "\n").encode()).faces.tolist() == expected
    body = bytes(600) + b"".join(struct.pack(f"<B{len(p)}i", len(p), *p) for p in polygons)
    assert read(tmp_path, head.replace("ascii", "binary_little_endian").encode() + body).faces.tolist() == expected

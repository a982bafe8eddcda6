# SPDX-License-Identifier: Apache-2.0
import io
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.pcd import decode_lzf, read_pcd, write_pcd

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
KINDS = ("ascii", "binary", "binary_compressed")


def read(tmp_path, data: bytes) -> Cloud:
    (tmp_path / "x.pcd").write_bytes(data)
    return read_pcd(tmp_path / "x.pcd")


@pytest.mark.parametrize("kind", KINDS)
def test_all_encodings_say_the_same(tmp_path, kind):
    cloud, parts = read(tmp_path, small["pcd"](kind)), small["mesh"]()
    assert cloud.xyz.dtype == np.float32 and np.array_equal(cloud.xyz, parts["xyz"])
    assert np.array_equal(cloud.rgb, parts["rgb"]) and cloud.faces is None
    assert cloud.extra["label"].dtype == np.uint16 and np.array_equal(cloud.extra["label"], parts["label"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_refused(tmp_path, kind):
    data = small["pcd"](kind)
    for length in range(1, len(data) - 1):
        with pytest.raises(FormatError):
            read(tmp_path, data[:length])


def test_write_and_read_back(tmp_path):
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (100, 3)).astype(np.uint8)
    extra = {"label": rng.integers(0, 60000, 100).astype(np.uint16), "id": rng.integers(-9, 9, 100).astype(np.int32)}
    cloud = Cloud(rng.normal(size=(100, 3)), rgb, rng.normal(size=(100, 3)).astype(np.float32), None, extra)
    cloud.xyz[3] = np.nan
    write_pcd(tmp_path / "x.pcd", cloud, ("a comment",))
    back = read_pcd(tmp_path / "x.pcd")
    assert back.xyz.dtype == np.float64 and np.array_equal(back.xyz, cloud.xyz, equal_nan=True)
    assert np.array_equal(back.rgb, rgb) and np.array_equal(back.normal, cloud.normal)
    assert all(np.array_equal(back.extra[name], extra[name]) for name in extra)
    with pytest.raises(ValueError, match="cannot write point field"):
        write_pcd(io.BytesIO(), Cloud(cloud.xyz, extra={"label": np.zeros(3, np.int32)}))


def test_repeated_padding_and_wide_fields_are_stepped_over(tmp_path):
    data = small["pcd"]("ascii").replace(b"FIELDS x y z rgb label", b"FIELDS x _ y z _ _2")
    data = data.replace(b"SIZE 4 4 4 4 2", b"SIZE 4 1 4 4 4 4").replace(b"TYPE F F F F U", b"TYPE F U F F F F")
    data = data.replace(b"COUNT 1 1 1 1 1", b"COUNT 1 2 1 1 1 3").split(b"DATA ascii\n")[0] + b"DATA ascii\n"
    cloud = read(tmp_path, data + b"1 8 8 2 3 9 7 7 7\n" * 5)
    assert cloud.xyz.tolist() == [[1, 2, 3]] * 5 and cloud.extra == {}


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"DATA ascii", b"DATA morse", "found DATA morse"),
        (b"POINTS 5", b"POINTS 6", "POINTS 6 with WIDTH 5 and HEIGHT 1"),
        (b"POINTS 5", b"POINTS x", "found POINTS 'x'"),
        (b"FIELDS x y z", b"FIELDS u v w", "found no field 'x'"),
        (b"TYPE F F", b"TYPE F X", "of type X and size 4"),
        (b"SIZE 4 4", b"SIZE 4", "different lengths"),
        (b"WIDTH 5", b"WIDTH 5\nWIDTH 5", "x.pcd:8: found 'WIDTH'"),
        (b"1.0 0.0 0.0", b"1.0 zero 0.0", "x.pcd:13: expected numbers"),
        (b"1.0 0.0 0.0", b"0.0 0.0", "x.pcd:13: expected 5 points of 5 numbers, found 4 numbers"),
        (b" 4\n", b" 70000\n", "does not fit its type"),
        (b" 4\n", b" 4\n1 1 1 1 1\n", "found another point"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, old, new, message):
    data = small["pcd"]("ascii")
    assert old in data
    with pytest.raises(FormatError, match=message):
        read(tmp_path, data.replace(old, new, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lying_count_allocates_nothing(tmp_path, kind):
    data = small["pcd"](kind).replace(b"POINTS 5", b"POINTS 999999999999").replace(b"WIDTH 5", b"WIDTH 999999999999")
    with pytest.raises(FormatError):
        read(tmp_path, data)


def test_lzf_against_its_encoder():
    rng = np.random.default_rng(5)
    for trial in range(60):
        plain = rng.integers(0, 2 + trial % 5, rng.integers(1, 3000)).astype(np.uint8).tobytes()
        assert decode_lzf(small["lzf"](plain), len(plain), "x") == plain
    assert decode_lzf(b"\x00a\xe0\xff\x00", 1 + 264, "x") == b"a" * 265  # the longest reference, overlapping itself


@pytest.mark.parametrize("data", [b"\x05ab", b"\x00a\x20", b"\x00a\x20\x05", b"\x20\x00", b"\x00a\xe0", b"\x00ab", b""])
def test_lzf_damage_is_refused(data):
    with pytest.raises(FormatError):
        decode_lzf(data, 4, "x")

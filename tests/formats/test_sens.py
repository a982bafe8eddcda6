# SPDX-License-Identifier: Apache-2.0
import runpy
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.sens import open_sens

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))


@pytest.mark.parametrize("color_kind", [0, 1, 2])
@pytest.mark.parametrize("depth_kind", [0, 1])
def test_any_frame_in_any_order(tmp_path, color_kind, depth_kind):
    sens = open_sens(small["sens"](tmp_path / "x.sens", color_kind, depth_kind))
    assert np.allclose(sens.K_color, small["K"]) and sens.color_size == sens.depth_size == small["SIZE"]
    assert sens.units_per_metre == 1000 and sens.time_us.tolist() == [0, 33333, 66666, 99999]
    for index in (3, 0, 2):
        rgb, depth, pose = small["frames"]()[index]
        assert np.abs(sens.read_color(index).astype(int) - rgb).max() <= (20 if color_kind == 2 else 0)
        assert np.array_equal(sens.read_depth_raw(index), depth)
        assert np.allclose(sens.world_from_cam[index], pose, atol=1e-6)
    for index in (4, -1):
        with pytest.raises(FormatError, match="expected 0 to 3"):
            sens.read_color(index)


def test_a_rewritten_file_is_read_again(tmp_path):
    file = tmp_path / "x.sens"
    assert len(open_sens(small["sens"](file)).spans) == 4
    assert len(open_sens(small["sens"](file, count=2)).spans) == 2


def test_every_truncation_is_refused(tmp_path):
    file = small["sens"](tmp_path / "x.sens", count=2)
    data = file.read_bytes()
    for length in range(0, len(data) - 8, 7):  # the last 8 bytes count motion sensor records, which nobody reads
        file.write_bytes(data[:length])
        with pytest.raises(FormatError, match="truncated"):
            open_sens(file)


@pytest.mark.parametrize(
    "offset, value, message",
    [
        (0, b"\x03", "found version 3, expected 4"),
        (4, b"\xff\xff\xff\xff", "sensor name of 4294967295 bytes"),
        (283, b"\x07", "colour compression 7"),
        (287, b"\x02", "occi_ushort, a proprietary codec"),
        (291, b"\0\0\0\0", "found 0 x 12 colour"),
        (307, b"\0\0\0\0", "depth shift of 0"),
        (311, b"\xff\xff\xff\xff", "bytes for 4294967295 frames"),
    ],
)
def test_headers_that_are_refused(tmp_path, offset, value, message):
    file = small["sens"](tmp_path / "x.sens")
    data = file.read_bytes()
    file.write_bytes(data[:offset] + value + data[offset + len(value) :])
    with pytest.raises(FormatError, match=message):
        open_sens(file)


def test_depth_that_unpacks_to_another_size_is_refused(tmp_path):
    file = small["sens"](tmp_path / "x.sens", 0, 0, count=1)
    data = file.read_bytes()
    good = data[-8 - 12 * 16 * 2 : -8]
    for plain in (good[:-2], good + bytes(100_000_000)):
        packed = zlib.compress(plain, 9)
        start = 4 + 8 + 15 + 256 + 36 + 64 + 16
        body = data[: start + 8] + len(packed).to_bytes(8, "little") + data[start + 16 : start + 16 + 12 * 16 * 3]
        body = body[:287] + b"\x01" + body[288:]
        file.write_bytes(body + packed + bytes(8))
        tracemalloc.start()
        with pytest.raises(FormatError, match="expected 384"):
            open_sens(file).read_depth_raw(0)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # a bomb stays packed
        tracemalloc.stop()


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read it"):
        open_sens(tmp_path / "x.sens")

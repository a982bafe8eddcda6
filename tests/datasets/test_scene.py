# SPDX-License-Identifier: Apache-2.0
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from pc3dcli.datasets.scene import Frame, RgbdFrame, frame_from_record, frame_to_record
from pc3dcli.errors import FormatError, InputError

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
K, SIZE = small["K"], small["SIZE"]


def some_frame(**changes) -> Frame:
    fields = {"frame": "0", "image": "c.png", "size": SIZE, "K": K, "world_from_cam": np.eye(4), "depth": "d.png"}
    return Frame(**(fields | changes))


def write(folder: Path, rgb=None, depth=None) -> Path:
    for name, array in (("c.png", rgb), ("d.png", depth)):
        if array is not None:
            small["put"](folder / name, small["png"](array))
    return folder


def slow_depth(raw: np.ndarray, frame: Frame, max_depth: float) -> np.ndarray:
    """Depth on the image grid, pixel by pixel from the definition."""
    depth_K = frame.K if frame.depth_K is None else frame.depth_K
    result = np.zeros(frame.size, np.float32)
    for v in range(frame.size[0]):
        for u in range(frame.size[1]):
            ray = np.linalg.inv(frame.K) @ (u, v, 1)
            if frame.distortion:
                ray = np.append(
                    cv2.projectPoints(ray[None], np.zeros(3), np.zeros(3), np.eye(3), frame.distortion)[0], 1
                )
            x, y, _ = depth_K @ ray
            column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
            if 0 <= row < raw.shape[0] and 0 <= column < raw.shape[1]:
                metres = raw[row, column] * frame.depth_scale
                result[v, u] = metres if metres <= max_depth and raw[row, column] != 65535 else 0
    return result


@pytest.mark.parametrize("case", ["same", "half", "crop", "skew", "lens"])
def test_depth_lands_on_the_image_grid(tmp_path, case):
    raw = np.random.default_rng(0).integers(0, 12000, (12, 16)).astype(np.uint16)
    raw[2, 3] = 65535
    changes = {}
    if case == "half":
        raw = raw[:6, :8].copy()
        changes = {"depth_size": (6, 8), "depth_K": np.array([[10.0, 0, 3.5], [0, 10, 2.5], [0, 0, 1]])}
    if case == "crop":  # another field of view and principal point: columns fall outside
        changes = {"depth_K": np.array([[26.0, 0, 8.2], [0, 25, 5.1], [0, 0, 1]])}
    if case == "skew":
        changes = {"depth_K": np.array([[20.0, 0.8, 7.5], [0, 20, 5.5], [0, 0, 1]])}
    if case == "lens":
        changes = {"distortion": (0.3, -0.1, 0.02, -0.01, 0.05)}
    frame = some_frame(**changes)
    view = RgbdFrame(write(tmp_path, depth=raw), frame)
    expected = slow_depth(raw, frame, 10.0)
    assert view.depth.shape == SIZE and view.depth.dtype == np.float32
    assert np.allclose(view.depth, expected, atol=1e-6)
    assert case in ("same", "lens") or not np.array_equal(view.depth, raw[:12, :16] * np.float32(0.001))


def test_missing_depth_is_zero(tmp_path):
    raw = np.full(SIZE, 65535, np.uint16)
    raw[0, :4] = (0, 9999, 10000, 10001)
    view = RgbdFrame(write(tmp_path, depth=raw), some_frame())
    assert view.depth[0, :4].tolist() == pytest.approx([0, 9.999, 10, 0]) and view.depth[1:].max() == 0
    view = RgbdFrame(tmp_path, some_frame(depth_scale=0.0001), max_depth=1.00005)
    assert view.depth[0, :4].tolist() == pytest.approx([0, 0.9999, 1, 0])
    assert RgbdFrame(tmp_path, some_frame(depth_scale=0.0001)).depth[1:].max() == 0  # 65535 is missing at any scale
    assert RgbdFrame(tmp_path, some_frame(depth=None)).depth is None


def test_colour_is_undistorted_as_opencv_does(tmp_path):
    rgb = small["frames"](1)[0][0]
    lens = (0.3, -0.1, 0.02, -0.01, 0.05)
    view = RgbdFrame(write(tmp_path, rgb=rgb), some_frame(distortion=lens))
    expected = cv2.undistort(rgb, K, np.array(lens))
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(view.rgb[inner].astype(int) - expected[inner]).max() <= 2


def test_pictures_are_read_once_and_on_demand(tmp_path):
    view = RgbdFrame(tmp_path, some_frame())
    with pytest.raises(InputError, match="c.png: no such file"):
        _ = view.rgb
    write(tmp_path, rgb=small["frames"](1)[0][0])
    first = view.rgb
    (tmp_path / "c.png").unlink()
    assert view.rgb is first


def test_a_picture_of_another_size_is_refused(tmp_path):
    write(tmp_path, rgb=np.zeros((6, 8, 3), np.uint8), depth=np.zeros((6, 8), np.uint16))
    view = RgbdFrame(tmp_path, some_frame())
    for name in ("rgb", "depth"):
        with pytest.raises(FormatError, match="found 8 x 6 pixels, expected 16 x 12"):
            getattr(view, name)


@pytest.mark.parametrize("name", ["../c.png", "/etc/hostname", "x.sens#color", "x.sens#depth/0", "x.sens#color/-1"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    small["sens"](tmp_path / "x.sens")
    with pytest.raises(FormatError):
        _ = RgbdFrame(tmp_path, some_frame(image=name)).rgb


def test_a_record_has_every_field(tmp_path):
    depth_K = np.array([[10.0, 0, 3.5], [0, 10, 2.5], [0, 0, 1]])
    lens = (0.1, 0.2, 0.0, 0.0)
    frame = some_frame(depth_size=(6, 8), depth_K=depth_K, time_s=1.5, depth_scale=0.0002, distortion=lens)
    record = json.loads(json.dumps(frame_to_record("a/b", frame), allow_nan=False))
    assert (record["type"], record["scene"], record["size"]) == ("frame", "a/b", [12, 16])
    back = frame_from_record(record)
    for name in ("frame", "image", "depth", "size", "depth_size", "depth_scale", "time_s", "distortion"):
        assert getattr(back, name) == getattr(frame, name), name
    assert np.array_equal(back.depth_K, depth_K) and np.array_equal(back.K, K)
    assert "depth" not in frame_to_record("s", some_frame(depth=None))


def test_poses_carry_nine_digits():
    pose = np.eye(4)
    pose[0, 3] = 1 / 3
    assert frame_to_record("s", some_frame(world_from_cam=pose))["world_from_cam"][0][3] == 0.333333333


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("frame", None, 'lacks "frame"'),
        ("image", 7, '"image" is 7'),
        ("image", "\ud800", '"image" is'),
        ("size", None, 'lacks "size"'),
        ("size", [12], "expected .height, width."),
        ("size", [12, 10**9], "expected .height, width."),
        ("size", [True, True], "expected .height, width."),
        ("K", None, 'lacks "K"'),
        ("K", [[1, 2], [3, 4]], '"K" is not a list of 3 rows'),
        ("K", [[20, 0, 900], [0, 20, 5.5], [0, 0, 1]], "cannot be those of an image of 16 x 12"),
        ("world_from_cam", [[1, 0, 0, 0]] * 3, '"world_from_cam" is not a list of 4 rows'),
        ("world_from_cam", [[10**400, 0, 0, 0]] * 4, "finite numbers"),
        ("world_from_cam", [["1", 0, 0, 0]] * 4, "finite numbers"),
        ("world_from_cam", [[1, 0, 0, 0]] * 4, "expected 0 0 0 1"),
        ("depth_scale", 0, '"depth_scale" is 0'),
        ("depth_scale", float("nan"), '"depth_scale" is nan'),
        ("time_s", "now", '"time_s" is'),
        ("distortion", [1, 2], "lens coefficients"),
        ("depth_K", [[1]], '"depth_K" is not'),
        ("depth_size", [6, 8], 'lacks "depth_K"'),
    ],
)
def test_a_wrong_field_is_named(name, value, message):
    record = frame_to_record("s", some_frame())
    record[name] = value
    with pytest.raises(FormatError, match=message):
        frame_from_record(record)

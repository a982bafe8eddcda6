# SPDX-License-Identifier: Apache-2.0
"""The same four frames come out of every layout."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.datasets import LAYOUTS, open_scenes
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.errors import FormatError, InputError, UsageError

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
WRITERS = {
    "scannet": small["scannet"],
    "7scenes": small["seven_scenes"],
    "tum": small["tum"],
    "replica": small["replica"],
    "transforms": small["transforms"],
    "frames": small["frames_list"],
    "sens": lambda folder: small["sens"](folder / "scan.sens").parent,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_recognised_and_gives_the_same_frames(tmp_path, layout):
    folder = WRITERS[layout](tmp_path / "scan")
    (ref,) = open_scenes(folder)
    assert (ref.scene, ref.dataset) == ("scan", layout)
    scene = ref.open()
    expected = small["frames"]()
    if layout == "scannet":  # written as 0, 2, 10, 9: numeric order is not the order of writing
        expected = [expected[index] for index in (0, 1, 3, 2)]
    assert (scene.scene, scene.dataset, len(scene.frames), scene.skipped) == ("scan", layout, 4, ())
    for frame, (rgb, depth, pose) in zip(scene.frames, expected, strict=True):
        view = RgbdFrame(scene.root, frame)
        assert frame.size == small["SIZE"] and np.allclose(frame.K, small["K"])
        assert np.allclose(frame.world_from_cam, pose, atol=1e-5)
        lossy = layout in ("replica", "sens")  # JPEG
        assert view.rgb.dtype == np.uint8 and np.abs(view.rgb.astype(int) - rgb).max() <= (20 if lossy else 0)
        metres = np.where(depth == 65535, 0, depth) / 1000
        assert view.depth.dtype == np.float32 and np.abs(view.depth - metres).max() < (2e-4 if lossy else 1e-6)


@pytest.mark.parametrize("layout", WRITERS)
def test_depth_scale_can_be_overridden(tmp_path, layout):
    folder = WRITERS[layout](tmp_path / "scan")
    scene = open_scenes(folder)[0].open(depth_scale=0.0001)
    assert {frame.depth_scale for frame in scene.frames} == {0.0001}


@pytest.mark.parametrize("layout", WRITERS)
def test_a_named_layout_is_not_guessed(tmp_path, layout):
    folder = WRITERS[layout](tmp_path / "scan")
    assert open_scenes(folder, layout)[0].dataset == layout
    other = "replica" if layout != "replica" else "tum"
    with pytest.raises(InputError, match="found no scene"):
        open_scenes(folder, other)


def test_opening_decodes_no_picture(tmp_path, monkeypatch):
    import cv2

    monkeypatch.setattr(cv2, "imdecode", None)
    for layout, write in WRITERS.items():
        open_scenes(write(tmp_path / layout))[0].open()


def test_folder_of_scenes_nested_and_in_natural_order(tmp_path):
    for name in ("b/seq-10", "b/seq-2", "a"):
        small["seven_scenes"](tmp_path / name)
    refs = open_scenes(tmp_path)
    assert [ref.scene for ref in refs] == ["a", "b/seq-2", "b/seq-10"]


def test_a_broken_scene_fails_alone(tmp_path):
    for name in ("a", "b"):
        small["seven_scenes"](tmp_path / name)
    (tmp_path / "a" / "frame-000001.pose.txt").write_text("1 2 3\n")
    first, second = open_scenes(tmp_path)
    with pytest.raises(FormatError, match="frame-000001.pose.txt:1: expected 4 numbers, found 3") as caught:
        first.open()
    assert "--skip-bad-poses" in caught.value.hint
    assert len(second.open().frames) == 4
    scene = first.open(skip_bad_poses=True)
    assert [frame.frame for frame in scene.frames] == ["000000", "000002", "000003"]
    assert scene.skipped[0][0] == "000001" and "found 3" in scene.skipped[0][1]


def test_nothing_found_names_the_patterns(tmp_path):
    with pytest.raises(InputError) as caught:
        open_scenes(tmp_path)
    lines = [line.split(maxsplit=1) for line in caught.value.hint.splitlines()[1:]]
    assert lines == [[name, layout.PATTERN] for name, layout in LAYOUTS.items()]  # one a line
    with pytest.raises(InputError, match="no such file or folder"):
        open_scenes(tmp_path / "missing")
    with pytest.raises(UsageError, match="unknown dataset 'kitty'"):
        open_scenes(tmp_path, "kitty")


def test_clouds_are_scenes_only_where_no_scan_is(tmp_path):
    small["put"](tmp_path / "room.ply", small["ply"]())
    small["put"](tmp_path / "deep" / "x.pcd", small["pcd"]())
    (ref,) = open_scenes(tmp_path / "room.ply")
    scene = ref.open()
    assert (scene.scene, scene.points, scene.frames, scene.dataset) == ("room", "room.ply", (), "cloud")
    assert [ref.scene for ref in open_scenes(tmp_path)] == ["deep/x", "room"]
    small["seven_scenes"](tmp_path / "scan")
    assert [ref.scene for ref in open_scenes(tmp_path)] == ["scan"]
    assert [ref.scene for ref in open_scenes(tmp_path, "cloud")] == ["deep/x", "room"]


def test_two_files_of_one_id_are_refused(tmp_path):
    small["put"](tmp_path / "x.ply", small["ply"]())
    small["put"](tmp_path / "x.pcd", small["pcd"]())
    with pytest.raises(FormatError, match="would be scene 'x' too"):
        open_scenes(tmp_path)


def test_links_out_of_the_scene_are_refused(tmp_path):
    folder = small["scannet"](tmp_path / "scan")
    outside = tmp_path / "outside.png"
    (folder / "color" / "2.png").rename(outside)
    (folder / "color" / "2.png").symlink_to(outside)
    with pytest.raises(FormatError, match="leaves"):
        open_scenes(folder)[0].open()
    (folder / "color" / "2.png").unlink()
    outside.rename(folder / "real.png")
    (folder / "color" / "2.png").symlink_to("../real.png")  # stays inside
    assert len(open_scenes(folder)[0].open().frames) == 4


@pytest.mark.parametrize("scale", [0, -1, float("nan"), 1e9])
def test_an_impossible_depth_scale_is_a_usage_error(tmp_path, scale):
    with pytest.raises(UsageError, match="depth scale"):
        open_scenes(small["seven_scenes"](tmp_path / "scan"))[0].open(depth_scale=scale)


def test_a_folder_that_is_a_link_out_of_the_scene_is_refused(tmp_path):
    folder = small["scannet"](tmp_path / "scan")
    (folder / "color").rename(tmp_path / "color")
    (folder / "color").symlink_to(tmp_path / "color")
    with pytest.raises(FormatError, match="leaves"):
        open_scenes(folder)[0].open()


def test_no_usable_frame_is_an_error(tmp_path):
    folder = small["seven_scenes"](tmp_path / "scan")
    for file in folder.glob("*.pose.txt"):
        file.write_text("-inf -inf -inf -inf\n" * 4)
    with pytest.raises(InputError, match="no usable frame among 4; frame 000000: invalid pose"):
        open_scenes(folder)[0].open()


def test_references_travel_between_processes(tmp_path):
    import pickle

    ref = open_scenes(small["seven_scenes"](tmp_path / "scan"))[0]
    assert len(pickle.loads(pickle.dumps(ref)).open().frames) == 4


def test_frame_records_survive_json(tmp_path):
    from pc3dcli.datasets.scene import frame_from_record, frame_to_record

    for layout, write in WRITERS.items():
        scene = open_scenes(write(tmp_path / layout))[0].open()
        for frame in scene.frames:
            back = frame_from_record(json.loads(json.dumps(frame_to_record("s", frame), allow_nan=False)))
            assert (back.frame, back.image, back.depth, back.size) == (
                frame.frame,
                frame.image,
                frame.depth,
                frame.size,
            )
            assert np.allclose(back.world_from_cam, frame.world_from_cam, atol=1e-8) and np.allclose(back.K, frame.K)

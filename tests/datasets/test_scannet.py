# SPDX-License-Identifier: Apache-2.0
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.errors import FormatError, InputError

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))


def scan(tmp_path, **options) -> Path:
    return small["scannet"](tmp_path / "scene0011_00", **options)


def opened(folder, **options):
    (ref,) = open_scenes(folder)
    assert ref.dataset == "scannet"
    return ref.open(**options)


def test_numeric_order_and_names_as_on_disk(tmp_path):
    assert [frame.frame for frame in opened(scan(tmp_path)).frames] == ["0", "2", "9", "10"]


def test_frames_25k_names(tmp_path):
    folder = scan(tmp_path, width=6)
    (folder / "intrinsic" / "intrinsic_color.txt").rename(folder / "intrinsics_color.txt")
    (folder / "intrinsic" / "intrinsic_depth.txt").rename(folder / "intrinsics_depth.txt")
    (folder / "pose" / "000002.txt").rename(folder / "pose" / "2.txt")  # padding need not agree
    frames = opened(folder).frames
    assert [frame.frame for frame in frames] == ["000000", "2", "000009", "000010"]
    assert frames[1].image == "color/000002.png"


def test_poses_decide_which_frames_there_are(tmp_path):
    folder = scan(tmp_path)
    (folder / "pose" / "9.txt").unlink()
    (folder / "pose" / "2.txt").write_text("-inf -inf -inf -inf\n" * 4)
    scene = opened(folder)
    assert [frame.frame for frame in scene.frames] == ["0", "10"]
    assert scene.skipped == (("2", "invalid pose, tracking was lost"),)


def test_half_a_frame_is_an_error_and_none_is_a_skip(tmp_path):
    folder = scan(tmp_path)
    (folder / "depth" / "9.png").unlink()
    with pytest.raises(InputError, match="color/9.png: frame 9 has a pose and this file but no depth image"):
        opened(folder)
    (folder / "color" / "9.png").unlink()
    assert opened(folder).skipped == (("9", "it has a pose but neither a colour nor a depth image"),)
    (folder / "color" / "10.png").unlink()
    with pytest.raises(InputError, match="depth/10.png: frame 10 has a pose and this file but no colour image"):
        opened(folder)


def test_a_malformed_pose_says_where_and_can_be_skipped(tmp_path):
    folder = scan(tmp_path)
    (folder / "pose" / "2.txt").write_text("1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(FormatError, match="pose/2.txt:2: expected 4 numbers, found 3") as caught:
        opened(folder)
    assert caught.value.hint == "delete the frame or pass --skip-bad-poses"
    assert [frame.frame for frame in opened(folder, skip_bad_poses=True).frames] == ["0", "9", "10"]


def test_colour_and_depth_of_different_sizes_use_both_intrinsics(tmp_path):
    folder = scan(tmp_path)
    rgb = np.zeros((24, 40, 3), np.uint8)
    for number in (0, 2, 9, 10):
        small["put"](folder / f"color/{number}.png", small["png"](rgb))
    camera = np.eye(4)
    camera[:3, :3] = [[40, 0, 19.5], [0, 40, 11.5], [0, 0, 1]]
    (folder / "intrinsic" / "intrinsic_color.txt").write_text(small["matrix_text"](camera))
    scene = opened(folder)
    frame = scene.frames[0]
    assert frame.size == (24, 40) and frame.depth_size == (12, 16) and np.allclose(frame.depth_K, small["K"])
    depth = RgbdFrame(scene.root, frame).depth
    raw = small["frames"]()[0][1]
    assert depth.shape == (24, 40)
    # pixel (20, 12) looks along ((20 - 19.5) / 40, (12 - 11.5) / 40): depth pixel (7.75, 5.75), so (8, 6)
    assert depth[12, 20] == pytest.approx(raw[6, 8] / 1000)
    assert (depth[:, :3] == 0).all() and (depth[:, -3:] == 0).all()  # wider than the depth camera sees
    (folder / "intrinsic" / "intrinsic_depth.txt").unlink()
    with pytest.raises(FormatError, match="16 x 12 pixels beside a 40 x 24 image of another shape"):
        opened(folder)


def test_the_intrinsics_of_another_resolution_are_refused(tmp_path):
    folder = scan(tmp_path)
    camera = np.eye(4)
    camera[:3, :3] = [[1170, 0, 647], [0, 1170, 483], [0, 0, 1]]
    (folder / "intrinsic" / "intrinsic_color.txt").write_text(small["matrix_text"](camera))
    with pytest.raises(FormatError, match="intrinsic_color.txt: .*cannot be those of an image of 16 x 12"):
        opened(folder)


def test_intrinsics_and_depth_shift_from_the_scene_file(tmp_path):
    folder = scan(tmp_path)
    for kind in ("color", "depth"):
        (folder / "intrinsic" / f"intrinsic_{kind}.txt").unlink()
    with pytest.raises(InputError, match="found no intrinsic/intrinsic_color.txt"):
        opened(folder)
    meta = folder / "scene0011_00.txt"
    meta.write_text(
        "fx_color = 20\nfy_color = 21\nmx_color = 7.5\nmy_color = 5.5\ndepthShift = 5000\nsceneType = Kitchen\n"
    )
    frame = opened(folder).frames[0]
    assert frame.K[1, 1] == 21 and frame.depth_scale == 1 / 5000 and frame.depth_K is None
    meta.write_text("fx_color = twenty\n")
    with pytest.raises(FormatError, match="scene0011_00.txt:1: expected a number for fx_color, found 'twenty'"):
        opened(folder)


def test_a_ground_truth_file_of_the_same_name_is_not_mistaken(tmp_path):
    folder = scan(tmp_path)
    (folder / "scene0011_00.txt").write_text("3001\n3001\n0\n" * 50)
    assert opened(folder).frames[0].depth_scale == 0.001


def test_the_cleaned_mesh_is_preferred_and_enough(tmp_path):
    folder = scan(tmp_path)
    small["put"](folder / "scene0011_00.ply", small["ply"]())
    assert opened(folder).points == "scene0011_00.ply"
    small["put"](folder / "scene0011_00_vh_clean_2.ply", small["ply"]())
    assert opened(folder).points == "scene0011_00_vh_clean_2.ply"
    bare = tmp_path / "scene0012_00"
    small["put"](bare / "scene0012_00_vh_clean_2.ply", small["ply"]())
    scene = opened(bare)
    assert scene.frames == () and scene.points == "scene0012_00_vh_clean_2.ply"


def test_a_raw_scan_folder_is_read_through_its_sens_file(tmp_path):
    folder = tmp_path / "scene0013_00"
    small["put"](folder / "scene0013_00_vh_clean_2.ply", small["ply"]())
    small["sens"](folder / "scene0013_00.sens", bad_pose=1)
    (ref,) = open_scenes(folder)
    scene = ref.open()
    assert (ref.dataset, scene.points) == ("sens", "scene0013_00_vh_clean_2.ply")
    assert [frame.frame for frame in scene.frames] == ["0", "2", "3"] and scene.skipped[0][0] == "1"
    assert scene.frames[1].image == "scene0013_00.sens#color/2" and scene.frames[1].time_s == pytest.approx(0.066666)
    assert open_scenes(folder / "scene0013_00.sens")[0].scene == "scene0013_00"


def test_two_files_for_one_frame_are_refused(tmp_path):
    folder = scan(tmp_path)
    small["put"](folder / "color/02.png", b"x")
    with pytest.raises(FormatError, match="found two files for frame 2"):
        opened(folder)

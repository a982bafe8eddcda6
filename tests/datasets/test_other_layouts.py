# SPDX-License-Identifier: Apache-2.0
"""What is particular to 7-Scenes, TUM, Replica, transforms.json and our own frame lists."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.scene import RgbdFrame
from pc3dcli.datasets.tum import associate
from pc3dcli.errors import FormatError, InputError

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))


def opened(folder, **options):
    return open_scenes(folder)[0].open(**options)


def test_7scenes_default_intrinsics_are_noted_and_only_for_its_size(tmp_path):
    folder = small["seven_scenes"](tmp_path / "seq-01")
    (folder / "camera-intrinsics.txt").unlink()
    with pytest.raises(InputError, match="not 640 x 480") as caught:
        opened(folder)
    assert caught.value.hint == "write the 3 x 3 camera matrix to camera-intrinsics.txt"
    for file in folder.glob("*.png"):
        array = np.zeros((480, 640, 3), np.uint8) if "color" in file.name else np.zeros((480, 640), np.uint16)
        file.write_bytes(small["png"](array))
    scene = opened(folder)
    assert scene.frames[0].K.tolist() == [[585, 0, 320], [0, 585, 240], [0, 0, 1]]
    assert scene.notes == ("no camera-intrinsics.txt: assumed 585 585 320 240, the depth camera of 7-Scenes",)


def test_7scenes_up_is_taken_from_the_cameras(tmp_path):
    folder = small["seven_scenes"](tmp_path / "a")
    assert opened(folder).up == "-y"  # the cameras' y axis, downwards, is the world's
    lying = np.eye(4)
    lying[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    for index in range(4):
        (folder / f"frame-{index:06d}.pose.txt").write_text(small["matrix_text"](lying))
    assert opened(folder).up == "z"


def test_7scenes_smaller_depth_of_the_same_shape_is_scaled(tmp_path):
    folder = small["seven_scenes"](tmp_path / "a")
    for index, (_, depth, _) in enumerate(small["frames"]()):
        small["put"](folder / f"frame-{index:06d}.depth.png", small["png"](depth[::2, ::2].copy()))
    frame = opened(folder).frames[0]
    assert frame.depth_size == (6, 8)
    assert frame.depth_K.tolist() == [[10, 0, 3.5], [0, 10, 2.5], [0, 0, 1]]  # (7.5 + 0.5) / 2 - 0.5


def test_association_is_one_to_one_and_closest_first():
    times, other = np.array([0.0, 0.010, 0.050]), np.array([0.052, 0.009, 0.2])
    assert associate(times, other, 0.02) == [(1, 1), (2, 0)]  # index 0 would take 1, which is closer to 1
    assert associate(times, np.array([]), 0.02) == []
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 2, 40), rng.uniform(0, 2, 50)
    pairs, free_a, free_b = [], set(range(40)), set(range(50))
    for gap, i, j in sorted((abs(a[i] - b[j]), i, j) for i in range(40) for j in range(50)):
        if gap < 0.02 and i in free_a and j in free_b:
            pairs.append((i, j))
            free_a.remove(i)
            free_b.remove(j)
    assert associate(a, b, 0.02) == sorted(pairs)


def test_tum_frames_without_a_partner_are_skipped(tmp_path):
    folder = small["tum"](tmp_path / "scan")
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join(lines[:-1]) + "\n")
    depth_lines = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join([*depth_lines[:2], *depth_lines[3:]]) + "\n")
    scene = opened(folder)
    assert len(scene.frames) == 2 and scene.frames[0].frame == "1305031102.175304"
    assert [reason for _, reason in scene.skipped] == ["no depth image within 0.02 s", "no pose within 0.02 s"]


def test_tum_intrinsics_by_freiburg_number(tmp_path):
    folder = small["tum"](tmp_path / "rgbd_dataset_freiburg2_desk")
    for file in (folder / "rgb").glob("*.png"):
        file.write_bytes(small["png"](np.zeros((480, 640, 3), np.uint8)))
    for file in (folder / "depth").glob("*.png"):
        file.write_bytes(small["png"](np.zeros((480, 640), np.uint16)))
    (folder / "calibration.txt").unlink()
    scene = opened(folder)
    assert scene.frames[0].K[0, 0] == 520.9 and scene.frames[0].distortion[0] == 0.2312
    assert "freiburg2" in scene.notes[0]
    (folder / "calibration.txt").write_text("525 525 319.5 239.5 0 0 0 0 0\n")
    scene = opened(folder)
    assert scene.frames[0].K[0, 0] == 525 and scene.frames[0].distortion is None and scene.notes == ()
    (folder / "calibration.txt").unlink()
    with pytest.raises(InputError, match="no freiburg number") as caught:
        opened(folder.rename(tmp_path / "desk"))
    assert "calibration.txt" in caught.value.hint


@pytest.mark.parametrize(
    "name, line, message",
    [
        ("rgb.txt", "1305031102.3", "rgb.txt:6: expected a time and a file, found 1 words"),
        ("rgb.txt", "soon rgb/x.png", "rgb.txt:6: expected a number, found 'soon'"),
        ("groundtruth.txt", "1 2 3", "groundtruth.txt:6: expected 8 numbers, found 3"),
        ("groundtruth.txt", "1 0 0 0 0 0 0 3", "groundtruth.txt:6: the quaternion has length 3"),
    ],
)
def test_tum_malformed_lines(tmp_path, name, line, message):
    folder = small["tum"](tmp_path / "scan")
    with (folder / name).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(FormatError, match=message):
        opened(folder)
    if name == "groundtruth.txt":
        assert len(opened(folder, skip_bad_poses=True).frames) == 4


def test_tum_files_stay_inside(tmp_path):
    folder = small["tum"](tmp_path / "scan")
    text = (folder / "rgb.txt").read_text()
    (folder / "rgb.txt").write_text(text.replace("rgb/", "../scan/rgb/"))
    with pytest.raises(FormatError, match="contains '..'"):
        opened(folder)
    (folder / "rgb.txt").write_text(text.replace("rgb/", "lost/"))
    with pytest.raises(InputError, match="lost/1305031102.175304.png: no such file"):
        opened(folder)


def test_replica_camera_beside_above_or_noted(tmp_path):
    folder = small["replica"](tmp_path / "room0")
    (folder / "cam_params.json").rename(tmp_path / "cam_params.json")
    scene = opened(folder)
    assert scene.frames[0].depth_scale == 1 / 6553.5 and scene.frames[0].K[0, 0] == 20
    (tmp_path / "cam_params.json").write_text('{"camera": {"fx": 600}}')
    with pytest.raises(FormatError, match='expected {"camera"'):
        opened(folder)
    (tmp_path / "cam_params.json").unlink()
    with pytest.raises(InputError, match="not 1200 x 680"):
        opened(folder)
    for file in (folder / "results").glob("*"):
        array = np.zeros((680, 1200, 3), np.uint8) if file.suffix == ".jpg" else np.zeros((680, 1200), np.uint16)
        file.write_bytes(small["jpeg"](array) if file.suffix == ".jpg" else small["png"](array))
    small["put"](tmp_path / "room0_mesh.ply", small["ply"]())
    scene = opened(folder)
    assert scene.frames[0].K[0, 2] == 599.5 and "assumed 600" in scene.notes[0]
    assert scene.points is None and "room0_mesh.ply lies outside" in scene.notes[1]


def test_replica_bad_rows(tmp_path):
    folder = small["replica"](tmp_path / "room0")
    rows = (folder / "traj.txt").read_text().splitlines()
    rows[1], rows[2] = "1 2 3", rows[2].replace(rows[2].split()[3], "-inf", 1)
    (folder / "traj.txt").write_text("\n".join(rows))
    with pytest.raises(FormatError, match="traj.txt:2: expected 16 numbers, found 3"):
        opened(folder)
    scene = opened(folder, skip_bad_poses=True)
    assert [frame.frame for frame in scene.frames] == ["000000", "000003"] and len(scene.skipped) == 2


def edit(folder: Path, change) -> Path:
    document = json.loads((folder / "transforms.json").read_text())
    change(document)
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def test_transforms_lens_is_undone(tmp_path):
    folder = small["transforms"](tmp_path / "scan", k1=0.2, k2=0.0, p1=0.0, p2=0.0)
    scene = opened(folder)
    assert scene.frames[0].distortion == (0.2, 0, 0, 0, 0) and "undistorted" in scene.notes[0]
    straight = opened(small["transforms"](tmp_path / "other"))
    rgb, plain = (RgbdFrame(s.root, s.frames[0]).rgb for s in (scene, straight))
    assert straight.frames[0].distortion is None and not np.array_equal(rgb, plain)


def test_transforms_fisheye_is_refused(tmp_path):
    folder = small["transforms"](tmp_path / "scan", camera_model="OPENCV_FISHEYE")
    with pytest.raises(FormatError, match=r"frames\[0\]: found camera model OPENCV_FISHEYE") as caught:
        opened(folder)
    assert "undistort" in caught.value.hint


def test_transforms_intrinsics_per_frame_and_from_an_angle(tmp_path):
    folder = small["transforms"](tmp_path / "scan")

    def change(document):
        document["frames"][0]["fl_x"] = 25.0  # listed first, but frame 3
        del document["fl_x"], document["fl_y"], document["w"], document["h"]
        document["camera_angle_x"] = 2 * np.arctan(8 / 20)

    frames = opened(edit(folder, change)).frames
    assert [frame.K[0, 0] for frame in frames] == pytest.approx([20, 20, 20, 25])


def test_transforms_bad_lost_and_missing_frames(tmp_path):
    folder = small["transforms"](tmp_path / "scan")

    def change(document):
        document["frames"][1]["transform_matrix"][0][3] = float("nan")
        document["frames"][2]["is_bad"] = True

    scene = opened(edit(folder, change))
    assert [frame.frame for frame in scene.frames] == ["00000", "00003"]
    assert dict(scene.skipped) == {"00002": "invalid pose, tracking was lost", "00001": "it is marked is_bad"}
    (folder / "depths/frame_00000.png").unlink()
    with pytest.raises(InputError, match="depths/frame_00000.png: no such depth image"):
        opened(folder)
    edit(folder, lambda document: document["frames"][0].update(file_path="../x.png"))
    with pytest.raises(InputError, match="no such image"):
        opened(folder)


def test_scannetpp_iphone_folder(tmp_path):
    source = small["transforms"](tmp_path / "source")
    folder = tmp_path / "iphone"
    for index in range(4):
        small["put"](folder / f"rgb/frame_{index * 10:06d}.jpg", small["jpeg"](small["frames"]()[index][0]))
        raw = small["frames"]()[index][1][::2, ::2].copy()
        small["put"](folder / f"depth/frame_{index * 10:06d}.png", small["png"](raw))
    small["put"](folder / "rgb/frame_000099.jpg", b"no pose, never opened")

    def change(document):
        for entry in document["frames"]:
            entry["file_path"] = f"frame_{int(entry['file_path'][-9:-4]) * 10:06d}.jpg"
            del entry["depth_file_path"]

    edit(source, change)
    small["put"](folder / "nerfstudio/transforms.json", (source / "transforms.json").read_bytes())
    scene = opened(folder)
    assert [frame.image for frame in scene.frames] == [f"rgb/frame_{n:06d}.jpg" for n in (0, 10, 20, 30)]
    assert scene.frames[0].depth == "depth/frame_000000.png" and scene.frames[0].depth_size == (6, 8)
    assert np.allclose(scene.frames[3].world_from_cam, small["frames"]()[3][2])


def test_transforms_that_are_not(tmp_path):
    folder = small["transforms"](tmp_path / "scan")
    for text, message in [
        ("{", "transforms.json:1: not JSON"),
        ("[]", 'a list "frames"'),
        ('{"frames": [1]}', "objects"),
    ]:
        (folder / "transforms.json").write_text(text)
        with pytest.raises(FormatError, match=message):
            opened(folder)
    edit(small["transforms"](folder), lambda document: document.update(w=99))
    with pytest.raises(FormatError, match="found 16 x 12 pixels, expected 99 x 12"):
        opened(folder)


def test_frames_list_with_scene_record_and_bad_lines(tmp_path):
    folder = small["frames_list"](tmp_path / "scan")
    file = folder / "frames.ndjson"
    lines = file.read_text().splitlines()
    small["put"](folder / "mesh.ply", small["ply"]())
    head = [
        '{"type": "header", "format": "pc3d", "version": "1.0"}',
        '{"type": "scene", "points": "mesh.ply", "up": "y"}',
    ]
    file.write_text("\n".join([*head, *lines, '{"type": "end"}', ""]))
    scene = opened(folder)
    assert (scene.points, scene.up, len(scene.frames), scene.frames[2].time_s) == ("mesh.ply", "y", 4, 2 / 30)
    assert len(opened(file).frames) == 4 and open_scenes(file)[0].scene == "frames"
    bad = [(lines[0], "found frame '0' twice"), ("{", "frames.ndjson:7:2: not JSON"), ("[]", "expected a JSON object")]
    for line, message in [*bad, (lines[0].replace('"size"', '"sizes"'), 'frames.ndjson:7: frame lacks "size"')]:
        file.write_text("\n".join([*head, *lines, line]))
        with pytest.raises(FormatError, match=message):
            opened(folder)


def test_frames_list_lost_and_bad_poses(tmp_path):
    folder = small["frames_list"](tmp_path / "scan")
    file = folder / "frames.ndjson"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    records[0]["world_from_cam"][0][0] = None
    records[1]["world_from_cam"][0][0] = 5
    file.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(FormatError, match="frames.ndjson:2: .*not a rotation"):
        opened(folder)
    scene = opened(folder, skip_bad_poses=True)
    assert [frame.frame for frame in scene.frames] == ["2", "3"]
    assert scene.skipped[0] == ("0", "invalid pose, tracking was lost")

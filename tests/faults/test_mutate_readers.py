# SPDX-License-Identifier: Apache-2.0
"""10,000 damaged copies of a good small file for every reader: a project error or an answer of the right type.

The address space is limited meanwhile, so an allocation that trusts a damaged count fails the test.
"""

import json
import os
import random
import resource
import runpy
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.scene import RgbdFrame, Scene, frame_from_record, frame_to_record
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.cloud import read_cloud
from pc3dcli.formats.images import decode_color, decode_depth, image_size, read_label_image
from pc3dcli.formats.pcd import decode_lzf
from pc3dcli.formats.poses import read_matrix

HERE = Path(__file__).parent
small, damage = (runpy.run_path(str(HERE / name)) for name in ("small_files.py", "mutations.py"))
MUTATIONS = 10_000
HEADROOM = 256 << 20  # bytes of address space beyond what the process has when a test starts
RGB, DEPTH, POSE = small["frames"](1)[0]


@pytest.fixture
def folder(tmp_path):
    """A folder in memory where there is one: each test writes its file 10,000 times."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def bounded_memory():
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + HEADROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def survive(read, good: bytes, seed: int, prepare=lambda data: data) -> tuple[int, int]:
    """Call `read` on 10,000 mutations of `good`; returns how many were read and how many refused."""
    rng, done, refused = random.Random(seed), 0, 0
    for _ in range(MUTATIONS):
        bad = prepare(damage["mutate"](good, rng))
        try:
            read(bad)
            done += 1
        except (FormatError, InputError) as error:
            assert str(error) and len(str(error)) < 600, error
            refused += 1
    return done, refused


def check_cloud(cloud) -> None:
    N = len(cloud.xyz)
    assert cloud.xyz.shape == (N, 3) and cloud.xyz.dtype.kind == "f"
    assert cloud.rgb is None or (cloud.rgb.shape == (N, 3) and cloud.rgb.dtype == np.uint8)
    assert cloud.normal is None or cloud.normal.shape == (N, 3)
    if cloud.faces is not None and len(cloud.faces):
        assert cloud.faces.dtype == np.int32 and 0 <= cloud.faces.min() <= cloud.faces.max() < N
    assert all(values.shape == (N,) for values in cloud.extra.values())


IMAGES = {
    "color.png": (small["png"](RGB), decode_color, (np.uint8, 3)),
    "color.jpg": (small["jpeg"](RGB), decode_color, (np.uint8, 3)),
    "depth.png": (small["png"](DEPTH), decode_depth, (np.uint16, 2)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, capfd):
    good, decode, (dtype, ndim) = IMAGES[name]

    def read(data):
        image = decode(data, name)
        assert image.dtype == dtype and image.ndim == ndim

    read(good)
    done, refused = survive(read, good, 1)
    assert done + refused == MUTATIONS and refused > (1000 if name == "color.jpg" else 9000)
    assert capfd.readouterr().err == ""


def test_png_behind_right_checksums(capfd):
    def read(data):
        assert decode_depth(data, "x.png").dtype == np.uint16

    survive(read, small["png"](DEPTH), 2, damage["repair_png"])
    assert capfd.readouterr().err == ""


def test_image_files(folder):
    file = folder / "x.png"

    def read(data):
        file.write_bytes(data)
        labels, size = read_label_image(file), image_size(file)
        assert labels.dtype == np.int32 and labels.shape == size

    survive(read, small["png"](DEPTH.astype(np.uint8)), 3)


CLOUDS = {
    "little.ply": small["ply"]("<"),
    "big.ply": small["ply"](">"),
    "ascii.ply": small["ply"]("a"),
    "ascii.pcd": small["pcd"]("ascii"),
    "binary.pcd": small["pcd"]("binary"),
    "compressed.pcd": small["pcd"]("binary_compressed"),
    "kitti.bin": np.arange(20, dtype="<f4").tobytes(),
    "sweep.pcd.bin": np.arange(25, dtype="<f4").tobytes(),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds(folder, name):
    file = folder / name

    def read(data):
        file.write_bytes(data)
        check_cloud(read_cloud(file))

    read(CLOUDS[name])
    done, refused = survive(read, CLOUDS[name], 4)
    assert done + refused == MUTATIONS and refused > 1000


def test_lzf():
    plain = bytes(range(40)) + b"abcabcabc" * 20

    def read(data):
        assert len(decode_lzf(data, len(plain), "x")) == len(plain)

    packed = small["lzf"](plain)
    assert decode_lzf(packed, len(plain), "x") == plain
    survive(read, packed, 5)


def test_matrix(folder):
    file = folder / "pose.txt"

    def read(data):
        file.write_bytes(data)
        assert read_matrix(file).shape == (4, 4)

    survive(read, small["matrix_text"](POSE).encode(), 6)


def test_frame_records(folder):
    small["frames_list"](folder)
    frame = open_scenes(folder)[0].open().frames[1]
    good = json.dumps(frame_to_record("s", frame)).encode()

    def read(data):
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(record, dict):
            json.dumps(frame_to_record("s", frame_from_record(record)), allow_nan=False)

    survive(read, good, 7)


CAMERAS = ("intrinsic/intrinsic_color.txt", "intrinsic/intrinsic_depth.txt")
LAYOUTS = {  # layout: (writer of two frames, files that are damaged in turn)
    "scannet": (lambda path: small["scannet"](path, numbers=(0, 2)), ("pose/2.txt", *CAMERAS, "scan.txt")),
    "7scenes": (small["seven_scenes"], ("frame-000001.pose.txt", "camera-intrinsics.txt", "frame-000001.depth.png")),
    "tum": (small["tum"], ("rgb.txt", "depth.txt", "groundtruth.txt", "calibration.txt")),
    "replica": (small["replica"], ("traj.txt", "cam_params.json")),
    "transforms": (small["transforms"], ("transforms.json",)),
    "frames": (small["frames_list"], ("frames.ndjson",)),
    "sens": (lambda path, count: small["sens"](path / "scan.sens", count=count), ("scan.sens",)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scenes(folder, layout):
    write, names = LAYOUTS[layout]
    folder = folder / "scan"
    write(folder) if layout == "scannet" else write(folder, count=2)
    if layout == "scannet":
        (folder / "scan.txt").write_text("colorWidth = 16\ndepthShift = 1000.0\nfx_color = 20.0\nfx_depth = 20.0\n")
    ref = open_scenes(folder, layout)[0]
    check_scene(ref.open())
    turn = 0
    goods = [(folder / name, (folder / name).read_bytes()) for name in names]
    for file, good in goods:
        rng = random.Random(8 + turn)
        for _ in range(MUTATIONS // len(goods) + 1):
            file.write_bytes(damage["mutate"](good, rng))
            turn += 1
            try:
                check_scene(ref.open(skip_bad_poses=turn % 2 == 0), turn % 4 == 0)
            except (FormatError, InputError) as error:
                assert str(error) and len(str(error)) < 900, error
        file.write_bytes(good)


def check_scene(scene: Scene, load: bool = True) -> None:
    assert scene.frames and all(np.isfinite(frame.world_from_cam).all() for frame in scene.frames)
    if load:
        view = RgbdFrame(scene.root, scene.frames[-1])
        assert view.rgb.shape == (*view.size, 3) and view.rgb.dtype == np.uint8
        assert view.depth is None or (view.depth.shape == view.size and view.depth.dtype == np.float32)
        assert view.depth is None or (np.isfinite(view.depth).all() and (view.depth >= 0).all())

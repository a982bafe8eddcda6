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
from pc3dcli.datasets.cloud_folder import read_points
from pc3dcli.datasets.instance_truth import InstanceTruth
from pc3dcli.datasets.scene import RgbdFrame, Scene, frame_from_record, frame_to_record
from pc3dcli.datasets.shape_set import open_shapes
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats import kitti_labels, scannet_aggregation, semantic_labels, semantickitti, shapenet_part
from pc3dcli.formats.class_predictions import read_columns, read_labelled_arrays
from pc3dcli.formats.cloud import read_cloud
from pc3dcli.formats.folds import read_folds
from pc3dcli.formats.images import decode_color, decode_depth, image_size, read_label_image
from pc3dcli.formats.mask_videos import find_videos
from pc3dcli.formats.nuscenes_results import read_submission
from pc3dcli.formats.nuscenes_tables import TableReader
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


def survive(read, good: bytes, seed: int, prepare=lambda data: data, count: int = MUTATIONS) -> tuple[int, int]:
    """Call `read` on `count` mutations of `good`; returns how many were read and how many refused."""
    rng, done, refused = random.Random(seed), 0, 0
    for _ in range(count):
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
    assert all(values.shape == (len(cloud.faces),) for values in cloud.of_face.values())


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


ANNOTATIONS = {  # data set: the files that are damaged in turn
    "scannetpp": ("scans/segments_anno.json", "scans/segments.json"),
    "s3dis": ("scan.txt", "Annotations/chair_1.txt"),
    "replica_mesh": ("habitat/mesh_semantic.ply", "habitat/info_semantic.json"),
    "labelled_ply": ("room.ply",),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations(folder, kind):
    scan = small[kind](folder / "scan")
    truth = InstanceTruth(folder, "id", {"wall": 1, "chair": 2})
    (scene,) = truth.files

    def read(data: bytes, file: Path) -> None:
        file.write_bytes(data)
        ids = truth.ids(scene)
        assert ids.dtype == np.int64 and (ids >= 0).all()

    for seed, name in enumerate(ANNOTATIONS[kind]):
        good = (scan / name).read_bytes()
        survive(lambda data, file=scan / name: read(data, file), good, 40 + seed)
        (scan / name).write_bytes(good)


def check_scene(scene: Scene, load: bool = True) -> None:
    assert scene.frames and all(np.isfinite(frame.world_from_cam).all() for frame in scene.frames)
    if load:
        view = RgbdFrame(scene.root, scene.frames[-1])
        assert view.rgb.shape == (*view.size, 3) and view.rgb.dtype == np.uint8
        assert view.depth is None or (view.depth.shape == view.size and view.depth.dtype == np.float32)
        assert view.depth is None or (np.isfinite(view.depth).all() and (view.depth >= 0).all())


def read_kitti(read):
    def checked(file):
        types, values = read(file)
        assert values.shape[0] == len(types) and np.isfinite(values).all()

    return checked


def read_part(file):
    found = shapenet_part.read_prediction(file)
    values = found.logits if found.part is None else found.part
    assert np.isfinite(values).all() and (found.index is None or found.index.shape == (found.num_points,))


def read_raw_labels(file):
    points = semantickitti.read_labels(file)
    semantickitti.check_labels(points, semantickitti.label_map("single"), file)


def read_video(file):
    videos = find_videos(file.parent)
    for video in videos.values():
        labels, is_void = video.read_truth("x")
        assert labels.shape == is_void.shape and labels.dtype == np.int32


def read_logits(file):
    found = read_labelled_arrays(file, "logits", "label", "id", "class_names")
    assert all(np.isfinite(found[name]).all() for name in ("logits", "label") if name in found)
    assert all(str(name).encode() is not None for name in found.get("class_names", ()))


def read_object(file):
    xyz = read_points(file, "x")
    assert xyz.dtype == np.float32 and xyz.shape[1:] == (3,)


PART_LINES = "".join(f"0.1 0.2 0.3 0 0 1 {part}.000000\n" for part in (6, 7, 6))
ONE_FILE = {  # reader of one file, its name and a good content
    "kitti labels": (read_kitti(kitti_labels.read_labels), "000000.txt", small["KITTI_LABEL"]),
    "kitti results": (read_kitti(kitti_labels.read_results), "000000.txt", small["KITTI_RESULT"]),
    "kitti split": (kitti_labels.read_split, "val.txt", "000001\n000002\n000010\n"),
    "semantic": (semantic_labels.read_labels, "s.txt", "1\n39\n0\n5\n"),
    "semantic mesh": (semantic_labels.read_labels, "s.labels.ply", small["ply"]("<")),
    "semantic top 3": (semantic_labels.read_label_table, "s.txt", "1,2,3\n4\n-100,1\n"),
    "semantickitti": (read_raw_labels, "0.label", np.array([10, 40, 252, 70, 9 << 16 | 30], "<u4").tobytes()),
    "part truth": (shapenet_part.read_truth, "a.txt", PART_LINES),
    "part lines": (read_part, "a.txt", "6\n7\n6\n"),
    "folds": (read_folds, "folds.json", json.dumps(small["FOLDS"])),
    "classes": (read_columns, "p.csv", "id,label,pred\na,0,1\nb,1,1\n"),
    "mask video": (read_video, "v/x.png", small["png"](np.eye(12, 16, dtype=np.uint8) * 3)),
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_files_of_eval(folder, name):
    read, place, good = ONE_FILE[name]
    good = good.encode() if isinstance(good, str) else good
    file = folder / place
    file.parent.mkdir(exist_ok=True)

    def read_bytes(data):
        file.write_bytes(data)
        read(file)

    read_bytes(good)
    done, refused = survive(read_bytes, good, 9, damage["repair_png"] if place.endswith(".png") else bytes)
    assert done + refused == MUTATIONS and refused > 500


ARRAYS = {
    "logits": (read_logits, np.eye(4, dtype=np.float32), {"label": np.arange(4)}),
    "class_names": (read_logits, np.array(["chair", "desk"]), {"label": np.arange(4)}),
    "pred": (read_part, np.arange(4), {"index": np.arange(4)}),
    "start": (lambda file: shapenet_part.read_shapes(file, "part"), np.array([0, 2, 4]), {"part": np.arange(4)}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_eval_behind_right_checksums(folder, name):
    read, array, others = ARRAYS[name]
    file = folder / "x.npz"
    rest = {key: small["npy"](values) for key, values in others.items()}

    def read_bytes(data):
        file.write_bytes(small["npz"]({name: data, **rest}))
        read(file)

    read_bytes(small["npy"](array))
    survive(read_bytes, small["npy"](array), 10)


def read_tables(folder):
    reader = TableReader(folder)
    samples = reader.samples(None)
    boxes = reader.annotations(("car", "pedestrian")).boxes
    assert np.isfinite(boxes["center"]).all() and len(samples.scene) == len(samples.tokens)


def read_results(folder):
    found = read_submission(folder / "submission.json", ("car", "pedestrian"))
    assert np.isfinite(found.boxes["score"]).all()


def read_aggregation(folder):
    labels = scannet_aggregation.read_label_map(folder / scannet_aggregation.LABEL_MAP, "nyu40id")
    assert scannet_aggregation.read_instance_ids(folder / "s.aggregation.json", labels).dtype == np.int64


FOLDERS = {
    "nuscenes": (small["nuscenes"], read_tables, "submission"),
    "submission": (small["nuscenes"], read_results, "-"),
    "aggregation": (small["aggregation"], read_aggregation, "-"),
    "shapenet_part": (small["shapenet_part"], lambda folder: shapenet_part.find_shapes(folder, "test"), "-"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_eval(folder, name):
    write, read, left_out = FOLDERS[name]
    write(folder)
    read(folder)
    files = sorted(path for path in folder.rglob("*.*") if path.stem != left_out)
    files = [folder / "submission.json"] if name == "submission" else files
    for seed, file in enumerate(files):
        good, rng = file.read_bytes(), random.Random(11 + seed)
        for _ in range(MUTATIONS // len(files) + 1):
            file.write_bytes(damage["mutate"](good, rng))
            try:
                read(folder)
            except (FormatError, InputError) as error:
                assert str(error) and len(str(error)) < 900, error
        file.write_bytes(good)


@pytest.mark.parametrize("name", ["a.off", "a.npy"])
def test_objects(folder, name):
    file, good = folder / name, small["cloud_file"](name)

    def read(data):
        file.write_bytes(data)
        read_object(file)

    read(good)
    done, refused = survive(read, good, 12, count=MUTATIONS // 3)
    assert refused > 300


SHAPE_FILES = {  # layout of object clouds: files that are damaged in turn
    "shapenet55": ("ShapeNet-55/train.txt", "shapenet_pc/02691156-1a04e3ea.npy"),
    "shapenetpart": ("synsetoffset2category.txt", "train_test_split/shuffled_train_file_list.json", "02954340/b.txt"),
    "modelnet40": ("modelnet40_shape_names.txt", "modelnet40_train.txt", "bed/bed_0001.txt"),
    "modelnet-h5": ("ply_data_train0.h5", "shape_names.txt"),
    "arrays": ("train.npz",),
}


@pytest.mark.parametrize("layout", SHAPE_FILES)
def test_shapes(folder, layout):
    """A tenth of the mutations: every one opens a folder of many files."""
    small["SHAPES"][layout](folder)

    def read():
        shapes = open_shapes(folder, dataset=layout)
        assert len(shapes) == len(set(shapes.names)) > 0 and (shapes.label is None or len(shapes.label) == len(shapes))
        for index in range(len(shapes)):
            shape = shapes.read(index)
            assert shape.xyz.dtype == np.float32 and np.isfinite(shape.xyz).all() and len(shape.xyz)
            assert shape.part is None or (shape.part.shape == (len(shape.xyz),) and shape.part.min() >= 0)

    read()
    for seed, name in enumerate(SHAPE_FILES[layout]):
        file, rng = folder / name, random.Random(20 + seed)
        good = file.read_bytes()
        for _ in range(MUTATIONS // 10 // len(SHAPE_FILES[layout])):
            file.write_bytes(damage["mutate"](good, rng))
            try:
                read()
            except (FormatError, InputError) as error:
                assert str(error) and len(str(error)) < 900, error
        file.write_bytes(good)


@pytest.mark.parametrize("name", ["points", "pos", "start", "class_names"])
def test_arrays_of_shapes_behind_right_checksums(folder, name):
    cube = small["CUBE"]
    arrays = {"label": np.array([0, 1]), "class_names": np.array(["bed", "chair"]), "id": np.array(["a", "b"])}
    if name in ("pos", "start"):
        arrays |= {"pos": np.concatenate([cube, cube]), "start": np.array([0, 8, 16]), "part": np.arange(16)}
    else:
        arrays |= {"points": np.stack([cube, cube]).astype(np.float16), "part": np.zeros((2, 8), np.uint8)}
    rest = {key: small["npy"](array) for key, array in arrays.items() if key != name}

    def read(data):
        (folder / "train.npz").write_bytes(small["npz"]({name: data, **rest}))
        shapes = open_shapes(folder / "train.npz", dataset="arrays")
        for index in range(len(shapes)):
            shapes.read(index)

    read(small["npy"](arrays[name]))
    survive(read, small["npy"](arrays[name]), 30, count=MUTATIONS // 10)

# SPDX-License-Identifier: Apache-2.0
"""Tiny files of every layout of object clouds: what is found, in which split and class, and what is refused."""

import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.datasets.shape_set import LAYOUTS, open_shapes
from pc3dcli.errors import FormatError, InputError, UsageError

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)


def test_every_layout_has_a_small_file():
    assert set(LAYOUTS) == set(small["SHAPES"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_found_by_itself_and_by_name(layout, tmp_path):
    folder = small["SHAPES"][layout](tmp_path / "shapes")
    for dataset in ("auto", layout):
        shapes = open_shapes(folder, dataset=dataset)
        assert shapes.layout == layout and len(shapes) == len(shapes.names) == 2
        shape = shapes.read(0)
        assert shape.xyz.dtype == np.float32 and shape.xyz.shape[1] == 3
        assert shape.label == shapes.label[0] and shapes.class_names[shape.label]
        assert np.array_equal(shape.xyz, shapes.read(0).xyz)  # a mesh too is sampled alike
    test = open_shapes(folder, split="test")
    assert len(test) == 1 and not set(test.names) & set(shapes.names) and test.class_names == shapes.class_names
    assert len(open_shapes(folder, split="all")) == (4 if layout == "shapenetpart" else 3)
    assert len(open_shapes(folder, split="trainval")) == (3 if layout == "shapenetpart" else 2)


def test_shapenet55_dashes_and_classes(tmp_path):
    folder = small["SHAPES"]["shapenet55"](tmp_path)
    shapes = open_shapes(folder)
    assert shapes.names == ("03001627-u6028f63e-4111-b412", "02691156-1a04e3ea")
    assert shapes.class_names == ("02691156", "03001627", "04379243")  # that of the test list too
    assert shapes.label.tolist() == [1, 0]
    assert shapes.read(0).xyz.shape == (40, 3)


def test_shapenet55_paths_stay_inside(tmp_path):
    folder = small["SHAPES"]["shapenet55"](tmp_path / "a")
    (folder / "ShapeNet-55/train.txt").write_text("../../x-y.npy\n")
    with pytest.raises(FormatError, match="expected <synset>-<model>.npy") as caught:
        open_shapes(folder)
    assert caught.value.line == 1
    (tmp_path / "x.npy").write_bytes(small["npy"](CUBE))
    (folder / "ShapeNet-55/train.txt").write_text("1-link.npy\n1-missing.npy\n")
    (folder / "shapenet_pc/1-link.npy").symlink_to(tmp_path / "x.npy")
    shapes = open_shapes(folder)
    with pytest.raises(FormatError, match="leaves"):
        shapes.read(0)
    with pytest.raises(InputError, match="no such file"):
        shapes.read(1)


def test_modelnet40_classes_are_lines_and_normals_are_left_out(tmp_path):
    folder = small["SHAPES"]["modelnet40"](tmp_path)
    shapes = open_shapes(folder)
    assert shapes.class_names == ("night_stand", "bed") and shapes.names == ("bed_0001", "night_stand_0002")
    assert shapes.label.tolist() == [1, 0]
    shape = shapes.read(0)
    assert shape.xyz.shape == (8, 3) and shape.xyz[1].tolist() == [0, 0, np.float32(0.9)]
    (folder / "bed/bed_0001.txt").write_text("0.1,0.2,0.3\n")
    with pytest.raises(FormatError, match="found 3 numbers, expected 6"):
        shapes.read(0)
    (folder / "modelnet40_train.txt").write_text("sofa_0001\n")
    with pytest.raises(FormatError, match="'sofa_0001'"):
        open_shapes(folder)


def test_pickled_caches_are_refused_and_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    file = tmp_path / "data" / "modelnet40_train_8192pts_fps.dat"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(Evil()))
    for path in (file, file.parent):
        with pytest.raises(InputError, match="never loaded") as caught:
            open_shapes(path)
        assert "folder" in caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("layout", ["modelnet-h5", "scanobjectnn"])
def test_hdf5_errors(layout, tmp_path, monkeypatch):
    folder = small["SHAPES"][layout](tmp_path)
    file = sorted(folder.glob("*train*.h5"))[0]
    for data, label, found in [
        (np.zeros((2, 8, 4), np.float32), [0, 1], "expected shapes x points x 3"),
        (np.zeros((2, 8, 3), np.int32), [0, 1], "expected shapes x points x 3"),
        (np.zeros((2, 8, 3), np.float32), [0, 1, 2], "expected an integer a shape"),
        (np.zeros((2, 8, 3), np.float32), [0, 99], "found label 99"),
    ]:
        small["h5"](file, data=data, label=np.array(label))
        with pytest.raises(FormatError, match=found):
            open_shapes(folder)
    small["h5"](file, data=np.zeros((2, 8, 3), np.float32))
    with pytest.raises(FormatError, match="no array 'label'"):
        open_shapes(folder)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(FormatError, match="HDF5"):
        open_shapes(folder)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="not installed") as caught:
        open_shapes(folder)
    assert "pc3d[h5]" in caught.value.hint


def test_hdf5_sets_are_left_as_they_are(tmp_path):
    for layout in ("modelnet-h5", "scanobjectnn"):
        shapes = open_shapes(small["SHAPES"][layout](tmp_path / layout))
        assert shapes.normalization("cloud") == "none" and np.array_equal(shapes.read(1).xyz, CUBE * 2 + 5)
    assert open_shapes(small["SHAPES"]["arrays"](tmp_path / "arrays")).normalization("cloud") == "cloud"


def test_scanobjectnn_variants(tmp_path):
    folder = small["SHAPES"]["scanobjectnn"](tmp_path)
    hard = "objectdataset_augmentedrot_scale75.h5"
    small["h5"](folder / f"training_{hard}", data=np.stack([CUBE] * 3), label=np.array([0, 1, 14]))
    small["h5"](folder / f"test_{hard}", data=np.stack([CUBE]), label=np.array([3]))
    with pytest.raises(InputError, match="2 variants") as caught:
        open_shapes(folder)
    assert f"training_{hard}" in caught.value.hint
    shapes = open_shapes(folder / f"training_{hard}")
    assert len(shapes) == 3 and shapes.class_names[14] == "toilet"
    assert len(open_shapes(folder / f"training_{hard}", split="test")) == 1  # the file stands for its variant
    assert len(open_shapes(folder / "test_objectdataset.h5", split="train")) == 2
    for name, count in (("training_objectdataset.h5", 2), ("test_objectdataset.h5", 1)):  # all is the file alone
        assert len(open_shapes(folder / name, split="all")) == count


def test_shapenetpart(tmp_path):
    folder = small["SHAPES"]["shapenetpart"](tmp_path)
    shapes = open_shapes(folder)
    assert shapes.class_names == ("Bag", "Cap") and shapes.label.tolist() == [0, 1] and len(shapes.part_names) == 50
    shape = shapes.read(1)
    assert shape.part.tolist() == [6, 7] * 4 and shape.part.dtype == np.int64 and shape.xyz.shape == (8, 3)
    (folder / f"{shapes.names[1]}.txt").write_text("0 0 0 0 0 1 50.0\n")
    with pytest.raises(FormatError, match="found part 50, expected 0 to 49"):
        shapes.read(1)


@pytest.mark.parametrize(
    ("names", "train", "classes"),
    [
        (["chair/train/1.off", "desk/test/2.off"], ["chair/train/1"], ("chair", "desk")),
        (["train/chair/1.ply", "test/desk/2.ply", "val/desk/3.ply"], ["train/chair/1"], ("chair", "desk")),
        (["chair/1.npy", "desk/2.npy"], ["chair/1", "desk/2"], ("chair", "desk")),
        (["1.npz", "2.npy"], ["1", "2"], ()),
        (["a b/1 (2).pcd", ".hidden/x.ply", "a b/.y.ply"], ["a_b/1_2_"], ("a b",)),
        (["data/chair/1.ply", "data/desk/2.ply"], ["data/chair/1", "data/desk/2"], ("data",)),
    ],
)
def test_cloud_folders(names, train, classes, tmp_path):
    for name in names:
        small["put"](tmp_path / name, small["cloud_file"](name))
    shapes = open_shapes(tmp_path)
    assert list(shapes.names) == train and shapes.class_names == classes
    assert (shapes.label is None) == (classes == ())
    assert all(len(shapes.read(index).xyz) for index in range(len(shapes)))
    if len(train) == len(names):
        with pytest.raises(InputError, match="no shapes of split test"):
            open_shapes(tmp_path, split="test")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["1.ply", "chair/2.ply"], "beside folders of classes"),
        (["train/1.ply", "2.ply"], "some do not"),
        (["a/1 .ply", "a/1_.ply"], "two shapes would be named"),
        (["a/1.ply", "a/1.npy"], "two shapes would be named"),
    ],
)
def test_cloud_folders_that_contradict_themselves(names, found, tmp_path):
    for name in names:
        small["put"](tmp_path / name, small["cloud_file"](name))
    with pytest.raises(FormatError, match=found):
        open_shapes(tmp_path)


def test_meshes_are_sampled_by_area_and_by_name(tmp_path):
    for name in ("a.off", "b.off"):
        small["put"](tmp_path / name, "OFF\n4 1 0\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n4 0 1 2 3\n")
    shapes = open_shapes(tmp_path)
    first, other = shapes.read(0).xyz, shapes.read(1).xyz
    assert first.shape == (8192, 3) and not np.array_equal(first, other)
    assert np.allclose(first.mean(axis=0), [1, 0.5, 0], atol=0.03) and np.ptp(first[:, 0]) > 1.98


@pytest.mark.parametrize(
    ("points", "found"),
    [
        (np.full((4, 3), 2.0), "all 4 points are equal"),
        (np.array([[0, 0, 0], [1, np.nan, 0]]), "point 1 is not finite"),
        (np.array([[0, 0, 0], [1, 1e300, 0]]), "point 1 is not finite as float32"),
        (np.array([[0, 0, 0], [1, 1e19, 0]]), "coordinates up to 1e.19, expected at most 1e.15"),
        (CUBE.astype(np.float64) + 5e6, "is 1 wide and 5e.06 from the origin: float32 keeps too few digits"),
        (CUBE.astype(np.float64) * 1e-300, "all 8 points are equal as float32"),
        (np.zeros((0, 3)), "has no points"),
        (np.zeros((4, 2)), "expected"),
        (np.zeros((4, 3), np.int64), "expected"),
        (np.zeros(3), "expected"),
    ],
)
def test_points_no_network_can_use(points, found, tmp_path):
    (tmp_path / "bad.npy").write_bytes(small["npy"](points))
    with pytest.raises(FormatError, match=found):
        open_shapes(tmp_path).read(0)


def test_linked_folders_are_followed_but_not_back(tmp_path):
    deep = tmp_path / "data/a/b/c/d/e/f"
    deep.mkdir(parents=True)
    (deep / "1.npy").write_bytes(small["npy"](CUBE))
    (tmp_path / "data/a/self").symlink_to(".")
    (tmp_path / "data/a/top").symlink_to(tmp_path / "data")
    (tmp_path / "data/z").symlink_to(deep)
    assert open_shapes(tmp_path / "data").names == ("a/b/c/d/e/f/1", "z/1")


ARRAYS = {"points": np.stack([CUBE, CUBE + 1]), "label": np.array([1, 0]), "class_names": np.array(["a", "b"])}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"label": np.array([1, 2])}, "found label 2, expected 0 to 1"),
        ({"label": np.array([1, -1])}, "found label -1"),
        ({"label": np.array([1])}, "expected an integer a shape, 2"),
        ({"label": np.array([0.5, 1])}, "expected an integer a shape"),
        ({"class_names": np.array(["a", "a"])}, "name one twice"),
        ({"points": np.zeros((2, 8, 2), np.float32)}, "expected numbers of shapes"),
        ({"points": np.zeros((2, 8, 3), np.int32)}, "expected numbers of shapes"),
        ({"part": np.zeros((2, 7), np.int32)}, "different sizes"),
        ({"part": np.full((2, 8), -1)}, "expected integers from 0"),
        ({"part": np.zeros((2, 8))}, "expected integers from 0"),
        ({"part": np.full((2, 8), 2), "part_names": np.array(["seat", "leg"])}, "found part 2, expected 0 to 1"),
        ({"id": np.array(["a"])}, "expected text a shape"),
        ({"id": np.array(["a", "a"])}, "two shapes would be named 'a'"),
        ({"start": np.array([0, 1, 3])}, "expected numbers of shapes"),
        ({"points": None}, "expected an array points"),
    ],
)
def test_arrays_that_contradict_themselves(change, found, tmp_path):
    arrays = {name: array for name, array in {**ARRAYS, **change}.items() if array is not None}
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(FormatError, match=found):
        open_shapes(tmp_path)


def test_arrays_of_several_files(tmp_path):
    np.savez(tmp_path / "train.npz", **ARRAYS, id=np.array(["x 1", "x 2"]))
    np.savez(tmp_path / "extra_train_b.npz", **ARRAYS | {"points": np.stack([CUBE[:4]] * 2).astype(np.float16)})
    np.savez(tmp_path / "test.npz", **ARRAYS)
    shapes = open_shapes(tmp_path)
    assert shapes.names == ("extra_train_b_00000", "extra_train_b_00001", "x_1", "x_2")
    assert [len(shapes.read(index).xyz) for index in range(4)] == [4, 4, 8, 8] and shapes.label.tolist() == [1, 0] * 2
    assert len(open_shapes(tmp_path, split="all")) == 6
    np.savez(tmp_path / "test.npz", **ARRAYS | {"class_names": np.array(["a", "b", "c"])})
    with pytest.raises(FormatError, match="class_names are 3, not the 2 of"):
        open_shapes(tmp_path, split="all")


def test_a_single_file_is_one_split(tmp_path):
    for name in ("test.npz", "plain.npz"):
        np.savez(tmp_path / name, **ARRAYS)
    assert len(open_shapes(tmp_path / "test.npz", split="all")) == len(open_shapes(tmp_path / "plain.npz")) == 2
    assert len(open_shapes(tmp_path / "test.npz", split="test")) == 2
    for name, split in (("test.npz", "train"), ("plain.npz", "test")):
        with pytest.raises(InputError, match=f"no shapes of split {split}"):
            open_shapes(tmp_path / name, split=split)


def test_classes_without_names_agree_between_splits(tmp_path):
    for name, label in (("train.npz", [0, 1]), ("test.npz", [3, 0])):
        np.savez(tmp_path / name, points=ARRAYS["points"], label=np.array(label))
    assert open_shapes(tmp_path).class_names == open_shapes(tmp_path, split="test").class_names == tuple("0123")


def test_shapes_between_starts(tmp_path):
    pos = np.concatenate([CUBE, CUBE[:5]])
    np.savez(tmp_path / "cap_test.npz", pos=pos, normal=pos, part=np.arange(13), start=np.array([0, 8, 13]))
    shapes = open_shapes(tmp_path, split="test")
    assert shapes.label is None and shapes.class_names == () and shapes.read(1).part.tolist() == [8, 9, 10, 11, 12]
    assert np.array_equal(shapes.read(1).xyz, CUBE[:5])
    np.savez(tmp_path / "cap_test.npz", pos=pos, start=np.array([0, 14]))
    with pytest.raises(FormatError, match="start does not cut"):
        open_shapes(tmp_path, split="test")


def test_select_and_find(tmp_path):
    np.savez(tmp_path / "all.npz", points=np.stack([CUBE + k for k in range(4)]), label=np.arange(4))
    shapes = open_shapes(tmp_path)
    some = shapes.select(shapes.find(["all_00003", "all_00001"]))
    assert some.names == ("all_00003", "all_00001") and some.label.tolist() == [3, 1] and len(some) == 2
    assert np.array_equal(some.read(1).xyz, CUBE + 1) and some.read(0).label == 3
    assert np.array_equal(some.select([1]).read(0).xyz, CUBE + 1)
    with pytest.raises(InputError, match="no shape 'nowhere'"):
        shapes.find(["all_00000", "nowhere"])


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="found no shapes") as caught:
        open_shapes(tmp_path)
    assert "ScanObjectNN" in caught.value.hint and ".off" in caught.value.hint
    with pytest.raises(InputError, match="no such file"):
        open_shapes(tmp_path / "nowhere")
    for options in ({"dataset": "shapenet"}, {"split": "training"}):
        with pytest.raises(UsageError, match="unknown"):
            open_shapes(tmp_path, **options)
    (tmp_path / "list.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match="found no shapes"):
        open_shapes(tmp_path / "list.json")

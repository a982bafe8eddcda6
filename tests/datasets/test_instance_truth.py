# SPDX-License-Identifier: Apache-2.0
"""The same three objects come out of the annotations of every data set."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.datasets import open_scenes
from pc3dcli.datasets.instance_truth import InstanceTruth
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_lists import UNLISTED
from pc3dcli.formats.cloud import Cloud, read_cloud
from pc3dcli.formats.ply import write_ply
from pc3dcli.formats.scannet_instances import write_truth

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
WRITERS = {name: small[name] for name in ("scannetpp", "s3dis", "replica_mesh", "labelled_ply")}
LABELS = {"wall": 1, "chair": 2}


def truth_of(source: Path) -> InstanceTruth:
    return InstanceTruth(source, "id", LABELS)


def groups(ids: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(ids == number).tolist() for number in np.unique(ids[ids > 0])]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_data_set_gives_the_same_objects(tmp_path, kind):
    WRITERS[kind](tmp_path / "room")
    truth = truth_of(tmp_path)
    (ref,) = open_scenes(tmp_path)
    assert list(truth.files) == [ref.scene] == ["room" if kind != "labelled_ply" else "room/room"]
    assert truth.by_name and all(file.is_file() for file in truth.files[ref.scene])
    ids, scene = truth.ids(ref.scene), ref.open()
    cloud = read_cloud(scene.root / scene.points)
    assert np.allclose(cloud.xyz, small["ROOM_XYZ"], atol=1e-6) and np.array_equal(cloud.rgb, small["ROOM_RGB"])
    expected = [points.tolist() for _, points in small["ROOM_OBJECTS"]]
    if kind == "replica_mesh":  # a vertex belongs to the object of most of its faces, and the last quads have no object
        ends = np.cumsum([0] + [len(part) for part in expected])
        assert [part[0] for part in groups(ids)] == [0, *(ends[1:3] + 1).tolist()]
    else:
        assert groups(ids) == expected
    labels = [int(part) // 1000 for part in np.unique(ids[ids > 0])]
    assert labels == ([UNLISTED] * 3 if kind == "labelled_ply" else [1, 2, UNLISTED])


@pytest.mark.parametrize("kind", WRITERS)
def test_digests_name_the_files_that_were_read(tmp_path, kind):
    WRITERS[kind](tmp_path / "room")
    truth = truth_of(tmp_path)
    (scene,) = truth.files
    named = truth.digest_files(scene)
    assert all((tmp_path / name) == path and path.is_file() for name, path in named.items()) and named


def test_scenes_have_the_ids_of_their_scans_at_any_depth(tmp_path):
    for name in ("Area_1/office_1", "Area_1/office_2", "Area_2/office_1"):
        small["s3dis"](tmp_path / name)
    assert list(truth_of(tmp_path).files) == [ref.scene for ref in open_scenes(tmp_path)]
    assert list(truth_of(tmp_path / "Area_1").files) == ["office_1", "office_2"]
    assert list(truth_of(tmp_path / "Area_1/office_1").files) == ["office_1"]


def test_scenes_without_annotations_are_left_out(tmp_path):
    small["scannetpp"](tmp_path / "a")
    (small["scannetpp"](tmp_path / "b") / "scans/segments_anno.json").unlink()
    assert list(truth_of(tmp_path).files) == ["a"]


def test_text_files_beside_clouds_are_the_truth(tmp_path):
    small["labelled_ply"](tmp_path / "scans")
    write_truth(tmp_path / "scans/gt/room.txt", np.full(60, 1001))
    truth = truth_of(tmp_path / "scans")
    assert not truth.by_name and truth.ids("room").tolist() == [1001] * 60
    assert truth_of(tmp_path / "scans/gt/room.txt").ids("room").tolist() == [1001] * 60
    assert truth_of(tmp_path / "scans/room.ply").by_name


def test_no_truth_says_what_was_tried(tmp_path):
    with pytest.raises(InputError, match=r"gt/\*\.txt") as caught:
        truth_of(tmp_path)
    assert "Replica" in caught.value.hint


def test_scannetpp_frames_of_the_iphone(tmp_path):
    folder = small["scannetpp"](tmp_path / "room")
    small["transforms"](folder / "iphone")
    (ref,) = open_scenes(tmp_path)
    scene = ref.open()
    assert ref.dataset == scene.dataset == "scannetpp" and len(scene.frames) == 4
    assert all((scene.root / frame.image).is_file() and (scene.root / frame.depth).is_file() for frame in scene.frames)
    assert scene.points == "scans/mesh_aligned_0.05.ply"


def test_ply_labels_and_zero_of_instance(tmp_path):
    extra = {"instance": np.array([0, 1, 1, 5, -1], np.int32), "label": np.array([7, 7, 7, 0, 7], np.int32)}
    write_ply(tmp_path / "a.ply", Cloud(np.zeros((5, 3), np.float32), extra=extra))
    assert truth_of(tmp_path).ids("a").tolist() == [0, 7001, 7001, UNLISTED * 1000 + 2, 0]


def damaged_room(folder: Path, kind: str) -> None:
    if kind == "another room":
        name = next((folder / "Annotations").iterdir())
        name.write_text("".join(f"{i}.5 0 0 1 2 3\n" for i in range(10)))
    elif kind == "colour":
        (folder / "room.txt").write_text("1 2 3 4 5 256\n")
    elif kind == "segment":
        (folder / "scans/segments.json").write_text(json.dumps({"segIndices": [0] * 60}))
    elif kind == "object id":
        path = folder / "habitat/mesh_semantic.ply"
        path.write_text(path.read_text().replace("object_id", "part"))
    elif kind == "classes":
        (folder / "habitat/info_semantic.json").write_text('{"objects": [{"id": 1}]}')
    elif kind == "instances":
        write_ply(folder / "room.ply", Cloud(small["ROOM_XYZ"], extra={"part": np.zeros(60, np.int32)}))
    elif kind == "many":
        number = np.arange(1000, dtype=np.int32)
        write_ply(folder / "room.ply", Cloud(np.zeros((1000, 3)), extra={"instance_id": number}))


@pytest.mark.parametrize(
    ("writer", "kind", "words"),
    [
        ("s3dis", "another room", "10 of .* annotated points are not in room.txt"),
        ("s3dis", "colour", "found a colour outside 0 to 255"),
        ("scannetpp", "segment", "which its file of segments does not have"),
        ("replica_mesh", "object id", "no integer property object_id"),
        ("replica_mesh", "classes", "expected .*class_name"),
        ("labelled_ply", "instances", "no integer property instance_id or instance"),
        ("labelled_ply", "many", "holds 1000 instances, expected at most 999"),
    ],
)
def test_damage_is_told(tmp_path, writer, kind, words):
    damaged_room(WRITERS[writer](tmp_path / "room"), kind)
    truth = truth_of(tmp_path)
    with pytest.raises((FormatError, InputError), match=words) as caught:
        truth.ids(next(iter(truth.files)))
    assert caught.value.file is not None

# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats import scannet_aggregation as annotations
from pc3dcli.formats.scannet_instances import find_truth

LABELS = {"chair": 5, "office chair": 5, "table": 7}
MAP = 'id\traw_category\tnyu40id\n2\tchair\t5\n2\toffice chair\t5\n1163\ttable\t7\n9\tfold "a"\t40\n4\tempty\t\n'


def write_scan(folder, groups, segments, scene="scene0000_00"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scene}.aggregation.json"
    path.write_text(json.dumps({"sceneId": scene, "segGroups": groups}))
    (folder / f"{scene}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": segments}))
    return path


def group(object_id, label, segments):
    return {"id": object_id, "objectId": object_id, "label": label, "segments": segments}


def exporter_ids(groups, segments):
    """The rule of ScanNet's exporter, literally: vertices of segments, objects in order of their ids."""
    vertices, ids = {}, np.zeros(len(segments), np.int64)
    for vertex, segment in enumerate(segments):
        vertices.setdefault(segment, []).append(vertex)
    for one in sorted(groups, key=lambda g: g["objectId"]):
        for segment in one["segments"]:
            ids[vertices[segment]] = LABELS[one["label"]] * 1000 + one["objectId"] + 1
    return ids


def test_hand_made_scan(tmp_path):
    groups = [group(0, "chair", [4]), group(1, "table", [9, 2]), group(2, "office chair", [1])]
    path = write_scan(tmp_path, groups, [4, 4, 9, 30, 2, 1, 30])
    assert annotations.read_instance_ids(path, LABELS).tolist() == [5001, 5001, 7002, 0, 7002, 5003, 0]


@pytest.mark.parametrize("seed", range(20))
def test_random_scans_equal_the_exporter(tmp_path, seed):
    rng = np.random.default_rng(seed)
    names = rng.choice(10**6, 30, replace=False).tolist()
    segments = rng.choice(names, 300).tolist()
    there = list(rng.permutation(sorted(set(segments))))
    groups = []
    for number in range(int(rng.integers(0, 8))):
        taken = [int(there.pop()) for _ in range(rng.integers(0, 4))]
        groups.append(group(number, str(rng.choice(list(LABELS))), taken))
    found = annotations.read_instance_ids(write_scan(tmp_path, groups, segments), LABELS)
    assert np.array_equal(found, exporter_ids(groups, segments))


def test_a_segment_of_two_groups_belongs_to_the_later(tmp_path):
    path = write_scan(tmp_path, [group(0, "chair", [1, 2]), group(1, "table", [2])], [1, 2])
    assert annotations.read_instance_ids(path, LABELS).tolist() == [5001, 7002]


def test_instances_number_999_and_none(tmp_path):
    path = write_scan(tmp_path, [group(998, "chair", [1])], [1, 2])
    assert annotations.read_instance_ids(path, LABELS).tolist() == [5999, 0]
    assert annotations.read_instance_ids(write_scan(tmp_path, [], []), LABELS).tolist() == []
    unnumbered = [{"label": "chair", "segments": [1]}, {"label": "table", "segments": []}]
    assert annotations.read_instance_ids(write_scan(tmp_path, unnumbered, [1]), LABELS).tolist() == [5001]


@pytest.mark.parametrize(
    ("groups", "segments", "problem"),
    [
        ([group(0, "sofa", [1])], [1], "label 'sofa'"),
        ([group(0, "chair", [7])], [1], "segment 7"),
        ([group(0, "chair", [2])], [], "segment 2"),
        ([group(999, "chair", [1])], [1], "objectId 999"),
        ([group(-1, "chair", [1])], [1], "objectId -1"),
        ([group(0, "chair", [1]), group(0, "chair", [1])], [1], "earlier group"),
        ([group(0, "chair", [1.5])], [1], "no list of integers"),
        ([group(0, "chair", [True])], [1], "no list of integers"),
        ([group(0, "chair", [10**30])], [1], "no list of integers"),
        ([group(0, "chair", None)], [1], "no list of integers"),
        ([group(0, ["chair"], [1])], [1], "label"),
        (["chair"], [1], "objectId None"),
        ("chair", [1], "no list segGroups"),
        ([], {"a": 1}, "no list segIndices"),
        ([], [[1]], "no list of integers"),
    ],
)
def test_faults_are_named(tmp_path, groups, segments, problem):
    with pytest.raises(FormatError, match=problem) as found:
        annotations.read_instance_ids(write_scan(tmp_path, groups, segments), LABELS)
    assert found.value.file is not None


def test_broken_json(tmp_path):
    path = write_scan(tmp_path, [], [])
    path.write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        annotations.read_instance_ids(path, LABELS)


def test_segments_of_the_fine_mesh(tmp_path):
    path = write_scan(tmp_path, [group(0, "chair", [1])], [1])
    fine = path.with_name("scene0000_00_vh_clean.aggregation.json")
    path.rename(fine)
    assert annotations.scene_of(fine) == "scene0000_00"
    assert annotations.segments_file(fine).name == "scene0000_00_vh_clean_2.0.010000.segs.json"
    fine.with_name("scene0000_00_vh_clean.segs.json").write_text("{}")
    assert annotations.segments_file(fine).name == "scene0000_00_vh_clean.segs.json"
    with pytest.raises(InputError, match="scene1_vh_clean_2.0.010000.segs.json"):
        annotations.segments_file(tmp_path / "scene1.aggregation.json")


def test_label_map(tmp_path):
    path = tmp_path / annotations.LABEL_MAP
    path.write_text(MAP)
    assert annotations.read_label_map(path, "nyu40id") == {"chair": 5, "office chair": 5, "table": 7, 'fold "a"': 40}
    assert annotations.read_label_map(path, "id")["table"] == 1163
    with pytest.raises(FormatError, match="expected raw_category and eigen13id"):
        annotations.read_label_map(path, "eigen13id")
    (tmp_path / "scans" / "scene0").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "scans", tmp_path / "scans" / "scene0"):
        assert annotations.find_label_map(folder).read_text() == MAP
    path.unlink()
    with pytest.raises(InputError, match="no scannetv2-labels.combined.tsv"):
        annotations.find_label_map(tmp_path / "scans")


def test_annotations_are_found_before_the_settings_of_a_scan(tmp_path):
    scan = tmp_path / "scans" / "scene0000_00"
    path = write_scan(scan, [], [])
    (scan / "scene0000_00.txt").write_text("axisAlignment = 1 0 0\n")  # ScanNet's own file of that name
    (scan / "scene0000_00_vh_clean.aggregation.json").write_text("{}")
    assert find_truth(scan) == {"scene0000_00": path}
    assert find_truth(scan.parent) == {"scene0000_00": path}
    assert find_truth(path) == {"scene0000_00": path}
    (tmp_path / "scans" / "gt").mkdir()
    exported = tmp_path / "scans" / "gt" / "scene0000_00.txt"
    exported.write_text("0\n")
    assert find_truth(scan.parent) == {"scene0000_00": exported}

# SPDX-License-Identifier: Apache-2.0
"""Ground truth of `eval --task instance` as ScanNet distributes it."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.scannet_aggregation import LABEL_MAP
from pc3dcli.formats.scannet_instances import write_prediction, write_truth

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
MAP = (
    "id\traw_category\tcategory\tnyu40id\n2\tchair\tchair\t5\n4\tdesk\ttable\t7\n1\twall\twall\t1\n31\tlamp\tlamp\t35\n"
)
GROUPS = [("wall", 60), ("chair", 50), ("chair", 70), ("desk", 40), ("lamp", 30)]  # label, segments of 4 vertices
NYU40 = {"wall": 1, "chair": 5, "desk": 7, "lamp": 35}
SCANNET200 = {"wall": 1, "chair": 2, "desk": 4, "lamp": 31}


def write_scan(folder, scene, seed):
    """Write a scan whose segments are scattered over the mesh; return the group of each vertex, -1 for none."""
    rng = np.random.default_rng(seed)
    total = sum(count for _, count in GROUPS) + 20
    names = rng.choice(10**6, total, replace=False)
    order = rng.permutation(np.repeat(np.arange(total), 4))
    groups, owner, start = [], np.full(total, -1), 0
    for number, (label, count) in enumerate(GROUPS):
        part = names[start : start + count].tolist()
        groups.append({"id": number, "objectId": number, "label": label, "segments": part})
        owner[start : start + count] = number
        start += count
    folder.mkdir(parents=True)
    (folder / f"{scene}.txt").write_text("axisAlignment = 1 0 0 0\n")  # as in every scan of ScanNet
    (folder / f"{scene}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    segments = json.dumps({"segIndices": names[order].tolist()})
    (folder / f"{scene}_vh_clean_2.0.010000.segs.json").write_text(segments)
    return owner[order]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for seed, scene in enumerate(("scene0000_00", "scene0001_00")):
        owner = write_scan(tmp_path / "scans" / scene, scene, seed)
        for name, labels in (("nyu40", NYU40), ("scannet200", SCANNET200)):
            values = np.array([labels[label] * 1000 + k for k, (label, _) in enumerate(GROUPS, 1)] + [0])
            write_truth(tmp_path / name / f"{scene}.txt", values[owner])
        masks = [(owner == k) & (rng.random(owner.size) < 0.8) for k in range(len(GROUPS))]
        for folder, labels in (("pred", NYU40), ("pred200", SCANNET200)):
            ids = [labels[label] for label, _ in GROUPS]
            write_prediction(tmp_path / folder, scene, masks, ids, [0.9, 0.8, 0.3, 0.6, 0.5])
    (tmp_path / LABEL_MAP).write_text(MAP)
    return tmp_path


def table(run, pred, gt, *arguments):
    result = run("eval", pred, "--gt", gt, "--csv", *arguments)
    assert result.code == 0, result.err
    return result.out


@pytest.mark.parametrize(
    ("pred", "text", "arguments"),
    [
        ("pred", "nyu40", ("--preset", "scannet")),
        ("pred200", "scannet200", ("--preset", "scannet200")),
        ("pred", "scannet200", ("--class-agnostic",)),
        ("pred", "nyu40", ("--class-agnostic", "--classes", "scannet")),
        ("pred", "nyu40", ("--preset", "agnostic-segment3d")),
        ("pred", "nyu40", ("--preset", "agnostic-maskclustering")),
    ],
)
def test_annotations_score_as_their_export(run, world, pred, text, arguments):
    assert table(run, pred, "scans", *arguments) == table(run, pred, text, *arguments)


def test_wrong_label_map(run, world):
    (world / LABEL_MAP).write_text(MAP.replace("desk", "bench"))
    result = run("eval", "pred", "--gt", "scans")
    assert result.code == 4
    assert "scene0000_00.aggregation.json: segGroups[3] is of label 'desk'" in result.err
    (world / LABEL_MAP).unlink()
    result = run("eval", "pred", "--gt", "scans")
    assert result.code == 4 and f"scans: no {LABEL_MAP}" in result.err and "hint: copy" in result.err


def test_annotations_do_not_fit_scannetpp(run, world):
    (world / "list.txt").write_text("wall\nchair\n")
    lists = ("--classes", "list.txt", "--instance-classes", "list.txt")
    result = run("eval", "pred", "--gt", "scans", "--preset", "scannetpp", *lists)
    assert result.code == 4 and "do not fit preset scannetpp" in result.err


def test_another_mesh(run, world):
    path = world / "scans" / "scene0001_00" / "scene0001_00_vh_clean_2.0.010000.segs.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"segIndices": content["segIndices"] * 2}))
    result = run("eval", "pred", "--gt", "scans")
    assert result.code == 4 and "0001.txt: mask of 1080 vertices, expected 2160" in result.err
    path.unlink()
    result = run("eval", "pred", "--gt", "scans")
    assert result.code == 4 and "scene0001_00.aggregation.json: its segments are missing" in result.err


def test_numbers_up_to_999(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = np.repeat([5001, 5998, 5999, 7999], 120)
    write_truth(tmp_path / "gt" / "a.txt", ids)
    write_prediction(tmp_path / "pred", "a", [ids == n for n in (5001, 5998, 5999, 7999)], [5, 5, 5, 7], [1, 1, 1, 1])
    assert table(run, "pred", "gt").splitlines()[-1] == "(mean),1.0,1.0,1.0,4"
    modulo = table(run, "pred", "gt", "--preset", "agnostic-maskclustering")  # 999 twice: one instance of two halves
    assert modulo.splitlines()[-1].endswith(",3")


@pytest.mark.parametrize("kind", ["scannetpp", "s3dis", "labelled_ply"])
def test_annotations_of_other_data_sets(run, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    small[kind](tmp_path / "room" if kind == "labelled_ply" else tmp_path / "scans/room")
    gt = "room" if kind == "labelled_ply" else "scans"
    masks = [np.isin(np.arange(60), points) for _, points in small["ROOM_OBJECTS"]]
    write_prediction(tmp_path / "pred", "room", masks, [1, 1, 1], [0.9, 0.8, 0.7])
    everything = ("--preset", "agnostic-segment3d", "--min-region", "10")
    assert table(run, "pred", gt, *everything).splitlines()[-1] == "(mean),1.0,1.0,1.0,3"
    # ScanNet200 has an instance class chair, a wall that is none, and no lamp shade; so has the list of a user
    (tmp_path / "classes.txt").write_text("floor\nchair\nlamp shade\n")
    for classes, count in (("scannet200", 1), ("classes.txt", 2)):
        chosen = ("--class-agnostic", "--min-region", "10", "--classes", classes)
        if kind == "labelled_ply":
            continue  # its label ids are its own
        assert table(run, "pred", gt, *chosen).splitlines()[-1] == f"(mean),1.0,1.0,1.0,{count}"
    result = run("eval", "pred", "--gt", gt, "--preset", "scannet")
    assert result.code == 4 and "preset scannet needs <scene>.txt" in result.err

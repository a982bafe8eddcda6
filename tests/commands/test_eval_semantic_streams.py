# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task semantic` on labels3d records and on the annotations of ScanNet."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

LABELS = {"a": [1, 1, 2, 13, 2, 2, 5], "b": [1, 2, 39, 2]}
NAMES = ["floor", "wall", "door", "kettle"]  # in another order than the list; the last is of no class


def write(folder, **scenes):
    folder.mkdir(parents=True, exist_ok=True)
    for scene, labels in scenes.items():
        (folder / f"{scene}.txt").write_text("".join(f"{label}\n" for label in labels))


def inline(labels, **fields):
    shape = list(np.shape(labels))
    return {"dtype": "I32", "shape": shape, "data": np.ravel(labels).tolist()} | fields


def stream(tensors, *, failed=(), **fields):
    """Text of a stream with a labels3d record of each tensor, by scene."""
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for scene, tensor in tensors.items():
        records.append({"type": "scene", "scene": scene, "root": "."})
        if scene not in failed:
            records.append({"type": "labels3d", "scene": scene, "tensor": tensor, "kind": "semantic"} | fields)
        records.append({"type": "scene_end", "scene": scene, "ok": scene not in failed})
    records.append({"type": "end", "scenes": len(tensors), "failed": len(failed)})
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "gt", a=[1, 1, 1, 1, 0, 40, 5], b=[1, 2, 2, -100])
    write(tmp_path / "pred", **LABELS)
    return tmp_path


@pytest.fixture
def score(run):
    def score_world(*predictions, stdin="", options=()):
        arguments = ("--task", "semantic", "--gt", "gt", "--json", "--per-scene", "--confusion", "--no-provenance")
        return run("eval", *predictions, *arguments, *options, stdin=stdin)

    return score_world


def test_a_stream_scores_as_the_text_files(world, score):
    expected = score("pred")
    assert expected.code == 0, expected.err
    text = stream({scene: inline(labels) for scene, labels in LABELS.items()})
    assert score(stdin=text).out == expected.out
    assert score(stdin=stream({scene: inline(LABELS[scene]) for scene in "ba"})).out == expected.out
    (world / "out").mkdir()
    for scene, labels in LABELS.items():
        save_file({"pred": np.array(labels, np.int32)}, world / "out" / f"{scene}.safetensors")
        tensor = {"file": f"{scene}.safetensors", "name": "pred", "dtype": "I32", "shape": [len(labels)]}
        (world / "out" / f"{scene}.ndjson").write_text(stream({scene: tensor}))
    (world / "out" / "run.json").write_text("{}")
    assert score("out").out == expected.out
    assert score("out/a.ndjson", "out/b.ndjson").out == expected.out


def test_names_of_classes(world, score):
    known = {1: 1, 2: 0, 39: 3, 13: 3, 5: 3}
    records = {scene: inline([known[label] for label in labels]) for scene, labels in LABELS.items()}
    write(world / "pred", a=[1, 1, 2, 13, 2, 2, 13], b=[1, 2, 13, 2])
    assert score(stdin=stream(records, classes=NAMES)).out == score("pred").out
    records["a"]["data"][0] = -1  # no label
    write(world / "pred", a=[0, 1, 2, 13, 2, 2, 13])
    assert score(stdin=stream(records, classes=NAMES)).out == score("pred").out
    for wrong in (4, -2):
        records["a"]["data"][3] = wrong
        result = score(stdin=stream(records, classes=NAMES))
        assert result.code == 4 and f"<stdin>:3: point 3: found label {wrong} of 4 classes" in result.err


def test_scannetpp_takes_three_columns(world, run):
    (world / "classes.txt").write_text("wall\nfloor\nlamp\n")
    write(world / "gt", a=["0,1", "2", "-100"], b=["1", "2"])
    write(world / "pred", a=["1,0,2", "0,0,2", "0,0,0"], b=["1,1,1", "0,1,2"])
    arguments = ("--task", "semantic", "--gt", "gt", "--preset", "scannetpp", "--classes", "classes.txt", "--csv", "-q")
    expected = run("eval", "pred", *arguments)
    assert expected.code == 0, expected.err
    rows = {"a": [[1, 0, 2], [0, 0, 2], [0, 0, 0]], "b": [[1, 1, 1], [0, 1, 2]]}
    assert run("eval", *arguments, stdin=stream({k: inline(v) for k, v in rows.items()})).out == expected.out
    names = stream({k: inline((2 - np.array(v)).tolist()) for k, v in rows.items()}, classes=["lamp", "floor", "wall"])
    assert run("eval", *arguments, stdin=names).out == expected.out
    unknown = stream({k: inline(v) for k, v in rows.items()}, classes=["wall", "floor", "lampshade"])
    result = run("eval", *arguments, stdin=unknown)
    assert result.code == 4 and "<stdin>:3: point 0: found [1, 0, -1], expected labels from 0 to 2" in result.err


def test_scenes_of_a_stream_that_have_no_partner(world, score):
    only = stream({"a": inline(LABELS["a"])})
    assert score(stdin=only).code == 4 and "1 scene (b) without predictions" in score(stdin=only).err
    (world / "pred" / "b.txt").unlink()
    expected = score("pred", options=["--allow-missing"])
    assert score(stdin=only, options=["--allow-missing"]).out == expected.out
    both = {scene: inline(labels) for scene, labels in LABELS.items()}
    result = score(stdin=stream(both, failed=["b"]))
    assert result.code == 4 and "1 scene (b) without predictions; their producer failed" in result.err
    result = score(stdin=stream(both, failed=["b"]), options=["--allow-missing"])
    assert result.out == expected.out and "(failed-scene)" in result.err
    result = score(stdin=stream(both | {"c": inline([1])}), options=["--allow-missing"])
    assert result.code == 4 and "1 scene (c) without ground truth" in result.err


def test_records_of_another_kind_are_no_labels(world, score):
    for kind in ("instance", "parts"):
        text = stream({scene: inline(labels) for scene, labels in LABELS.items()}, kind=kind)
        result = score(stdin=text)
        assert result.code == 4 and "<stdin>: holds no labels3d record of kind semantic" in result.err
    text = stream({scene: inline(labels) for scene, labels in LABELS.items()}).replace('"kind": "semantic"', '"x": 0')
    assert score(stdin=text).out == score("pred").out  # a record that says nothing is of labels


def test_streams_that_are_cut(world, score):
    lines = stream({scene: inline(labels) for scene, labels in LABELS.items()}).splitlines(keepends=True)
    assert score(stdin="".join(lines[:-1])).code == 4
    assert score(stdin="".join(lines[:-1]), options=["--allow-truncated"]).out == score("pred").out


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (inline([1] * 6), "6 vertices, expected 7"),
        (inline([[1, 2]] * 7), "2 labels a point, expected one"),
        (inline([0.5] * 7, dtype="F32"), "expected integers"),
        (inline([1] * 7, shape=[8]), "has 7 numbers"),
        (inline([1] * 7, shape=[1, 7, 1]), "expected integers, one or several"),
        (inline(3), "expected integers, one or several"),
        ({"file": "/etc/passwd", "name": "x", "dtype": "I32", "shape": [7]}, "absolute"),
        ({"file": "gt/../../x", "name": "x", "dtype": "I32", "shape": [7]}, "'..'"),
        ("tensor", "expected an object"),
    ],
)
def test_broken_records_name_their_line(world, score, tensor, words):
    result = score(stdin=stream({"a": tensor, "b": inline(LABELS["b"])}), options=["--report", "report"])
    assert result.code == 4 and "<stdin>:3: " in result.err and words in result.err
    assert not (world / "report").exists()


def test_a_second_record_of_a_scene(world, score):
    lines = stream({scene: inline(labels) for scene, labels in LABELS.items()}).splitlines(keepends=True)
    result = score(stdin="".join([*lines[:3], lines[2], *lines[3:]]))
    assert result.code == 4 and "<stdin>:4: a second labels3d of the scene" in result.err


def test_streams_and_files_do_not_mix(world, score):
    (world / "x.ndjson").write_text(stream({"a": inline(LABELS["a"])}))
    result = score("x.ndjson", "pred")
    assert result.code == 2 and "pred is no stream" in result.err


def test_digest_of_a_stream_follows_its_tensors(world, run):
    (world / "out").mkdir()
    digests = []
    for labels in (LABELS["b"], LABELS["b"], [1, 1, 1, 1]):
        save_file({"pred": np.array(labels, np.int32)}, world / "out" / "b.safetensors")
        tensor = {"file": "b.safetensors", "name": "pred", "dtype": "I32", "shape": [4]}
        (world / "out" / "s.ndjson").write_text(stream({"a": inline(LABELS["a"]), "b": tensor}))
        result = run("eval", "out/s.ndjson", "--gt", "gt", "--task", "semantic", "--report", "report")
        assert result.code == 0, result.err
        digests.append(json.loads((world / "report" / "result.json").read_text())["inputs"]["pred_digest"])
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """A ScanNet scan of 7 vertices: wall 0 1 2 3, kettle 4, chair 6, nothing at 5."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans" / "a"
    folder.mkdir(parents=True)
    segments = {"segIndices": [10, 10, 11, 11, 12, 13, 14]}
    (folder / "a_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
    groups = [
        {"objectId": 0, "label": "wall", "segments": [10, 11]},
        {"objectId": 1, "label": "tea kettle", "segments": [12]},
        {"objectId": 2, "label": "armchair", "segments": [14]},
    ]
    (folder / "a.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    (folder / "a.txt").write_text("axisAlignment = 1 0 0 0\n")
    rows = "wall\t1\t1\ntea kettle\t999\t40\narmchair\t1191\t5\n"
    (tmp_path / "scans" / "scannetv2-labels.combined.tsv").write_text(f"raw_category\tid\tnyu40id\n{rows}")
    write(tmp_path / "pred", a=LABELS["a"])
    return tmp_path


@pytest.mark.parametrize(("preset", "chair"), [("scannet", 5), ("scannet200", 1191)])
def test_annotations_of_scannet(run, scans, preset, chair):
    write(scans / "gt", a=[1, 1, 1, 1, 999 if preset == "scannet200" else 40, 0, chair])
    for predicted in (5, chair):
        write(scans / "pred", a=[1, 1, 2, 13, 2, 2, predicted])
        found, expected = (
            run("eval", "pred", "--gt", gt, "--task", "semantic", "--preset", preset, "--json", "--no-provenance")
            for gt in ("scans", "gt")
        )
        assert found.code == 0 and found.out == expected.out
    alone = run("eval", "pred", "--gt", "scans/a/a.aggregation.json", "--task", "semantic", "--preset", preset, "--csv")
    assert alone.code == 0 and alone.out == run(
        "eval", "pred", "--gt", "gt", "--task", "semantic", "--preset", preset, "--csv"
    ).out  # fmt: skip


def test_digest_of_annotations_follows_all_their_files(run, scans):
    digests = []
    for change in ("", "scans/a/a_vh_clean_2.0.010000.segs.json", "scans/scannetv2-labels.combined.tsv"):
        if change:
            (scans / change).write_text((scans / change).read_text() + "\n")
        assert run("eval", "pred", "--gt", "scans", "--task", "semantic", "--report", "report").code == 0
        digests.append(json.loads((scans / "report" / "result.json").read_text())["inputs"]["gt_digest"])
    assert len(set(digests)) == 3


def test_annotations_do_not_fit_scannetpp(run, scans):
    (scans / "classes.txt").write_text("wall\nfloor\n")
    result = run("eval", "pred", "--gt", "scans", "--task", "semantic", "--preset", "scannetpp", "--classes",
                 "classes.txt")  # fmt: skip
    assert result.code == 4 and "do not fit preset scannetpp" in result.err


@pytest.mark.parametrize("kind", ["folder", "device", "dangling", "pipe"])
def test_a_prediction_that_is_no_file_is_never_missing(run, world, kind):
    path = world / "pred" / "a.txt"
    path.unlink()
    if kind == "folder":
        shutil.copytree(world / "gt", path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic", "--allow-missing")
    assert result.code == 4 and "a.txt: cannot read it" in result.err

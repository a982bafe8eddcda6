# SPDX-License-Identifier: Apache-2.0
"""`pc3d pseudo-label`: predictions with confidences -> labels of what is sure."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.coco_rle import decode_points, encode_points
from pc3dcli.formats.labels import write_label_tensors

NUM = 300


def mask(index) -> dict:
    inside = np.zeros(NUM, bool)
    inside[index] = True
    return encode_points(inside)


INSTANCES = [(np.arange(0, 100), 0.9), (np.arange(100, 200), 0.7), (np.arange(150, 300), 0.3)]


def write_prediction(folder: Path, confidence: np.ndarray | None, **about) -> None:
    scene = {"type": "scene", "scene": "room", "root": "/data", "points": "room.ply", "num_points": NUM} | about
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}, scene]
    for number, (index, score) in enumerate(INSTANCES):
        record = {"type": "instance3d", "scene": "room", "instance": number, "rle": mask(index), "score": score}
        records.append(record | {"source": "segment"})
    records += [{"type": "metric", "name": "kept", "value": 1, "scene": "room"}]
    records += [{"type": "scene_end", "scene": "room", "ok": True}, {"type": "end", "scenes": 1, "failed": 0}]
    folder.mkdir(exist_ok=True)
    (folder / "room.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    if confidence is not None:
        file = io.BytesIO()
        write_label_tensors(file, {"confidence": confidence.astype(np.float32)}, {"format": "pc3d"})
        (folder / "room.safetensors").write_bytes(file.getvalue())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    confidence = np.full(350, 0.95)
    confidence[:30] = 0.6  # of the first instance
    write_prediction(tmp_path / "pred", confidence)
    return tmp_path


def test_confidences_of_one_stream_file_lie_in_its_folder(run, folder):
    (folder / "all.ndjson.files").mkdir()
    (folder / "pred/room.ndjson").rename(folder / "all.ndjson")
    (folder / "pred/room.safetensors").rename(folder / "all.ndjson.files/room.safetensors")
    result = run("pseudo-label", "all.ndjson", "--json")
    assert result.code == 0, result.err
    assert decode_points(result.of("instance3d")[0]["ignore"], NUM).nonzero()[0].tolist() == list(range(30))


def test_a_filter_may_turn_the_records_around(run, folder):
    path = folder / "pred/room.ndjson"
    plain = run("pseudo-label", "pred", "--json")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *lines[4:1:-1], *lines[5:]]) + "\n")
    turned = run("pseudo-label", "pred", "--json")
    assert turned.code == 0 and turned.of("instance3d") == plain.of("instance3d") != []


@pytest.mark.parametrize(("number", "words"), [("0", "the same number"), ('"b"', "expected an integer")])
def test_numbers_of_instances_tell_them_apart(run, folder, number, words):
    path = folder / "pred/room.ndjson"
    path.write_text(path.read_text().replace('"instance": 1', f'"instance": {number}'))
    result = run("pseudo-label", "pred", "--json")
    assert result.code == 3 and words in result.err


@pytest.mark.parametrize("number", ["300.0", '"300"', "-1", "true", "null"])
def test_a_scene_without_a_number_of_points_fails_alone(run, folder, number):
    path = folder / "pred/room.ndjson"
    path.write_text(path.read_text().replace('"num_points": 300', f'"num_points": {number}'))
    result = run("pseudo-label", "pred", "--json")
    assert result.code == 3 and "expected a number of points" in result.of("error")[0]["message"], result.err


def test_sure_instances_and_points_are_kept(run):
    result = run("pseudo-label", "pred", "--json")
    assert result.code == 0, result.err
    first, second = result.of("instance3d")
    assert decode_points(first["rle"], NUM).nonzero()[0].tolist() == list(range(30, 100))
    assert decode_points(first["ignore"], NUM).nonzero()[0].tolist() == list(range(30))
    assert (first["score"], first["source"], second["score"]) == (0.9, "pseudo-label", 0.7) and "ignore" not in second
    assert result.of("scene")[0]["points"] == "room.ply" and result.of("metric")[0]["name"] == "kept"


@pytest.mark.parametrize(
    ("option", "scores"),
    [
        (("--min-score", "0.2"), [0.9, 0.7, 0.3]),
        (("--min-score", "0.8"), [0.9]),
        (("--max-instances", "1"), [0.9]),
        (("--min-points", "80"), [0.7]),
        (("--min-confidence", "0.96"), []),
    ],
)
def test_every_threshold_is_an_option(run, option, scores):
    assert [r["score"] for r in run("pseudo-label", "pred", "--json", *option).of("instance3d")] == scores


def test_negatives_leaves_no_band(run):
    first, _ = run("pseudo-label", "pred", "--json", "--negatives").of("instance3d")
    assert "ignore" not in first and decode_points(first["rle"], NUM).sum() == 70


def test_a_folder_of_labels_is_written_and_not_done_again(run):
    assert run("pseudo-label", "pred", "--out", "labels").code == 0
    assert Path("labels/room.ndjson").is_file()
    assert "skipped" in run("pseudo-label", "pred", "--out", "labels").err
    assert run("pseudo-label", "pred", "--out", "labels", "--min-score", "0.8").code == 2  # other settings


def test_a_pipe_needs_no_confidences_where_none_are_asked_for(run):
    stream = Path("pred/room.ndjson").read_bytes()
    refused = run("pseudo-label", "--json", stdin=stream)
    assert refused.code == 3 and "a pipe carries no confidences" in refused.of("error")[0]["message"]
    taken = run("pseudo-label", "--json", "--min-confidence", "0", stdin=stream)
    assert taken.code == 0 and len(taken.of("instance3d")) == 2


@pytest.mark.parametrize(
    ("confidence", "about", "words"),
    [
        (None, {}, "no such file, which holds the confidences"),
        (np.ones(349), {}, "expected the confidences of 350 points"),
        (np.full(350, np.nan), {}, "no probabilities"),
        (np.full(350, 1.5), {}, "no probabilities"),
        (np.ones(350), {"num_points": 299}, "299"),
        (np.ones(350), {"num_points": None}, "num_points"),
    ],
)
def test_what_does_not_fit_fails_the_scene(run, folder, confidence, about, words):
    write_prediction(folder / "bad", confidence, **about)
    result = run("pseudo-label", "bad", "--json")
    assert result.code in (3, 4) and words in result.out + result.err, result.out + result.err
    assert not result.of("instance3d")


def test_other_inputs_are_refused(run):
    Path("scans").mkdir()
    result = run("pseudo-label", "scans", "--json")
    assert result.code == 4 and "expected the --out folder of pc3d segment" in result.err
    assert run("pseudo-label", "nothing", "--json").code == 4

# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.stream.records import header

_PATH = Path(__file__).parents[1] / "metrics" / "nuscenes_world.py"
_spec = importlib.util.spec_from_file_location("nuscenes_world_of_eval", _PATH)
nuscenes_world = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = nuscenes_world
_spec.loader.exec_module(nuscenes_world)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A world in the working folder; write it again after a change with `world.save()`."""
    no_racks = tuple(name for name in nuscenes_world.CATEGORIES if "rack" not in name)  # faces: rounding decides
    config = nuscenes_world.WorldConfig(num_instances=25, grid=0, nan_velocity=0, categories=no_racks)
    world = nuscenes_world.World(config, np.random.default_rng(3))
    world.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    world.save = lambda: Path("submission.json").write_text(json.dumps(world.submission))
    return world


@pytest.fixture
def score(run):
    def score_world(*arguments, prediction="submission.json", split="mini_val", **options):
        chosen = ["--split", split] if split else []
        return run("eval", prediction, "--task", "nuscenes", "--gt", ".", *chosen, *arguments, **options)

    return score_world


def metrics_of(result):
    assert result.code == 0, result.err
    plain = {"type", "name", "value"}
    return {record["name"]: record["value"] for record in result.of("metric") if record.keys() == plain}


def test_table(world, score):
    result = score("-q")
    lines = result.out.splitlines()
    assert result.code == 0 and lines[0] == "nuscenes, preset nuscenes, 2 scenes"
    assert lines[1].split() == ["metric", "mAP", "NDS", "SPNDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"]
    assert any(line.split()[:1] == ["0-20"] for line in lines) and "traffic_cone" in result.out
    assert lines[-1].startswith("preset=nuscenes scenes=2 classes=10 undefined=0 ignored_predictions=")


def test_report_holds_the_numbers(world, score):
    assert score("--report", "out", "-q").code == 0
    result = json.loads(Path("out/result.json").read_text())
    metrics, row = result["metrics"], result["per_class"]["pedestrian"]
    assert list(metrics) == sorted(["map", "nds", "spnds", "mate", "mase", "maoe", "mave", "maae"])
    assert row["ap"] == pytest.approx(np.mean([row[f"ap_{d}"] for d in (0.5, 1.0, 2.0, 4.0)]))
    good = [max(0, 1 - metrics[name]) for name in ("mate", "mase", "maoe", "mave", "maae")]
    assert metrics["nds"] == pytest.approx((5 * metrics["map"] + sum(good)) / 10)
    assert metrics["spnds"] == pytest.approx((5 * metrics["map"] + sum(good[:3])) / 8)
    assert set(result["per_scene"]) == {"scene-0103", "scene-0916"}
    assert result["inputs"]["gt_digest"].startswith("sha256:") and result["inputs"]["samples"] == 8
    assert set(result["breakdowns"]["by distance from the ego vehicle"]) == {"0-20 m", "20-30 m", "30-50 m"}


def test_presets_differ_by_absent_classes(world, score):
    keep = {"category-vehicle.car", "category-movable_object.barrier"}
    for record in world.tables["instance"]:
        if record["category_token"] not in keep:
            record["category_token"] = "category-animal"
    Path("v1.0-mini/instance.json").write_text(json.dumps(world.tables["instance"]))
    whole, present = (metrics_of(score("--json", "-q", "--preset", p)) for p in ("nuscenes", "nuscenes-present"))
    assert present["map"] == pytest.approx(whole["map"] * 5) and present["mase"] < whole["mase"]
    result = score()
    assert "no annotation of truck, bus" in result.err and score("--strict").code == 4


def test_a_scene_alone_is_its_row(world, score):
    rows = {}
    for record in score("--json", "-q", "--per-scene").of("metric"):
        if "scene" in record:
            rows.setdefault(record["scene"], {})[record["name"]] = record["value"]
    Path("one.txt").write_text("scene-0916\n")
    scene = next(record["token"] for record in world.tables["scene"] if record["name"] == "scene-0916")
    tokens = {record["token"] for record in world.tables["sample"] if record["scene_token"] == scene}
    world.results = {token: boxes for token, boxes in world.results.items() if token in tokens}
    world.save()
    assert metrics_of(score("--json", "-q", split="one.txt")) == rows["scene-0916"]


def test_ranges_score_the_boxes_in_them(world, score):
    wide = score("--json", "-q", "--ranges", "0-1000, 5-10.5")
    names = {record["bin"] for record in wide.of("metric") if record.get("by", "").startswith("by distance")}
    assert names == {"0-1000 m", "5-10.5 m"}
    for text in ("20", "20-10", "a-b", "0-20,0-20", "0-inf", ""):
        assert score("--ranges", text).code == 2


def test_pseudo_labels_have_another_name(world, score):
    result = score("--json", "-q", "--pseudo")
    metrics = metrics_of(result)
    assert metrics["nds_pseudo"] == metrics_of(score("--json", "-q"))["nds"] and "nds" not in metrics
    assert {"recall_1m", "single"} <= {record["name"] for record in result.of("metric")}
    assert score("--pseudo", "--fail-under", "nds=0.1").code == 2
    assert score("--pseudo", "--fail-under", "nds_pseudo=0.99").code == 5
    assert score("--fail-under", "MAP=0").code == 0


def test_boxes_below_min_score_are_no_labels(world, score):
    low = score("--json", "-q", "--pseudo", "--min-score", "0.5", "--no-provenance")
    assert low.out != score("--json", "-q", "--pseudo", "--no-provenance").out
    assert "of a score below 0.5, out of the range" in score("--pseudo", "--min-score", "0.5").out
    for boxes in world.results.values():
        boxes[:] = [box for box in boxes if box["detection_score"] >= 0.5]
    world.save()
    assert score("--json", "-q", "--pseudo", "--no-provenance").out == low.out
    assert score("--min-score", "0.5").code == 2 and score("--pseudo", "--min-score", "nan").code == 2


def test_a_submission_that_is_a_pipe_is_refused_at_once(world, score):
    Path("submission.json").unlink()
    os.mkfifo("submission.json")
    result = score()
    assert result.code == 4 and "not a regular file" in result.err


def test_splits_that_are_not_there(world, score):
    assert score(split="vla").code == 2 and score(split="val.txt").code == 4


def test_confusion(world, score):
    records = score("--json", "-q", "--confusion").of("metric")
    cells = {(r["class"], r["predicted"]): r["value"] for r in records if r["name"] == "confusion"}
    counts = {r["class"]: r["count"] for r in records if r["name"] == "ap" and "class" in r and "count" in r}
    for label, count in counts.items():
        assert sum(value for (truth, _), value in cells.items() if truth == label) == count
    assert any(truth == predicted for truth, predicted in cells) and (None, None) not in cells
    assert "confusion" in score("--confusion").out and "confusion" not in score().out
    score("--report", "out", "-q")
    assert json.loads(Path("out/result.json").read_text())["confusion"]


def test_bootstrap(world, score):
    first, again = (score("--json", "-q", "--bootstrap", "20", "--seed", "4").out for _ in range(2))
    assert first == again
    bounds = [record for record in map(json.loads, first.splitlines()) if "percentile" in record]
    assert len(bounds) == 6 and bounds[0]["value"] <= bounds[1]["value"]


def test_order_of_tables_does_not_matter(world, score):
    before = score("--csv", "-q").out
    for name in ("scene", "sample_data", "ego_pose", "instance", "category", "attribute"):
        table = world.tables[name]
        Path(f"v1.0-mini/{name}.json").write_text(json.dumps(table[::-1] if name != "sample_data" else table))
    assert score("--csv", "-q").out == before


def test_missing_and_extra_samples(world, score):
    token, boxes = world.results.popitem()
    world.save()
    result = score()
    assert result.code == 4 and f"1 sample ({token}) without predictions" in result.err and result.out == ""
    result = score("--allow-missing")
    assert result.code == 0 and "missing-sample" in result.err
    world.results |= {token: boxes, "other": []}
    world.save()
    result = score("--allow-missing")
    assert result.code == 4 and "1 sample (other) without ground truth" in result.err


def test_splits(world, score):
    result = score(split=None)
    assert result.code == 4 and "--split" in result.err  # scene-0061 has no predictions
    assert score(split="val").code == 0  # both scenes are of val
    assert "the tables hold 2 of the 150 scenes" in score(split="val").err
    assert score(split="nothing").code == 2
    result = score(split="train_detect", prediction="submission.json")
    assert result.code == 4 and "without" in result.err
    assert score(split="mini_train").code == 4 and score(split="test").code == 4
    Path("names.txt").write_text("scene-0103\nscene-9999\n")
    assert "scene-9999" in score(split="names.txt").err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detection_score": float("nan")}, "detection_score holds nan"),
        ({"detection_name": "tram"}, "is no detection class"),
        ({"size": [0, 1, 1]}, "expected more than 0"),
    ],
)
def test_faults_leave_nothing(world, score, change, message):
    next(boxes for boxes in world.results.values() if boxes)[0].update(change)
    world.save()
    result = score("--report", "out")
    assert result.code == 4 and message in result.err and "submission.json:1:" in result.err
    assert not Path("out").exists() and result.out == ""


def test_too_many_boxes(world, score):
    token = next(token for token, boxes in world.results.items() if boxes)
    world.results[token] = world.results[token][:1] * 501
    world.save()
    assert "has 501 boxes" in score().err


def test_options_of_other_tasks(world, score):
    assert score("--min-region", "5").code == 2 and score("--preset", "kitti").code == 2


def test_folder_of_a_submission(world, score):
    Path("pred").mkdir()
    assert score(prediction="pred").code == 4
    Path("submission.json").rename("pred/results_nusc.json")
    assert score("-q", prediction="pred").code == 0
    assert score(prediction="none.json").code == 4


def stream_of(world, change=lambda records: None, poses=None):
    """Return the stream of the submission with boxes in the global frame of a stated `world_from_points`."""
    names = {record["token"]: record["name"] for record in world.tables["scene"]}
    scene_of = {record["token"]: names[record["scene_token"]] for record in world.tables["sample"]}
    records = [header()]
    for name in ("scene-0916", "scene-0103"):
        records.append({"type": "scene", "scene": name, "root": "."})
        for token in [token for token in world.results if scene_of[token] == name]:
            matrix = np.eye(4) if poses is None else poses[token]
            frame = {"type": "frame", "scene": name, "frame": token, "points": "x.bin"}
            records.append(frame | {"world_from_points": matrix.tolist()})
            records += [record_of(box, name, matrix) for box in world.results[token]]
        records.append({"type": "scene_end", "scene": name, "ok": True})
    records.append({"type": "end", "scenes": 2, "failed": 0})
    change(records)
    return "".join(json.dumps(record) + "\n" for record in records)


def record_of(box, scene, matrix):
    inverse = np.linalg.inv(matrix)
    width, length, height = box["size"]
    w, x, y, z = box["rotation"]
    heading = np.array([w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 0])
    heading, velocity = (inverse[:3, :3] @ vector for vector in (heading, [*box["velocity"], 0]))
    return {
        "type": "box3d", "scene": scene, "frame": box["sample_token"], "label": box["detection_name"],
        "center": (inverse @ [*box["translation"], 1])[:3].tolist(), "size": [length, width, height],
        "yaw": float(np.arctan2(heading[1], heading[0])), "score": box["detection_score"],
        "velocity": velocity[:2].tolist(), "attribute": box["attribute_name"] or None,
    }  # fmt: skip


def test_stream_scores_as_the_submission(world, score):
    tokens = [record["token"] for record in world.tables["sample"]]
    world.results = {token: world.results[token] for token in tokens if token in world.results}
    world.save()
    expected = metrics_of(score("--json", "-q"))
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0, 500], [np.sin(angle), np.cos(angle), 0, 900],
                     [0, 0, 1, 2], [0, 0, 0, 1]])  # fmt: skip
    for poses in (None, dict.fromkeys(tokens, turn)):
        found = metrics_of(score("--json", "-q", prediction="-", stdin=stream_of(world, poses=poses)))
        assert found == pytest.approx(expected, abs=1e-9)
    Path("out").mkdir()
    Path("out/all.ndjson").write_text(stream_of(world))
    assert metrics_of(score("--json", "-q", prediction="out")) == pytest.approx(expected, abs=1e-9)
    assert score("--report", "r1", "-q", prediction="out").code == 0


def test_stream_uses_the_poses_of_the_tables(world, score):
    world.tables["calibrated_sensor"][0]["rotation"] = [1.0, 0, 0, 0]
    Path("v1.0-mini/calibrated_sensor.json").write_text(json.dumps(world.tables["calibrated_sensor"]))
    for pose in world.tables["ego_pose"]:
        pose["rotation"] = [np.cos(0.3), 0, 0, np.sin(0.3)]
    Path("v1.0-mini/ego_pose.json").write_text(json.dumps(world.tables["ego_pose"]))
    centers = {pose["token"]: pose["translation"] for pose in world.tables["ego_pose"]}
    poses = {}
    for record in world.tables["sample_data"]:
        if record["is_key_frame"]:
            matrix = np.eye(4)
            matrix[:2, :2] = [[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]]
            matrix[:3, 3] = matrix[:3, :3] @ [0.94, 0, 1.84] + centers[record["ego_pose_token"]]
            poses[record["sample_token"]] = matrix

    def forget(records):
        for record in records:
            record.pop("world_from_points", None)

    stated, looked_up = (
        metrics_of(score("--json", "-q", prediction="-", stdin=stream_of(world, change, poses)))
        for change in (lambda records: None, forget)
    )
    assert looked_up == pytest.approx(stated, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": None}, "box3d has no frame"),
        ({"frame": "elsewhere"}, "1 sample (elsewhere) without ground truth"),
        ({"label": "tram"}, "label 'tram' is no detection class"),
        ({"score": None}, "score is None, expected a finite number"),
        ({"center": [1, 2]}, "expected 3 finite numbers"),
        ({"size": [1, 1, -1]}, "expected more than 0"),
        ({"yaw": True}, "yaw is True"),
        ({"velocity": [1]}, "expected 2 finite numbers"),
        ({"attribute": "flying"}, "is no attribute"),
    ],
)
def test_faults_of_streams(world, score, change, message):
    def spoil(records):
        next(record for record in records if record["type"] == "box3d").update(change)

    result = score(prediction="-", stdin=stream_of(world, spoil))
    assert result.code == 4 and message in result.err


def test_stream_with_a_bad_pose_or_failed_scene(world, score):
    def bend(records):
        records[2]["world_from_points"] = [[1, 2], [3]]

    assert "is no 4 x 4 matrix" in score(prediction="-", stdin=stream_of(world, bend)).err

    def fail(records):
        start = next(i for i, record in enumerate(records) if record.get("scene") == "scene-0103")
        records[start + 1 : -1] = [{"type": "scene_end", "scene": "scene-0103", "ok": False}]

    result = score(prediction="-", stdin=stream_of(world, fail))
    assert result.code == 4 and "1 scene (scene-0103) failed" in result.err
    assert score("--allow-missing", "-q", prediction="-", stdin=stream_of(world, fail)).code == 0


def test_stream_beside_a_submission(world, score):
    Path("a.ndjson").write_text(stream_of(world))
    result = score("a.ndjson")
    assert result.code == 2 and "no stream" in result.err

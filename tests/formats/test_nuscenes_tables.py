# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats import json_window, nuscenes_results
from pc3dcli.formats.nuscenes_results import read_submission
from pc3dcli.formats.nuscenes_splits import official_splits, split_scenes
from pc3dcli.formats.nuscenes_tables import TableReader, find_tables, token_keys
from pc3dcli.metrics.nuscenes_boxes import CLASSES

_PATH = Path(__file__).parents[1] / "metrics" / "nuscenes_world.py"
_spec = importlib.util.spec_from_file_location("nuscenes_world_of_tables", _PATH)
nuscenes_world = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = nuscenes_world
_spec.loader.exec_module(nuscenes_world)


@pytest.fixture
def world():
    return nuscenes_world.World(nuscenes_world.WorldConfig(), np.random.default_rng(1))


def read(folder, wanted=frozenset(["scene-0103", "scene-0916"])):
    reader = TableReader(folder / "v1.0-mini")
    return reader.samples(wanted), reader.annotations(CLASSES)


def fault(world, folder):
    world.write(folder)
    with pytest.raises((FormatError, InputError)) as caught:
        read(folder)
    return caught.value


def test_splits():
    splits = official_splits()
    sizes = {"train": 700, "val": 150, "test": 150, "mini_train": 8, "mini_val": 2}
    assert {name: len(splits[name]) for name in sizes} == sizes
    assert splits["mini_val"] == {"scene-0103", "scene-0916"} and len(splits["train"] | splits["val"]) == 850
    assert not splits["train_detect"] & splits["train_track"]


def test_splits_of_files(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("scene-1\r\n\nscene-2")
    assert split_scenes(str(names), tmp_path) == ({"scene-1", "scene-2"}, True)
    (tmp_path / "splits.json").write_text('{"mine": ["a"]}')
    assert split_scenes("mine", tmp_path) == ({"a"}, True)
    assert not split_scenes("val", tmp_path)[1]
    with pytest.raises(UsageError, match="no such split"):
        split_scenes("other", tmp_path)
    for text in ("a\na", "a b", "", "\n"):
        names.write_text(text)
        with pytest.raises(FormatError):
            split_scenes(str(names), tmp_path)
    (tmp_path / "splits.json").write_text('{"mine": [1]}')
    with pytest.raises(FormatError):
        split_scenes("mine", tmp_path)


def test_folders(tmp_path, world):
    with pytest.raises(InputError, match="no nuScenes tables"):
        find_tables(tmp_path)
    world.write(tmp_path)
    assert find_tables(tmp_path) == find_tables(tmp_path / "v1.0-mini") == tmp_path / "v1.0-mini"
    world.write(tmp_path, "v1.0-test")
    with pytest.raises(InputError, match="2 versions"):
        find_tables(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_tables(tmp_path / "none")


@pytest.mark.parametrize("chunk", [200, 1 << 18])
def test_samples_and_annotations(tmp_path, world, monkeypatch, chunk):
    monkeypatch.setattr(json_window, "CHUNK", chunk)
    world.write(tmp_path)
    samples, annotations = read(tmp_path)
    tokens = [record["token"] for record in world.tables["sample"]][:8]
    assert samples.tokens == tuple(tokens) and samples.scenes == ("scene-0103", "scene-0916")
    assert samples.scene.tolist() == [0] * 4 + [1] * 4
    assert samples.ego_center[:, :2].any(axis=1).all()  # of the key frame, not of the sweep at the origin
    instances = {record["token"]: record["category_token"] for record in world.tables["instance"]}
    names = {record["token"]: record["name"] for record in world.tables["attribute"]}
    expected = [
        record
        for record in world.tables["sample_annotation"]
        if record["sample_token"] in tokens
        and nuscenes_world.name_of(instances[record["instance_token"]].removeprefix("category-"))
    ]
    columns = annotations.boxes
    assert columns["center"].tolist() == [record["translation"] for record in expected]
    assert columns["size"].tolist() == [record["size"] for record in expected]
    assert columns["sample"].tolist() == [tokens.index(record["sample_token"]) for record in expected]
    attributes = [nuscenes_world.ATTRIBUTES.index(names[r["attribute_tokens"][0]]) if r["attribute_tokens"] else -1
                  for r in expected]  # fmt: skip
    assert columns["attribute"].tolist() == attributes
    points = [record["num_lidar_pts"] + record["num_radar_pts"] for record in expected]
    assert annotations.num_points.tolist() == points
    racks = [r for r in world.tables["sample_annotation"]
             if r["sample_token"] in tokens and instances[r["instance_token"]].endswith("bicycle_rack")]  # fmt: skip
    assert annotations.racks["center"].tolist() == [record["translation"] for record in racks]


@pytest.mark.parametrize(
    ("seconds", "velocity"),
    [((1.0, 0.5), (4 / 1.5, 0)), ((1.5, 1.5), (4 / 3, 0)), ((2.0, 1.1), None), ((1.5, 1.500001), None)],
)
def test_velocity_between_neighbours(tmp_path, seconds, velocity):
    world = single_track(seconds)
    world.write(tmp_path)
    found = read(tmp_path)[1].boxes["velocity"]
    assert np.isnan(found[1]).all() if velocity is None else found[1] == pytest.approx(velocity)
    first, last = ((1 / seconds[0], 0), (3 / seconds[1], 0))
    assert np.isnan(found[0]).all() if seconds[0] > 1.5 else found[0] == pytest.approx(first)
    assert np.isnan(found[2]).all() if seconds[1] > 1.5 else found[2] == pytest.approx(last)


def test_velocity_of_a_single_annotation_is_unknown(tmp_path):
    world = single_track((1, 1))
    for record in world.tables["sample_annotation"]:
        record["prev"] = record["next"] = ""
    world.write(tmp_path)
    assert np.isnan(read(tmp_path)[1].boxes["velocity"]).all()


def single_track(seconds):
    """Return a world of one car at x = 0, 1, 4."""
    config = nuscenes_world.WorldConfig(scenes=("scene-0103",), others=(), num_samples=3, num_instances=0)
    world = nuscenes_world.World(config, np.random.default_rng(0))
    world.tables["instance"].append({"token": "i", "category_token": "category-vehicle.car"})
    start = 1_532_402_927_647_951
    for step, (sample, x) in enumerate(zip(world.tables["sample"], (0, 1, 4), strict=True)):
        sample["timestamp"] = start + round(1e6 * sum(seconds[:step]))
        world.tables["sample_annotation"].append(
            {"token": f"t{step}", "sample_token": sample["token"], "instance_token": "i", "attribute_tokens": [],
             "translation": [x, 0, 0], "size": [1, 1, 1], "rotation": [1, 0, 0, 0], "num_lidar_pts": 1,
             "num_radar_pts": 0, "prev": f"t{step - 1}" if step else "", "next": f"t{step + 1}" if step < 2 else ""}
        )  # fmt: skip
    return world


def test_tables_without_annotations(tmp_path, world):
    world.tables["sample_annotation"] = []
    world.write(tmp_path)
    _, annotations = read(tmp_path)
    assert annotations.num_points.size == 0 and annotations.boxes["velocity"].shape == (0, 2)


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("sample_annotation", "attribute_tokens", ["a", "b"], "2 attributes"),
        ("sample_annotation", "attribute_tokens", ["a"], "not in attribute.json"),
        ("sample_annotation", "attribute_tokens", "a", "expected a list of tokens"),
        ("sample_annotation", "translation", [0, 0], "has 2 numbers"),
        ("sample_annotation", "translation", [0, 0, float("nan")], "finite"),
        ("sample_annotation", "size", [1, 1, 0], "more than 0"),
        ("sample_annotation", "num_lidar_pts", 1.5, "expected an integer"),
        ("sample_annotation", "next", "elsewhere", "next elsewhere is no annotation"),
        ("sample_annotation", "prev", None, "expected a text"),
        ("sample_annotation", "sample_token", "elsewhere", "no sample of sample.json"),
        ("sample_annotation", "instance_token", "elsewhere", "no instance of instance.json"),
        ("instance", "category_token", "elsewhere", "no category of category.json"),
        ("attribute", "name", "flying", "no attribute of the detection task"),
        ("sample", "scene_token", "elsewhere", "no scene of scene.json"),
        ("sample", "timestamp", "now", "expected an integer"),
        ("sample_data", "is_key_frame", 1, "expected true or false"),
        ("sample_data", "calibrated_sensor_token", "elsewhere", "no sensor of calibrated_sensor.json"),
        ("calibrated_sensor", "sensor_token", "elsewhere", "no sensor of sensor.json"),
        ("ego_pose", "translation", None, "expected a list of 3 numbers"),
    ],
)
def test_faults_name_the_line(tmp_path, table, key, value, message):
    world = single_track((0.5, 0.5))
    records = world.tables[table]
    row = 2 if table == "ego_pose" else min(1, len(records) - 1)  # the pose of a LiDAR key frame
    records[row][key] = value
    found = fault(world, tmp_path)
    assert message in found.message and found.file.name == f"{table}.json"
    text = (tmp_path / "v1.0-mini" / f"{table}.json").read_text().splitlines()
    starts = [number for number, line in enumerate(text, 1) if line == "{"]
    assert found.line == starts[row]


@pytest.mark.parametrize("table", ["scene", "sample", "sample_annotation", "instance", "category", "sensor"])
def test_duplicate_tokens(tmp_path, world, table):
    world.tables[table].append(dict(world.tables[table][0]))
    found = fault(world, tmp_path)
    assert "duplicate token" in found.message and found.line > 3


def test_lidar_poses_are_needed_once(tmp_path, world):
    world.tables["ego_pose"].append(dict(world.tables["ego_pose"][2]))
    assert "duplicate token" in fault(world, tmp_path / "a").message
    del world.tables["ego_pose"][-1], world.tables["ego_pose"][2]
    assert "no pose" in fault(world, tmp_path / "b").message
    world.tables["sample_data"] = [r for r in world.tables["sample_data"] if not r["is_key_frame"]]
    assert "no key frame of LIDAR_TOP" in fault(world, tmp_path / "c").message


def test_missing_table(tmp_path, world):
    world.write(tmp_path)
    (tmp_path / "v1.0-mini" / "instance.json").unlink()
    with pytest.raises(InputError, match="cannot read it"):
        read(tmp_path)


def test_token_keys_do_not_depend_on_their_neighbours():
    tokens = ["0" * 31 + "a", "x", "", "A" * 32, "é\ud800"]
    together = token_keys(tokens)
    assert len(set(together.tolist())) == 5
    assert [token_keys([token])[0] for token in tokens if token] == [
        k for k, t in zip(together, tokens, strict=True) if t
    ]


def submission(tmp_path, change=lambda data: None):
    box = {"sample_token": "s", "translation": [1, 2, 3], "size": [1, 2, 3], "rotation": [1, 0, 0, 0],
           "velocity": [float("nan"), 0], "detection_name": "bus", "detection_score": 0.5,
           "attribute_name": "vehicle.moving"}  # fmt: skip
    data = {"meta": {"use_lidar": True}, "results": {"e": [], "s": [box, dict(box, attribute_name="")]}}
    change(data)
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(data, indent=1))
    return path


@pytest.mark.parametrize("batch", [1, 4096])
def test_submission(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(nuscenes_results, "_BATCH", batch)
    seen = []
    found = read_submission(submission(tmp_path), CLASSES, seen.append)
    assert found.samples == ("e", "s") and seen == ["e", "s"] and found.meta == {"use_lidar": True}
    assert found.boxes["sample"].tolist() == [1, 1] and found.boxes["attribute"].tolist() == [5, -1]
    assert found.boxes["label"].tolist() == [CLASSES.index("bus")] * 2
    assert np.isnan(found.boxes["velocity"][0, 0])


def test_submission_without_boxes(tmp_path):
    found = read_submission(submission(tmp_path, lambda data: data.update(results={})), CLASSES)
    assert found.samples == () and found.boxes["center"].shape == (0, 3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("detection_score", float("nan"), "finite number"),
        ("detection_score", float("inf"), "finite number"),
        ("detection_score", "0.5", "expected a number"),
        ("detection_name", "tram", "no detection class"),
        ("attribute_name", "flying", "no attribute"),
        ("attribute_name", None, "expected a text"),
        ("size", [1, 0, 1], "more than 0"),
        ("size", [1, 1, float("nan")], "finite"),
        ("translation", [1, 2], "2 numbers"),
        ("velocity", [float("inf"), 0], "infinity"),
        ("sample_token", "e", "names e"),
    ],
)
def test_faults_of_boxes(tmp_path, key, value, message):
    path = submission(tmp_path, lambda data: data["results"]["s"][1].update({key: value}))
    with pytest.raises(FormatError, match=message) as caught:
        read_submission(path, CLASSES)
    assert caught.value.line == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("meta"), "lacks 'meta'"),
        (lambda data: data.pop("results"), "lacks 'results'"),
        (lambda data: data.update(meta=[]), "meta is no object"),
        (lambda data: data["meta"].update(use_map=1), "expected true or false"),
        (lambda data: data.update(results=[]), "expected '{'"),
        (lambda data: data["results"].update(e={}), "no list of boxes"),
        (lambda data: data["results"].update(e=[1]), "expected a box"),
        (lambda data: data["results"]["s"][0].pop("size"), "box lacks 'size'"),
        (lambda data: data["results"].update(s=data["results"]["s"] * 251), "502 boxes"),
    ],
)
def test_faults_of_submissions(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        read_submission(submission(tmp_path, change), CLASSES)


def test_duplicate_sample(tmp_path):
    path = submission(tmp_path)
    path.write_text(path.read_text().replace('"e"', '"s"', 1))
    with pytest.raises(FormatError, match="duplicate key 's'"):
        read_submission(path, CLASSES)

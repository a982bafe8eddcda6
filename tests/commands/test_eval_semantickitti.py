# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task semantickitti` through the command line: every rule of evaluation.md section 5."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.semantickitti import label_map, write_labels

_SPEC = importlib.util.spec_from_file_location("oracle", Path(__file__).parents[1] / "metrics" / "miou_oracle.py")
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

RAW = [0, 1, 10, 11, 13, 15, 16, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 52, 60, 70, 71, 72, 80, 81, 99, *range(252, 260)]  # fmt: skip  # noqa: E501


def write(root, kind, **scans):
    for name, raw in scans.items():
        sequence, scan = name[1:].split("_")
        write_labels(root / "sequences" / sequence / kind / f"{scan}.label", raw)


def score(run, *arguments):
    result = run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--json", *arguments)
    assert result.code == 0, result.err
    flat, classes = {}, {}
    for record in result.of("metric"):
        if "class" in record and record["name"] == "iou":
            classes[record["class"]] = record["value"]
        elif not record.keys() & {"class", "scene", "percentile"}:
            flat[record["name"]] = record["value"]
    return flat, classes


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "gt", "labels", s00_000000=[10, 252, 10, 40, 60, 0, 99, 13], s08_000000=[257, 40, 50])
    write(tmp_path / "pred", "predictions", s00_000000=[10, 10, 0, 40, 40, 10, 40, 20], s08_000000=[20, 1, 40])
    return tmp_path


def test_single_scan(run, world):
    flat, classes = score(run)
    # car 2 of 3 (one predicted as unlabeled), road 2 of 3 and one too many, other-vehicle 2 of 2, building 0 of 1
    expected = {"car": 2 / 3, "road": 2 / 4, "other-vehicle": 1, "building": 0}
    assert {name: value for name, value in classes.items() if value is not None} == expected
    assert flat["miou"] == pytest.approx(sum(expected.values()) / 19, abs=1e-12)  # absent classes count as 0
    assert flat["acc"] == 6 / 7  # without the two predictions of unlabeled
    assert flat["oa"] == 6 / 9


def test_present_classes_only(run, world):
    assert score(run, "--preset", "semkitti-present")[0]["miou"] == pytest.approx(
        (2 / 3 + 2 / 4 + 1 + 0) / 4, abs=1e-12
    )


def test_moving_classes(run, world):
    flat, classes = score(run, "--preset", "semkitti-multi")
    assert classes["moving-car"] == 0 and classes["car"] == 1 / 3
    assert classes["other-vehicle"] == 1 / 2 and classes["moving-other-vehicle"] == 0
    expected = 1 / 3 + 1 / 2 + 2 / 4
    assert flat["miou"] == pytest.approx(expected / 25) and flat["static_miou"] == pytest.approx(expected / 19)
    assert flat["moving_miou"] == 0
    write(world / "pred", "predictions", s00_000000=[10, 252, 0, 40, 40, 10, 40, 20])
    assert score(run, "--preset", "semkitti-multi")[0]["moving_miou"] == pytest.approx(1 / 6)


def test_text_output(run, world):
    result = run("eval", "pred", "--gt", "gt", "--task", "semantickitti")
    lines = result.out.splitlines()
    assert lines[0] == "semantickitti, preset semkitti, 2 scans"
    assert [line.split()[0] for line in lines[2:9]] == ["car", "other-vehicle", "road", "building", "mean", "ACC", "OA"]
    assert lines[-1] == "preset=semkitti scenes=2 classes=19 undefined=15 ignored_predictions=2"


def test_split(run, world):
    assert score(run, "--split", "8")[1]["road"] == 0
    both = score(run, "--split", "08,00")
    assert both == score(run)
    for text in ("", "val", "00-08", "123"):
        assert run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--split", text).code == 2
    assert run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--split", "03").code == 4


def test_pairs(run, world):
    write(world / "gt", "labels", s08_000007=[10])
    result = run("eval", "pred", "--gt", "gt", "--task", "semantickitti")
    assert result.code == 4 and "1 scan (08/000007) without predictions" in result.err
    assert score(run, "--allow-missing")[1]["car"] == 2 / 4
    write(world / "pred", "predictions", s08_000009=[10])
    result = run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--allow-missing")
    assert result.code == 4 and "08/000009" in result.err


@pytest.mark.parametrize(
    ("folder", "kind", "labels", "words"),
    [
        ("pred", "predictions", [10, 40], "2 points, expected 3"),
        ("pred", "predictions", [10, 40, 2], "point 2 has raw label 2"),
        ("pred", "predictions", [10, 40, 260], "raw label 260"),
        ("gt", "labels", [10, 40, 9999], "raw label 9999"),
    ],
)
def test_broken_files(run, world, folder, kind, labels, words):
    write(world / folder, kind, s08_000000=labels)
    result = run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--report", "report")
    assert result.code == 4 and words in result.err and "000000.label" in result.err
    assert not (world / "report").exists()


def test_one_folder_for_both(run, world):
    write(world / "gt", "predictions", s00_000000=[10] * 8, s08_000000=[10] * 3)
    assert run("eval", "gt", "--gt", "gt", "--task", "semantickitti").code == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("preset", ["semkitti", "semkitti-present", "semkitti-multi"])
def test_as_the_loop_says(run, tmp_path, monkeypatch, seed, preset):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(seed)
    kept = rng.choice(RAW, rng.integers(1, len(RAW)), replace=False)
    truths, predictions = [], []
    for scan in range(3):
        size = int(rng.choice([0, 1, 300]))
        truth = rng.choice(kept if seed != 3 else [0, 1, 99], size)  # seed 3: everything ignored
        prediction = np.where(rng.random(size) < 0.6, truth, rng.choice(RAW, size))
        write(tmp_path / "gt", "labels", **{f"s00_{scan:06d}": truth + (rng.integers(0, 1 << 16, size) << 16)})
        write(tmp_path / "pred", "predictions", **{f"s00_{scan:06d}": prediction})
        truths.append(truth)
        predictions.append(prediction)
    labels = label_map("multi" if preset == "semkitti-multi" else "single")
    train_id = dict(zip(labels.raw_labels.tolist(), labels.class_ids.tolist(), strict=True))
    expected = oracle.semantickitti(
        np.concatenate(truths).tolist(), np.concatenate(predictions).tolist(), train_id, len(labels.names)
    )
    flat, classes = score(run, "--preset", preset)
    assert [classes[name] for name in labels.names] == expected[0]
    assert flat["miou"] == (pytest.approx(expected[2 if preset == "semkitti-present" else 1], abs=1e-12))
    assert (flat["acc"], flat["oa"]) == (expected[3], expected[4])


def test_report(run, world):
    assert run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--report", "report").code == 0
    result = json.loads((world / "report" / "result.json").read_text())
    assert result["counts"] == {"gt": 9, "pred": 11, "ignored_pred": 2, "classes": 19, "undefined_classes": 15}
    assert set(result["per_scene"]) == {"00/000000", "08/000000"}
    assert {"gt": "car", "pred": None, "count": 1} in result["confusion"]


def test_missing_scans_with_and_without_numbers_of_scans(run, world):
    write(world / "gt", "labels", s08_000007=[10, 40, 0])
    plain = score(run, "--allow-missing")
    assert plain == score(run, "--allow-missing", "--per-scene")
    for extra in ((), ("--per-scene",)):
        result = run("eval", "pred", "--gt", "gt", "--task", "semantickitti", "--allow-missing", *extra)
        assert result.out.startswith("semantickitti, preset semkitti, 2 of 3 scans")
        assert "scenes=3 classes=19 undefined=15 ignored_predictions=2" in result.out

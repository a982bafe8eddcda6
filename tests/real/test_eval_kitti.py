# SPDX-License-Identifier: Apache-2.0
"""Seven real KITTI frames scored with perfect, perturbed and wrong detections."""

import json

import numpy as np
import pytest

from pc3dcli.formats.kitti_labels import find_labels, read_labels


@pytest.fixture
def kitti(shared_data):
    folder = shared_data / "kitti"
    if not (folder / "training" / "label_2").is_dir():
        pytest.skip("no KITTI labels")
    return folder


def score(run, kitti, tmp_path, change, *options):
    """Write results made of the labels by change(values (14,)) and return the result."""
    for frame, path in find_labels(kitti).items():
        types, values = read_labels(path)
        rows = [(name, change(row)) for name, row in zip(types, values, strict=True) if name != "dontcare"]
        lines = [
            f"{name} " + " ".join(f"{v:.6g}" for v in row) + f" {1 - i / 100}\n" for i, (name, row) in enumerate(rows)
        ]
        path = tmp_path / "pred" / f"{frame}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines))
    done = run("eval", "--task", "kitti", tmp_path / "pred", "--gt", kitti, "--report", tmp_path / "report", *options)
    assert done.code == 0, done.err
    return json.loads((tmp_path / "report" / "result.json").read_text())


@pytest.mark.parametrize("preset", ["kitti", "kitti-py"])
def test_perfect_detections(run, kitti, tmp_path, preset):
    result = score(run, kitti, tmp_path, lambda row: row, "--preset", preset)
    assert result["counts"]["gt"] == 8 and result["counts"]["undefined_classes"] == 1
    row = result["per_class"]["Car"]
    for name in ("3d", "bev", "bbox", "aos"):  # 6 cars: steps 0..5 have precision 1
        assert (row[f"{name}_r40_moderate"], row[f"{name}_r11_moderate"]) == (5 / 40, 2 / 11)
    found = [values["3d_f1_moderate"] for values in result["per_scene"].values()]
    assert set(found) == {1.0, None}


def test_perturbed_detections_fall_by_overlap(run, kitti, tmp_path):
    rng = np.random.default_rng(0)
    noise = np.array([0, 0, 0.2, *[1.5] * 4, 0.08, 0.08, 0.2, 0.25, 0.05, 0.35, 0.1])
    metrics = score(run, kitti, tmp_path, lambda row: row + noise * rng.normal(0, 1, 14))["per_class"]["Car"]
    assert metrics["3d_r40_moderate"] <= metrics["bev_r40_moderate"] < metrics["bbox_r40_moderate"] <= 5 / 40
    assert 0 < metrics["aos_r40_moderate"] <= metrics["bbox_r40_moderate"]


def test_detections_elsewhere_score_zero(run, kitti, tmp_path):
    moved = np.array([0, 0, 0, 300, 0, 300, 0, 0, 0, 0, 9, 0, 0, 0])
    assert score(run, kitti, tmp_path, lambda row: row + moved)["metrics"]["3d_r40_moderate"] == 0


def test_turned_round_costs_orientation_alone(run, kitti, tmp_path):
    turn = np.array([0, 0, np.pi, *[0] * 10, np.pi])
    row = score(run, kitti, tmp_path, lambda values: values + turn)["per_class"]["Car"]
    assert row["3d_r40_moderate"] == 5 / 40 and row["aos_r40_moderate"] < 1e-6

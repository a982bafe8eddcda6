# SPDX-License-Identifier: Apache-2.0
"""Labels of real scans: ScanNet meshes, SemanticKITTI scans, ModelNet10 shapes, caps of ShapeNetPart.

Each is scored with its own labels (1.0 in every number) and with labels that were disturbed by a known amount.
"""

import json
import shutil

import numpy as np
import pytest


def metrics(run, *arguments):
    result = run("eval", *arguments, "--json")
    assert result.code == 0, result.err
    keys = {"class", "scene", "percentile", "predicted"}
    return {record["name"]: record["value"] for record in result.of("metric") if not record.keys() & keys}


def disturbed(rng, labels, values, share):
    """Return the labels with a share of them drawn anew from `values`, and how many have changed."""
    changed = np.where(rng.random(labels.shape) < share, rng.choice(values, labels.shape), labels)
    return changed, np.mean(changed != labels)


def test_scannet(run, shared_data, tmp_path):
    rng = np.random.default_rng(0)
    wrong = valid = 0
    for name in ("scene0000_00", "scene0000_01"):
        labels = np.load(shared_data / "scannet" / f"{name}.npz")["semantic_nyu40"].astype(int)
        is_valid = np.isin(labels, [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39])
        found, _ = disturbed(rng, labels, np.arange(41), 0.2)
        wrong += np.sum((found != labels) & is_valid)
        valid += is_valid.sum()
        for folder, values in (("gt", labels), ("pred", found)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.savetxt(tmp_path / folder / f"{name}.txt", values, fmt="%d")
    arguments = ("--gt", tmp_path / "gt", "--task", "semantic")
    assert set(metrics(run, tmp_path / "gt", *arguments).values()) == {1.0}
    found = metrics(run, tmp_path / "pred", *arguments)
    assert found["oa"] == pytest.approx(1 - wrong / valid, abs=1e-12)
    assert 0.3 < found["miou"] < found["macc"] < 0.85


def test_semantickitti(run, shared_data, tmp_path):
    source = shared_data / "semantickitti"
    target = tmp_path / "sequences" / "00" / "predictions"
    target.mkdir(parents=True)
    files = sorted((source / "sequences" / "00" / "labels").glob("*.label"))
    for path in files:
        shutil.copy(path, target / path.name)
    arguments = ("--gt", source, "--task", "semantickitti")
    perfect = metrics(run, tmp_path, *arguments)
    assert perfect["acc"] == perfect["oa"] == 1 and 0.5 < perfect["miou"] < 1  # absent classes count as 0
    assert metrics(run, tmp_path, *arguments, "--preset", "semkitti-present")["miou"] == 1
    rng = np.random.default_rng(0)
    for path in files:
        raw = np.fromfile(path, "<u4")
        np.where(rng.random(raw.size) < 0.1, 40, raw).astype("<u4").tofile(target / path.name)
    found = metrics(run, tmp_path, *arguments)
    assert 0.9 < found["oa"] < 0.94  # a tenth became road, some of which was road
    assert found["miou"] < 0.95 * perfect["miou"]
    multi = metrics(run, tmp_path, *arguments, "--preset", "semkitti-multi")
    assert multi["oa"] == found["oa"]


def test_modelnet(run, shared_data, tmp_path):
    test = np.load(shared_data / "modelnet10" / "test.npz")
    label = test["label"].astype(int)
    np.savez(tmp_path / "perfect.npz", logits=np.eye(10)[label])
    arguments = ("--gt", shared_data / "modelnet10" / "test.npz", "--task", "classify")
    assert metrics(run, tmp_path / "perfect.npz", *arguments)["oa"] == 1
    found, share = disturbed(np.random.default_rng(0), label, np.arange(10), 0.3)
    np.savez(tmp_path / "some.npz", logits=np.eye(10)[found])
    assert metrics(run, tmp_path / "some.npz", *arguments)["oa"] == pytest.approx(1 - share, abs=1e-12)
    run("eval", tmp_path / "some.npz", *arguments, "--report", tmp_path / "report")
    result = json.loads((tmp_path / "report" / "result.json").read_text())
    assert set(result["per_class"]) == set(test["class_names"]) and len(result["per_scene"]) == 181


def test_linear_svm_on_sorted_coordinates(run, shared_data, tmp_path):
    from sklearn.svm import LinearSVC

    arrays = {}
    for name in ("train", "test"):
        content = np.load(shared_data / "modelnet10" / f"{name}.npz")
        points = content["points"].astype(np.float32)
        radius = np.linalg.norm(points, axis=2)
        columns = [radius, points[:, :, 0], points[:, :, 1], points[:, :, 2]]
        features = np.concatenate([np.sort(column, axis=1)[:, ::64] for column in columns], axis=1)
        arrays[name] = {"features": features, "label": content["label"].astype(int)}
        np.savez(tmp_path / f"{name}.npz", **arrays[name])
    files = (tmp_path / "test.npz", "--gt", tmp_path / "test.npz", "--task", "svm", "--train", tmp_path / "train.npz")
    for c in ("0.01", "1"):
        machine = LinearSVC(C=float(c)).fit(*arrays["train"].values())
        expected = machine.score(*arrays["test"].values())
        assert metrics(run, *files, "--svm-c", c)["oa"] == pytest.approx(expected, abs=0.003)
        assert expected > 0.7


def test_caps(run, shared_data, tmp_path):
    for name in ("cap_test", "cap_val"):
        source = np.load(shared_data / "shapenetpart_cap" / f"{name}.npz")
        part = source["part"].astype(int)
        np.savez(tmp_path / "perfect.npz", pred=part, start=source["start"])
        arguments = ("--gt", shared_data / "shapenetpart_cap" / f"{name}.npz", "--task", "parts")
        assert set(metrics(run, tmp_path / "perfect.npz", *arguments).values()) == {1.0}
        swapped, share = disturbed(np.random.default_rng(0), part, np.array([6, 7]), 0.2)
        np.savez(tmp_path / "some.npz", pred=swapped, start=source["start"])
        found = metrics(run, tmp_path / "some.npz", *arguments)
        assert found["accuracy"] == pytest.approx(1 - share, abs=1e-12)
        assert found["instance_miou"] == found["class_miou"] < found["accuracy"]

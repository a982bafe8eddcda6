# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task svm --weights`: features of shapes by a frozen network; and the best C under official."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from pc3dcli.commands.weights import pretrained_model

tiny = runpy.run_path(str(Path(__file__).with_name("tiny_shapes.py")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svm")
    tiny["write_data"](folder / "shapes")
    tiny["write_weights"](folder / "mae")
    tiny["write_weights"](folder / "m2ae", "point-m2ae")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def score(run, *arguments):
    result = run("eval", *arguments, "--task", "svm", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    return {r["name"]: r["value"] for r in result.of("metric") if not r.keys() & {"class", "scene"}}


@pytest.mark.parametrize("weights", ["mae", "m2ae/model.safetensors"])
def test_features_of_shapes_and_the_same_in_files_score_alike(run, weights):
    """The network's features of farthest points, pooled and classified: as in two files of features."""
    from pc3dcli.commands.shape_network import cloud_features, open_split

    model, _ = pretrained_model(weights, "a test")
    for split in ("train", "test"):
        shapes = open_split("shapes", split)
        found = cloud_features(model, shapes, "max+mean", torch.device("cpu"), lambda *_: None)
        np.savez(f"{split}_features.npz", features=found, label=shapes.label)
    by_files = score(run, "test_features.npz", "--train", "train_features.npz")
    assert score(run, "shapes", "--weights", weights) == by_files
    assert score(run, "shapes/test.npz", "--train", "shapes/train.npz", "--weights", weights) == by_files


def test_features_do_not_depend_on_the_batch(monkeypatch):
    from pc3dcli.commands import shape_network

    model, _ = pretrained_model("mae", "a test")
    shapes = shape_network.open_split("shapes", "test")
    arguments = (model, shapes, "max;mean", torch.device("cpu"), lambda *_: None)
    together = shape_network.cloud_features(*arguments)
    monkeypatch.setattr(shape_network, "BATCH", 5)
    assert together.shape == (24, 48)
    np.testing.assert_allclose(shape_network.cloud_features(*arguments), together, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "mean", "max+mean", "max;mean"])
def test_pooling_is_in_the_result(run, pooling):
    assert run("eval", "shapes", "--task", "svm", "--weights", "mae", "--pooling", pooling, "--report", "r").code == 0
    result = json.loads(Path("r/result.json").read_text())
    assert result["options"]["pooling"] == pooling and result["options"]["weights"].startswith("sha256:")
    assert result["counts"]["train"] == 48 and len(result["per_scene"]) == 24


def test_the_best_c_of_the_test_set_has_its_own_name(run):
    fair = score(run, "shapes", "--weights", "mae", "--svm-c", "0.01")
    result = run(
        "eval", "shapes", "--task", "svm", "--weights", "mae", "--svm-c", "0.01", "--protocol", "official", "--json"
    )
    official = {r["name"]: r["value"] for r in result.of("metric") if "class" not in r}
    assert list(official)[0] == "oa_best_c" and official["oa"] == fair["oa"]
    each = [score(run, "shapes", "--weights", "mae", "--svm-c", c)["oa"] for c in ("0.01", "0.012", "0.042", "1.0")]
    assert official["oa_best_c"] == pytest.approx(max(each))
    assert "best-test-c" in result.err


def test_modelnet_h5_gives_its_first_points_as_they_are(monkeypatch):
    from pc3dcli.commands import shape_network
    from pc3dcli.datasets.shape_set import open_shapes

    small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
    points = np.random.default_rng(0).normal(size=(3, 96, 3)).astype(np.float32) + 5
    small["h5"](Path("h5/ply_data_test0.h5"), data=points, label=np.arange(3))
    shapes = open_shapes(Path("h5"), split="test")
    model, _ = pretrained_model("mae", "a test")
    for first, count in ((1024, 64), (40, 40)):  # no more than the network's
        monkeypatch.setattr(shape_network, "FIRST_POINTS", first)
        found = shape_network.cloud_features(model, shapes, "max", torch.device("cpu"), lambda *_: None)
        with torch.inference_mode():
            expected = model.pooled_features(torch.from_numpy(points[:, :count]), "max")
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_named_scan_file_is_that_file_alone(run):
    small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))
    rng = np.random.default_rng(0)
    for name, count in (("training", 9), ("test", 4)):
        points, label = rng.normal(size=(count, 96, 3)).astype(np.float32), np.arange(count) % 3
        small["h5"](Path(f"scans/{name}_objectdataset.h5"), data=points, label=label)
    train, test = (f"scans/{name}_objectdataset.h5" for name in ("training", "test"))
    command = ("--weights", "mae", "--task", "svm", "--device", "cpu")
    assert run("eval", test, "--train", train, *command, "--report", "scans_r").code == 0
    assert json.loads(Path("scans_r/result.json").read_text())["counts"]["train"] == 9
    with np.load("shapes/train.npz") as arrays:
        np.savez("some.npz", **{name: array[:5] if len(array) == 48 else array for name, array in arrays.items()})
        np.savez("copied.npz", **{name: array for name, array in arrays.items() if name != "id"})
    Path("same").mkdir(exist_ok=True)
    Path("same/train.npz").write_bytes(Path("some.npz").read_bytes())
    for scored, trained, words in (
        (train, train, "training_objectdataset_00000 is trained on too"),
        ("same/train.npz", "shapes/train.npz", "is trained on too"),
        ("copied.npz", "shapes/train.npz", "are those that are trained on"),
    ):
        result = run("eval", scored, "--train", trained, *command)
        assert result.code == 4 and words in result.err, result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shapes", "--weights", "none"), 4, "no such"),
        (("nothing", "--weights", "mae"), 4, "nothing: no such file or folder"),
        (("shapes/test.npz", "--weights", "mae"), 2, "--train"),
        (("shapes", "--weights", "mae", "--device", "cuda:99"), 2, "--device cuda:99"),
        (("shapes", "--weights", "mae", "--device", "gpu"), 2, "--device gpu"),
        (("shapes",), 2, "--weights"),
        (("shapes", "--train", "shapes/train.npz"), 2, "--weights is for clouds"),
    ],
)
def test_errors(run, arguments, code, words):
    result = run("eval", *arguments, "--task", "svm")
    assert result.code == code and words in result.err and "Traceback" not in result.err


def test_other_classes_are_refused(run):
    with np.load("shapes/test.npz") as arrays:
        other = dict(arrays) | {"class_names": np.array([f"c{index}" for index in range(12)])}
    np.savez("other.npz", **other)
    result = run("eval", "other.npz", "--train", "shapes/train.npz", "--weights", "mae", "--task", "svm")
    assert result.code == 4 and "other.npz" in result.err and "classes" in result.err

# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task svm`: the numbers of scikit-learn's LinearSVC and what is printed with them."""

import json

import numpy as np
import pytest

from pc3dcli.commands.eval_svm import run as evaluate
from pc3dcli.commands.evaluation import Request
from pc3dcli.metrics.classification import pool_tokens

OPTIONS = {"per_scene": False, "confusion": False, "bootstrap": 0, "seed": 0, "svm_c": 1.0}
OPTIONS |= {"weights": None, "device": "cpu", "protocol": "fair"}


def features(rng, size, tokens=None):
    label = rng.integers(0, 5, size)
    centers = np.random.default_rng(9).normal(size=(5, 12))
    shape = (size, 12) if tokens is None else (size, tokens, 12)
    noise = rng.normal(scale=1.5, size=shape)
    return (centers[label] if tokens is None else centers[label][:, None]) + noise, label


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("train", 300), ("test", 200)):
        found, label = features(rng, size)
        np.savez(tmp_path / f"{name}.npz", features=found.astype(np.float32), label=label)
    return tmp_path


def metrics(world, **options):
    options = OPTIONS | {"train": world / "train.npz", "pooling": "max+mean"} | options
    return evaluate(Request([str(world / "test.npz")], None, "svm", options)).result


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_as_scikit_learn(world, c):
    from sklearn.svm import LinearSVC

    train, test = np.load(world / "train.npz"), np.load(world / "test.npz")
    machine = LinearSVC(C=c).fit(train["features"], train["label"])
    expected = machine.score(test["features"], test["label"])
    assert metrics(world, svm_c=c)["metrics"]["oa"] == pytest.approx(expected, abs=0.003)


def test_the_option_that_helps_is_named(world):
    rng = np.random.default_rng(0)
    for name in ("train", "test"):  # more features than samples are solved by the slow way
        np.savez(world / f"{name}.npz", features=rng.normal(100, 30, (50, 60)), label=rng.integers(0, 5, 50))
    warnings = metrics(world, svm_c=1e6)["warnings"]
    assert "a smaller --svm-c converges sooner" in next(w["detail"] for w in warnings if w["code"] == "not-converged")


@pytest.mark.parametrize("pooling", ["max", "mean", "max+mean", "max;mean"])
def test_tokens_are_pooled(world, pooling):
    rng = np.random.default_rng(1)
    pooled = {}
    for name, size in (("train", 200), ("test", 100)):
        found, label = features(rng, size, tokens=6)
        np.savez(world / f"{name}.npz", features=found, label=label)
        pooled[name] = {"features": pool_tokens(found, pooling), "label": label}
    result = metrics(world, pooling=pooling)
    assert result["options"]["pooling"] == pooling and result["options"]["normalisation"] is None
    for name, arrays in pooled.items():
        np.savez(world / f"{name}.npz", **arrays)
    again = metrics(world, pooling=pooling)
    assert again["metrics"] == result["metrics"] and again["options"]["pooling"] is None


def test_command(run, world):
    command = ("eval", "test.npz", "--task", "svm", "--gt", "test.npz", "--train", "train.npz")
    result = run(*command, "--svm-c", "0.01", "--report", "r")
    assert result.code == 0 and "C = 0.01; no pooling; no normalisation" in result.out
    report = json.loads((world / "r" / "result.json").read_text())
    assert report["options"]["C"] == 0.01 and report["counts"]["train"] == 300
    first = (world / "r" / "result.json").read_bytes()
    run(*command, "--svm-c", "0.01", "--report", "r2")
    assert (world / "r2" / "result.json").read_bytes() == first
    assert run(*command, "--fail-under", "oa=1").code == 5
    assert run("eval", "test.npz", "--task", "svm", "--gt", "test.npz").code == 2
    assert run("eval", ".", "--task", "svm", "--gt", "test.npz", "--train", "train.npz").code == 2


def test_a_class_that_was_never_trained_is_warned_of(world):
    arrays = dict(np.load(world / "test.npz"))
    arrays["label"][:3] = 7
    np.savez(world / "test.npz", **arrays)
    result = metrics(world)
    assert [warning["code"] for warning in result["warnings"]] == ["untrained-class"]
    assert result["per_class"]["7"] == {"acc": 0.0, "gt": 3}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("test", {"features": np.zeros((200, 11))}),
        ("test", {"features": np.full((200, 12), np.inf)}),
        ("train", {"label": np.zeros(300, int)}),
        ("train", {"label": np.zeros(299, int)}),
        ("train", {"features": np.zeros(300)}),
    ],
)
def test_broken_files(run, world, name, change):
    np.savez(world / f"{name}.npz", **(dict(np.load(world / f"{name}.npz")) | change))
    result = run("eval", "test.npz", "--task", "svm", "--gt", "test.npz", "--train", "train.npz")
    assert result.code == 4 and f"{name}.npz" in result.err

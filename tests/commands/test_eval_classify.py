# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task classify`: every rule of evaluation.md 6.1."""

import json

import numpy as np
import pytest

from pc3dcli.commands.eval_classify import run as evaluate
from pc3dcli.commands.evaluation import Request

OPTIONS = {"per_scene": False, "confusion": False, "bootstrap": 0, "seed": 0, "protocol": "fair"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cls.csv").write_text("label,pred\n0,0\n0,0\n0,3\n1,1\n")
    return tmp_path


def metrics(names, gt=None, **options):
    return evaluate(Request([str(name) for name in names], gt, "classify", OPTIONS | options)).result["metrics"]


def test_table(run, world):
    result = run("eval", "cls.csv", "--gt", "cls.csv", "--task", "classify")
    assert result.code == 0 and result.err == ""
    lines = result.out.splitlines()
    assert lines[1].split() == ["class", "Acc", "gt"]
    assert [line.split() for line in lines[2:6]] == [
        ["0", "0.6667", "3"], ["1", "1.0000", "1"], ["mean", "0.8333", "4"], ["OA", "0.7500"]
    ]  # fmt: skip
    assert lines[-1] == "preset=classify scenes=4 classes=4 undefined=2 ignored_predictions=0"


def test_mean_is_over_classes_that_occur_in_the_labels(world):
    found = metrics(["cls.csv"])
    assert (found["oa"], found["oa_single"], found["oa_vote"]) == (0.75, 0.75, None)
    assert found["macc"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-12)


def test_logits_and_ties(world):
    logits = np.array([[1.0, 1, 0], [0, 2, 2], [0, 0, 0]])
    np.savez("x.npz", logits=logits, label=np.array([0, 1, 1]))
    assert metrics(["x.npz"])["oa"] == 2 / 3
    np.savez("y.npz", pred=np.array([0, 1, 0]), label=np.array([0, 1, 1], np.uint8))
    assert metrics(["y.npz"])["oa"] == 2 / 3


def test_votes_stand_beside_the_single_pass(run, world):
    passes = np.array([[[0.0, 1], [5, 0]], [[3, 0], [4, 0]], [[0, 1], [0, 1]]])
    np.savez("x.npz", logits=passes, label=np.array([0, 0]), id=np.array(["a", "b"]), class_names=np.array(["p", "q"]))
    found = metrics(["x.npz"])
    assert (found["oa"], found["oa_single"], found["oa_vote"]) == (0.5, 0.5, 1.0)
    result = run("eval", "x.npz", "--gt", "x.npz", "--task", "classify", "--report", "r")
    assert "V = 3 passes" in result.out and "1,200 points" in result.out and "p " in result.out
    report = json.loads((world / "r" / "result.json").read_text())
    assert report["options"]["passes"] == 3
    assert report["per_scene"] == {"a": {"oa": 0.0, "oa_vote": 1.0}, "b": {"oa": 1.0, "oa_vote": 1.0}}
    assert report["per_class"]["q"] == {"acc": None, "acc_vote": None, "gt": 0}
    assert {"gt": "p", "pred": "q", "count": 1} in report["confusion"]


def test_the_best_epoch_has_its_own_name_and_a_warning(run, world):
    (world / "e0.csv").write_text("label,pred\n0,0\n0,0\n0,0\n1,1\n")
    found = metrics(["e0.csv", "cls.csv"])
    assert found["oa"] == 0.75 and found["oa_best_test_epoch"] == 1.0  # the last file is the checkpoint
    assert "oa_best_test_epoch" not in metrics(["cls.csv"])
    result = run("eval", "e0.csv", "cls.csv", "--gt", "cls.csv", "--task", "classify")
    assert result.code == 0 and "best-test-epoch" in result.err


def test_labels_of_another_file(world):
    np.savez("x.npz", logits=np.eye(3))
    np.savez("gt.npz", label=np.array([0, 1, 1]))
    assert metrics(["x.npz"], world / "gt.npz")["oa"] == 2 / 3
    (world / "gt.csv").write_text("label\n0\n1\n2\n")
    assert metrics(["x.npz"], world / "gt.csv")["oa"] == 1


def test_intervals(run, world):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    np.savez("x.npz", pred=np.where(rng.random(200) < 0.8, label, 0), label=label)
    result = run("eval", "x.npz", "--gt", "x.npz", "--task", "classify", "--json", "--bootstrap", "100")
    bounds = {(r["name"], r["percentile"]): r["value"] for r in result.of("metric") if "percentile" in r}
    assert bounds["oa", 2.5] < metrics(["x.npz"])["oa"] < bounds["oa", 97.5]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("label,pred\n0,0\n0\n", 3, "1 columns"),
        ("label,pred\n0,x\n", 2, "pred is 'x'"),
        ("label,pred\n-1,0\n", 2, "label is '-1'"),
        ("label,pred\n0,9999999\n", 2, "pred is"),
        ("0,0\n1,1\n", 1, "columns are"),
        ("", 1, "columns are"),
        ("label,pred\n", None, "no samples"),
    ],
)
def test_broken_tables(run, world, text, line, words):
    (world / "cls.csv").write_text(text)
    result = run("eval", "cls.csv", "--gt", "cls.csv", "--task", "classify")
    assert result.code == 4 and words in result.err
    assert line is None or f"cls.csv:{line}: " in result.err


@pytest.mark.parametrize(
    "arrays",
    [
        {"logits": np.array([[np.nan, 1.0]]), "label": np.array([0])},
        {"logits": np.array([1.0, 2]), "label": np.array([0])},
        {"logits": np.zeros((2, 3)), "label": np.array([0])},
        {"logits": np.zeros((1, 3)), "label": np.array([0.5])},
        {"logits": np.zeros((1, 3))},
        {"label": np.array([0])},
        {"logits": np.array([{}], dtype=object), "label": np.array([0])},
    ],
)
def test_broken_arrays(run, world, arrays):
    np.savez("x.npz", **arrays)
    result = run("eval", "x.npz", "--gt", "x.npz", "--task", "classify")
    assert result.code == 4 and "x.npz" in result.err


def test_what_is_no_file_of_predictions(run, world):
    assert run("eval", ".", "--gt", "cls.csv", "--task", "classify").code == 2
    assert run("eval", "none.csv", "--gt", "cls.csv", "--task", "classify").code == 4


def test_a_run_in_one_file_is_scored_by_its_last_epoch_and_the_mean_of_its_votes(run, world):
    label = np.array([0, 1, 1, 2])
    votes = np.eye(3)[np.array([[0, 1, 1, 2], [0, 1, 1, 1], [0, 0, 0, 0]])]  # 1, 0.75, 0.25 right
    epochs = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 0]], np.int16)  # 0.25, 0.75, 0.5 right
    np.savez("x.npz", logits=np.eye(3)[[0, 1, 0, 0]], label=label, epoch_pred=epochs, vote_logits=votes)
    fair = metrics(["x.npz"])
    assert fair["oa"] == 0.5 and fair["oa_vote"] == pytest.approx(2 / 3) and "oa_best_test_epoch" not in fair
    assert fair["oa_vote_std"] == pytest.approx(np.std([1, 0.75, 0.25], ddof=1))
    official = metrics(["x.npz"], protocol="official")
    assert list(official)[:2] == ["oa_best_test_epoch", "oa_vote_max"]
    assert (official["oa_best_test_epoch"], official["oa_vote_max"], official["oa"]) == (0.75, 1.0, 0.5)
    result = run("eval", "x.npz", "--task", "classify", "--protocol", "official")
    assert result.code == 0 and "best-test-epoch" in result.err and "best-test-vote" in result.err
    assert ["OA", "best", "test", "epoch", "0.7500"] in [line.split() for line in result.out.splitlines()]
    limit = run("eval", "x.npz", "--task", "classify", "--protocol", "official", "--fail-under", "oa_vote_max=1")
    assert limit.code == 0


def test_the_best_of_one_epoch_is_refused(run, world):
    result = run("eval", "cls.csv", "--task", "classify", "--protocol", "official")
    assert result.code == 4 and "nothing to choose from" in result.err and "pc3d distill" in result.err
    np.savez("x.npz", pred=np.array([0, 1]), label=np.array([0, 1]), epoch_pred=np.zeros((2, 3), int))
    assert run("eval", "x.npz", "--task", "classify").code == 4
    np.savez("x.npz", pred=np.array([0, 1]), label=np.array([0, 1]), vote_logits=np.zeros((2, 3)))
    assert run("eval", "x.npz", "--task", "classify").code == 4

# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task fewshot`: mean and both deviations over folds (evaluation.md 6.2), and the file of folds."""

import json

import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.folds import Fold, Folds, read_folds, write_folds
from pc3dcli.metrics.classification import FoldSize, draw_folds

OPTIONS = {"per_scene": False, "allow_missing": False, "protocol": "fair"}
SIZE = FoldSize(way=3, shot=2, queries=4, folds=3)


def some_folds():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 6, 100), rng.integers(0, 6, 100)
    drawn = draw_folds(train, test, SIZE, rng)
    folds = [Fold(tuple(c.tolist()), *(tuple(map(tuple, part.tolist())) for part in parts)) for c, *parts in drawn]
    return Folds(SIZE.way, SIZE.shot, SIZE.queries, 0, tuple(folds))


def put_folds(path, folds):
    with path.open("wb") as file:
        write_folds(file, folds)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Three folds, of whose 12 queries 0, 3 and 6 are wrong."""
    monkeypatch.chdir(tmp_path)
    folds = some_folds()
    put_folds(tmp_path / "folds.json", folds)
    (tmp_path / "pred").mkdir()
    for index, fold in enumerate(folds.folds):
        lines = list(fold.label_of_query().items())
        wrong = [99] * (3 * index)
        pred = [*wrong, *(label for _, label in lines[len(wrong) :])]
        text = "".join(f"{name},{p}\n" for (name, _), p in zip(lines, pred, strict=True))
        (tmp_path / "pred" / f"fold_{index:02d}.csv").write_text("id,pred\n" + text)
    return tmp_path


COMMAND = ("eval", "pred", "--task", "fewshot", "--gt", "folds.json")


def test_mean_and_both_deviations(run, world):
    result = run(*COMMAND, "--json")
    values = {r["name"]: r["value"] for r in result.of("metric") if "scene" not in r}
    accuracy = np.array([1, 0.75, 0.5])
    assert values["accuracy"] == 0.75
    assert values["std_population"] == pytest.approx(accuracy.std(), abs=1e-12)
    assert values["std_sample"] == 0.25
    assert "fold-count" in result.err and "query-count" in result.err


def test_text(run, world):
    result = run(*COMMAND)
    assert [line.split()[-1] for line in result.out.splitlines()[2:8]] == [
        "1.0000", "0.7500", "0.5000", "0.7500", "0.2041", "0.2500"
    ]  # fmt: skip
    assert "3-way 2-shot, 3 folds" in result.out
    assert run(*COMMAND, "--report", "r").code == 0
    report = json.loads((world / "r" / "result.json").read_text())
    assert report["per_scene"]["1"] == {"accuracy": 0.75} and report["options"]["way"] == 3


def test_labels_in_the_tables(run, world):
    for index, text in enumerate(("0,0\n1,1\n", "0,0\n1,0\n")):
        (world / f"f{index}.csv").write_text("label,pred\n" + text)
    from pc3dcli.commands.eval_fewshot import run as evaluate
    from pc3dcli.commands.evaluation import Request

    request = Request(["f0.csv", "f1.csv"], None, "fewshot", OPTIONS)
    assert evaluate(request).result["metrics"]["accuracy"] == 0.75
    one = evaluate(Request(["f0.csv"], None, "fewshot", OPTIONS)).result["metrics"]
    assert one == {"accuracy": 1.0, "std_population": 0.0, "std_sample": None}


def test_missing_fold(run, world):
    (world / "pred" / "fold_01.csv").unlink()
    assert run(*COMMAND).code == 4
    result = run(*COMMAND, "--allow-missing")
    assert (
        result.code == 0
        and "missing-fold" in result.err
        and result.out.startswith("fewshot, preset fewshot, 2 of 3 folds")
    )


def replaced(world, old, new):
    path = world / "pred" / "fold_00.csv"
    lines = path.read_text().splitlines()
    lines[old] = new(lines)
    path.write_text("\n".join(line for line in lines if line is not None) + "\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((3, lambda lines: lines[2]), "again"),
        ((3, lambda lines: None), "queries are missing"),
        ((3, lambda lines: "9999,1"), "is no query"),
        ((0, lambda lines: "label,pred"), "no column id"),
        ((2, lambda lines: "1,nan"), "pred is 'nan'"),
    ],
)
def test_broken_tables(run, world, change, words):
    replaced(world, *change)
    result = run(*COMMAND)
    assert result.code == 4 and words in result.err and "fold_00.csv" in result.err


def test_names_of_files(run, world):
    (world / "pred" / "1.csv").write_text("id,pred\n")
    assert "again" in run(*COMMAND).err
    (world / "pred" / "1.csv").rename(world / "pred" / "best.csv")
    assert "number of a fold" in run(*COMMAND).err


def test_folds_survive_their_file(tmp_path):
    path = tmp_path / "folds.json"
    put_folds(path, some_folds())
    assert read_folds(path) == some_folds()
    first = path.read_bytes()
    put_folds(path, read_folds(path))
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("way"),
        lambda c: c["folds"].clear(),
        lambda c: c["folds"][0]["classes"].append(1),
        lambda c: c["folds"][0]["query"][0].pop(),
        lambda c: c["folds"][0]["query"][0].__setitem__(0, c["folds"][0]["query"][0][1]),
        lambda c: c["folds"][0].__setitem__("support", 3),
        lambda c: c["folds"][0]["support"][0].__setitem__(0, 1.5),
    ],
)
def test_broken_folds(tmp_path, change):
    path = tmp_path / "folds.json"
    put_folds(path, some_folds())
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError):
        read_folds(path)
    path.write_text("[")
    with pytest.raises(FormatError):
        read_folds(path)


def test_epochs_of_a_fold(run, world):
    """A fold as arrays gives the number of its last epoch, and under official that of its best one first."""
    folds = read_folds(world / "folds.json")
    (world / "runs").mkdir()
    for index, fold in enumerate(folds.folds):
        names, label = zip(*fold.label_of_query().items(), strict=True)
        wrong = np.full(len(label), 99)
        half = np.where(np.arange(len(label)) % 2, label, 99)
        epochs = np.stack([label if index == 0 else half, half, wrong])
        np.savez(world / "runs" / f"fold_{index:02d}.npz", id=np.array(names), epoch_pred=epochs)
    command = ("eval", "runs", "--task", "fewshot", "--gt", "folds.json", "--json")
    fair = {r["name"]: r["value"] for r in run(*command).of("metric")}
    assert fair["accuracy"] == 0 and "accuracy_best_test_epoch" not in fair
    result = run(*command, "--protocol", "official")
    names = [r["name"] for r in result.of("metric")]
    official = {r["name"]: r["value"] for r in result.of("metric")}
    assert names[0] == "accuracy_best_test_epoch" and official["accuracy"] == 0
    assert official["accuracy_best_test_epoch"] == pytest.approx((1 + 0.5 + 0.5) / 3, abs=1e-5)
    assert "best-test-epoch" in result.err
    single = run(*COMMAND, "--protocol", "official")
    assert single.code == 4 and "nothing to choose from" in single.err
    np.savez(world / "runs" / "fold_00.npz", id=np.array(["a"]), pred=np.zeros(2, int))
    assert run(*command).code == 4


def test_guessing_is_better(run, world):
    for index in range(3):
        path = world / "pred" / f"fold_{index:02d}.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *(f"{line.split(',')[0]},99" for line in lines[1:-1]), lines[-1]]) + "\n")
    result = run(*COMMAND)
    assert result.code == 0 and "below-chance" in result.err and "guessing among 3 classes has 0.3333" in result.err


def test_the_folder_of_a_run_stands_for_its_predictions_and_folds(run, world):
    (world / "run").mkdir()
    (world / "pred").rename(world / "run" / "predictions")
    (world / "folds.json").rename(world / "run" / "folds.json")
    result = run("eval", "run", "--task", "fewshot")
    assert result.code == 0 and "3-way 2-shot, 3 folds" in result.out and "below-chance" not in result.err

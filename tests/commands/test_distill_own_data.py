# SPDX-License-Identifier: Apache-2.0
"""`pc3d distill` on people's own data: parts of their own numbering, folders without splits, clouds without classes."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import write_ply

tiny = runpy.run_path(str(Path(__file__).with_name("tiny_shapes.py")))
QUICK = ("--device", "cpu", "--epochs", "1", "--batch-size", "16", "-q")
CPU = ("--device", "cpu")


def write_clouds(folder, arrays, rows, has_classes):
    for row in rows:
        place = folder / str(arrays["class_names"][arrays["label"][row]]) if has_classes else folder
        place.mkdir(parents=True, exist_ok=True)
        with (place / f"{row}.ply").open("wb") as file:
            write_ply(file, Cloud(arrays["points"][row]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Arrays of procedural shapes with parts, the same as clouds in class folders and without, and trained weights."""
    from pc3dcli.main import _run

    folder = tmp_path_factory.mktemp("own")
    tiny["write_data"](folder / "shapes")
    tiny["write_weights"](folder / "mae")
    with np.load(folder / "shapes/test.npz") as arrays:
        write_clouds(folder / "mine", arrays, range(24), True)
        write_clouds(folder / "flat", arrays, range(3), False)
    train = ("distill", str(folder / "shapes"), "--init", str(folder / "mae"), *QUICK, "--out")
    assert _run([*train, str(folder / "classes")]) == 0
    assert _run([*train, str(folder / "parts"), "--method", "parts"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def distill(run, *arguments, code=0):
    result = run("distill", *arguments)
    assert result.code == code and "Traceback" not in result.err, result.err
    return result


def values(run, *arguments):
    result = run("eval", *arguments, "--task", "parts", "--json")
    assert result.code == 0, result.err
    return {(r["name"], r.get("class")): r["value"] for r in result.of("metric") if "scene" not in r}


def write_part_arrays(folder, names, parts):
    """Write shapes whose points have parts by their side; `parts` (low, high) of each class."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 6)):
        points = rng.normal(size=(number, 96, 3)).astype(np.float32)
        label = np.arange(number) % len(names)
        side = (points[..., 0] > 0).astype(int)
        part = np.array(parts)[label[:, None], side]
        np.savez(folder / f"{split}.npz", points=points, part=part, label=label, class_names=np.array(names))


def test_parts_of_own_data_are_scored_under_their_names(run):
    """Predictions of distill say what they are of: two parts a category, not the four of an airplane."""
    found = values(run, "parts/predictions.npz")
    with np.load("parts/predictions.npz") as arrays:
        assert arrays["category_parts"].tolist() == [[c, p] for c in range(12) for p in (0, 1)]
        assert arrays["part_names"].tolist() == ["base", "detail"]
        pred, label = arrays["pred"], arrays["label"]
        names = arrays["class_names"][arrays["category"]]
    both = [[((p == k) & (q == k)).sum() for k in (0, 1)] for p, q in zip(pred, label, strict=True)]
    either = [[((p == k) | (q == k)).sum() for k in (0, 1)] for p, q in zip(pred, label, strict=True)]
    iou = (np.array(both) / either).mean(axis=1)
    assert found["instance_miou", None] == pytest.approx(iou.mean(), abs=1e-5)
    for name in set(names):
        assert found["iou", name] == pytest.approx(iou[names == name].mean(), abs=1e-5)
    assert values(run, "parts") == found


def test_segment_then_eval_against_the_data_set(run):
    """The two lines of pc3d-pipelines(7)."""
    result = run("segment", "shapes/", "--parts", "--weights", "parts", "--split", "test", "--out", "seg/", "-q", *CPU)
    assert result.code == 0, result.err
    found = values(run, "seg/", "--gt", "shapes/")
    assert ("iou", "box-handle") in found and 0 < found["accuracy", None] < 1
    with np.load("shapes/test.npz") as arrays:
        moved = dict(arrays) | {"points": arrays["points"] + np.float32(0.1)}
    np.savez("moved.npz", **moved)
    result = run("eval", "seg/", "--task", "parts", "--gt", "moved.npz")
    assert result.code == 4 and "other points" in result.err


def test_ranges_of_shapenetpart_need_its_parts(run):
    """Classes may have its names and parts of their own."""
    write_part_arrays(Path("caps"), ("cap", "mug"), ((0, 1), (2, 5)))
    distill(run, "caps", "--method", "parts", "--init", "mae", "--out", "caps_w", *QUICK)
    assert json.loads(Path("caps_w/config.json").read_text())["category_parts"] == [[0, 1], [2, 5]]
    assert ("iou", "cap") in values(run, "caps_w/predictions.npz")
    write_part_arrays(Path("theirs"), ("cap", "mug"), ((6, 7), (36, 36)))
    distill(run, "theirs", "--method", "parts", "--init", "mae", "--out", "theirs_w", *QUICK)
    assert json.loads(Path("theirs_w/config.json").read_text())["category_parts"] == [[6, 7], [36, 37]]


def test_parts_without_classes_that_are_not_shapenetparts_are_refused(run):
    write_part_arrays(Path("unnamed"), ("a",), ((0, 5),))
    for split in ("train", "test"):
        with np.load(f"unnamed/{split}.npz") as arrays:
            kept = {name: arrays[name] for name in ("points", "part")}
        np.savez(f"unnamed/{split}.npz", **kept)
    result = distill(run, "unnamed", "--method", "parts", "--init", "mae", "--out", "x", *QUICK, code=4)
    assert "parts 0, 5 are of no one category" in result.err and "label" in result.err


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_many_parts_are_refused(run, split, tmp_path):
    write_part_arrays(tmp_path / "huge", ("a", "b"), ((0, 1), (0, 1)))
    path = tmp_path / "huge" / f"{split}.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["part"] = arrays["part"].astype(np.int64)
    arrays["part"][3, 7] = 10**9
    np.savez(path, **arrays)
    result = distill(run, tmp_path / "huge", "--method", "parts", "--init", "mae", "--out", "x", *QUICK, code=4)
    assert f"{path}: shape {split}_00003 has part 1000000000, expected fewer than 10000" in result.err


def test_weights_that_do_not_fit_are_named(run):
    import dataclasses

    tiny["write_weights"](Path("shallow"), "point-mae", dataclasses.replace(tiny["MAE"], depth=1))
    result = distill(run, "shapes", "--method", "parts", "--init", "shallow", "--out", "x", *QUICK, code=4)
    assert "pc3d distill: shallow: its config" in result.err


def test_classes_that_nothing_is_learned_of_are_refused(run):
    Path("unseen").mkdir()
    for split, number in (("train", 2), ("test", 4)):
        with np.load(f"shapes/{split}.npz") as arrays:
            np.savez(f"unseen/{split}.npz", points=arrays["points"], label=np.arange(len(arrays["points"])) % number)
    result = distill(run, "unseen", "--init", "mae", "--out", "x", *QUICK, code=4)
    assert "class 2, 3" in result.err and not Path("x").exists()
    with np.load("unseen/test.npz") as arrays:
        np.savez("unseen/test.npz", **arrays, class_names=np.array(list("abcd")))
    with np.load("unseen/train.npz") as arrays:
        np.savez("unseen/train.npz", **arrays, class_names=np.array(list("abcd")))
    result = distill(run, "unseen", "--init", "mae", "-n", *CPU, "--epochs", "1")  # never right, but no mistake
    assert "no shape that is learned from has class c, d" in result.err


def test_a_share_of_each_class_is_held_out(run):
    held = ("mine", "--init", "mae", "--hold-out", "0.5", *QUICK)
    distill(run, *held, "--out", "held")
    with np.load("held/predictions.npz") as arrays:
        first = arrays["id"]
        assert np.bincount(arrays["label"]).tolist() == [1] * 12  # of two shapes each
    distill(run, *held, "--out", "held_again")
    np.testing.assert_array_equal(np.load("held_again/predictions.npz")["id"], first)
    distill(run, *held, "--out", "held_other", "--seed", "1")
    assert (np.load("held_other/predictions.npz")["id"] != first).any()
    result = distill(run, *held, "--out", "held", "--seed", "1", code=2)  # other shapes are another run
    assert "made with" in result.err
    distill(run, "shapes", "--init", "mae", "--split", "test", "--hold-out", "0.5", "-n", *QUICK)


def test_a_folder_without_splits_says_what_to_do(run):
    result = distill(run, "mine", "--init", "mae", "--out", "x", *QUICK, code=4)
    assert "no shapes of split test" in result.err and "--hold-out 0.2" in result.err
    assert "takes every file" not in result.err
    result = distill(run, "mine", "--init", "mae", "--split", "all", "--out", "x", *QUICK, code=2)
    assert "expected two of" in result.err and "--hold-out" in result.err


def test_shapes_that_are_learned_from_and_tested_on_are_warned_of(run):
    command = ("mine", "--init", "mae", "--split", "all,test", "-n", *CPU, "--epochs", "1")
    result = run("distill", *command)
    assert result.code == 4
    result = distill(run, "shapes", *command[1:])
    assert "splits all and test share shapes" in result.err
    assert "72 shapes are one batch" not in result.err
    assert "share shapes" not in distill(run, "shapes", "--init", "mae", "-n", *CPU, "--epochs", "1").err


def test_a_batch_of_more_shapes_than_there_are(run):
    result = distill(run, "mine", "--init", "mae", "--hold-out", "0.5", "-n", "--batch-size", "32", *CPU)
    assert "12 shapes are one batch, 32 were asked for" in result.err


PREDICT = ("--predict", "--init", "classes", *CPU)


def test_classes_are_mapped_by_name(run):
    """Folders are sorted, the classes of the weights are not; a name that they lack is refused."""
    for number, more in enumerate(((), ("--split", "all"), ("--split", "all,all"))):
        distill(run, "mine", *PREDICT, *more, "--out", f"by_name{number}")
        with np.load(f"by_name{number}/predictions.npz") as arrays, np.load("shapes/test.npz") as theirs:
            assert arrays["class_names"].tolist() == theirs["class_names"].tolist()
            row = [int(name.split("/")[1]) for name in arrays["id"]]
            np.testing.assert_array_equal(arrays["label"], theirs["label"][row])
    assert run("eval", "by_name0", "--task", "classify").code == 0
    with np.load("shapes/test.npz") as arrays:
        names = arrays["class_names"].astype("U20")
        names[3] = "teapot"
        np.savez("teapots.npz", **dict(arrays) | {"class_names": names})
        is_other = arrays["label"] != 3
        kept = {name: arrays[name][is_other] for name in ("points", "label", "id")}
        np.savez("no_teapots.npz", **kept, class_names=names)
    result = distill(run, "teapots.npz", *PREDICT, "--out", "x", code=4)
    assert "found classes teapot, which" in result.err
    distill(run, "no_teapots.npz", *PREDICT, "--out", "no_teapots")


def test_what_is_this_cloud(run):
    result = distill(run, "flat/0.ply", *PREDICT, "--out", "told")
    assert result.out == "told/predictions.npz\n"
    name, _, answers = result.err.removeprefix("pc3d distill: ").rstrip("\n").partition(": ")
    with np.load("told/predictions.npz") as arrays:
        assert "label" not in arrays.files and arrays["id"].tolist() == [name] == ["0"]
        best = arrays["class_names"][arrays["logits"][0].argmax()]
    share = [float(answer.split()[1]) for answer in answers.split(", ")]
    assert (
        answers.startswith(f"{best} ")
        and len(share) == 3
        and share == sorted(share, reverse=True)
        and sum(share) < 1.02
    )
    result = distill(run, "flat", *PREDICT, "--out", "told_all")
    assert len(result.err.splitlines()) == 3 and np.load("told_all/predictions.npz")["logits"].shape == (3, 12)
    assert distill(run, "flat", *PREDICT, "--out", "told_quiet", "-q").err == ""
    result = distill(run, "shapes", *PREDICT, "--out", "told_many")
    assert "24 shapes; pc3d eval told_many/predictions.npz --task classify scores them" in result.err
    with np.load("shapes/test.npz") as arrays:
        np.savez("unlabelled.npz", points=arrays["points"])
    result = distill(run, "unlabelled.npz", *PREDICT, "--out", "told_unlabelled")
    assert "class_names[logits.argmax(1)]" in result.err
    result = distill(run, "flat", "--method", "parts", "--predict", "--init", "parts", *CPU, "--out", "x", code=4)
    assert "pc3d segment --parts" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", "3"), "--epochs: --predict trains nothing"),
        (("--batch-size", "8"), "--batch-size"),
        (("--recipe", "gm3d"), "--recipe"),
        (("--precision", "bf16"), "--precision"),
        (("--hold-out", "0.2"), "--hold-out"),
        (("-D", "lr=0.1"), "-D lr"),
        (("-D", "epochs=3"), "-D epochs"),
        (("-D", "vote_views=3"), "-D vote_views"),
        (("-D", "label_smoothing=0.1", "--votes", "2"), "-D label_smoothing"),
    ],
)
def test_settings_of_training_do_nothing_with_predict(run, arguments, words):
    result = distill(run, "flat", *PREDICT, "--out", "x", *arguments, code=2)
    assert words in result.err and not Path("x").exists()


def test_other_options_go_with_predict(run):
    Path("train.toml").write_text("lr = 0.1\nepochs = 3\n")  # a file of settings may be for several commands
    more = ("--votes", "2", "-D", "vote_views=2", "--seed", "3", "--config", "train.toml")
    distill(run, "flat", *PREDICT, "--out", "voted", *more)
    assert np.load("voted/predictions.npz")["vote_logits"].shape == (2, 3, 12)


def test_parts_have_one_recipe(run):
    command = ("shapes", "--method", "parts", "--init", "mae", "--recipe", "gm3d", "--out", "x")
    assert "--recipe gm3d" in distill(run, *command, *QUICK, code=2).err

# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task parts`: ShapeNetPart folders, text, and arrays give the same numbers (evaluation.md section 7)."""

import json

import numpy as np
import pytest

SHAPES = {  # name -> ground truth, prediction
    "03001627/a": ([12, 12, 13, 13], [12, 13, 13, 13]),  # chair 0.7917
    "03001627/b": ([12, 13, 14, 15], [12, 13, 14, 15]),  # chair 1
    "02954340/c": ([6, 6, 6, 6], [6, 6, 6, 7]),  # cap (3/4 + 0) / 2
}
EXPECTED = {"Chair": ((1 / 2 + 2 / 3 + 2) / 4 + 1) / 2, "Cap": 3 / 8}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "train_test_split").mkdir(parents=True)
    (tmp_path / "data" / "synsetoffset2category.txt").write_text("Chair\t03001627\nCap\t02954340\nBag\t02773838\n")
    lists = {"test": list(SHAPES)[:3], "train": list(SHAPES)[:1], "val": list(SHAPES)[1:2]}
    for split, names in lists.items():
        entries = json.dumps([f"shape_data/{name}" for name in names])
        (tmp_path / "data" / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(entries)
    for name, (part, prediction) in SHAPES.items():
        for folder in ("data", "pred", "plain"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"0.1 0.2 -0.3 0.0 1.0 0.0 {p}.000000\n" for p in part)
        (tmp_path / "data" / f"{name}.txt").write_text(rows)
        (tmp_path / "plain" / f"{name}.txt").write_text("".join(f"{p}\n" for p in part))
        (tmp_path / "pred" / f"{name}.txt").write_text("".join(f"{p}\n" for p in prediction))
    stacked = np.array(list(SHAPES.values()))
    np.savez(tmp_path / "all.npz", pred=stacked[:, 1], label=stacked[:, 0])
    start = np.arange(0, 13, 4)
    np.savez(tmp_path / "flat.npz", pred=stacked[:, 1].ravel(), start=start)
    np.savez(tmp_path / "flat_gt.npz", part=stacked[:, 0].ravel().astype(np.uint8), start=start)
    return tmp_path


def score(run, *arguments):
    result = run("eval", *arguments, "--task", "parts", "--json")
    assert result.code == 0, result.err
    return {r["name"]: r["value"] for r in result.of("metric") if not r.keys() & {"class", "scene", "percentile"}}


def test_means_of_shapes_and_of_categories(run, world):
    found = score(run, "pred", "--gt", "data")
    assert found["class_miou"] == pytest.approx(np.mean(list(EXPECTED.values())), abs=1e-12)
    assert found["instance_miou"] == pytest.approx((2 * EXPECTED["Chair"] + EXPECTED["Cap"]) / 3, abs=1e-12)
    assert found["accuracy"] == 10 / 12


@pytest.mark.parametrize(
    "arguments",
    [("pred", "--gt", "plain"), ("all.npz", "--gt", "all.npz"), ("flat.npz", "--gt", "flat_gt.npz")],
)
def test_all_forms_score_alike(run, world, arguments):
    assert score(run, *arguments) == score(run, "pred", "--gt", "data")


def test_one_file_without_ground_truth_beside_it(world):
    from pc3dcli.commands.eval_parts import run as evaluate
    from pc3dcli.commands.evaluation import Request

    options = {"split": None, "per_scene": False, "bootstrap": 0, "seed": 0, "allow_missing": False}
    options["protocol"] = "fair"
    result = evaluate(Request(["all.npz"], None, "parts", options)).result
    assert result["metrics"]["accuracy"] == 10 / 12 and result["options"]["points_per_shape"] == 4


def test_text(run, world):
    lines = run("eval", "pred", "--gt", "data", "--task", "parts").out.splitlines()
    assert lines[0] == "parts, preset parts, 3 shapes"
    assert [line.split()[0] for line in lines[2:4]] == ["Cap", "Chair"]
    assert "4 points a shape" in lines[-2]
    assert lines[-1] == "preset=parts scenes=3 classes=16 undefined=14 ignored_predictions=0"


def test_splits(run, world):
    for name in ("02954340/c", "03001627/b"):
        (world / "pred" / f"{name}.txt").unlink()
    assert run("eval", "pred", "--gt", "data", "--task", "parts").code == 4
    assert score(run, "pred", "--gt", "data", "--split", "train")["accuracy"] == 3 / 4
    assert run("eval", "pred", "--gt", "data", "--task", "parts", "--split", "trainval").code == 4
    assert run("eval", "pred", "--gt", "data", "--task", "parts", "--split", "x").code == 2
    assert run("eval", "pred", "--gt", "plain", "--task", "parts", "--split", "test").code == 2


def test_logits_choose_among_the_parts_of_the_category(run, world):
    for name, (_, prediction) in SHAPES.items():
        logits = np.zeros((4, 50), np.float32)
        logits[:, 0] = 9  # a part of airplanes
        logits[np.arange(4), prediction] = 1
        path = world / "pred" / f"{name}.txt"
        path.unlink()
        np.savez(path.with_suffix(".npz"), logits=logits)
    assert score(run, "pred", "--gt", "data")["accuracy"] == 10 / 12


def test_sampled_points(run, world):
    for name, (_, prediction) in SHAPES.items():
        path = world / "pred" / f"{name}.txt"
        path.unlink()
        index = np.array([3, 0, 0, 1, 2, 2])
        np.savez(path.with_suffix(".npz"), pred=np.array(prediction)[index], index=index)
    result = run("eval", "pred", "--gt", "data", "--task", "parts")
    assert result.code == 0 and "6 points a shape" in result.out


def test_a_part_of_another_category_is_wrong_and_warned_of(run, world):
    (world / "pred" / "02954340" / "c.txt").write_text("6\n6\n6\n0\n")
    result = run("eval", "pred", "--gt", "data", "--task", "parts")
    assert result.code == 0 and "other-category" in result.err
    assert score(run, "pred", "--gt", "data")["class_miou"] == pytest.approx((EXPECTED["Chair"] + (3 / 4 + 1) / 2) / 2)


def test_missing_shapes(run, world):
    (world / "pred" / "02954340" / "c.txt").unlink()
    result = run("eval", "pred", "--gt", "data", "--task", "parts")
    assert result.code == 4 and "1 shape (02954340/c) without predictions" in result.err
    found = score(run, "pred", "--gt", "data", "--allow-missing")
    assert found["class_miou"] == pytest.approx((EXPECTED["Chair"] + (0 + 1) / 2) / 2) and found["accuracy"] == 7 / 12


def test_shapes_of_different_sizes_are_warned_of(run, world):
    for folder in ("plain", "pred"):
        (world / folder / "02954340" / "c.txt").write_text("6\n6\n")
    result = run("eval", "pred", "--gt", "plain", "--task", "parts")
    assert result.code == 0 and "point-counts" in result.err and "different numbers of points" in result.out


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("6\n6\n6\n", None, "3 points, expected 4"),
        ("6\n6\n50\n6\n", 3, "found part 50"),
        ("6\n6\nx\n6\n", 3, "expected one integer"),
        ("", None, "0 points"),
    ],
)
def test_broken_predictions(run, world, text, line, words):
    (world / "pred" / "02954340" / "c.txt").write_text(text)
    result = run("eval", "pred", "--gt", "data", "--task", "parts")
    assert result.code == 4 and words in result.err and "c.txt" in result.err
    assert line is None or f"c.txt:{line}: " in result.err


@pytest.mark.parametrize(
    ("text", "line"), [("0 0 0 0 0 0 6\n0 0 0 6\n", 2), ("0 0 0 0 0 0 6.5\n", 1), ("0 0 0 0 0 0 60\n", 1)]
)
def test_broken_ground_truth(run, world, text, line):
    (world / "data" / "02954340" / "c.txt").write_text(text)
    result = run("eval", "pred", "--gt", "data", "--task", "parts")
    assert result.code == 4 and f"c.txt:{line}: " in result.err


def test_report_and_intervals(run, world):
    arguments = ("pred", "--gt", "data", "--task", "parts", "--bootstrap", "50")
    assert run("eval", *arguments, "--report", "r").code == 0
    report = json.loads((world / "r" / "result.json").read_text())
    assert report["per_scene"]["03001627/b"] == {"iou": 1.0, "accuracy": 1.0}
    assert report["options"]["split"] == "test" and report["per_class"]["Bag"]["iou"] is None
    low, high = report["intervals"]["instance_miou"]
    assert low < report["metrics"]["instance_miou"] < high


def test_epochs_of_a_run(run, world):
    """The last file is the checkpoint; each mean has its own best epoch, under names that say so."""
    truth = np.array([part for part, _ in SHAPES.values()])
    chairs_right, caps_right = truth.copy(), truth.copy()
    chairs_right[2], caps_right[:2] = 7, 13
    for number, pred in enumerate((chairs_right, caps_right, np.full_like(truth, 14))):
        np.savez(f"epoch_{number}.npz", pred=pred, label=truth)
    files = [f"epoch_{number}.npz" for number in range(3)]
    alone = [score(run, name) for name in files]
    assert score(run, *files) == alone[2]
    official = score(run, *files, "--protocol", "official")
    assert official["instance_miou_best_test_epoch"] == max(one["instance_miou"] for one in alone)
    assert official["class_miou_best_test_epoch"] == max(one["class_miou"] for one in alone)
    assert official["instance_miou"] == alone[2]["instance_miou"]
    text = run("eval", *files, "--task", "parts", "--protocol", "official")
    assert "best-test-epoch" in text.err and "best test epoch" in text.out
    assert run("eval", files[0], "--task", "parts", "--protocol", "official").code == 4
    assert run("eval", files[0], "pred", "--task", "parts", "--gt", "data").code == 2


def rows(run, *arguments):
    """Return the IoU of each category that occurs."""
    result = run("eval", *arguments, "--task", "parts", "--json")
    assert result.code == 0, result.err
    found = {r["class"]: r["value"] for r in result.of("metric") if "class" in r and r["name"] == "iou"}
    return {name: value for name, value in found.items() if value is not None}


CUPS = {"class_names": np.array(["cup", "pot"]), "category_parts": np.array([[0, 0], [0, 1], [1, 0], [1, 300]])}
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 300, 300]])
GUESS = np.array([[0, 1, 1, 1], [0, 0, 300, 300]])
CUP = (1 / 2 + 2 / 3) / 2


def write_cups(folder):
    """Write a data set of a cup and a pot to be tested on, and one of each with all parts to learn from."""
    folder.mkdir()
    points = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    for split in ("train", "test"):
        names = np.array([f"{split}_{index}" for index in range(2)])
        arrays = {"points": points, "part": TRUTH, "label": np.arange(2), "class_names": CUPS["class_names"]}
        np.savez(folder / f"{split}.npz", **arrays, id=names)
    return points


def test_a_file_says_what_its_categories_are(run, world):
    np.savez("cups.npz", pred=GUESS, label=TRUTH, category=np.arange(2), **CUPS)
    assert rows(run, "cups.npz") == pytest.approx({"cup": CUP, "pot": 1.0})
    text = run("eval", "cups.npz", "--task", "parts").out
    assert "published" not in text and "classes=2" in text
    np.savez("gt.npz", label=TRUTH, category=np.arange(2), **CUPS)
    np.savez("pred.npz", pred=GUESS)
    assert rows(run, "pred.npz", "--gt", "gt.npz") == pytest.approx({"cup": CUP, "pot": 1.0})


def test_a_data_set_is_ground_truth_by_name(run, world):
    write_cups(world / "cups")
    (world / "out").mkdir()
    for row, part in enumerate(GUESS):
        np.savez(world / "out" / f"test_{row}.npz", pred=part)
    found = rows(run, "out", "--gt", "cups")
    assert found == pytest.approx({"cup": CUP, "pot": 1.0})
    assert rows(run, "out", "--gt", "cups/test.npz") == found
    np.savez("rows.npz", pred=GUESS[::-1], id=np.array(["test_1", "test_0"]))
    assert rows(run, "rows.npz", "--gt", "cups") == found
    np.savez("rows.npz", pred=GUESS)
    assert rows(run, "rows.npz", "--gt", "cups") == found
    command = ("eval", "out", "--task", "parts", "--gt", "cups")
    missing = run(*command, "--split", "all")
    assert missing.code == 4 and "2 shapes (train_0, train_1) without predictions" in missing.err
    assert rows(run, "out", "--gt", "cups", "--split", "all", "--allow-missing")["cup"] == pytest.approx(CUP / 2)
    np.savez(world / "out" / "train_0.npz", pred=GUESS[0])
    extra = run(*command)
    assert extra.code == 4 and "train_0) without ground truth" in extra.err and "--split all" in extra.err
    assert run(*command, "--report", "r", "--split", "all", "--allow-missing").code == 0
    report = json.loads((world / "r" / "result.json").read_text())
    assert report["options"]["split"] == "all" and set(report["per_class"]) == {"cup", "pot"}


def write_record(path, xyz):
    """Write what `segment` says of the points of a shape."""
    from pc3dcli.formats.cloud import xyz_sha256
    from pc3dcli.stream.records import dump_record, header

    scene = {"type": "scene", "scene": path.name, "root": "/", "xyz_sha256": xyz_sha256(xyz)}
    ends = [{"type": "scene_end", "scene": path.name, "ok": True}, {"type": "end", "scenes": 1, "failed": 0}]
    lines = [dump_record(record) for record in (header(), scene, *ends)]
    path.with_suffix(".ndjson").write_text("\n".join(lines) + "\n")


def test_records_of_other_points_are_refused(run, world):
    points = write_cups(world / "cups")
    (world / "out").mkdir()
    for row in range(2):
        np.savez(world / "out" / f"test_{row}.npz", pred=TRUTH[row])
        write_record(world / "out" / f"test_{row}", points[row])
    assert score(run, "out", "--gt", "cups")["accuracy"] == 1.0
    write_record(world / "out" / "test_1", points[0])
    result = run("eval", "out", "--task", "parts", "--gt", "cups")
    assert result.code == 4 and "test_1.ndjson: shape test_1 has other points" in result.err


def test_records_of_other_points_than_shapenetparts_are_refused(run, world):
    xyz = np.arange(12, dtype=np.float32).reshape(4, 3)
    for name, (part, _) in SHAPES.items():
        text = "".join(f"{x} {y} {z} 0 0 1 {p}\n" for (x, y, z), p in zip(xyz, part, strict=True))
        (world / "data" / f"{name}.txt").write_text(text)
        write_record(world / "pred" / name, xyz)
    assert score(run, "pred", "--gt", "data")["accuracy"] == 10 / 12
    write_record(world / "pred" / "02954340" / "c", xyz[::-1])
    result = run("eval", "pred", "--task", "parts", "--gt", "data")
    assert result.code == 4 and "c.ndjson: shape 02954340/c has other points" in result.err


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"label": TRUTH % 50, "pred": TRUTH % 50, "class_names": CUPS["class_names"]}, "class cup is none of"),
        ({"label": np.array([[0, 5]]), "pred": np.array([[0, 5]])}, "parts 0, 5, which are of no one category"),
        ({"label": TRUTH, "pred": TRUTH, "category": [0, 1]}, "holds no class_names and no category_parts"),
        ({"label": TRUTH, "pred": TRUTH, "category": [0], **CUPS}, "category of 1 shapes, expected 2"),
        ({"label": TRUTH, "pred": TRUTH, "category": [0, 0], **CUPS}, "part 300, which category cup has not"),
        ({"label": TRUTH, "pred": TRUTH + 1, "category": [0, 1], **CUPS}, "found part 301, expected 0 to 300"),
    ],
)
def test_files_that_contradict_themselves(run, world, arrays, words):
    np.savez("x.npz", **arrays)
    result = run("eval", "x.npz", "--task", "parts")
    assert result.code == 4 and "x.npz: " in result.err and words in result.err, result.err


def test_text_that_is_not_shapenetparts_is_refused(run, world):
    (world / "plain" / "02954340" / "c.txt").write_text("0\n5\n0\n5\n")
    result = run("eval", "pred", "--gt", "plain", "--task", "parts")
    assert result.code == 4 and "c.txt: shape 02954340/c has parts 0, 5" in result.err


def test_arrays_of_shapenetpart_are_scored_by_its_ranges(run, world):
    """A chair without legs has four parts all the same, as in the folder of the data set."""
    points = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    stacked = np.array(list(SHAPES.values()))
    label, names = np.array([0, 0, 1]), np.array(["Chair", "Cap"])
    np.savez("caps.npz", points=points, part=stacked[:, 0], label=label, class_names=names)
    np.savez("rows.npz", pred=stacked[:, 1])
    assert rows(run, "rows.npz", "--gt", "caps.npz") == pytest.approx(EXPECTED)

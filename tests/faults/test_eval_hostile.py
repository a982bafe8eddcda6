# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval` with what a careless or hostile user gives it: exit 4 or 2 with a place, nothing half written."""

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

small = runpy.run_path(str(Path(__file__).parent / "small_files.py"))
LABEL = "Car 0 0 0 100 100 200 200 1.5 1.6 4 0 1 20 0"
FOLDS = {
    "format": "pc3d.folds/1", "way": 2, "shot": 1, "queries": 1, "seed": 0,
    "folds": [{"classes": [0, 4], "support": [["a"], ["b"]], "query": [["c"], ["d"]]}],
}  # fmt: skip
PARTS = np.full((2, 9), 6)
SAMPLES = {"logits": np.eye(4), "label": np.arange(4)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, content: str | bytes) -> None:
    small["put"](Path(name), content)


def kitti(result: str = LABEL + " 0.9\n", truth: str = LABEL + "\n") -> tuple[str, ...]:
    put("gt/000000.txt", truth)
    put("pred/000000.txt", result)
    return "eval", "pred", "--task", "kitti", "--gt", "gt"


@pytest.mark.parametrize(
    ("task", "arrays", "more"),
    [
        ("classify", SAMPLES, ()),
        ("parts", {"label": PARTS, "pred": PARTS}, ()),
        ("svm", {"features": np.eye(4), "label": np.arange(4)}, ("--train", "train.npz")),
    ],
)
def test_labels_beside_predictions_need_no_gt(run, task, arrays, more):
    np.savez("x.npz", **arrays)
    np.savez("train.npz", **{name: values * 2 if name == "features" else values for name, values in arrays.items()})
    result = run("eval", "x.npz", "--task", task, *more)
    assert result.code == 0 and "1.0000" in result.out, result.err
    assert run("eval", "x.npz", "--task", "semantic").code == 2  # which cannot do without


def scene_files(task: str) -> tuple[str, ...]:
    """Write a tiny data set; returns the command line and the file that a hostile user replaces."""
    if task == "kitti":
        return *kitti(), "pred/000000.txt"
    if task == "semantickitti":
        for name in ("gt/sequences/00/labels/0.label", "pred/sequences/00/predictions/0.label"):
            put(name, np.full(9, 10, "<u4").tobytes())
        return "eval", "pred", "--task", task, "--gt", "gt", "pred/sequences/00/predictions/0.label"
    if task == "fewshot":
        put("pred/fold_0.csv", "label,pred\n1,1\n")
        return "eval", "pred", "--task", task, "pred/fold_0.csv"
    put("gt/s.txt", "3001\n" * 200)
    put("pred/m/0.txt", "1\n" * 200)
    put("pred/s.txt", "m/0.txt 3 0.9\n" if task == "instance" else "3\n" * 200)
    return "eval", "pred", "--task", task, "--gt", "gt", "pred/s.txt"


@pytest.mark.parametrize("task", ["instance", "semantic", "kitti", "semantickitti", "fewshot"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "loop", "empty", "half a number"])
def test_what_is_no_file_is_refused_at_once(run, task, kind):
    *arguments, name = scene_files(task)
    file = Path(name)
    assert run(*arguments).code == 0
    if kind in ("empty", "half a number"):
        if task == "kitti" or (task, kind) == ("instance", "empty"):
            return  # no detection, or a class in a language of its own
        file.write_bytes(b"" if kind == "empty" else b"\xff\xfe1")
    else:
        file.unlink()
        makers = {"fifo": os.mkfifo, "folder": Path.mkdir, "loop": lambda path: path.symlink_to(path.name)}
        makers.get(kind, lambda path: path.symlink_to("/dev/zero"))(file)
    for more in ([], ["--allow-missing"]):  # what is there, but no file, is not missing
        result = run(*arguments, "--report", "r", *more)
        assert result.code == 4 and not Path("r").exists(), result.err


@pytest.mark.parametrize(("task", "name"), [("instance", "s.txt"), ("semantic", "s.txt"), ("parts", "s.txt")])
@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling"])
def test_what_is_no_file_is_not_missing_among_others(run, task, name, kind):
    for scene in ("r", "s"):
        put(f"gt/{scene}.txt", ("12\n" if task == "parts" else "3001\n" if task == "instance" else "3\n") * 200)
        put(f"pred/{scene}.txt", "m/0.mask 3 0.9\n" if task == "instance" else "12\n" * 200)
    put("pred/m/0.mask", "1\n" * 200)
    arguments = ("eval", "pred", "--task", task, "--gt", "gt", "--allow-missing")
    assert run(*arguments).code == 0
    file = Path("pred") / name
    file.unlink()
    makers = {"fifo": os.mkfifo, "folder": Path.mkdir, "dangling": lambda path: path.symlink_to("nowhere")}
    makers[kind](file)
    result = run(*arguments)
    assert result.code == 4 and "s.txt: cannot read it" in result.err
    file.rmdir() if kind == "folder" else file.unlink()
    assert run(*arguments).code == 0  # now it is missing


@pytest.mark.parametrize(
    "result",
    [
        LABEL.replace("1.5 1.6 4", "1e308 1e308 1e308") + " 1e308",
        LABEL.replace("100 100 200 200", "-1e308 -1e308 1e308 1e308") + " 0.9",
        LABEL.replace("20 0", "1e308 1e300") + " -1e308",
        LABEL.replace("1.5 1.6 4", "0 0 0") + " 0",
        LABEL.replace("1.5 1.6 4", "-1 -1e-320 -1") + " 0.9",
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_boxes_of_impossible_sizes(run, result):
    found = run(*kitti(result + "\n"), "--report", "r", "--ranges", "0-30")
    assert found.code == 0, found.err
    assert run(*kitti(truth=result.rpartition(" ")[0] + "\n")).code == 0


@pytest.mark.parametrize(
    "change",
    [
        {"seed": float("nan")},
        {"seed": {"a": float("inf")}},
        {"way": 2.0},
        {"way": 10**9},
        {"shot": True},
        {"folds": {"a": 1}},
        {"folds": "ab"},
        {"folds": [{"classes": [0, 0], "support": [["a"], ["b"]], "query": [["c"], ["d"]]}]},
    ],
    ids=str,
)
def test_folds_of_other_types(run, change):
    put("p/fold_0.csv", "id,pred\nc,0\nd,4\n")
    put("folds.json", json.dumps(FOLDS))
    assert run("eval", "p", "--task", "fewshot", "--gt", "folds.json", "--report", "ok").code == 0
    put("folds.json", json.dumps(FOLDS | change))
    result = run("eval", "p", "--task", "fewshot", "--gt", "folds.json", "--report", "r")
    assert result.code == 4 and result.err.startswith("pc3d eval: folds.json: ") and not Path("r").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": np.array("a")},
        {"class_names": np.array([["a"]])},
        {"class_names": np.arange(100_000).astype(str)},
        {"id": np.array(3)},
        {"id": np.array([0x110000] * 4, np.uint32).view("U1")},
        {"id": np.array([0xD800] * 4, np.uint32).view("U1")},
        {"label": np.full(4, 1e300)},
        {"label": np.full(4, 60_000)},  # whose confusion would take 29 GB
        {"label": np.full(4, 2**63, np.uint64)},
        {"logits": np.zeros((0, 4, 4))},
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_of_other_shapes_and_texts(run, change):
    np.savez("x.npz", **SAMPLES | change)
    result = run("eval", "x.npz", "--task", "classify", "--per-scene")
    assert result.code == 4 and "x.npz" in result.err and len(result.err.splitlines()) == 1, result.err


@pytest.mark.parametrize(
    "arrays",
    [
        {"label": PARTS, "logits": np.array(1.0)},
        {"label": PARTS[:0], "pred": PARTS[:0]},
        {"label": PARTS, "pred": PARTS * 1e300},
        {"part": PARTS.ravel(), "pred": PARTS.ravel(), "start": np.array([0, 20, 9, 18])},
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_parts_of_other_shapes(run, arrays):
    np.savez("x.npz", **arrays)
    result = run("eval", "x.npz", "--task", "parts", "--bootstrap", "5")
    assert result.code == 4 and "x.npz" in result.err


@pytest.mark.parametrize("entries", [["//etc"], ["a/../../b"], ["a/.."], ["a/b\0"], ["a/\ud800"], [1], {"a/b": 1}, 7])
def test_the_split_of_shapenet_part_leaves_no_folder(run, entries):
    put("gt/synsetoffset2category.txt", "Cap\t02954340\n")
    put("gt/train_test_split/shuffled_test_file_list.json", json.dumps(entries))
    put("pred/02954340/a.txt", "6\n")
    result = run("eval", "pred", "--task", "parts", "--gt", "gt")
    assert result.code == 4 and "shuffled_test_file_list.json: expected entries" in result.err
    put("gt/train_test_split/shuffled_test_file_list.json", "[" * 100_000)
    assert "not JSON" in run("eval", "pred", "--task", "parts", "--gt", "gt").err


def test_a_report_is_whole_or_not_there(run):
    Path("r/result.json").mkdir(parents=True)
    result = run(*kitti(), "--report", "r")
    assert result.code == 2 and "r/result.json: a folder stands" in result.err
    assert [path.name for path in Path("r").iterdir()] == ["result.json"]


def test_names_that_are_no_text_are_written_as_escapes(run):
    for folder in ("gt", "pred"):
        put(os.fsdecode(folder.encode() + b"/s\xff.txt"), "1\n2\n")
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic", "--report", "r")
    assert result.code == 0, result.err
    assert list(json.loads(Path("r/result.json").read_bytes())["per_scene"]) == ["s\udcff"]


def test_tables_that_a_spreadsheet_wrote(run):
    put("x.csv", b"\xef\xbb\xbflabel,pred\r\n0,0\r\n1,1\r\n")
    result = run("eval", "x.csv", "--task", "classify")
    assert result.code == 0 and "1.0000" in result.out, result.err


@pytest.mark.parametrize("scale", [1e200, 1e308])
def test_features_that_the_solver_never_comes_back_from(run, scale):
    np.savez("x.npz", features=np.eye(3)[np.arange(12) % 3], label=np.arange(12) % 3)
    np.savez("huge.npz", features=np.eye(3)[np.arange(12) % 3] * scale, label=np.arange(12) % 3)
    result = run("eval", "x.npz", "--task", "svm", "--train", "huge.npz")
    assert result.code == 4 and result.err.startswith("pc3d eval: huge.npz: features of ")


@pytest.mark.parametrize("option", ["--svm-c=inf", "--svm-c=1e100", "--svm-c=nan", "--seed=4294967296", "--seed=-1"])
def test_svm_options_that_the_solver_does_not_take(run, option):
    np.savez("x.npz", features=np.eye(3)[np.arange(12) % 3], label=np.arange(12) % 3)
    assert run("eval", "x.npz", "--task", "svm", "--train", "x.npz", option).code == 2

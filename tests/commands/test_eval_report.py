# SPDX-License-Identifier: Apache-2.0
"""The folder of --report: what is in it, and that it is there whole or not at all."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.scannet_instances import write_prediction, write_truth

FILES = ["report.html", "result.csv", "result.json"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two scenes of three objects, one of which scene b has found too small."""
    ids = np.repeat([0, 3001, 5001, 39001], 200)
    for scene in "ab":
        write_truth(tmp_path / "gt" / f"{scene}.txt", ids)
        masks = [ids == number for number in (3001, 5001, 39001)]
        if scene == "b":
            masks[0][300:] = False
        write_prediction(tmp_path / "pred", scene, masks, [3, 5, 39], [0.9, 0.8, 0.7])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(run, *options):
    return run("eval", "pred", "--gt", "gt", *options)


def data_of(folder):
    page = (folder / "report.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_page_holds_what_result_json_says(world, run):
    assert evaluate(run, "--report", "out/deep").code == 0
    assert listing(world / "out" / "deep") == FILES
    result, data = json.loads((world / "out/deep/result.json").read_text()), data_of(world / "out/deep")
    assert dict(data["metrics"]) == {name.upper(): f"{value:.4f}" for name, value in result["metrics"].items()}
    assert {row[0] for row in data["classes"]["rows"]} == result["per_class"].keys()
    assert [row[0] for row in data["scenes"]["rows"]] == ["a", "b"] == sorted(result["per_scene"])
    assert data["rule"] == "the 18 instance classes of ScanNet" and "100 vertices" in data["footnote"]
    assert dict(data["inputs"]) == {
        "Ground truth": result["inputs"]["gt_digest"],
        "Predictions": result["inputs"]["pred_digest"],
    }
    assert data["plots"][0]["x"] == "recall at IoU > 0.5" and data["confusion"]["names"]
    assert data["breakdowns"][0][0] == "recall by size in vertices"


def test_two_runs_give_the_same_bytes(world, run):
    for name in ("one", "two"):
        assert evaluate(run, "--report", name).code == 0
    for name in FILES:
        assert (world / "one" / name).read_bytes() == (world / "two" / name).read_bytes()


def test_bytes_do_not_depend_on_the_hash_seed(world):
    command = [sys.executable, "-m", "pc3dcli", "eval", "pred", "--gt", "gt", "--report"]
    root = str(Path(__file__).resolve().parents[2])
    for seed in ("1", "2"):
        settings = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root, "LC_ALL": "C"}
        subprocess.run([*command, seed], check=True, env=settings, capture_output=True)
    for name in FILES:
        assert (world / "1" / name).read_bytes() == (world / "2" / name).read_bytes()


def test_missing_scenes_are_said_on_top(world, run):
    (world / "pred" / "b.txt").unlink()
    result = evaluate(run, "--report", "out")
    assert result.code == 4 and "1 scene (b) without predictions" in result.err and not (world / "out").exists()
    result = evaluate(run, "--report", "out", "--allow-missing")
    assert result.code == 0 and "1 of 2 scenes" in result.out and "(missing-scene)" in result.err
    data = data_of(world / "out")
    assert (data["numScored"], data["numScenes"]) == (1, 2)
    assert data["warnings"] == [["missing-scene", "b", "scored as a scene without predictions"]]


def test_strict_fails_after_the_report_is_written(world, run):
    (world / "pred" / "b.txt").unlink()
    result = evaluate(run, "--report", "out", "--allow-missing", "--strict")
    assert result.code == 4 and "1 warning, which --strict does not accept" in result.err
    assert listing(world / "out") == FILES
    (world / "pred" / "b.txt").write_text((world / "pred" / "a.txt").read_text())
    assert evaluate(run, "--strict").code == 0


@pytest.mark.parametrize(("limit", "code"), [("AP=0.99", 5), ("ap50=0.5", 0), ("AP25=1", 0)])
def test_fail_under_fails_after_the_report_is_written(world, run, limit, code):
    result = evaluate(run, "--report", "out", "--fail-under", limit)
    assert result.code == code and listing(world / "out") == FILES
    assert ("below" in result.err) == (code == 5)


@pytest.mark.parametrize("limit", ["AP", "AP=", "AP=x", "AP=40", "AP=nan", "AP=-0.1", "wer=0.1", "=1"])
def test_a_limit_that_means_nothing_is_found_before_the_work(world, run, limit):
    result = evaluate(run, "--report", "out", "--fail-under", limit)
    assert result.code == 2 and f"--fail-under {limit}" in result.err and not (world / "out").exists()


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_printing_and_writing_say_the_same(world, run, form):
    result = evaluate(run, "--report", "out", form)
    if form == "--csv":
        assert result.out == (world / "out" / "result.csv").read_text()
        return
    written = json.loads((world / "out" / "result.json").read_text())
    printed = {
        one["name"]: one["value"] for one in result.of("metric") if one.keys() <= {"type", "name", "value", "iou"}
    }
    assert printed == written["metrics"]
    assert {one["scene"] for one in result.of("metric") if "scene" in one} == {"a", "b"}


def test_json_and_csv_exclude_each_other(world, run):
    assert evaluate(run, "--json", "--csv").code == 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_nothing(world, run, monkeypatch, name, code):
    """The disk is full at the sync of any of the three files."""
    real, path = os.fsync, world / "out" / "deep"

    def full(number):
        if name in Path(f"/proc/self/fd/{number}").readlink().name:
            raise OSError(code, os.strerror(code))
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    result = evaluate(run, "--report", path)
    assert result.code == 1 and str(path / name) in result.err and "Traceback" not in result.err
    assert not (world / "out").exists() and result.out == ""


def test_a_full_disk_keeps_the_report_that_was_there(world, run, monkeypatch):
    assert evaluate(run, "--report", "out").code == 0
    before = {name: (world / "out" / name).read_bytes() for name in FILES}
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert evaluate(run, "--report", "out", "--min-region", "300").code == 1
    assert {path.name: path.read_bytes() for path in (world / "out").iterdir()} == before


def test_a_limit_on_file_size_leaves_nothing(world):
    """A real failure of the system: the page is larger than a file may be, the other files are not."""
    command = [sys.executable, "-m", "pc3dcli", "eval", "pred", "--gt", "gt", "--report", "out"]
    settings = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    limit = 16 * 1024
    done = subprocess.run(
        command,
        env=settings,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1 and "out/report.html" in done.stderr and not (world / "out").exists()


def test_what_a_killed_run_left_is_removed(world, run):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (world / "out").mkdir()
    for name in FILES:
        (world / "out" / f".{name}.{int(dead.stdout)}.tmp").write_text("half")
    assert evaluate(run, "--report", "out").code == 0 and listing(world / "out") == FILES


def test_other_files_of_the_folder_stay(world, run):
    (world / "out").mkdir()
    (world / "out" / "notes.txt").write_text("mine")
    assert evaluate(run, "--report", "out").code == 0
    assert listing(world / "out") == sorted([*FILES, "notes.txt"])


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_the_folder_should_be_is_found_before_the_work(world, run, place):
    (world / "file").write_text("mine")
    result = evaluate(run, "--report", place)
    assert result.code == 2 and "file: expected a folder for --report, found a file" in result.err
    assert (world / "file").read_text() == "mine" and result.out == ""


def test_a_folder_that_cannot_be_written_is_found_before_the_work(world, run, monkeypatch):
    (world / "out").mkdir(mode=0o555)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != world / "out")  # root may write anywhere
    result = evaluate(run, "--report", "out")
    assert result.code == 2 and "out: cannot write to this folder" in result.err and listing(world / "out") == []

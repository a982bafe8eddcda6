# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task kitti` through the program."""

import json
import subprocess
import sys

import pytest

CAR = "Car 0.00 0 0.00 {} 100.00 {} 160.00 1.5 2.0 4.25 {} 1.5 {} 0.0"
PEDESTRIAN = "Pedestrian 0.00 0 0.00 300.00 100.00 330.00 125.00 1.8 0.6 0.8 5.0 1.5 15.0 0.0"


@pytest.fixture
def world(tmp_path):
    """Five frames of two cars, one of them far, and a pedestrian 25 pixels high; perfect results."""
    for number in range(5):
        lines = [CAR.format(100, 200, 0, 20), CAR.format(400, 500, 30, 40 + number), PEDESTRIAN]
        write(tmp_path, "gt/training/label_2", number, lines)
        write(tmp_path, "pred/data", number, [f"{line} {0.9 - i / 10}" for i, line in enumerate(lines)])
    return tmp_path


def write(root, folder, number, lines):
    path = root / folder / f"{number:06d}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def evaluate(run, world, *options):
    return run("eval", "--task", "kitti", world / "pred", "--gt", world / "gt", *options)


def result_of(run, world, *options):
    done = evaluate(run, world, "--report", world / "report", *options)
    assert done.code == 0, done.err
    return json.loads((world / "report" / "result.json").read_text())


def test_a_perfect_result(run, world):
    result = result_of(run, world)
    # 10 cars: steps 0..9 have precision 1; 5 pedestrians: steps 0..4
    assert result["per_class"]["Car"]["3d_r40_moderate"] == 9 / 40
    assert result["per_class"]["Car"]["3d_r11_moderate"] == 3 / 11
    assert result["metrics"]["3d_r40_moderate"] == pytest.approx((9 / 40 + 4 / 40) / 2)
    assert result["metrics"]["aos_r40_moderate_car"] == 9 / 40
    assert result["per_class"]["Pedestrian"]["3d_r40_easy"] is None  # too low for easy
    assert result["per_class"]["Cyclist"]["bbox_r40_hard"] is None
    assert result["counts"] == {"gt": 15, "pred": 15, "ignored_pred": 0, "classes": 3, "undefined_classes": 1}
    assert result["inputs"]["scenes"] == 5 and result["inputs"]["gt_digest"].startswith("sha256:")
    assert result["warnings"] == [] and result["per_scene"]["000003"]["3d_f1_moderate"] == 1


def test_the_text_names_the_main_number_and_ends_with_the_summary(run, world):
    lines = evaluate(run, world).out.splitlines()
    assert lines[0] == "kitti, preset kitti, 5 frames"
    assert any(line.startswith("R40 is the main number; with 40 objects or fewer R40 cannot reach 1") for line in lines)
    assert lines[-1] == "preset=kitti scenes=5 classes=3 undefined=1 ignored_predictions=0"


def test_preset_of_the_ports_ignores_objects_at_the_limit(run, world):
    row = result_of(run, world, "--preset", "kitti-py")["per_class"]["Pedestrian"]
    assert row["gt"] == 0 and row["bbox_r40_moderate"] is None


def test_loose(run, world):
    moved = CAR.format(100, 200, 1.2, 20)  # overlap 0.56
    for number in range(5):
        write(world, "pred/data", number, [f"{moved} 0.5"])
    assert result_of(run, world)["per_class"]["Car"]["bev_r40_moderate"] == 0
    assert result_of(run, world, "--loose")["per_class"]["Car"]["bev_r40_moderate"] > 0


def test_ranges(run, world):
    result = result_of(run, world, "--ranges", "0-30,30-50")
    rows = result["breakdowns"]["by depth in metres"]
    assert rows["Car 0-30"]["gt"] == rows["Car 30-50"]["gt"] == 5 and rows["Pedestrian 30-50"]["3d_r40_hard"] is None
    assert rows["Car 30-50"]["3d_r40_moderate"] == 4 / 40
    assert result["options"]["ranges"] == "0-30,30-50"
    for bad in ("x", "30", "30-20", "-5-10", "1-inf", "1-nan", "0-1,,"):
        assert evaluate(run, world, "--ranges", bad).code == 2


def test_split(run, world):
    path = world / "val.txt"
    path.write_text("000001\n000003\n")
    result = result_of(run, world, "--split", path)
    assert result["inputs"]["scenes"] == 2 and list(result["per_scene"]) == ["000001", "000003"]
    assert result["options"]["split"] == "val.txt"
    assert [warning["code"] for warning in result["warnings"]] == ["outside-split"]
    path.write_text("000001\n000009\n")
    done = evaluate(run, world, "--split", path)
    assert done.code == 4 and "1 frame (000009)" in done.err


def test_missing_and_extra_frames(run, world):
    (world / "pred/data/000002.txt").unlink()
    done = evaluate(run, world)
    assert done.code == 4 and "1 frame (000002) without predictions" in done.err
    result = result_of(run, world, "--allow-missing")
    assert result["per_class"]["Car"]["3d_r40_moderate"] == 7 / 40
    assert result["warnings"][0]["code"] == "missing-frame"
    write(world, "pred/data", 77, [])
    done = evaluate(run, world, "--allow-missing")
    assert done.code == 4 and "1 frame (000077) without ground truth" in done.err


def test_empty_results_score_zero_with_a_warning(run, world):
    for number in range(5):
        write(world, "pred/data", number, [])
    result = result_of(run, world)
    assert result["metrics"]["3d_r40_moderate"] == 0 and result["per_class"]["Cyclist"]["3d_r40_moderate"] is None
    assert [warning["detail"] for warning in result["warnings"]] == [
        "Car has no detection and scores 0", "Pedestrian has no detection and scores 0",
    ]  # fmt: skip
    assert evaluate(run, world, "--strict").code == 4


def test_no_orientation(run, world):
    line = CAR.replace("0.00 0 0.00", "0.00 0 -10").format(100, 200, 0, 20)
    write(world, "pred/data", 0, [f"{line} 0.5"])
    result = result_of(run, world)
    assert result["metrics"]["aos_r40_moderate"] is None and result["metrics"]["bbox_r40_moderate"] > 0
    assert result["warnings"][0]["code"] == "no-orientation"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR.format(1, 2, 3, 4), "000001.txt:1: found 15 columns"),
        (CAR.format(1, 2, 3, 4) + " nan", "000001.txt:1: found 'nan' for score"),
        (CAR.format(1, 2, 3, 4).replace("Car", "Cra") + " 1", "000001.txt:1: unknown type 'cra'"),
    ],
)
def test_faults_are_named(run, world, line, message):
    write(world, "pred/data", 1, [line])
    done = evaluate(run, world, "--report", world / "report")
    assert done.code == 4 and message in done.err and not (world / "report").exists()


def test_a_type_that_the_labels_have_is_known(run, world):
    bus = CAR.format(700, 800, 60, 60).replace("Car", "Bus")
    write(world, "gt/training/label_2", 1, [bus])
    write(world, "pred/data", 1, [f"{bus} 0.5"])
    assert evaluate(run, world).code == 0


def test_fail_under_and_options_of_other_tasks(run, world):
    assert evaluate(run, world, "--fail-under", "3d_r40_moderate_car=0.2").code == 0
    assert evaluate(run, world, "--fail-under", "3D_R40_moderate_Car=0.3").code == 5
    assert evaluate(run, world, "--fail-under", "ap50=0.3").code == 2
    assert evaluate(run, world, "--size-bins").code == 2
    assert run("eval", "--task", "kitti", world / "pred", world / "gt", "--gt", world / "gt").code == 2


def test_a_stream_is_refused_with_a_reason(run, world):
    done = run("eval", "--task", "kitti", "-", "--gt", world / "gt", stdin=b"")
    assert done.code == 4 and "box3d records have no image boxes" in done.err


def test_confusion_and_json(run, world):
    wrong = CAR.format(100, 200, 0, 20).replace("Car", "Cyclist")
    write(world, "pred/data", 0, [f"{wrong} 0.9"])
    done = evaluate(run, world, "--confusion", "--json")
    names = {(row["class"], row["predicted"]): row["value"] for row in done.of("metric") if row["name"] == "confusion"}
    assert names["Car", "Car"] == 8 and names["Pedestrian", None] == 1
    assert evaluate(run, world, "--csv").out.startswith("class,3d_r40_moderate,")


def test_the_same_bytes_for_any_seed_of_hashes(world):
    texts = set()
    for seed in ("1", "2"):
        command = ["eval", "--task", "kitti", world / "pred", "--gt", world / "gt", "--report", world / seed, "-q"]
        subprocess.run(
            [sys.executable, "-m", "pc3dcli", *map(str, command)],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed},
        )
        texts.add((world / seed / "result.json").read_bytes())
    assert len(texts) == 1


def test_bootstrap_over_frames(run, world):
    result = result_of(run, world, "--bootstrap", "40", "--seed", "3")
    assert result["options"]["bootstrap"] == 40 and result["options"]["seed"] == 3
    assert result["warnings"][0]["code"] == "few-scenes" and result["intervals"].keys() == result["metrics"].keys()
    assert result["intervals"]["3d_r40_moderate_car"] == [9 / 40] * 2  # any five frames are as good
    assert result["intervals"]["bbox_r40_moderate_cyclist"] == [None, None]
    write(world, "pred/data", 2, [])
    first, again = (result_of(run, world, "--bootstrap", "40", "--seed", "3")["intervals"] for _ in range(2))
    low, high = first["3d_r40_moderate_car"]
    assert first == again and 0 < low < 7 / 40 <= high == 9 / 40
    assert "95 % interval over frames" in evaluate(run, world, "--bootstrap", "5").out


def test_bootstrap_of_one_frame(run, world):
    (world / "one.txt").write_text("000001\n")
    done = evaluate(run, world, "--split", world / "one.txt", "--bootstrap", "5", "--json")
    assert {r["value"] for r in done.of("metric") if "percentile" in r} == {None} and "one-scene" in done.err

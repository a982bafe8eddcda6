# SPDX-License-Identifier: Apache-2.0
"""`pc3d eval --task semantic` through the command line: every rule of evaluation.md section 2 on hand-made scenes."""

import json

import numpy as np
import pytest

from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import write_ply


def write(folder, **scenes):
    folder.mkdir(parents=True, exist_ok=True)
    for scene, labels in scenes.items():
        lines = [",".join(map(str, row)) if isinstance(row, tuple | list) else str(row) for row in labels]
        (folder / f"{scene}.txt").write_text("\n".join(lines) + "\n")


def score(run, *arguments, code=0):
    """Return {name: value} of the flat metrics, and {class: {name: value}}."""
    result = run("eval", "--task", "semantic", "--json", *arguments)
    assert result.code == code, result.err
    flat, classes = {}, {}
    for record in result.of("metric"):
        if "class" in record and record["name"] != "confusion":
            classes.setdefault(record["class"], {})[record["name"]] = record["value"]
        elif not record.keys() & {"class", "scene", "percentile", "predicted"}:
            flat[record["name"]] = record["value"]
    return flat, classes


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "gt", a=[1, 1, 1, 1, 0, 40, 5], b=[1, 2, 2, -100])
    write(tmp_path / "pred", a=[1, 1, 2, 13, 2, 2, 5], b=[1, 2, 39, 2])
    return tmp_path


def test_scannet(run, world):
    flat, classes = score(run, "pred", "--gt", "gt")
    # wall: 3 of 5 found, none too many; floor: 1 of 2, one too many; chair 1 of 1; otherfurniture: only predicted
    assert classes["wall"] == {"iou": 3 / 5, "acc": 3 / 5}
    assert classes["floor"] == {"iou": 1 / 3, "acc": 1 / 2}
    assert classes["otherfurniture"] == {"iou": 0, "acc": None}
    assert classes["sofa"] == {"iou": None, "acc": None}
    assert flat == {
        "miou": pytest.approx((3 / 5 + 1 / 3 + 1 + 0) / 4, abs=1e-12),
        "macc": pytest.approx((3 / 5 + 1 / 2 + 1) / 3, abs=1e-12),
        "oa": 5 / 8,
    }


def test_the_table_and_its_last_line(run, world):
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic")
    lines = result.out.splitlines()
    assert result.code == 0 and lines[0] == "semantic, preset scannet, 2 scenes"
    assert lines[1].split() == ["class", "IoU", "Acc", "gt"]
    assert [line.split()[0] for line in lines[2:]][:6] == ["wall", "floor", "chair", "otherfurniture", "mean", "OA"]
    assert lines[-1] == "preset=scannet scenes=2 classes=20 undefined=16 ignored_predictions=3"


def test_perfect_predictions_score_one(run, world):
    flat, _ = score(run, "gt", "--gt", "gt")
    assert set(flat.values()) == {1.0}


def test_one_class_in_the_whole_set_is_no_error(run, world):
    write(world / "one", a=[1, 1, 1, 1, 1, 1, 1], b=[0, 0, 0, 0])
    flat, _ = score(run, "one", "--gt", "one")
    assert flat == {"miou": 1, "macc": 1, "oa": 1}


def test_nothing_to_score_is_null(run, world):
    write(world / "none", a=[0, 0], b=[])
    result = run("eval", "none", "--gt", "none", "--task", "semantic")
    assert result.code == 0 and "nothing-to-score" in result.err
    assert score(run, "none", "--gt", "none")[0] == {"miou": None, "macc": None, "oa": None}
    assert run("eval", "none", "--gt", "none", "--task", "semantic", "--strict").code == 4


def test_groups(run, world):
    write(world / "gt200", a=[1, 2, 2, 1170, 1170])  # wall and chair are head
    write(world / "pred200", a=[1, 2, 1, 1170, 5])
    flat, _ = score(run, "pred200", "--gt", "gt200", "--preset", "scannet200")
    assert flat["head_miou"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)  # door was only predicted
    assert flat["tail_miou"] == 0.5 and flat["common_miou"] is None and "head_oa" not in flat
    (world / "groups.tsv").write_text("wall\tbase\nfloor\tnovel\n")
    flat, _ = score(run, "pred", "--gt", "gt", "--groups", "groups.tsv")
    assert (flat["base_miou"], flat["novel_miou"]) == (3 / 5, 1 / 3)


def test_label_meshes_of_scans(run, world):
    labels = np.array([1, 1, 1, 1, 0, 40, 5], np.uint16)
    (world / "scans" / "a").mkdir(parents=True)
    (world / "scans" / "a" / "a.txt").write_text("axisAlignment = 1 0 0 0\n")
    write_ply(
        world / "scans" / "a" / "a_vh_clean_2.labels.ply", Cloud(np.zeros((7, 3), np.float32), extra={"label": labels})
    )
    (world / "pred" / "b.txt").unlink()
    (world / "gt" / "b.txt").unlink()
    assert score(run, "pred", "--gt", "scans") == score(run, "pred", "--gt", "gt")
    result = run("eval", "pred", "--gt", "scans", "--task", "semantic", "--preset", "scannet200")
    assert result.code == 4 and "NYU40" in result.err


@pytest.fixture
def plusplus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("wall\nfloor\nlamp\nchair\n")
    write(
        tmp_path / "gt",
        a=[(0, -100, -100), (1, 2, -100), (1, 2, 3), (-100, -100, -100), (-100, 3, -100), (7, -100, -100), (2, 0, 3)],
    )
    write(tmp_path / "pred", a=[(0, 1, 2), (2, 1, 0), (0, 3, 1), (0, 0, 0), (3, 0, 0), (0, 0, 0), (1, 1, 1)])
    return tmp_path


PLUSPLUS = ("--gt", "gt", "--preset", "scannetpp", "--classes", "classes.txt")


def test_scannetpp_top_1_and_top_3(run, plusplus):
    flat, classes = score(run, "pred", *PLUSPLUS)
    # pairs of top-1: (0,0) (2,2) (1,0) (3,3) (2,1); of top-3 the third is (3,3); vertices 3 and 5 have no label
    assert [classes[name]["iou_top1"] for name in ("wall", "floor", "lamp", "chair")] == [1 / 2, 0, 1 / 2, 1]
    assert [classes[name]["iou_top3"] for name in ("wall", "floor", "lamp", "chair")] == [1, 0, 1 / 2, 1]
    assert (flat["miou_top1"], flat["miou_top3"]) == (0.5, 0.625)
    assert (flat["oa_top1"], flat["oa_top3"]) == (3 / 5, 4 / 5)


def test_scannetpp_leaves_out_masked_vertices(run, plusplus):
    (plusplus / "masks").mkdir()
    (plusplus / "masks" / "a.txt").write_text("2\n6\n")
    flat, _ = score(run, "pred", *PLUSPLUS, "--vertex-masks", "masks")
    assert flat["miou_top1"] == 1.0
    result = run("eval", "pred", "--task", "semantic", *PLUSPLUS)
    assert "no-vertex-masks" in result.err


def test_scannetpp_one_guess_is_all_three(run, plusplus):
    write(plusplus / "one", a=[0, 2, 0, 0, 3, 0, 1])
    write(plusplus / "three", a=[(v, v, v) for v in [0, 2, 0, 0, 3, 0, 1]])
    flat, _ = score(run, "one", *PLUSPLUS)
    assert flat == score(run, "three", *PLUSPLUS)[0]
    assert flat["miou_top1"] == flat["miou_top3"]


@pytest.mark.parametrize(
    ("labels", "line", "words"),
    [
        ([(0, 1, 2)] * 4 + [(2, 3, 0)] + [(0, 0, 0)] * 2, 5, "first label is -100"),  # top-3 would hit, top-1 does not
        ([(0, 1, 2)] * 4 + [(2, 0, 0)] + [(0, 0, 0)] * 2, 5, "first label is -100"),
        ([(0, 1, 2), (4, 0, 0)] + [(3, 0, 0)] * 5, 2, "from 0 to 3"),
        ([(0, 1, 2), (0, 0, -100)] + [(3, 0, 0)] * 5, 2, "from 0 to 3"),
        ([(0, 1)] * 7, None, "2 labels a vertex"),
        ([(3, 1, 2)] * 6, None, "6 vertices, expected 7"),
    ],
)
def test_scannetpp_refusals(run, plusplus, labels, line, words):
    write(plusplus / "pred", a=labels)
    result = run("eval", "pred", "--task", "semantic", *PLUSPLUS)
    assert result.code == 4 and words in result.err
    assert line is None or f"a.txt:{line}: " in result.err


def test_missing_and_extra_scenes(run, world):
    (world / "pred" / "b.txt").unlink()
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic")
    assert result.code == 4 and "1 scene (b) without predictions" in result.err
    flat, classes = score(run, "pred", "--gt", "gt", "--allow-missing")
    assert classes["wall"]["iou"] == 2 / 5 and classes["floor"]["iou"] == 0 and flat["oa"] == 3 / 8
    table = run("eval", "pred", "--gt", "gt", "--task", "semantic", "--allow-missing")
    assert table.out.startswith("semantic, preset scannet, 1 of 2 scenes") and "ignored_predictions=2" in table.out
    write(world / "pred", b=[1, 1, 1, 1], c=[1])
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic", "--allow-missing")
    assert result.code == 4 and "1 scene (c) without ground truth" in result.err


def test_a_missing_scene_of_scannetpp_counts_its_first_valid_labels_as_missed(run, plusplus):
    write(plusplus / "gt", b=[(-100, 3, -100), (0, -100, -100), (-100, -100, -100)])
    flat, classes = score(run, "pred", *PLUSPLUS, "--allow-missing")
    assert classes["chair"]["iou_top1"] == 1 / 2 and classes["wall"]["iou_top1"] == 1 / 3 and flat["oa_top1"] == 3 / 7


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("1\n1\nx\n1\n", "a.txt:3: ", "expected one integer"),
        ("1\n1\n", "a.txt: ", "2 vertices, expected 7"),
        ("1\n" * 7 + "\n1\n", "a.txt:8: ", "expected one integer"),
        ("nan\n" * 7, "a.txt:1: ", "expected one integer"),
    ],
)
def test_broken_predictions_name_file_and_line(run, world, text, place, words):
    (world / "pred" / "a.txt").write_text(text)
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic", "--report", "report")
    assert result.code == 4 and place in result.err and words in result.err
    assert not (world / "report").exists()


def test_accepted_spellings(run, world):
    before = score(run, "pred", "--gt", "gt")
    (world / "pred" / "a.txt").write_bytes(b"1\r\n+1\r\n2.0\r\n13\r\n2\r\n2\r\n5\r\n\r\n")
    assert score(run, "pred", "--gt", "gt") == before


def test_options_of_another_preset_are_refused(run, world):
    for arguments in (("--classes", "x"), ("--vertex-masks", "gt"), ("--preset", "scannetpp"), ("--min-region", "5")):
        assert run("eval", "pred", "--gt", "gt", "--task", "semantic", *arguments).code == 2


def test_report_is_the_same_bytes_and_complete(run, world):
    names = ("x", "y")
    for name in names:
        assert run("eval", "pred", "--gt", "gt", "--task", "semantic", "--report", name).code == 0
    texts = [(world / name / "result.json").read_bytes() for name in names]
    assert texts[0] == texts[1]
    result = json.loads(texts[0])
    assert result["counts"] == {"gt": 8, "pred": 11, "ignored_pred": 3, "classes": 20, "undefined_classes": 16}
    assert set(result["per_scene"]) == {"a", "b"} and result["per_scene"]["a"]["oa"] == 3 / 5
    assert {"gt": "wall", "pred": None, "count": 1} in result["confusion"]
    assert result["inputs"]["gt_digest"].startswith("sha256:")
    write(world / "pred", a=[1, 1, 1, 13, 2, 2, 5])
    run("eval", "pred", "--gt", "gt", "--task", "semantic", "--report", "z")
    other = json.loads((world / "z" / "result.json").read_text())["inputs"]
    assert other["gt_digest"] == result["inputs"]["gt_digest"]
    assert other["pred_digest"] != result["inputs"]["pred_digest"]


def test_intervals(run, world):
    for index in range(12):
        write(world / "gt", **{f"s{index}": [1, 2, 5] * 5})
        write(world / "pred", **{f"s{index}": [1, 2, 5] * (index % 6) + [1, 2, 1] * (5 - index % 6)})
    result = run("eval", "pred", "--gt", "gt", "--task", "semantic", "--json", "--bootstrap", "200", "--seed", "3")
    bounds = {(r["name"], r["percentile"]): r["value"] for r in result.of("metric") if "percentile" in r}
    values = score(run, "pred", "--gt", "gt")[0]
    assert all(bounds[name, 2.5] < values[name] < bounds[name, 97.5] for name in ("miou", "oa"))


def test_fail_under(run, world):
    assert run("eval", "pred", "--gt", "gt", "--task", "semantic", "--fail-under", "mIoU=0.4").code == 0
    assert run("eval", "pred", "--gt", "gt", "--task", "semantic", "--fail-under", "miou=0.9").code == 5
    assert run("eval", "pred", "--gt", "gt", "--task", "semantic", "--fail-under", "ap=0.9").code == 2

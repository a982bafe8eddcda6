# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json

import numpy as np
import pytest

SCENES = [f"scene{number}" for number in range(12)]


def result_of(shift=0.0, *, scenes=SCENES, **changes):
    """A result whose numbers are `shift` higher than those of the first run, the second class undefined."""
    rng = np.random.default_rng(0)
    base = {scene: round(float(rng.uniform(0.2, 0.6)), 3) for scene in scenes}
    spread = np.random.default_rng(1).normal(0, 0.02, len(scenes)) if shift else np.zeros(len(scenes))
    result = {
        "schema": "pc3d.eval/1",
        "task": "instance",
        "preset": "scannet",
        "tool_version": "0.1.0",
        "options": {"allow_missing": False, "bootstrap": 0, "min_region": 100, "seed": None},
        "inputs": {"scenes": len(scenes), "gt_digest": "sha256:aa", "pred_digest": f"sha256:{shift}"},
        "metrics": {"ap": 0.4 + shift, "ap50": None if shift else 0.5, "head_ap": None},
        "per_class": {"chair": {"ap": 0.3 + shift, "gt": 3}, "desk": {"ap": None, "gt": 0}},
        "counts": {"gt": 3, "pred": 4, "ignored_pred": 0, "classes": 2, "undefined_classes": 1},
        "per_scene": {s: {"ap": base[s] + shift + float(d), "ap50": None} for s, d in zip(scenes, spread, strict=True)},
        "warnings": [],
    }
    return result | changes


@pytest.fixture
def compare(run, tmp_path, monkeypatch):
    """Write results as a.json, b.json, ... and run `pc3d eval --compare` on them."""
    monkeypatch.chdir(tmp_path)

    def compare_results(*results, options=()):
        names = [f"{chr(ord('a') + k)}.json" for k in range(len(results))]
        for name, result in zip(names, results, strict=True):
            (tmp_path / name).write_text(result if isinstance(result, str) else json.dumps(result))
        return run("eval", "--compare", *names, *options)

    return compare_results


def test_runs_stand_side_by_side_with_differences_and_intervals(compare):
    result = compare(result_of(), result_of(0.1), result_of(0.2))
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[:4] == ["instance, preset scannet, 3 runs over 12 scenes", "A  a.json", "B  b.json", "C  c.json"]
    assert "AP       0.4000  0.5000  0.6000  +0.1000  +0.2000" in lines
    assert "AP50     0.5000       -       -        -        -" in lines  # undefined on one side
    assert "chair  0.3000  0.4000  0.5000  +0.1000  +0.2000" in lines
    assert not any(line.startswith("desk") for line in lines)  # undefined in all
    assert lines[-1] == "preset=scannet scenes=12 runs=3"
    assert result.err == ""
    row = next(line.split() for line in lines[lines.index("B-A scene by scene") :] if line.startswith("AP "))
    assert float(row[2]) < float(row[1]) < float(row[3]) and row[4] == "12"
    assert float(row[1]) == pytest.approx(0.1, abs=0.02)


def test_json_and_csv_say_the_same(compare):
    records = compare(result_of(), result_of(0.1), options=["--json"]).of("metric")
    found = {}
    for record in records:
        key = (record["name"], record.get("class"), record.get("run"), record.get("minus"))
        found[(*key, record.get("over"), record.get("percentile"))] = record["value"]
    table = compare(result_of(), result_of(0.1), options=["--csv"]).out
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["class"], row["metric"]) for row in rows[:4]] == [
        ("", "ap"), ("", "ap50"), ("", "head_ap"), ("chair", "ap")
    ]  # fmt: skip
    row = rows[0]
    assert float(row["A"]) == found["ap", None, "A", None, None, None] == 0.4
    assert float(row["B-A"]) == found["ap", None, "B", "A", None, None]
    assert float(row["B-A scene mean"]) == found["ap", None, "B", "A", "scenes", None]
    assert float(row["B-A scene low"]) == found["ap", None, "B", "A", "scenes", 2.5]
    assert float(row["B-A scene high"]) == found["ap", None, "B", "A", "scenes", 97.5]
    assert found["ap50", None, "B", "A", None, None] is None and rows[1]["B-A"] == ""
    assert found["ap50", None, "B", "A", "scenes", 2.5] is None and rows[1]["B-A scenes"] == "0"
    assert found["ap", "chair", "B", "A", None, None] == pytest.approx(0.1)


def test_a_result_against_itself_differs_by_nothing(compare):
    result = compare(result_of(), result_of(), options=["--csv"])
    row = next(csv.DictReader(io.StringIO(result.out)))
    assert [float(row[name]) for name in ("B-A", "B-A scene mean", "B-A scene low", "B-A scene high")] == [0.0] * 4
    assert "(same-predictions)" in result.err


def test_order_of_scenes_in_the_file_changes_nothing_and_the_seed_does(compare):
    second = result_of(0.1)
    turned = second | {"per_scene": dict(reversed(second["per_scene"].items()))}
    texts = [compare(result_of(), one, options=["--csv"]).out for one in (second, turned)]
    assert texts[0] == texts[1] != compare(result_of(), second, options=["--csv", "--seed", "1"]).out
    assert compare(result_of(), second, options=["--csv", "--bootstrap", "10"]).out != texts[0]


def test_without_resamples_there_are_no_intervals(compare):
    row = next(
        csv.DictReader(io.StringIO(compare(result_of(), result_of(0.1), options=["--csv", "--bootstrap", "0"]).out))
    )
    assert row["B-A scene mean"] and not row["B-A scene low"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "semantic"}, "task is semantic, but instance in a.json"),
        ({"preset": "scannet200"}, "preset is scannet200, but scannet in a.json"),
        ({"options": {"min_region": 50}}, "option min_region is 50, but 100 in a.json"),
        ({"options": {"min_region": 100, "scores": "uniform"}}, "option scores is uniform, but not set in a.json"),
        ({"inputs": {"scenes": 12, "gt_digest": "sha256:bb"}}, "digest of the ground truth is sha256:bb"),
        ({"inputs": {"scenes": 13}}, "number of scenes is 13, but 12"),
        ({"per_scene": {"other": {"ap": 1.0}}}, "13 scenes (other, scene0, "),
    ],
)
def test_different_rules_are_refused_by_name(compare, changes, message):
    result = compare(result_of(), result_of(0.1, **changes))
    assert result.code == 4 and result.out == ""
    assert result.err.startswith("pc3d eval: b.json: cannot be compared: ") and message in result.err


def test_options_that_change_no_number_may_differ(compare):
    options = {"allow_missing": True, "bootstrap": 500, "min_region": 100, "seed": 3}
    warning = {"code": "missing-scene", "file": "scene1", "detail": "scored as a scene without predictions"}
    result = compare(result_of(), result_of(0.1, options=options, warnings=[warning]))
    assert result.code == 0
    assert "b.json: was scored with predictions missing (1 warning) (missing-predictions)" in result.err


def test_a_seed_without_resamples_decides(compare):
    runs = [result_of(shift, options={"seed": seed}) for shift, seed in ((0, 0), (0.1, 1))]
    result = compare(*runs)
    assert result.code == 4 and "option seed is 1, but 0" in result.err


def test_what_cannot_be_checked_is_warned_of(compare):
    without = result_of(0.1, inputs={"scenes": 12, "gt_digest": None, "pred_digest": None}, tool_version="0.2.0")
    del without["per_scene"]
    result = compare(result_of(), without)
    assert result.code == 0 and "scene by scene" not in result.out and "no numbers of scenes" in result.out
    for code in ("no-digest", "no-scenes", "other-version"):
        assert f"({code})" in result.err
    assert compare(result_of(), without, options=["--strict"]).code == 4


@pytest.mark.parametrize(("count", "words"), [(9, "over 9 scenes is unreliable"), (1, "over one scene has no meaning")])
def test_few_scenes_are_warned_of(compare, count, words):
    result = compare(*(result_of(shift, scenes=SCENES[:count]) for shift in (0, 0.1)), options=["--csv"])
    row = next(csv.DictReader(io.StringIO(result.out)))
    assert words in result.err and bool(row["B-A scene low"]) == (count > 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "b.json:1:2: not JSON: Expecting property name"),
        ('{"a": \n NaN}', "b.json: not JSON: NaN is no JSON number"),
        ("[1]", "b.json: found schema None, expected 'pc3d.eval/1'"),
        ("[" * 200_000, "b.json: not a result: brackets without end"),
        (json.dumps(result_of(schema="pc3d.eval/2")), "found schema 'pc3d.eval/2'"),
        (json.dumps(result_of(metrics=[])), "'metrics' is list, expected dict"),
        (json.dumps(result_of(metrics={"ap": "0.5"})), "metrics: ap is '0.5', expected a number or null"),
        (json.dumps(result_of(metrics={"ap": True})), "metrics: ap is True, expected a number or null"),
        (json.dumps(result_of()).replace("0.4,", "1e999,", 1), "ap is inf"),
        (json.dumps(result_of(per_scene={"s": 3})), "per_scene of s: found int, expected dict"),
        (json.dumps(result_of(per_class=3)), "'per_class' is int, expected dict"),
        (json.dumps(result_of(inputs={})), "'inputs' has scenes None, expected a count"),
        ('{"a": ' + "9" * 5000 + "}", "b.json: not JSON: "),
    ],
)  # fmt: skip
def test_malformed_results_are_named(compare, text, message):
    result = compare(result_of(), text)
    assert result.code == 4 and result.out == "" and message in result.err and "Traceback" not in result.err


def test_bytes_that_are_no_text(compare, tmp_path, run):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{}")
    result = run("eval", "--compare", "x.json", "x.json")
    assert result.code == 4 and "x.json: not UTF-8 at byte 0" in result.err
    result = run("eval", "--compare", "none.json", "x.json")
    assert result.code == 4 and "none.json: cannot read it: No such file" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gt", "gt"], "--gt does not apply to --compare"),
        (["--report", "r"], "--report does not apply to --compare"),
        (["--task", "kitti"], "--task does not apply to --compare"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--fail-under", "wer=0"], "no metric 'wer'"),
        (["--fail-under", "mate=0"], "no metric 'mate' of which more is better"),
        (["--fail-under", "ap=x"], "expected METRIC=VALUE"),
        (["--fail-under", "ap=-5"], "in [-1, 1], never percent"),
        (["--fail-under", "ap=nan"], "in [-1, 1], never percent"),
        (["-"], "not standard input"),
    ],
)
def test_options_that_mean_nothing_here(compare, options, message):
    metrics = {"ap": 0.4, "mate": 0.3}
    result = compare(*(result_of(shift, metrics=metrics) for shift in (0, 0.1)), options=options)
    assert result.code == 2 and message in result.err


def test_one_file_is_not_enough(compare):
    assert compare(result_of()).code == 2


@pytest.mark.parametrize(("limit", "code"), [("AP=-0.2", 0), ("AP=-0.1001", 0), ("ap=0", 5), ("ap50=-1", 5)])
def test_a_run_that_got_worse_fails(compare, limit, code):
    result = compare(result_of(0.2), result_of(0.1), options=["--fail-under", limit])
    assert result.code == code
    assert (" differs by " in result.err) == (code == 5)


def test_folders_stand_for_their_result_and_lists_are_opened(compare, tmp_path, run):
    for name, shift in (("one", 0.0), ("two", 0.1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result_of(shift)))
    (tmp_path / "list.txt").write_text("one\ntwo\n")
    plain, listed = run("eval", "--compare", "one", "two"), run("eval", "--compare", "@list.txt")
    assert plain.code == 0 and plain.out == listed.out and "B  two" in plain.out

# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pc3dcli import main
from pc3dcli.formats.coco_rle import encode_points
from pc3dcli.formats.scannet_instances import write_prediction, write_truth

IDS = {
    "a": np.repeat([0, 1001, 3001, 5001, 5002], 200),
    "b": np.repeat([0, 3007, 5003, 39001], 180),
}


def predictions_of(scene):
    """A good mask for each instance of the 18 classes, one of them 60 % of its object."""
    ids = IDS[scene]
    found = []
    for rank, number in enumerate(n for n in np.unique(ids) if n // 1000 in (3, 5, 39)):
        mask = ids == number
        if rank == 1:
            mask[np.flatnonzero(mask)[int(0.6 * mask.sum()) :]] = False
        found.append((mask, int(number // 1000), 0.9 - 0.2 * rank))
    return found


def write_folder(folder, scenes=("a", "b")):
    for scene in scenes:
        masks, labels, scores = zip(*predictions_of(scene), strict=True)
        write_prediction(folder, scene, masks, labels, scores)


def stream_text(scenes=("a", "b"), *, failed=(), label=True):
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for scene in scenes:
        records.append({"type": "scene", "scene": scene, "root": ".", "num_points": IDS[scene].size})
        for number, (mask, label_id, score) in enumerate(predictions_of(scene) if scene not in failed else ()):
            record = {"type": "instance3d", "scene": scene, "instance": number, "rle": encode_points(mask)}
            records.append(record | {"score": score} | ({"label_id": label_id} if label else {}))
        records.append({"type": "mask2d", "scene": scene, "frame": "0", "track": 1, "rle": {}})
        records.append({"type": "scene_end", "scene": scene, "ok": scene not in failed})
    records.append({"type": "end", "scenes": len(scenes), "failed": len(failed)})
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def world(tmp_path):
    for scene, ids in IDS.items():
        write_truth(tmp_path / "gt" / f"{scene}.txt", ids)
    write_folder(tmp_path / "pred")
    return tmp_path


@pytest.fixture
def pc3d(world, capsys, monkeypatch):
    """Run `pc3d eval ARGS` in the world's folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(world)

    def run(*arguments, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main._run(["eval", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def metrics_of(output):
    """Return {name: value} of the means among `metric` records."""
    records = [json.loads(line) for line in output.splitlines()]
    return {
        record["name"]: record["value"]
        for record in records
        if record["type"] == "metric" and not record.keys() & {"class", "scene", "size", "percentile"}
    }


def test_table(pc3d):
    code, out, err = pc3d("pred", "--gt", "gt")
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert lines[0] == "instance, preset scannet, 2 scenes"
    assert lines[1].split() == ["class", "AP", "AP50", "AP25", "gt"]
    assert lines[-4].split()[0] == "mean" and lines[-4].split()[2] == "1.0000"
    assert lines[-3] == "scannet: the 18 instance classes of ScanNet; instances of 100 vertices or more"
    assert lines[-2].startswith("ignored 0 of 6 predictions: ")
    assert lines[-1] == "preset=scannet scenes=2 classes=18 undefined=15 ignored_predictions=0"
    assert all(len(line) == len(line.rstrip()) for line in lines)


def test_sources_give_the_same_numbers(pc3d, world):
    from safetensors.numpy import save_file

    for suffix in ("npz", "safetensors", "json"):
        (world / suffix).mkdir()
    for scene in IDS:
        masks, labels, scores = (np.array(part) for part in zip(*predictions_of(scene), strict=True))
        content = {"pred_masks": np.ascontiguousarray(masks.T), "pred_scores": scores, "pred_classes": labels}
        np.savez(world / "npz" / f"{scene}.npz", **content)
        save_file(content, world / "safetensors" / f"{scene}.safetensors")
        lines = []
        for number, mask in enumerate(masks):
            runs = np.flatnonzero(np.diff(np.concatenate(([0], mask, [0])))).reshape(-1, 2)
            counts = " ".join(f"{start + 1} {stop - start}" for start, stop in runs)
            (world / "json" / f"{scene}{number}.json").write_text(json.dumps({"length": mask.size, "counts": counts}))
            lines.append(f"{scene}{number}.json {labels[number]} {float(scores[number])!r}\n")
        (world / "json" / f"{scene}.txt").write_text("".join(lines))
    (world / "stream.ndjson").write_text(stream_text())
    (world / "out").mkdir()
    (world / "out" / "run.json").write_text("{}")
    for scene in IDS:
        (world / "out" / f"{scene}.ndjson").write_text(stream_text([scene]))
    expected = pc3d("pred", "--gt", "gt", "--csv")
    assert expected[0] == 0
    for source in ("npz", "safetensors", "json", "stream.ndjson", "out"):
        assert pc3d(source, "--gt", "gt", "--csv") == expected
    for arguments in (("-",), ()):
        assert pc3d(*arguments, "--gt", "gt", "--csv", stdin=stream_text()) == expected
    two_segments = stream_text(["b"]) + stream_text(["a"])
    assert pc3d("--gt", "gt", "--csv", stdin=two_segments) == expected


def test_several_streams_are_one(pc3d, world):
    for scene in IDS:
        (world / f"{scene}.ndjson").write_text(stream_text([scene]))
    (world / "list.txt").write_text("a.ndjson\nb.ndjson\n")
    expected = pc3d("pred", "--gt", "gt", "--csv")
    assert pc3d("a.ndjson", "b.ndjson", "--gt", "gt", "--csv") == expected
    assert pc3d("@list.txt", "--gt", "gt", "--csv") == expected
    code, _, err = pc3d("a.ndjson", "pred", "--gt", "gt")
    assert code == 2 and "pred is no stream" in err
    (world / "b.ndjson").write_text(stream_text(["b"]).replace('"score": 0.9', '"score": "high"'))
    code, _, err = pc3d("a.ndjson", "b.ndjson", "--gt", "gt")
    assert code == 4 and "b.ndjson:3: score is 'high'" in err  # the file that is wrong, not the first


def test_verbose_and_progress_tell_the_scenes(pc3d):
    assert pc3d("pred", "--gt", "gt", "-v")[2].splitlines() == ["pc3d eval: a: read", "pc3d eval: b: read"]
    assert pc3d("pred", "--gt", "gt", "--progress")[2] != pc3d("pred", "--gt", "gt")[2]


def test_result_json_is_the_same_for_any_order_locale_and_hash_seed(world):
    write_truth(world / "scans" / "a" / "gt" / "a.txt", IDS["a"])
    write_truth(world / "scans" / "b" / "gt" / "b.txt", IDS["b"])
    texts = set()
    orders = [("a", "b"), ("b", "a")]
    for number, (order, locale) in enumerate(zip(orders, ("C", "C.UTF-8"), strict=True)):
        path = os.pathsep.join(part for part in sys.path if part)
        environment = os.environ | {"PYTHONHASHSEED": str(number), "LC_ALL": locale, "PYTHONPATH": path}
        report = world / f"report{number}"
        command = [sys.executable, "-m", "pc3dcli", "eval", "-", "--gt", "scans", "--report", report, "--per-scene"]
        extra = ["--size-bins", "--confusion", "--recall", "--bootstrap", "20"]
        subprocess.run([*command, *extra], input=stream_text(order).encode(), env=environment, cwd=world, check=True)
        texts.add((report / "result.json").read_bytes() + (report / "result.csv").read_bytes())
    assert len(texts) == 1


def test_result_json_fields(pc3d, world):
    assert pc3d("pred", "--gt", "gt", "--report", "report", "--min-region", "120")[0] == 0
    result = json.loads((world / "report" / "result.json").read_text())
    assert result["schema"] == "pc3d.eval/1" and result["task"] == "instance" and result["preset"] == "scannet"
    assert result["options"]["min_region"] == 120 and result["options"]["scores"] == "model"
    assert result["inputs"]["scenes"] == 2
    assert result["metrics"].keys() == {"ap", "ap50", "ap25"}
    assert result["per_class"]["bed"] == {"ap": None, "ap50": None, "ap25": None, "gt": 0}
    assert result["counts"] == {"gt": 6, "pred": 6, "ignored_pred": 1, "classes": 18, "undefined_classes": 15}
    assert result["warnings"] == []
    before = result["inputs"]
    (world / "gt" / "a.txt").write_text((world / "gt" / "a.txt").read_text() + "\n")
    pc3d("pred", "--gt", "gt", "--report", "report")
    after = json.loads((world / "report" / "result.json").read_text())["inputs"]
    assert after["gt_digest"] != before["gt_digest"] and after["pred_digest"] == before["pred_digest"]


def test_json_gives_metric_records_with_all_digits(pc3d, world):
    code, out, _ = pc3d("pred", "--gt", "gt", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [records[0]["type"], records[1]["type"], records[-1]] == [
        "header", "program", {"type": "end", "scenes": 2, "failed": 0},
    ]  # fmt: skip
    pc3d("pred", "--gt", "gt", "--report", "report")
    assert metrics_of(out) == json.loads((world / "report" / "result.json").read_text())["metrics"]
    chair = [r["value"] for r in records if r.get("class") == "chair" and r["name"] == "ap50"]
    assert chair == [1.0]
    assert "program" not in pc3d("pred", "--gt", "gt", "--json", "--no-provenance")[1].splitlines()[1]


def test_csv(pc3d):
    rows = list(csv.DictReader(io.StringIO(pc3d("pred", "--gt", "gt", "--csv")[1])))
    assert [row["class"] for row in rows][:2] == ["cabinet", "bed"] and rows[-1]["class"] == "(mean)"
    assert rows[1]["ap"] == "" and float(rows[0]["ap50"]) == 1.0
    assert pc3d("pred", "--gt", "gt", "--csv", "--json")[0] == 2


def test_presets_differ_and_are_named(pc3d):
    values = {}
    for preset in ("scannet", "agnostic-segment3d", "agnostic-maskclustering", "agnostic-valid"):
        options = ["--classes", "scannet"] if preset == "agnostic-valid" else []
        code, out, _ = pc3d("pred", "--gt", "gt", "--preset", preset, *options)
        assert code == 0 and f"preset={preset} " in out
        values[preset] = out.splitlines()[-4].split()[-1]  # ground-truth instances
    assert values == {
        "scannet": "6", "agnostic-segment3d": "7", "agnostic-maskclustering": "7", "agnostic-valid": "6",
    }  # fmt: skip
    assert "gt" in pc3d("pred", "--gt", "gt", "--preset", "scannet200")[1]
    assert pc3d("pred", "--gt", "gt", "--preset", "coco")[0] == 2


def test_class_agnostic_is_short_for_agnostic_valid(pc3d):
    plain = pc3d("pred", "--gt", "gt", "--preset", "agnostic-valid", "--csv")
    assert pc3d("pred", "--gt", "gt", "--class-agnostic", "--csv") == plain
    assert pc3d("pred", "--gt", "gt", "--class-agnostic", "--preset", "scannet")[0] == 2
    # without labels in the stream only the agnostic presets can score
    unlabelled = stream_text(label=False)
    assert pc3d("--gt", "gt", "--class-agnostic", "--csv", stdin=unlabelled) == plain
    code, _, err = pc3d("--gt", "gt", stdin=unlabelled)
    assert code == 4 and "<stdin>:3: instance3d has no label" in err and "--class-agnostic" in err


def test_classes_and_label_void(pc3d):
    def gt_count(*options):
        return pc3d("pred", "--gt", "gt", *options)[1].splitlines()[-4].split()[-1]

    assert gt_count("--class-agnostic", "--classes", "scannet") == "6"
    assert gt_count("--class-agnostic", "--classes", "scannet", "--label-void", "5") == "3"
    assert gt_count("--preset", "agnostic-segment3d", "--label-void", "1,5") == "3"
    assert pc3d("pred", "--gt", "gt", "--label-void", "1")[0] == 2
    assert pc3d("pred", "--gt", "gt", "--class-agnostic", "--label-void", "wall")[0] == 2
    assert pc3d("pred", "--gt", "gt", "--classes", "scannet")[0] == 2
    assert pc3d("pred", "--gt", "gt", "--class-agnostic", "--classes", "nothing")[0] == 2


def test_scannetpp_needs_its_lists_and_drops_masked_vertices(pc3d, world):
    (world / "all.txt").write_text("".join(f"class {number}\n" for number in range(40)))
    (world / "some.txt").write_text("class 3\nclass 5\n")
    options = ["pred", "--gt", "gt", "--preset", "scannetpp", "--classes", "all.txt", "--instance-classes", "some.txt"]
    assert pc3d("pred", "--gt", "gt", "--preset", "scannetpp")[0] == 2
    code, out, err = pc3d(*options)
    assert code == 0 and "no-vertex-masks" in err and "classes=2" in out
    assert out.splitlines()[-4].split()[-1] == "5"
    (world / "masks").mkdir()
    for scene, first in (("a", 600), ("b", 0)):  # all of 5001's vertices but 99, nothing of b
        text = "".join(f"{first + index}\n" for index in range(101 if scene == "a" else 0))
        (world / "masks" / f"{scene}.txt").write_text(text)
    code, out, err = pc3d(*options, "--vertex-masks", "masks")
    assert code == 0 and err == ""
    assert out.splitlines()[-4].split()[-1] == "4"  # 5001 is below the region limit now
    (world / "masks" / "b.txt").unlink()
    assert pc3d(*options, "--vertex-masks", "masks")[0] == 4
    assert pc3d("pred", "--gt", "gt", "--vertex-masks", "masks")[0] == 2


def test_scannet200_reports_groups(pc3d):
    code, out, _ = pc3d("pred", "--gt", "gt", "--preset", "scannet200", "--json")
    assert code == 0 and {"head_ap", "common_ap50", "tail_ap25"} <= metrics_of(out).keys()
    code, out, _ = pc3d("pred", "--gt", "gt", "--preset", "scannet200", "--csv")
    assert [line.split(",")[0] for line in out.splitlines()[-4:]] == ["(common)", "(head)", "(tail)", "(mean)"]


def test_scores(pc3d):
    text = stream_text().replace('"score": 0.9', '"score": 0.1')
    model = pc3d("--gt", "gt", "--csv", stdin=text)[1]
    uniform = pc3d("--gt", "gt", "--csv", "--scores", "uniform", stdin=text)[1]
    assert model != uniform
    missing = stream_text().replace(', "score": 0.9', "")
    code, _, err = pc3d("--gt", "gt", stdin=missing)
    assert code == 4 and "<stdin>:3: score is None" in err and "--scores uniform" in err
    assert pc3d("--gt", "gt", "--csv", "--scores", "uniform", stdin=missing)[1] == uniform


@pytest.mark.parametrize("score", ["NaN", "Infinity", "true", '"high"'])
def test_bad_scores_in_a_stream(pc3d, score):
    code, _, err = pc3d("--gt", "gt", stdin=stream_text().replace('"score": 0.9', f'"score": {score}'))
    assert code == 4 and "<stdin>:3" in err


def test_min_region(pc3d):
    assert pc3d("pred", "--gt", "gt", "--min-region", "160")[1] != pc3d("pred", "--gt", "gt")[1]


def test_extras_appear_on_request(pc3d, world):
    plain = pc3d("pred", "--gt", "gt")[1]
    for option, sign in (
        (["--recall"], "RC50"),
        (["--per-scene"], "per scene"),
        (["--size-bins"], "<5000"),
        (["--confusion"], "predicted"),
        (["--bootstrap", "10"], "interval"),
    ):
        assert sign not in plain
        assert sign in pc3d("pred", "--gt", "gt", *option)[1]
    one, other = (pc3d("pred", "--gt", "gt", "--bootstrap", "3", "--seed", seed)[1] for seed in "01")
    assert one != other
    assert pc3d("pred", "--gt", "gt", "--matches", "m.jsonl")[1] == plain
    rows = [json.loads(line) for line in (world / "m.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "scene": "a", "class": "cabinet", "threshold": 0.5, "gt": 3001, "prediction": 0, "iou": 1.0, "outcome": "match",
    }  # fmt: skip
    assert {row["outcome"] for row in rows} == {"match", "missed", "false_positive"}


def test_fail_under(pc3d):
    assert pc3d("pred", "--gt", "gt", "--fail-under", "AP50=1.0")[0] == 0
    code, out, err = pc3d("pred", "--gt", "gt", "--fail-under", "ap50=0.5", "--fail-under", "AP=0.95")
    assert code == 5 and "mean" in out and "ap is 0.7" in err and "below 0.95" in err
    assert pc3d("pred", "--gt", "gt", "--fail-under", "RC50=0.5")[0] == 2
    assert pc3d("pred", "--gt", "gt", "--recall", "--fail-under", "RC50=0.5")[0] == 0
    for text in ("AP50", "AP50=much", "AP50=40", "AP51=0.4"):
        assert pc3d("pred", "--gt", "gt", "--fail-under", text)[0] == 2
    assert pc3d("pred", "--gt", "gt", "--preset", "scannet200", "--fail-under", "tail_ap=0")[0] == 5  # undefined


def test_missing_and_extra_scenes(pc3d, world):
    for scene in ("c", "d"):
        write_truth(world / "gt" / f"{scene}.txt", IDS["b"])
    code, out, err = pc3d("pred", "--gt", "gt")
    assert code == 4 and out == "" and "2 scenes (c, d) without predictions" in err and "--allow-missing" in err
    assert pc3d("--gt", "gt", stdin=stream_text())[0] == 4
    code, out, err = pc3d("pred", "--gt", "gt", "--allow-missing")
    assert code == 0 and out.startswith("instance, preset scannet, 2 of 4 scenes\n") and "missing-scene" in err
    assert pc3d("--gt", "gt", "--allow-missing", stdin=stream_text())[1] == out
    for number in range(12):
        write_folder(world / "pred", ["a"])
        (world / "pred" / "a.txt").rename(world / "pred" / f"extra{number:02d}.txt")
    code, _, err = pc3d("pred", "--gt", "gt", "--allow-missing")
    assert code == 4 and "and 2 more" in err and "extra09" in err and "extra10" not in err
    assert pc3d("--gt", "gt", "--allow-missing", stdin=stream_text().replace('"a"', '"z"'))[0] == 4


def test_failed_scene_of_an_earlier_stage(pc3d):
    text = stream_text(failed=["b"])
    code, _, err = pc3d("--gt", "gt", stdin=text)
    assert code == 4 and "their producer failed" in err
    code, out, err = pc3d("--gt", "gt", "--allow-missing", stdin=text)
    assert code == 0 and "1 of 2 scenes" in out and "failed-scene" in err


def test_truncated_and_empty_streams(pc3d):
    text = stream_text()
    without_end = "".join(text.splitlines(keepends=True)[:-1])
    assert pc3d("--gt", "gt", stdin=without_end)[0] == 4
    assert pc3d("--gt", "gt", "--allow-truncated", stdin=without_end)[0] == 0
    code, _, err = pc3d("--gt", "gt", stdin="")
    assert code == 4 and "<stdin>: empty; expected a pc3d stream" in err
    nothing = pc3d("--gt", "gt", stdin=text.replace("instance3d", "other3d").replace("mask2d", "other2d"))
    assert nothing[0] == 0 and "there are no predictions" in nothing[2]


def program(identifier, name, parents=()):
    record = {"type": "program", "id": identifier, "program": name, "version": "1", "argv": [], "parents": parents}
    return json.dumps(record) + "\n"


def test_a_stream_of_2d_masks_is_not_one_without_predictions(pc3d):
    header, *rest = stream_text().replace("instance3d", "other3d").splitlines(keepends=True)
    masks = "".join(rest)
    no_masks = masks.replace("mask2d", "other2d")
    tracked = program("0" * 12, "pc3d track2d")
    lifted = tracked + program("1" * 12, "pc3d lift3d", ["0" * 12])
    for text in (header + masks, header + tracked + masks, header + tracked + no_masks):
        code, out, err = pc3d("--gt", "gt", stdin=text)
        assert code == 4 and out == "" and "2 scenes (a, b) with 2D masks" in err and "run `pc3d lift3d` first" in err
        assert pc3d("--gt", "gt", "--allow-missing", stdin=text)[0] == 4
    for text in (header + lifted + masks, header + lifted + no_masks, header + no_masks):
        code, out, err = pc3d("--gt", "gt", stdin=text)
        assert code == 0 and "there are no predictions" in err and "0.0000" in out


def test_masks_beside_their_instances_need_no_lifting(pc3d):
    tracks = stream_text().replace("instance3d", "other3d")
    labels = stream_text().replace("mask2d", "other2d")
    for text in (tracks + labels, labels + tracks):
        assert pc3d("--gt", "gt", "--csv", stdin=text) == pc3d("--gt", "gt", "--csv", stdin=stream_text())


def test_intervals_over_few_scenes_are_unreliable_and_over_one_have_no_meaning(pc3d, world):
    code, out, err = pc3d("pred", "--gt", "gt", "--bootstrap", "9")
    assert code == 0 and "an interval over 2 scenes is unreliable (few-scenes)" in err
    for name in ("gt/b.txt", "pred/b.txt"):
        (world / name).unlink()
    code, out, err = pc3d("pred", "--gt", "gt", "--bootstrap", "9", "--report", "report")
    assert code == 0 and "an interval over one scene has no meaning (one-scene)" in err
    assert out.splitlines()[-6].split() == ["AP", "-", "-"]
    intervals = json.loads((world / "report/result.json").read_text())["intervals"]
    assert intervals == dict.fromkeys(("ap", "ap50", "ap25"), [None, None])
    for name in "bcdefghij":
        write_truth(world / "gt" / f"{name}.txt", IDS["b"])
    enough = pc3d("pred", "--gt", "gt", "--bootstrap", "9", "--allow-missing")
    assert enough[0] == 0 and "interval" not in enough[2]


def test_strict_turns_warnings_into_exit_4(pc3d, world):
    path = world / "pred" / "a.txt"
    first = path.read_text().splitlines()[0].split()
    path.write_text(path.read_text() + f"./{first[0]} 5 0.1\n")
    code, _, err = pc3d("pred", "--gt", "gt")
    assert code == 0 and "duplicate-mask-path" in err and "a.txt" in err
    assert pc3d("pred", "--gt", "gt", "--quiet")[2] == ""
    assert pc3d("pred", "--gt", "gt", "--strict")[0] == 4
    assert pc3d("pred", "--gt", "gt", "--preset", "scannet200", "--strict")[0] == 0  # two predictions there


def test_duplicate_path_keeps_the_place_of_the_first_and_the_values_of_the_last(pc3d, world):
    path = world / "pred" / "a.txt"
    lines = path.read_text().splitlines()
    name = lines[0].split()[0]
    path.write_text("\n".join([*lines, f"{name} 5 0.05"]))
    doubled = pc3d("pred", "--gt", "gt", "--csv")[1]
    path.write_text("\n".join([f"{name} 5 0.05", *lines[1:]]))
    assert pc3d("pred", "--gt", "gt", "--csv")[1] == doubled


@pytest.mark.parametrize(
    ("file", "text", "place"),
    [
        ("gt/a.txt", "1\nx\n", "gt/a.txt:2: found 'x'"),
        ("gt/a.txt", "1\n", "mask of 1000 vertices, expected 1"),
        ("pred/a_masks/0000.txt", "1\n0\n", "pred/a_masks/0000.txt: mask of 2 vertices, expected 1000"),
        ("pred/a_masks/0000.txt", "1\n\n0\n", "pred/a_masks/0000.txt:2:"),
        ("pred/a.txt", "a_masks/0000.txt 3 nan\n", "pred/a.txt:1: confidence is 'nan'"),
        ("pred/a.txt", "a_masks/0000.txt 3 0.5\n../gt/a.txt 3 1\n", "pred/a.txt:2:"),
        ("pred/a.npz", "PK", "scene a has two files"),
    ],
)
def test_broken_inputs_end_with_4_and_the_place(pc3d, world, file, text, place):
    (world / file).write_text(text)
    code, out, err = pc3d("pred", "--gt", "gt", "--report", "report")
    assert code == 4 and out == "" and place in err and "Traceback" not in err
    assert not (world / "report").exists()


def test_stream_of_another_cloud(pc3d):
    code, _, err = pc3d("--gt", "gt", stdin=stream_text().replace('"num_points": 1000', '"num_points": 999'))
    assert code == 4 and "scene a has 999 points, its ground truth 1000" in err
    text = stream_text().replace('"size": [1000, 1]', '"size": [999, 1]').replace('"num_points": 1000, ', "")
    code, _, err = pc3d("--gt", "gt", stdin=text.replace(', "num_points": 1000', ""))
    assert code == 4 and "<stdin>:3" in err


def test_wrong_paths(pc3d, world):
    assert pc3d("nowhere", "--gt", "gt")[0] == 4
    assert pc3d("pred", "--gt", "nowhere")[0] == 4
    assert pc3d("pred")[0] == 2
    (world / "empty").mkdir()
    code, _, err = pc3d("empty", "--gt", "gt")
    assert code == 4 and "*.npz" in err
    assert pc3d("pred/a.txt", "--gt", "gt")[0] == 4


def test_scenes_without_their_own_copies_of_records(pc3d):
    """A stream of 2D masks in front of the same scene's instances is one scene."""
    text = stream_text(["a"], failed=()).replace("instance3d", "other3d") + stream_text().replace("mask2d", "other2d")
    assert pc3d("--gt", "gt", "--csv", stdin=text) == pc3d("--gt", "gt", "--csv", stdin=stream_text())


def test_masks_beside_their_lists_are_told_of(pc3d, world):
    (world / "pred" / "m0.txt").write_text("1\n" * 300)
    code, _, err = pc3d("pred", "--gt", "gt")
    assert code == 4 and "1 scene (m0) without ground truth" in err and "put masks into a subfolder" in err
    (world / "pred" / "m0.txt").write_text("masks/x.txt 3 0.5\n")
    assert "subfolder" not in pc3d("pred", "--gt", "gt")[2]


def test_eval_needs_numpy_only(world):
    code = (
        "import sys; from pc3dcli import main; assert main._run(['eval', 'pred', '--gt', 'gt', '--per-scene']) == 0;"
        "heavy = {'torch', 'scipy', 'cv2', 'sklearn', 'pycocotools', 'rich'} & sys.modules.keys();"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], cwd=world, env=environment, check=True, stdout=subprocess.DEVNULL)


def test_print_config_and_config_file(pc3d, world):
    code, out, _ = pc3d("pred", "--gt", "gt", "--min-region", "77", "--print-config")
    assert code == 0 and "min_region = 77" in out
    (world / "c.toml").write_text("min_region = 160\n")
    assert pc3d("pred", "--gt", "gt", "--config", "c.toml") == pc3d("pred", "--gt", "gt", "--min-region", "160")

# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from pc3dcli.formats.coco_rle import encode_mask
from pc3dcli.formats.images import write_png

SIZE = (60, 80)


def frame(shift=0, second=True):
    """Two objects of 20 x 20 pixels, ids 1 and 2."""
    labels = np.zeros(SIZE, np.uint8)
    labels[10:30, 10 + shift : 30 + shift] = 1
    if second:
        labels[35:55, 40:60] = 2
    return labels


def write_video(folder, frames):
    folder.mkdir(parents=True)
    for number, labels in enumerate(frames):
        write_png(folder / f"{number:05d}.png", labels)


def stream_text(videos, *, scores=True, failed=()):
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for name, frames in videos.items():
        records.append({"type": "scene", "scene": name, "root": "."})
        for number, labels in enumerate(frames if name not in failed else ()):
            key = {"scene": name, "frame": f"{number:05d}"}
            records.append({"type": "frame", **key, "image": "x.jpg", "size": list(labels.shape)})
            for track in sorted(set(labels.ravel().tolist()) - {0}):
                record = {"type": "mask2d", **key, "track": track, "rle": encode_mask(labels == track)}
                records.append(record | ({"score": 0.5} if scores else {}))
        records.append({"type": "scene_end", "scene": name, "ok": name not in failed})
    records.append({"type": "end", "scenes": len(videos), "failed": len(failed)})
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Videos a (6 frames) and b (4); predictions: a with an object 2 shifted by 2 in the frames 2 to 5, b perfect."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "gt" / "a", [frame()] * 6)
    write_video(tmp_path / "gt" / "b", [frame(second=False)] * 4)
    write_video(tmp_path / "pred" / "a", [frame()] * 2 + [frame(2)] * 4)
    write_video(tmp_path / "pred" / "b", [frame(second=False)] * 4)
    return tmp_path


def metrics(result):
    assert result.code == 0, result.err
    return {r["name"]: r["value"] for r in result.of("metric") if "class" not in r and "scene" not in r}


def score(run, *arguments, **settings):
    return run("eval", *arguments, "--task", "track2d", "--gt", "gt", **settings)


def test_table(run, world):
    result = score(run, "pred")
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["track2d,", "preset", "davis,", "2", "videos"]
    j = (1 + 3 * 360 / 440) / 4  # of object 1: one frame of four is untouched; first and last do not count
    assert lines[2][0] == "a_1" and lines[2][2] == f"{j:.4f}" and lines[2][-1] == "6"
    assert lines[3] == ["a_2", "1.0000", "1.0000", "1.0000", "1.0000", "6"]
    assert lines[5][0] == "mean" and lines[5][2] == f"{(j + 2) / 3:.4f}"
    assert lines[-1] == ["preset=davis", "scenes=2", "classes=1", "undefined=0", "ignored_predictions=0"]
    assert lines[11][:4] == ["all", "1.0000", "0", "0"]


def test_numbers(run, world):
    found = metrics(score(run, "pred", "--json"))
    j = (1 + 3 * 360 / 440) / 4
    assert found["j"] == pytest.approx((j + 2) / 3)
    assert found["j_decay"] == pytest.approx((1 - 360 / 440) / 2 / 3)  # quarters of 4 frames share their edges
    assert found["j_recall"] == 1 and found["jf"] == (found["j"] + found["f"]) / 2
    assert 0 < found["f"] < 1
    iou = (400 * 6 - 4 * 40) / (400 * 6 + 4 * 40)
    assert (found["ap50"], found["ap75"]) == (1, 1) and iou > 0.75
    assert found["ap"] < 1  # 0.95 is missed
    assert found["consistency"] == pytest.approx(((1 - 4 * 40 / 2400) + 2) / 3)
    assert (found["idf1"], found["id_switches"], found["fragmentations"]) == (1, 0, 0)


def test_streams_folders_and_16_bits_give_the_same_numbers(run, world):
    expected = metrics(score(run, "pred", "--json"))
    videos = {"a": [frame()] * 2 + [frame(2)] * 4, "b": [frame(second=False)] * 4}
    text = stream_text(videos, scores=False)
    assert metrics(score(run, "-", "--json", stdin=text)) == expected
    assert metrics(score(run, "--json", stdin=stream_text(videos))) == expected  # all scores alike
    (world / "s.ndjson").write_text(text)
    assert metrics(score(run, "s.ndjson", "--json")) == expected
    for name, frames in videos.items():
        write_video(world / "wide" / "Annotations" / name, [labels.astype(np.uint16) for labels in frames])
    assert metrics(score(run, "wide", "--json")) == expected


def test_scores_rank_tracks(run, world):
    ghost = frame()
    ghost[0:8, 60:80] = 3
    text = stream_text({"a": [ghost] * 6, "b": [frame(second=False)] * 4}).replace('"track": 3', '"track": 0')
    low = text.replace('"track": 0, ', '"track": 0, "x": 1, ')
    assert metrics(score(run, "--json", stdin=low))["ap50"] < 1  # equal scores: track 0 comes first
    lines = [line.replace('"score": 0.5', '"score": 0.1') if '"track": 0' in line else line for line in low.split("\n")]
    assert metrics(score(run, "--json", stdin="\n".join(lines)))["ap50"] == 1
    uniform = score(run, "--json", "--scores", "uniform", stdin="\n".join(lines))
    assert metrics(uniform)["ap50"] < 1


def test_swapped_ids_are_wrong_for_davis_and_right_for_free_tracks(run, world):
    swapped = np.array([0, 2, 1], np.uint8)
    write_video(world / "swap" / "a", [swapped[frame()]] * 6)
    write_video(world / "swap" / "b", [frame(second=False) * 7] * 4)
    result = score(run, "swap", "--json")
    found = metrics(result)
    assert found["j"] == found["f"] == 0 and found["idf1"] == found["ap"] == found["consistency"] == 1
    assert "1 id (7) of no object" in result.err and "unknown-object" in result.err
    assert score(run, "swap", "--strict").code == 4
    found = metrics(score(run, "swap", "--json", "--preset", "davis-unsupervised"))
    assert found["j"] == found["f"] == 1


def test_void_pixels(run, world):
    void = frame()
    void[0:8, 60:80] = 255
    strange = frame()
    strange[0:8, 60:80] = 1  # covers void: wrong under davis, not looked at by the other preset
    for folder, labels in (("gt2", void), ("pred2", strange)):
        write_video(world / folder / "a", [labels] * 4)
    davis = metrics(run("eval", "pred2", "--task", "track2d", "--gt", "gt2", "--json"))
    assert davis["j"] == pytest.approx((400 / 560 + 1) / 2)
    free = metrics(run("eval", "pred2", "--task", "track2d", "--gt", "gt2", "--json", "--preset", "davis-unsupervised"))
    assert free["j"] == free["f"] == free["ap"] == 1


def test_objects_are_those_of_the_first_frame(run, world):
    late = frame()
    late[0:8, 60:80] = 4
    gap = frame()
    gap[gap == 2] = 3
    for folder in ("gt2", "pred2"):
        write_video(world / folder / "a", [gap, late, late, gap])
    result = run("eval", "pred2", "--task", "track2d", "--gt", "gt2", "--json")
    found = metrics(result)
    values = {(r["class"], r["name"]): r["value"] for r in result.of("metric") if "class" in r}
    assert values["a_2", "j"] == 1 and values["a_4", "j"] is None and found["j"] == 1
    assert "absent-object" not in result.err  # object 2 is in the frames between
    assert "1 id (4) not in the first frame" in result.err and "late-object" in result.err
    write_video(world / "gt3" / "a", [gap] * 4)
    result = run("eval", "gt3", "--task", "track2d", "--gt", "gt3", "--json")
    assert "1 id (2) below the largest in no frame" in result.err
    values = {(r["class"], r["name"]): r["value"] for r in result.of("metric") if "class" in r}
    assert values["a_2", "jf"] == 1 and values["a_2", "consistency"] is None


def test_nothing_to_score_is_undefined(run, world):
    empty = np.zeros(SIZE, np.uint8)
    for folder in ("gt2", "pred2"):
        write_video(world / folder / "a", [empty] * 2)
    result = run("eval", "pred2", "--task", "track2d", "--gt", "gt2", "--json")
    found = metrics(result)
    assert {name for name, value in found.items() if value is None} == set(found) - {"id_switches", "fragmentations"}
    write_video(world / "gt3" / "a", [frame()] * 2)  # without the first and the last frame nothing is left
    found = metrics(run("eval", "gt3", "--task", "track2d", "--gt", "gt3", "--json"))
    assert found["j"] is None and found["ap"] == 1


def test_pairing(run, world):
    (world / "pred" / "a" / "00003.png").unlink()
    result = score(run, "pred")
    assert result.code == 4 and "1 frame (a/00003) without predictions" in result.err
    result = score(run, "pred", "--allow-missing")
    assert result.code == 0 and "1 frame (a/00003) scored as without masks" in result.err
    write_png(world / "pred" / "a" / "00003.png", frame())
    write_png(world / "pred" / "a" / "00009.png", frame())
    assert "1 frame (a/00009) without ground truth" in score(run, "pred").err
    (world / "pred" / "a").rename(world / "pred" / "c")
    result = score(run, "pred")
    assert result.code == 4 and "1 video (c) without ground truth" in result.err
    (world / "pred" / "c").rename(world / "elsewhere")
    assert "1 video (a) without predictions" in score(run, "pred").err
    result = score(run, "pred", "--allow-missing")
    assert result.out.splitlines()[0].endswith("1 of 2 videos") and "missing-video" in result.err


def test_split_chooses_videos(run, world):
    (world / "gt" / "ImageSets" / "2017").mkdir(parents=True)
    (world / "gt" / "ImageSets" / "2017" / "val.txt").write_text("b\n")
    (world / "some.txt").write_text("b\n")
    for split in ("val", "some.txt"):
        assert score(run, "pred", "--split", split).out.splitlines()[0].endswith("1 video")
    assert metrics(score(run, "pred", "--split", "val", "--json"))["j"] == 1
    (world / "some.txt").write_text("b\nz\n")
    result = score(run, "pred", "--split", "some.txt")
    assert result.code == 4 and "1 video (z) of --split" in result.err
    videos = {"a": [frame()] * 6, "b": [frame(second=False)] * 4}
    assert metrics(score(run, "--split", "val", "--json", stdin=stream_text(videos)))["j"] == 1


def test_a_failed_scene_of_an_earlier_stage(run, world):
    videos = {"a": [frame()] * 6, "b": [frame(second=False)] * 4}
    text = stream_text(videos, failed=["b"])
    result = score(run, stdin=text)
    assert result.code == 4 and "1 video (b) without predictions; their producer failed" in result.err
    result = score(run, "--allow-missing", stdin=text)
    assert result.code == 0 and "failed-video" in result.err


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"score": 0.5', '"score": "high"', ":4: score is 'high', expected a finite number"),
        ('"track": 1', '"track": -1', ":4: track is -1"),
        ('"track": 2', '"track": 1', ":5: track is 1"),
        ('"size": [60, 80], "counts"', '"size": [80, 60], "counts"', ":4: mask is 60 x 80, its ground truth 80 x 60"),
        ('"counts": "', '"counts": "!', ":4: "),
    ],
)
def test_broken_records_end_with_4_and_the_line(run, world, old, new, problem):
    text = stream_text({"a": [frame()] * 6, "b": [frame(second=False)] * 4})
    assert old in text
    result = score(run, stdin=text.replace(old, new, 1))
    assert result.code == 4 and f"<stdin>{problem}" in result.err


def test_broken_pictures_end_with_4_and_the_file(run, world):
    path = world / "pred" / "a" / "00001.png"
    write_png(path, frame()[:, :60])
    result = score(run, "pred")
    assert result.code == 4 and "a/00001.png: mask is 60 x 60, its ground truth 80 x 60" in result.err
    path.write_bytes(path.read_bytes()[:60])
    assert score(run, "pred").code == 4
    (world / "none").mkdir()
    assert "no masks; tried" in score(run, "none").err


def test_usage(run, world):
    assert score(run, "pred", "--class-agnostic").code == 2
    assert score(run, "pred", "pred").code == 2
    assert score(run, "pred", "--fail-under", "id_switches=0").code == 2
    assert score(run, "pred", "--fail-under", "JF=0.99").code == 5
    assert score(run, "pred", "--fail-under", "AP50=1").code == 0


def test_per_scene_and_csv(run, world):
    result = score(run, "pred", "--json", "--per-scene")
    by_scene = {(r["scene"], r["name"]): r["value"] for r in result.of("metric") if "scene" in r}
    assert by_scene["b", "j"] == 1 and by_scene["a", "j"] < 1
    lines = score(run, "pred", "--csv").out.splitlines()
    assert lines[0] == "class,jf,j,f,consistency,gt" and lines[3] == "b_1,1.0,1.0,1.0,1.0,4"


def test_overlapping_tracks_of_a_stream(run, world):
    text = stream_text({"a": [frame()] * 6, "b": [frame(second=False)] * 4})
    again = {}
    for line in text.replace('"track": 2', '"track": 9').splitlines():
        if '"track": 9' in line:
            again[json.loads(line)["frame"]] = line
    doubled = []
    for line in text.splitlines():
        doubled.append(line)
        if '"track": 2' in line:
            doubled.append(again[json.loads(line)["frame"]])
    found = metrics(score(run, "--json", stdin="\n".join(doubled) + "\n"))
    assert found["idf1"] == pytest.approx(2 * 16 / (16 + 22))  # 6 masks too many
    assert found["id_switches"] == 0 and found["j"] == 1 and found["consistency"] == 1


def test_bootstrap_over_videos(run, world):
    result = score(run, "pred", "--json", "-q", "--per-scene", "--bootstrap", "200", "--seed", "3")
    assert score(run, "pred", "--json", "-q", "--per-scene", "--bootstrap", "200", "--seed", "3").out == result.out
    alone = {(r["scene"], r["name"]): r["value"] for r in result.of("metric") if "scene" in r}
    bounds = {(r["name"], r["percentile"]): r["value"] for r in result.of("metric") if "percentile" in r}
    assert {name for name, _ in bounds} == {"jf", "j", "f", "j_recall", "f_recall", "idf1", "ap", "ap50", "ap75",
                                            "consistency"}  # fmt: skip
    for name in ("j", "f", "ap", "consistency"):  # a quarter of the resamples is a alone, another b alone
        both = sorted(alone[video, name] for video in "ab")
        assert [bounds[name, 2.5], bounds[name, 97.5]] == pytest.approx(both, abs=1e-12)
    assert bounds["j", 2.5] < bounds["j", 97.5]
    assert "few-scenes" in score(run, "pred", "--bootstrap", "20").err


def test_bootstrap_of_one_video(run, world, tmp_path):
    (tmp_path / "split.txt").write_text("b\n")
    result = score(run, "pred", "--split", "split.txt", "--json", "--bootstrap", "20")
    assert {r["value"] for r in result.of("metric") if "percentile" in r} == {None}
    assert "one-scene" in result.err

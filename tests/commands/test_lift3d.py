# SPDX-License-Identifier: Apache-2.0
"""`pc3d lift3d` on written rooms: every option changes something that can be seen."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from pc3dcli.formats.cloud import read_cloud
from pc3dcli.formats.coco_rle import decode_points, encode_mask

EXACT = {"p_whole": 1.0, "p_merge": 0.0, "p_nested": 0.0, "p_eroded": 0.0, "p_dilated": 0.0}
ORACLE = ["--masks", "oracle", *(word for name in EXACT for word in ("-D", f"{name}={EXACT[name]}"))]


@pytest.fixture(scope="module")
def tracks(scans, tmp_path_factory) -> str:
    """The stream of track2d for room0, exact masks."""
    from pc3dcli.main import _run

    path = tmp_path_factory.mktemp("tracks") / "t.ndjson"
    assert _run(["track2d", str(scans / "room0"), *ORACLE, "--out", str(path)]) == 0
    return path.read_text()


@pytest.fixture
def without_cloud(tracks) -> str:
    """The same stream for a scan that has no cloud of its own."""
    return "".join(_edited(json.loads(line)) for line in tracks.splitlines())


def _edited(record: dict) -> str:
    if record["type"] == "scene":
        for name in ("points", "num_points", "xyz_sha256"):
            del record[name]
    return json.dumps(record) + "\n"


def test_instances_cover_the_objects_of_the_world(run, scans, tracks):
    result = run("lift3d", stdin=tracks)
    assert result.code == 0, result.err
    (scene,) = result.of("scene")
    truth = np.loadtxt(scans / "room0/gt/room0.txt", dtype=int)
    masks = [decode_points(record["rle"], scene["num_points"]) for record in result.of("instance3d")]
    best = [max((m & (truth == k)).sum() / (m | (truth == k)).sum() for m in masks) for k in np.unique(truth) if k]
    assert np.mean(np.array(best) > 0.5) > 0.7
    for record in result.of("instance3d"):
        assert 0 <= record["score"] <= 1 and record["views"] >= 3 and record["source"] == "lift3d consensus"


def test_conflict_rate_is_a_record_and_a_message(run, tracks):
    result = run("lift3d", stdin=tracks)
    (metric,) = result.of("metric")
    assert metric["name"] == "conflict_rate" and 0 <= metric["value"] < 0.3
    said = float(result.err.split("conflict rate ")[1].split()[0])
    assert abs(said - metric["value"]) <= 0.00006


def test_frames_and_masks_are_consumed_and_the_rest_passes_through(run, tracks):
    click = '{"type":"point3d","scene":"room0","center":[1,2,3],"label":"chair","mood":"new"}'
    lines = tracks.splitlines()
    at = next(i for i, line in enumerate(lines) if '"type":"mask2d"' in line)
    result = run("lift3d", stdin="\n".join([*lines[:at], click, *lines[at:]]) + "\n")
    assert click in result.out.splitlines()
    assert not result.of("frame") and not result.of("mask2d") and not result.of("detection2d")


@pytest.mark.parametrize("merge", ["none", "tracks", "consensus"])
def test_every_merge_mode_is_recorded(run, tracks, merge):
    result = run("lift3d", "--merge", merge, stdin=tracks)
    assert result.code == 0 and {r["source"] for r in result.of("instance3d")} == {f"lift3d {merge}"}


def test_min_views_merge_iou_and_max_gap_act(run, tracks):
    plain = run("lift3d", "--merge", "tracks", stdin=tracks)
    assert len(run("lift3d", "--merge", "tracks", "--min-views", "15", stdin=tracks).of("instance3d")) < len(
        plain.of("instance3d")
    )
    loose = run("lift3d", "--merge", "tracks", "--max-gap", "0.5", stdin=tracks)
    assert [r["rle"] for r in loose.of("instance3d")] != [r["rle"] for r in plain.of("instance3d")]
    joined = run("lift3d", "--merge", "tracks", "--merge-iou", "0.0", "-D", "max_together=1000", stdin=tracks)
    assert len(joined.of("instance3d")) < len(plain.of("instance3d"))
    ids = {r.of("program")[-1]["id"] for r in (plain, loose, joined)}
    assert len(ids) == 3


def test_files_beside_the_records(run, tracks, tmp_path):
    result = run("lift3d", "--out", tmp_path / "labels", "--write", "ply,scannet", stdin=tracks)
    assert result.code == 0 and result.out == "", result.err
    records = [json.loads(line) for line in (tmp_path / "labels/room0.ndjson").read_text().splitlines()]
    instances = [record for record in records if record["type"] == "instance3d"]
    num_points = next(record["num_points"] for record in records if record["type"] == "scene")
    tensors = load_file(tmp_path / "labels/room0.safetensors")
    assert {name: len(tensor) for name, tensor in tensors.items()} == dict.fromkeys(tensors, num_points)
    for record in instances:
        assert np.array_equal(tensors["instance"] == record["instance"], decode_points(record["rle"], num_points))
    with safe_open(tmp_path / "labels/room0.safetensors", "numpy") as file:
        chain = json.loads(file.metadata()["pc3d"])
    assert [program["program"] for program in chain] == ["pc3d track2d", "pc3d lift3d"]
    cloud = read_cloud(tmp_path / "labels/room0.ply")
    assert np.array_equal(cloud.extra["instance_id"], tensors["instance"]) and cloud.rgb is not None
    listing = (tmp_path / "labels/room0.txt").read_text().splitlines()
    assert len(listing) == len(instances)
    mask = np.loadtxt(tmp_path / "labels" / listing[0].split()[0], dtype=int)
    assert np.array_equal(mask == 1, decode_points(instances[0]["rle"], num_points))


def test_points_are_fused_where_the_scan_has_none(run, without_cloud, tmp_path):
    result = run("lift3d", "--out", tmp_path / "labels", stdin=without_cloud)
    assert result.code == 0, result.err
    scene = json.loads((tmp_path / "labels/room0.ndjson").read_text().splitlines()[3])
    assert scene["root"] == "." and scene["points"] == "room0.points.ply"
    cloud = read_cloud(tmp_path / "labels/room0.points.ply")
    assert len(cloud.xyz) == scene["num_points"] > 1000
    coarse = run("lift3d", "--out", tmp_path / "coarse", "-D", "voxel=0.1", stdin=without_cloud)
    assert coarse.code == 0 and len(read_cloud(tmp_path / "coarse/room0.points.ply").xyz) < len(cloud.xyz) / 4


def test_fused_points_need_a_place(run, without_cloud):
    result = run("lift3d", stdin=without_cloud)
    assert result.code == 3 and "--out" in result.of("error")[0]["hint"]
    assert run("lift3d", "--write", "ply", stdin=without_cloud).code == 2


def test_per_view_samples_are_scenes_of_one_frame(run, tracks, tmp_path):
    result = run("lift3d", "--per-view", "--out", tmp_path / "views", stdin=tracks)
    assert result.code == 0, result.err
    files = sorted((tmp_path / "views/room0").glob("*.ndjson"), key=lambda path: int(path.stem))
    assert len(files) == 16
    records = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert all(record["views"] == 1 for record in records if record["type"] == "instance3d")
    assert len(read_cloud(tmp_path / "views/room0/0.points.ply").xyz) == 96 * 128


def test_per_view_needs_a_place(run, tracks):
    result = run("lift3d", "--per-view", stdin=tracks)
    message = "pc3d lift3d: --per-view needs a place for its points\n  hint: add --out views/\n"
    assert (result.code, result.out, result.err) == (2, "", message)


def test_snap_follows_the_superpoints(run, tracks):
    plain, snapped = run("lift3d", stdin=tracks), run("lift3d", "--snap", stdin=tracks)
    assert snapped.code == 0
    assert [r["rle"] for r in plain.of("instance3d")] != [r["rle"] for r in snapped.of("instance3d")]


def test_another_cloud_is_refused(run, tracks):
    result = run("lift3d", stdin=tracks.replace('"xyz_sha256":"', '"xyz_sha256":"00'))
    assert result.code == 3 and "not the cloud" in result.of("error")[0]["message"]


def test_masks_of_another_size_and_strange_tracks_are_refused(run, tracks):
    rle = json.dumps(encode_mask(np.ones((4, 4), bool)))
    bad = '{"type":"mask2d","scene":"room0","frame":"0","track":%s,"rle":%s}'
    lines = tracks.splitlines()
    at = next(i for i, line in enumerate(lines) if '"type":"frame"' in line) + 1
    for track, message in (("1", "4 x 4"), ('"a"', "track"), ("-3", "track")):
        broken = [*lines[:at], bad % (track, rle), *lines[at:]]
        result = run("lift3d", stdin="\n".join(broken) + "\n")
        assert result.code == 3 and message in result.of("error")[0]["message"]
        assert "pc3d lift3d: room0: " in result.err


def test_a_mask_before_its_frame_is_refused_with_the_rule(run, tracks):
    lines = tracks.splitlines()
    at = next(i for i, line in enumerate(lines) if '"type":"mask2d"' in line)
    result = run("lift3d", stdin="\n".join([*lines[:3], lines[at], *lines[3:at], *lines[at + 1 :]]) + "\n")
    (error,) = result.of("error")
    assert result.code == 3 and "does not follow its frame record" in error["message"]
    assert "a frame record comes first" in error["hint"]


def test_another_format_is_written_for_finished_scenes(run, tracks, tmp_path):
    for out, names in (("labels", ("room0.ply", "room0.txt")), ("t.ndjson", ())):
        side = tmp_path / ("labels" if names else "t.ndjson.files")
        assert run("lift3d", "--out", tmp_path / out, stdin=tracks).code == 0
        assert not (side / "room0.ply").exists()
        again = run("lift3d", "--out", tmp_path / out, "--write", "ply,scannet", stdin=tracks)
        assert again.code == 0 and "skipped" not in again.err
        assert (side / "room0.ply").is_file() and (side / "room0.txt").is_file()
        last = run("lift3d", "--out", tmp_path / out, "--write", "ply", stdin=tracks)
        assert last.code == 0 and "1 scene, 1 skipped" in last.err


def test_what_is_skipped_says_how_to_redo_it_and_to_save_the_work_before(run, tracks, tmp_path):
    out = tmp_path / "labels"
    assert "hint" not in run("lift3d", "--out", out, stdin=tracks).err
    again = run("lift3d", "--out", out, stdin=tracks)
    assert f"skipped scenes are finished in {out}, --force redoes them; track2d --skip-done {out}" in again.err
    (tmp_path / "t.ndjson").write_text(tracks)
    again = run("lift3d", tmp_path / "t.ndjson", "--out", out)
    assert "--force redoes them" in again.err and "--skip-done" not in again.err
    other = run("lift3d", tmp_path / "t.ndjson", "--skip-done", out)
    assert other.of("end")[0]["scenes"] == 0 and "1 scene, 1 skipped" in other.err
    assert "without --skip-done they are redone" in other.err


def test_a_scan_is_no_stream(run, scans):
    result = run("lift3d", scans / "room0")
    assert result.code == 4 and "track2d" in result.err


def test_a_cut_stream_keeps_nothing_of_the_open_scene(run, tracks):
    lines = tracks.splitlines()
    cut = "\n".join(lines[: len(lines) // 2]) + "\n"
    result = run("lift3d", stdin=cut)
    assert result.code == 4 and "end" in result.err and not result.of("end") and not result.of("instance3d")


def test_root_moves_a_stream_to_another_machine(run, tracks, scans):
    moved = tracks.replace(str(scans.resolve()), "/elsewhere/scans")
    assert run("lift3d", stdin=moved).code == 3
    assert run("lift3d", "--root", f"/elsewhere/scans={scans}", stdin=moved).code == 0


def test_failed_scenes_of_the_stage_before_stay_failed(run):
    stream = (
        '{"type":"header","format":"pc3d","version":"1.0"}\n{"type":"scene","scene":"a","root":"/a"}\n'
        '{"type":"error","code":"format","message":"bad pose","scene":"a"}\n'
        '{"type":"scene_end","scene":"a","ok":false}\n'
        '{"type":"end","scenes":1,"failed":1}\n'
    )
    result = run("lift3d", stdin=stream)
    assert result.code == 3 and result.of("error")[0]["message"] == "bad pose"
    assert "pc3d lift3d: a: failed in an earlier stage" in result.err
    assert result.of("end")[0]["failed"] == 1

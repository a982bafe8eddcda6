# SPDX-License-Identifier: Apache-2.0
"""`pc3d track2d` on written rooms: every option changes something that can be seen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.coco_rle import decode_mask

# an oracle without faults: each object comes whole, with exact edges
EXACT = {"p_whole": 1.0, "p_merge": 0.0, "p_nested": 0.0, "p_eroded": 0.0, "p_dilated": 0.0}
ORACLE = ["--masks", "oracle", *(word for name in EXACT for word in ("-D", f"{name}={EXACT[name]}"))]


def oracle(run, scans, *more):
    result = run("track2d", scans / "room0", *ORACLE, *more)
    assert result.code == 0, result.err
    return result


def test_stream_has_brackets_frames_and_masks_of_the_frame_size(run, scans):
    result = oracle(run, scans)
    kinds = [record["type"] for record in result.records]
    assert kinds[:3] == ["header", "program", "scene"] and kinds[-2:] == ["scene_end", "end"]
    (scene,) = result.of("scene")
    assert scene["scene"] == "room0" and scene["dataset"] == "scannet" and scene["num_points"] > 1000
    frames = result.of("frame")
    assert len(frames) == 16 and [frame["frame"] for frame in frames] == sorted((f["frame"] for f in frames), key=int)
    masks = result.of("mask2d")
    assert masks and all(decode_mask(mask["rle"]).shape == (96, 128) for mask in masks)


def test_tracks_are_the_objects_of_the_world(run, scans):
    """With an exact oracle and exact depth, a track stays on the object that it began on."""
    result = oracle(run, scans, "--propagate", "reproject")
    import cv2

    owners: dict[int, list[int]] = {}
    for mask in result.of("mask2d"):
        image = cv2.imread(str(scans / "room0/instance" / f"{mask['frame']}.png"), cv2.IMREAD_UNCHANGED)
        pixels = image[decode_mask(mask["rle"])]
        owners.setdefault(mask["track"], []).append(int(np.bincount(pixels).argmax()))
    agreement = [max(owner.count(o) for o in set(owner)) / len(owner) for owner in owners.values()]
    assert np.mean(agreement) > 0.95


def test_detections_of_keyframes_travel_beside_the_tracks(run, scans):
    result = oracle(run, scans, "-D", "stride_key=4")
    frames = [record["frame"] for record in result.of("frame")]
    assert sorted({d["frame"] for d in result.of("detection2d")}, key=int) == frames[::4]


def test_propagate_none_gives_fresh_ids_on_keyframes_only(run, scans):
    result = oracle(run, scans, "--propagate", "none")
    tracks = [mask["track"] for mask in result.of("mask2d")]
    assert len(set(tracks)) == len(tracks) and not result.of("detection2d")


def test_stride_and_limit_and_shard(run, scans):
    assert len(oracle(run, scans, "--stride", "4").of("frame")) == 4
    assert len(run("track2d", scans, *ORACLE, "--limit", "1").of("scene")) == 1
    parts = [run("track2d", scans, *ORACLE, "--shard", f"{i}/2").of("scene")[0]["scene"] for i in (1, 2)]
    assert parts == ["room0", "room1"]
    assert run("track2d", scans, "--shard", "3/2").code == 2


def test_regions_are_the_default(run, scans):
    result = run("track2d", scans / "room0", "--stride", "8")
    assert result.code == 0 and result.of("mask2d")
    assert "masks" not in result.of("program")[0].get("config", {})


def test_mask_files_of_another_tool(run, scans):
    result = run("track2d", scans / "room0", "--masks", "files", "--prompts", scans / "room0/instance")
    assert result.code == 0, result.err
    assert result.of("mask2d")
    assert result.of("program")[0]["weights"]["prompts"].startswith("sha256:")


def test_settings_of_the_networks_reach_them(run, scans, tmp_path, monkeypatch):
    from pc3dcli.commands import track2d

    asked = []

    class Blind:
        def masks(self, view):
            return []

    def load(kind, weights, device, config):
        asked.append((kind, weights, device, config.points_per_side))
        return Blind()

    monkeypatch.setattr(track2d, "_network_masks", load)
    weights = tmp_path / "sam.pth"
    weights.write_bytes(b"x")
    network = ("--masks", "sam", "--sam-weights", weights, "--device", "cpu", "-D", "points_per_side=16")
    result = run("track2d", scans / "room0", "--stride", "8", *network)
    assert result.code == 0, result.err
    assert asked == [("sam", weights, "cpu", 16)]
    assert result.of("program")[0]["config"]["points_per_side"] == 16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--masks", "sam"], "needs --sam-weights"),
        (["--masks", "files"], "needs --prompts"),
        (["--propagate", "sam2"], "needs --sam2-weights"),
        (["--sam-weights", "x.pth"], "no use"),
        (["-D", "tau_iuo=0.4"], "did you mean tau_iou"),
        (["-D", "tau_iou=high"], "expected a finite number"),
        (["-D", "contain_mode=medium"], "contain_mode = 'medium': expected 'coarse' or 'fine'"),
        (["-D", "voxel=0"], "voxel = 0.0: expected a number from 0.001 to 10"),
        (["--stirde", "2"], "--stride"),
        (["--masks", "regoins"], "did you mean regions?"),
        (["--stride", "two"], "Invalid value for '--stride': expected an integer\n"),
        (["--stride", "0"], "Invalid value for '--stride': expected at least 1\n"),
        (["--propagate", "sam2", "-D", "prior_voxel=0"], "prior_voxel = 0.0: expected a number from 0.001 to 10"),
    ],
)
def test_wrong_command_lines_exit_2_and_say_what_to_do(run, scans, arguments, message):
    if arguments[-1] == "x.pth":
        Path("x.pth").unlink(missing_ok=True)
    result = run("track2d", scans, *arguments)
    assert result.code == 2 and message in result.err and result.out == ""
    assert "Value error" not in result.err and "parse" not in result.err


def test_max_depth_and_depth_scale_reach_the_frames(run, scans):
    near = oracle(run, scans, "--max-depth", "0.5", "--propagate", "reproject")
    assert len(near.of("mask2d")) < len(oracle(run, scans).of("mask2d"))
    assert oracle(run, scans, "--depth-scale", "0.002").of("frame")[0]["depth_scale"] == 0.002


def test_a_bad_pose_fails_its_scene_alone_or_is_skipped(run, scans, tmp_path):
    shutil.copytree(scans, tmp_path / "scans")
    (tmp_path / "scans/room0/pose/3.txt").write_text("1 0 0 0\n0 1 0\n")
    result = run("track2d", tmp_path / "scans", *ORACLE)
    assert result.code == 3
    ends = {end["scene"]: end["ok"] for end in result.of("scene_end")}
    assert ends == {"room0": False, "room1": True}
    (error,) = result.of("error")
    assert error["file"].endswith("pose/3.txt") and error["line"] == 2 and "room0" in result.err
    assert not [mask for mask in result.of("mask2d") if mask["scene"] == "room0"]
    result = run("track2d", tmp_path / "scans", *ORACLE, "--skip-bad-poses")
    assert result.code == 0 and len(result.of("frame")) == 31 and "skipped" in result.err
    assert run("track2d", tmp_path / "scans", *ORACLE, "--fail-fast").code == 4


def test_out_folder_resumes_and_refuses_other_settings(run, scans, tmp_path):
    out = tmp_path / "tracks"
    assert run("track2d", scans, *ORACLE, "--out", out).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {"run.json", "room0.ndjson", "room1.ndjson"}
    again = run("track2d", scans, *ORACLE, "--out", out)
    assert again.code == 0 and "2 skipped" in again.err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = run("track2d", scans, *ORACLE, "--out", out, "--stride", "2")
    assert other.code == 2 and "stride" in other.err
    assert run("track2d", scans, *ORACLE, "--out", out, "--stride", "2", "--force").code == 0
    listing = run("track2d", scans, *ORACLE, "--out", out, "--stride", "2", "--dry-run")
    what = ["skip", "scannet", "16 frames", "128 x 96", "depth unit 0.001 m"]
    assert [line.split("\t")[2:] for line in listing.out.splitlines()] == [what, what]


def test_skip_done_looks_at_the_last_stage(run, scans, tmp_path):
    stream = run("track2d", scans / "room0", *ORACLE).out
    assert run("lift3d", "--out", tmp_path / "labels", stdin=stream).code == 0
    rest = run("track2d", scans, *ORACLE, "--skip-done", tmp_path / "labels")
    assert [scene["scene"] for scene in rest.of("scene")] == ["room1"]
    assert "2 scenes, 1 skipped" in rest.err and "hint" not in rest.err
    listing = run("track2d", scans, *ORACLE, "--skip-done", tmp_path / "labels", "--dry-run")
    assert [line.split("\t")[2] for line in listing.out.splitlines()] == ["skip", "do"]


def test_config_file_environment_and_flags_in_that_order(run, scans, tmp_path, monkeypatch):
    config = tmp_path / "c.toml"
    config.write_text('stride = 8\ntau_new = 0.25\nmasks = "oracle"\n')
    room = scans / "room0"
    assert len(run("track2d", room, "--config", config).of("frame")) == 2
    monkeypatch.setenv("PC3D_TRACK2D_STRIDE", "4")
    assert len(run("track2d", room, "--config", config).of("frame")) == 4
    assert len(run("track2d", room, "--config", config, "--stride", "16").of("frame")) == 1
    printed = run("track2d", "--config", config, "--print-config").out
    assert "tau_new = 0.25" in printed and "stride = 4" in printed
    config.write_text("tau_nwe = 0.25\n")
    result = run("track2d", room, "--config", config)
    assert result.code == 2 and "tau_new" in result.err


def test_a_stream_of_frames_is_a_scan(run, scans):
    first = oracle(run, scans)
    frames = "".join(
        json.dumps(record) + "\n" for record in first.records if record["type"] not in ("mask2d", "detection2d")
    )
    again = run("track2d", "-", *ORACLE, stdin=frames)
    assert again.code == 0, again.err
    assert again.of("mask2d") == first.of("mask2d")
    assert again.of("program")[-1]["parents"] == [first.of("program")[0]["id"]]


def test_provenance_can_be_left_out(run, scans):
    result = oracle(run, scans, "--no-provenance")
    assert not result.of("program") and "program" not in result.of("scene")[0]


def test_seed_changes_the_oracle_and_is_recorded(run, scans):
    noisy = ("--masks", "oracle", "-D", "p_whole=0.5")
    one = run("track2d", scans / "room0", *noisy, "--seed", "1")
    two = run("track2d", scans / "room0", *noisy, "--seed", "2")
    assert one.of("detection2d") != two.of("detection2d")
    assert one.of("program")[0]["id"] != two.of("program")[0]["id"]


def test_nothing_found_names_what_was_tried(run, tmp_path):
    result = run("track2d", tmp_path)
    assert result.code == 4 and "\n    scannet     pose/0.txt with " in result.err


@pytest.fixture
def copied(scans, tmp_path) -> Path:
    """Both scans, free to be changed."""
    return shutil.copytree(scans, tmp_path / "scans")


def test_skipped_frames_are_counted_with_their_reasons(run, copied):
    for number in (2, 5):
        (copied / f"room0/pose/{number}.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (copied / "room1/pose/3.txt").write_text("1 0 0 0\n")
    result = run("track2d", copied, *ORACLE)
    line = "pc3d track2d: room0: 14/16 frames usable, 2 skipped: invalid pose, tracking was lost (2)"
    assert line in result.err.splitlines()
    listing = [line.split("\t") for line in run("track2d", copied, "--dry-run").out.splitlines()]
    assert listing[0][4] == "14 frames (2 skipped)" and "pose/3.txt: expected" in listing[1][3]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_scene_is_introduced_to_one_who_asks(run, scans, jobs):
    result = run("track2d", scans, *ORACLE, "--stride", "8", "-v", "--jobs", jobs)
    for scene in ("room0", "room1"):
        assert f"pc3d track2d: {scene}: 2 frames of 128 x 96, depth unit 0.001 m, median " in result.err
    assert "median" not in run("track2d", scans, *ORACLE, "--stride", "8").err


def test_a_depth_unit_that_cannot_be_is_said(run, scans, tmp_path):
    small = ("track2d", scans / "room0", *ORACLE, "--stride", "16")  # one frame
    for scale, reason in (("0.1", "lies beyond 10 m"), ("0.00001", "its median depth is 0.0")):
        result = run(*small, "--depth-scale", scale)
        assert reason in result.err and "is the unit right? --depth-scale 0.001\n" in result.err
    result = run("track2d", scans / "room0", *ORACLE, "--depth-scale", "0.0002")
    found = "room0: its frames agree about what they see with a depth unit of 0.001 m, not of 0.0002 m"
    assert f"pc3d track2d: {found}: is the unit right? --depth-scale 0.001\n" in result.err
    frames = run(*small).out
    assert "unit" not in run("track2d", *ORACLE, stdin=frames).err
    assert "is the unit right?" in run("track2d", *ORACLE, "--depth-scale", "0.1", stdin=frames).err


def test_a_scene_from_two_places_is_refused(run, scans):
    frames = oracle(run, scans, "--stride", "8").out
    result = run("track2d", scans / "room0", "-", *ORACLE, "--stride", "8", stdin=frames)
    assert result.code == 2 and f"scene room0 is in {scans / 'room0'} and in <stdin>" in result.err
    twice = run("track2d", "-", *ORACLE, stdin=frames + frames)
    assert twice.code != 0 and "room0" in twice.err


def test_a_failed_scene_of_a_file_is_done_again(run, copied, tmp_path):
    pose = copied / "room0/pose/0.txt"
    good = pose.read_text()
    pose.write_text("1 2 3\n")
    command = ("track2d", copied, *ORACLE, "--stride", "8", "--out")
    out, whole = tmp_path / "t.ndjson", tmp_path / "whole.ndjson"
    assert run(*command, out).code == 3
    pose.write_text(good)
    again = run(*command, out)
    assert again.code == 0 and "2 scenes, 1 skipped" in again.err
    assert run(*command, whole).code == 0
    assert out.read_bytes().replace(b"t.ndjson", b"") == whole.read_bytes().replace(b"whole.ndjson", b"")


@pytest.mark.parametrize("damage", ["empty", "cut", "other tensors"])
def test_a_damaged_checkpoint_is_said_once(run, scans, tmp_path, monkeypatch, damage):
    import torch

    from pc3dcli.masks2d import sam

    monkeypatch.setattr(sam, "_import_segment_anything", lambda: sam)  # the package need not be there
    monkeypatch.setattr(sam, "sam_model_registry", {}, raising=False)
    weights = tmp_path / "sam.pth"
    torch.save({"image_encoder.x": torch.zeros(2)}, weights)
    content = weights.read_bytes()
    weights.write_bytes({"empty": b"", "cut": content[:300], "other tensors": content}[damage])
    result = run("track2d", scans, "--masks", "sam", "--sam-weights", weights)
    assert result.code == 4 and result.err.count(str(weights)) == 1 and len(result.err.splitlines()) <= 2


def test_settings_of_sam2_reach_the_propagator(run, scans, tmp_path, monkeypatch):
    from pc3dcli.commands import track2d
    from pc3dcli.errors import InputError

    asked = []

    def load(weights, device, config):
        asked.append(config)
        raise InputError("that is enough")

    monkeypatch.setattr(track2d, "_network_video", load)
    weights = tmp_path / "sam2.pt"
    weights.write_bytes(b"x")
    network = ("--propagate", "sam2", "--sam2-weights", weights, "--chunk", "7", "-D", "max_prompts=3")
    result = run("track2d", scans / "room0", *ORACLE, "--stride", "8", *network)
    assert result.code == 3 and asked[0].chunk == 7 and asked[0].max_prompts == 3
    assert "pc3d track2d: room0: that is enough" in result.err

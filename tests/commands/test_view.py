# SPDX-License-Identifier: Apache-2.0
"""`pc3d view` on written rooms: every option changes something that can be seen."""

import json
import re

import numpy as np
import pytest

from pc3dcli.formats.cloud import Cloud, xyz_sha256
from pc3dcli.formats.coco_rle import encode_mask, encode_points
from pc3dcli.formats.images import image_size, read_color
from pc3dcli.formats.ply import write_ply

FAST = ("--size", "160x120")


def cloud(count: int = 400) -> Cloud:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(-1, 3), count // 4).astype(np.int32)
    xyz = rng.uniform(0, 0.5, (count, 3)).astype(np.float32)
    return Cloud(xyz, rng.integers(0, 256, (count, 3), dtype=np.uint8), extra={"instance_id": ids})


@pytest.fixture
def scan(tmp_path):
    """A cloud file with instance ids, tmp/data/shelf.ply."""
    (tmp_path / "data").mkdir()
    write_ply(tmp_path / "data/shelf.ply", cloud())
    return tmp_path / "data/shelf.ply"


def stream(*scenes: list[dict]) -> str:
    program = {"type": "program", "id": "0" * 12, "program": "test", "version": "1", "argv": [], "parents": []}
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}, program]
    for scene in scenes:
        records += [*scene, {"type": "scene_end", "scene": scene[0]["scene"], "ok": True}]
    return "".join(json.dumps(one) + "\n" for one in (*records, {"type": "end", "scenes": len(scenes), "failed": 0}))


def labelled(scan, scene="shelf", **changes) -> list[dict]:
    one = cloud()
    record = {"type": "scene", "scene": scene, "root": str(scan.parent), "points": scan.name}
    record |= {"num_points": len(one.xyz), "xyz_sha256": xyz_sha256(one.xyz)} | changes
    masks = [np.arange(400) < 150, np.arange(400) >= 100]
    return [record] + [
        {"type": "instance3d", "scene": scene, "instance": 4 + k, "rle": encode_points(mask), "score": 0.5 + k / 4}
        for k, mask in enumerate(masks)
    ]


def page_scene(path) -> dict:
    text = path.read_text()
    return json.loads(re.search(r'id="scene">(.*?)</script>', text, re.S).group(1))


def pictures(folder) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


def test_cloud_with_instance_ids(run, scan, tmp_path):
    result = run("view", scan, "--out", tmp_path / "out", *FAST)
    assert result.code == 0, result.err
    assert result.out == f"{tmp_path / 'out/shelf.html'}\n"
    views = {
        f"{view}_{kind}.png" for view in ("top", *(f"corner{k}" for k in range(1, 5))) for kind in ("rgb", "instances")
    }
    assert pictures(tmp_path / "out/shelf") == views | {"overview.png"}
    assert all(image_size(tmp_path / "out/shelf" / name) == (120, 160) for name in views)
    scene = page_scene(tmp_path / "out/shelf.html")
    assert scene["title"] == "shelf" and [one["id"] for one in scene["instances"]] == [0, 1, 2]
    assert [one["points"] for one in scene["instances"]] == [100, 100, 100]


def test_instance_colours_differ_from_recorded_ones(run, scan, tmp_path):
    run("view", scan, "--out", tmp_path / "out", *FAST, "--write", "png")
    rgb, instances = (read_color(tmp_path / f"out/shelf/top_{kind}.png") for kind in ("rgb", "instances"))
    drawn = (rgb != rgb[0, 0]).any(-1)
    assert drawn.mean() > 0.1 and (rgb[drawn] != instances[drawn]).any(-1).mean() > 0.9


def test_stream_of_instances_on_stdin(run, scan, tmp_path):
    result = run("view", "--out", tmp_path / "out", *FAST, stdin=stream(labelled(scan)))
    assert result.code == 0, result.err
    scene = page_scene(tmp_path / "out/shelf.html")
    assert [(one["id"], one["points"], one["score"]) for one in scene["instances"]] == [(4, 150, 0.5), (5, 300, 0.75)]


def test_stream_of_masks_gives_a_sheet_and_a_fused_cloud(run, scans, tmp_path):
    tracked = run("track2d", scans / "room0", "--masks", "oracle", "--stride", "4")
    lines = [json.loads(line) for line in tracked.out.splitlines()]
    for record in lines:
        record.pop("points", None) if record["type"] == "scene" else None
    text = "".join(json.dumps(record) + "\n" for record in lines)
    result = run("view", "-", "--out", tmp_path / "out", *FAST, "--frames", "2", stdin=text)
    assert result.code == 0, result.err
    names = pictures(tmp_path / "out/room0")
    assert {"frames.png", "overview.png", "top_rgb.png", "camera_rgb.png"} <= names
    assert not any("instances" in name for name in names)
    assert image_size(tmp_path / "out/room0/frames.png")[1] == 2 * 648 + 8  # two frames side by side
    scene = page_scene(tmp_path / "out/room0.html")
    assert scene["count"] > 1000 and scene["numFrames"] == 4
    assert [one["caption"].split(",")[0] for one in scene["frames"]] == ["frame 0", "frame 12"]
    assert scene["origin"][0].startswith("pc3d track2d ") and "(version " in scene["origin"][0]


@pytest.fixture
def tracks_and_labels(run, scans, tmp_path):
    """A stream of tracks and the --out folder of the labels made from it, which holds the points as well."""
    import shutil

    shutil.copytree(scans / "room0", tmp_path / "scan/room0", ignore=shutil.ignore_patterns("*.ply"))
    assert run("track2d", tmp_path / "scan/room0", "--stride", "4", "--out", tmp_path / "tracks.ndjson").code == 0
    assert run("lift3d", tmp_path / "tracks.ndjson", "--out", tmp_path / "labels").code == 0
    return tmp_path / "tracks.ndjson", tmp_path / "labels"


def test_tracks_and_their_labels_are_one_scene_in_any_order(run, tracks_and_labels, tmp_path):
    for name, inputs in (("a", tracks_and_labels), ("b", tracks_and_labels[::-1])):
        result = run("view", *inputs, "--out", tmp_path / name, *FAST)
        assert result.code == 0, result.err
        assert result.out == f"{tmp_path / name / 'room0.html'}\n"
        scene = page_scene(tmp_path / name / "room0.html")
        assert scene["instances"] and len(scene["frames"]) == 4
        assert {line.split()[1] for line in scene["origin"]} == {"track2d", "lift3d"}
        assert {"frames.png", "top_instances.png", "camera_instances.png"} <= pictures(tmp_path / name / "room0")
    again = run("view", *tracks_and_labels, "--out", tmp_path / "b", *FAST, "-v")
    assert again.code == 0 and "skipped" in again.err  # the order decides nothing


def test_a_scene_that_failed_in_one_of_two_streams_has_failed(run, tracks_and_labels, tmp_path):
    path = next(tracks_and_labels[1].glob("*.ndjson"))
    path.write_text(path.read_text().replace('"ok":true', '"ok":false'))
    result = run("view", *tracks_and_labels, "--out", tmp_path / "out", *FAST)
    assert result.code == 3 and ": failed in an earlier stage" in result.err


def test_walls_and_floor_are_pale(run, scans, tmp_path):
    tracked = run("track2d", scans / "room0", "--masks", "oracle", "--stride", "2")
    lines = [json.loads(line) for line in run("lift3d", stdin=tracked.out).out.splitlines()]
    (scene,) = (line for line in lines if line["type"] == "scene")
    count = scene["num_points"]
    everything = {"type": "instance3d", "scene": "room0", "instance": 0, "rle": encode_points(np.ones(count, bool))}
    text = stream([scene, everything | {"score": 1.0}])
    assert run("view", "--out", tmp_path / "out", *FAST, "--write", "html", stdin=text).code == 0
    strong = page_scene(tmp_path / "out/room0.html")["instances"][0]["color"]
    from pc3dcli.formats.cloud import read_cloud

    height = read_cloud(scans / "room0" / scene["points"]).xyz[:, 2]
    text = stream([scene, everything | {"score": 1.0, "rle": encode_points(height < 0.05)}])
    assert run("view", "--out", tmp_path / "out", *FAST, "--write", "html", "-f", stdin=text).code == 0
    floor = page_scene(tmp_path / "out/room0.html")["instances"][0]["color"]
    assert np.ptp(floor) < 0.4 * np.ptp(strong)


def test_grey_is_explained_in_the_pictures_that_show_it(run, scan, tmp_path):
    legends = []
    for masks in ([np.arange(400) < 150], [np.ones(400, bool)]):
        records = labelled(scan)[:1] + [
            {"type": "instance3d", "scene": "shelf", "instance": 4, "rle": encode_points(mask)} for mask in masks
        ]
        run("view", "--out", tmp_path / "out", "--size", "640x480", "--write", "png", "-f", stdin=stream(records))
        corner = read_color(tmp_path / "out/shelf/top_instances.png")[-40:, :40]
        legends.append((corner == (150, 150, 150)).all(-1).sum() > 30)
    assert legends == [True, False]


def test_label_folder_of_lift3d(run, scans, tmp_path):
    tracked = run("track2d", scans / "room0", "--masks", "oracle", "--stride", "2")
    lifted = run("lift3d", "--out", tmp_path / "labels", stdin=tracked.out)
    assert lifted.code == 0, lifted.err
    result = run("view", tmp_path / "labels", "--out", tmp_path / "out", *FAST)
    assert result.code == 0, result.err
    assert page_scene(tmp_path / "out/room0.html")["instances"]
    assert "inside_instances.png" in pictures(tmp_path / "out/room0")


def test_scene_folder(run, scans, tmp_path):
    result = run("view", scans, "--out", tmp_path / "out", *FAST, "--write", "html", "--dataset", "scannet")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [f"{tmp_path / 'out' / name}.html" for name in ("room0", "room1")]
    assert pictures(tmp_path / "out/room0") == set()


def test_same_command_skips_and_other_settings_are_refused(run, scan, tmp_path):
    first = run("view", scan, "--out", tmp_path / "out", *FAST)
    page = tmp_path / "out/shelf.html"
    made = page.stat().st_mtime_ns
    again = run("view", scan, "--out", tmp_path / "out", *FAST, "-v")
    assert again.code == 0 and "skipped" in again.err and again.out == first.out
    other = run("view", scan, "--out", tmp_path / "out", "--size", "200x100")
    assert other.code == 2 and 'size = "160x120", now "200x100"' in other.err and "--force" in other.err
    assert page.stat().st_mtime_ns == made
    assert run("view", scan, "--out", tmp_path / "out", *FAST, "--force").code == 0
    assert page.stat().st_mtime_ns != made


def test_other_records_are_not_taken_for_the_same(run, scan, tmp_path):
    records = labelled(scan)
    assert run("view", "--out", tmp_path / "out", *FAST, stdin=stream(records)).code == 0
    other = run("view", "--out", tmp_path / "out", *FAST, stdin=stream(records[:-1]))
    assert other.code == 2 and "exists, but shows other records" in other.err


def test_same_input_same_bytes(run, scan, tmp_path):
    for name in ("a", "b"):
        run("view", scan, "--out", tmp_path / name, *FAST)
    for path in sorted((tmp_path / "a").rglob("*.[ph]*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_max_points_limits_what_is_shown(run, scan, tmp_path):
    run("view", scan, "--out", tmp_path / "out", *FAST, "--max-points", "100", "--write", "html")
    scene = page_scene(tmp_path / "out/shelf.html")
    assert scene["count"] == 100 and scene["total"] == 400
    assert all(one["total"] == 100 and one["points"] < 60 for one in scene["instances"])


def test_frames_zero_leaves_the_sheet_out(run, scans, tmp_path):
    tracked = run("track2d", scans / "room0", "--masks", "oracle", "--stride", "8")
    run("view", "--out", tmp_path / "out", *FAST, "--frames", "0", "--write", "png", stdin=tracked.out)
    assert "frames.png" not in pictures(tmp_path / "out/room0")


def test_dry_run_touches_nothing(run, scan, tmp_path):
    result = run("view", scan, "--out", tmp_path / "out", "--dry-run")
    assert result.code == 0 and result.out == f"shelf\t{tmp_path / 'out/shelf'}\tdo\n"
    assert not (tmp_path / "out").exists()


def test_limit_and_shard(run, scans, tmp_path):
    run("view", scans, "--out", tmp_path / "one", *FAST, "--write", "html", "--limit", "1")
    assert [path.name for path in (tmp_path / "one").glob("*.html")] == ["room0.html"]
    run("view", scans, "--out", tmp_path / "two", *FAST, "--write", "html", "--shard", "2/2")
    assert [path.name for path in (tmp_path / "two").glob("*.html")] == ["room1.html"]


def test_depth_scale_reaches_the_fused_cloud(run, scans, tmp_path):
    import shutil

    for name in ("half", "full"):
        shutil.copytree(scans / "room0", tmp_path / name, ignore=shutil.ignore_patterns("*.ply"))
    run("view", tmp_path / "full", "--out", tmp_path / "out", *FAST, "--write", "html")
    half = run(
        "view", tmp_path / "half", "--out", tmp_path / "out", *FAST, "--write", "html", "--depth-scale", "0.0005"
    )
    assert half.code == 0, half.err
    sizes = [np.linalg.norm(page_scene(tmp_path / f"out/{name}.html")["extent"]) for name in ("half", "full")]
    assert sizes[0] < 0.9 * sizes[1]


def test_bad_poses_can_be_skipped(run, scans, tmp_path):
    import shutil

    shutil.copytree(scans / "room0", tmp_path / "room")
    next((tmp_path / "room/pose").iterdir()).write_text("1 2 3\n")
    assert run("view", tmp_path / "room", "--out", tmp_path / "out", *FAST, "--write", "html").code == 3
    skipping = ("--skip-bad-poses", "--write", "html")
    assert run("view", tmp_path / "room", "--out", tmp_path / "out", *FAST, *skipping).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "160"], "WIDTHxHEIGHT"),
        (["--size", "0x9"], "WIDTHxHEIGHT"),
        (["--write", "gif"], "png and/or html"),
        (["--write", ","], "png and/or html"),
        (["--frames", "-1"], "--frames"),
        (["--max-points", "0"], "--max-points"),
    ],
)
def test_wrong_options_exit_2(run, scan, tmp_path, arguments, message):
    result = run("view", scan, "--out", tmp_path / "out", *arguments)
    assert result.code == 2 and message in result.err and not (tmp_path / "out").exists()


def test_a_place_for_the_pictures_is_needed(run, scan, tmp_path):
    assert run("view", scan).code == 2
    (tmp_path / "file").write_text("")
    assert run("view", scan, "--out", tmp_path / "file").code == 2


def test_a_broken_scene_does_not_stop_the_others(run, scan, tmp_path):
    text = stream(labelled(scan, "bad", points="missing.ply"), labelled(scan, "good"))
    result = run("view", "--out", tmp_path / "out", *FAST, stdin=text)
    assert result.code == 3 and "missing.ply" in result.err and "1 failed" in result.err and "bad" in result.err
    assert (tmp_path / "out/good.html").is_file() and not (tmp_path / "out/bad.html").exists()
    assert run("view", "--out", tmp_path / "x", *FAST, "--fail-fast", stdin=text).code == 4


@pytest.mark.parametrize(
    ("changes", "record", "message"),
    [
        ({"xyz_sha256": "0" * 64}, {}, "xyz_sha256"),
        ({"points": "../shelf.ply"}, {}, "'..'"),
        ({"points": 5}, {}, "file name"),
        ({"up": "w"}, {}, "up is"),
        ({}, {"rle": encode_points(np.ones(399, bool))}, "399"),
        ({}, {"instance": "four"}, "whole number"),
        ({}, {"label": 7}, "label"),
    ],
)
def test_what_does_not_fit_is_an_error(run, scan, tmp_path, changes, record, message):
    records = labelled(scan, **changes)
    records[-1] |= record
    result = run("view", "--out", tmp_path / "out", *FAST, stdin=stream(records))
    assert result.code == 3 and message in result.err, result.err


def test_a_mask_of_another_size_is_an_error(run, scans, tmp_path):
    tracked = run("track2d", scans / "room0", "--masks", "oracle", "--stride", "8")
    lines = [json.loads(line) for line in tracked.out.splitlines()]
    for record in lines:
        if record["type"] == "mask2d":
            record["rle"] = encode_mask(np.ones((9, 9), bool))
    text = "".join(json.dumps(record) + "\n" for record in lines)
    result = run("view", "--out", tmp_path / "out", *FAST, stdin=text)
    assert result.code == 3 and "not of its size" in result.err


def test_failed_scenes_and_truncation_are_noticed(run, scan, tmp_path):
    failed = stream(labelled(scan)).replace('"ok": true', '"ok": false')
    result = run("view", "--out", tmp_path / "a", *FAST, stdin=failed)
    assert result.code == 3 and "earlier stage" in result.err
    cut = stream(labelled(scan)).rsplit("\n", 2)[0] + "\n"
    result = run("view", "--out", tmp_path / "b", *FAST, stdin=cut)
    assert result.code == 4 and (tmp_path / "b/shelf.html").is_file()
    assert run("view", "--out", tmp_path / "c", *FAST, "--allow-truncated", stdin=cut).code == 0


def test_a_scene_that_comes_twice_is_an_error(run, scan, tmp_path):
    result = run("view", scan, "-", "--out", tmp_path / "out", *FAST, stdin=stream(labelled(scan)))
    assert result.code == 4 and "twice" in result.err


def test_root_relocates(run, scan, tmp_path):
    records = labelled(scan, root="/elsewhere/data")
    relocated = ("--root", f"/elsewhere/data={scan.parent}")
    assert run("view", "--out", tmp_path / "out", *FAST, stdin=stream(records)).code == 3
    assert run("view", "--out", tmp_path / "out", *FAST, *relocated, stdin=stream(records)).code == 0


def test_settings_can_be_printed_and_read_back(run, scan, tmp_path):
    printed = run("view", "--print-config", "--size", "160x120")
    assert 'size = "160x120"' in printed.out
    (tmp_path / "view.toml").write_text('size = "160x120"\nwrite = "png"\n')
    assert run("view", scan, "--out", tmp_path / "out", "--config", tmp_path / "view.toml").code == 0
    assert image_size(tmp_path / "out/shelf/top_rgb.png") == (120, 160) and not (tmp_path / "out/shelf.html").exists()


def test_collected_masks_stay_few_and_evenly_spaced():
    from pc3dcli.commands.view_scene import Collector, spread
    from pc3dcli.stream.reader import Line

    collector = Collector(5)
    for number in range(1000):
        for record in ({"type": "frame", "frame": str(number)}, {"type": "mask2d", "frame": str(number)}):
            collector(Line(record, json.dumps(record), 1))
    content = collector.take({})
    kept = np.array([int(name) for name in content.masks])
    assert 5 <= len(kept) < 20 and len(set(np.diff(kept))) == 1 and all(len(one) == 1 for one in content.masks.values())
    assert len(content.frames) == 1000
    assert spread(10, 3) == [0, 4, 9] and spread(2, 5) == [0, 1] and spread(7, 1) == [0]

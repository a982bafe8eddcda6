# SPDX-License-Identifier: Apache-2.0
"""What a careless or hostile user types: refused with a sentence, never a traceback."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pc3dcli import main
from pc3dcli.commands import lift3d, track2d
from pc3dcli.formats.cloud import Cloud, read_cloud
from pc3dcli.formats.ply import write_ply

CONFIGS = [*track2d.configs(), *lift3d.configs()]
NUMBERS = [
    (type(config), field.name)
    for config in CONFIGS
    for field in dataclasses.fields(config)
    if field.type in ("int", "float", "float | None", int, float, float | None) and field.name != "seed"
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=[name for _, name in NUMBERS])
def test_every_number_that_can_be_set_has_a_range(kind, name):
    for value in (-1e12, 1e12, float("nan")):
        with pytest.raises(ValueError, match=f"^{name} = .*: expected a number from"):
            kind(**{name: value})


@pytest.fixture(scope="module")
def tracks(scans, tmp_path_factory) -> list[dict]:
    """The records of a room's tracks."""
    path = tmp_path_factory.mktemp("tracks") / "t.ndjson"
    assert main._run(["track2d", str(scans / "room0"), "--masks", "oracle", "--stride", "4", "--out", str(path)]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def text_of(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def with_cloud(records: list[dict], path) -> str:
    """Return the stream with another cloud of whatever size and hash."""
    changes = {"root": str(path.parent), "points": path.name, "num_points": None, "xyz_sha256": None}
    scene = {record["root"] for record in records if record["type"] == "scene"}.pop()
    for name in ("color", "depth"):
        if not (path.parent / name).exists():
            shutil.copytree(f"{scene}/{name}", path.parent / name)
    return text_of([record | changes if record["type"] == "scene" else record for record in records])


@pytest.mark.parametrize("merge", ["consensus", "tracks", "none"])
@pytest.mark.parametrize(("scale", "code"), [(1e5, 3), (1e9, 3), (1e30, 3), (1e300, 3), (np.nan, 3), (0.0, 0)])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_clouds_of_impossible_coordinates(run, tracks, tmp_path, merge, scale, code):
    write_ply(tmp_path / "c.ply", Cloud(np.random.default_rng(0).choice([-1.0, 1.0], (200, 3)) * scale))
    result = run("lift3d", "--merge", merge, "--snap", stdin=with_cloud(tracks, tmp_path / "c.ply"))
    assert result.code == code, result.err
    assert code == 0 or "no point of its cloud lies within" in result.err


def test_stray_points_are_left_out(run, tracks, scans, tmp_path):
    cloud = read_cloud(scans / "room0/room0_vh_clean_2.ply")
    xyz = cloud.xyz.copy()
    xyz[::50] = [[1e20, np.nan, -1e9]]
    write_ply(tmp_path / "c.ply", Cloud(xyz))
    result = run("lift3d", stdin=with_cloud(tracks, tmp_path / "c.ply"))
    assert (result.code, len(result.of("instance3d")) > 0) == (0, True), result.err


@pytest.mark.parametrize("command", ["track2d", "lift3d", "view"])
def test_a_camera_too_far_away_is_refused(run, tracks, tmp_path, command):
    records = [
        record | {"world_from_cam": [*(row[:3] + [9e5] for row in record["world_from_cam"][:3]), [0, 0, 0, 1]]}
        if record["type"] == "frame"
        else {name: value for name, value in record.items() if name != "points"}
        for record in tracks
    ]
    result = run(command, "-", "--out", tmp_path / "out", stdin=text_of(records))
    assert result.code == 3
    assert "m from the origin, too far for voxels of" in result.err


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("ids", [[np.nan, 1e300, -5.0, 3.0], [7.0, 7.0, 7.0, 7.0]])
def test_view_of_twins_with_ids_of_any_kind(run, tmp_path, ids):
    write_ply(tmp_path / "c.ply", Cloud(np.ones((4, 3), np.float32), extra={"instance_id": np.array(ids)}))
    result = run("view", tmp_path / "c.ply", "--out", tmp_path / "out", "--size", "32x32", "--quiet")
    assert (result.code, result.err) == (0, "")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("scale", "code"), [(1e4, 0), (1e8, 3), (1e30, 3)])
def test_view_of_clouds_without_end(run, tmp_path, scale, code):
    xyz = np.random.default_rng(0).normal(size=(300, 3)) * scale
    write_ply(tmp_path / "c.ply", Cloud(xyz))
    result = run("view", tmp_path / "c.ply", "--out", tmp_path / "out", "--size", "32x32", "--quiet")
    assert result.code == code, result.err
    if code:
        assert "no points with finite coordinates near each other" in result.err
    strays = np.concatenate([np.random.default_rng(0).uniform(size=(300, 3)), xyz[:20] * 1e6])
    write_ply(tmp_path / "d.ply", Cloud(strays))
    assert run("view", tmp_path / "d.ply", "--out", tmp_path / "out", "--size", "32x32").code == 0


@pytest.mark.parametrize("name", ["../x", "0/../../../y", "/etc/x", "a//b", "\0", "x" * 300, " "])
def test_no_frame_leads_out_of_the_folder_of_single_views(run, tracks, tmp_path, name):
    records = [record | {"frame": name} if "frame" in record else record for record in tracks]
    result = run("lift3d", "--per-view", "--out", tmp_path / "deep/out", stdin=text_of(records))
    assert result.code == 4
    assert "cannot be a file name" in result.err
    assert {path.name for path in tmp_path.rglob("*")} <= {"deep", "out"}

# SPDX-License-Identifier: Apache-2.0
import io
import json
import os

import pytest

from pc3dcli.commands import inputs
from pc3dcli.commands.inputs import digest, found_scenes, is_stream, sharded, stream_scenes
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.stream.reader import TruncatedStream


def write_stream(path, *scenes, root="/data", end=True):
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for scene in scenes:
        records.append({"type": "scene", "scene": scene, "root": root})
        records.append({"type": "mask2d", "scene": scene, "frame": "1", "track": 0, "rle": {}})
        records.append({"type": "scene_end", "scene": scene, "ok": True})
    records += [{"type": "end", "scenes": len(scenes), "failed": 0}] * end
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(*names, **settings):
    return list(stream_scenes(names, lambda line: line.type, **settings))


def test_what_is_a_stream(tmp_path):
    (tmp_path / "labels").mkdir()
    assert not is_stream(str(tmp_path / "labels"))
    (tmp_path / "labels/run.json").touch()
    assert is_stream(str(tmp_path / "labels"))
    assert is_stream("-")
    assert is_stream("x.ndjson")
    for name in ("pipe", "labels.pipe", "x.ndjson", "submission.json", "scene.txt", "cls.npz"):
        os.mkfifo(tmp_path / name)
        assert is_stream(str(tmp_path / name)) == (name in ("pipe", "labels.pipe", "x.ndjson"))
    assert not is_stream("scan.ply")
    os.mkfifo(tmp_path / "63")
    assert is_stream(str(tmp_path / "63"))  # as <(pc3d track2d scans/) gives


def test_files_and_folders_in_order(tmp_path):
    first = write_stream(tmp_path / "t.ndjson", "z", "y")
    for name in ("b", "a"):
        write_stream(tmp_path / f"labels/{name}.ndjson", name)
    found = read(first, str(tmp_path / "labels"))
    assert [(scene.id, scene.segment, scene.kept) for scene in found] == [
        ("z", 0, ["mask2d"]), ("y", 0, ["mask2d"]), ("a", 1, ["mask2d"]), ("b", 2, ["mask2d"]),
    ]  # fmt: skip


def test_standard_input(monkeypatch):
    class Input:
        buffer = io.BytesIO(b"")

    monkeypatch.setattr(inputs.sys, "stdin", Input)
    with pytest.raises(FormatError, match="<stdin>: empty"):
        read("-")


@pytest.mark.parametrize(
    ("root", "roots", "expected"),
    [
        ("/data/scans/a", [], "/data/scans/a"),
        ("/data/scans/a", ["/data=/mnt"], "/mnt/scans/a"),
        ("/data/scans/a", ["/data/scans/a/=/mnt"], "/mnt"),
        ("/data/scans/a", ["/dat=/mnt"], "/data/scans/a"),  # whole components only
        ("/data/scans/a", ["/x=/y", "/data/scans=/s", "/data=/d"], "/s/a"),
        (".", [], "{folder}"),
        ("../scans", [], "{folder}/../scans"),
        (".", ["{folder}=/mnt"], "/mnt"),
    ],
)
def test_roots(tmp_path, root, roots, expected):
    name = write_stream(tmp_path / "t.ndjson", "a", root=root)
    (scene,) = read(name, roots=[text.replace("{folder}", str(tmp_path)) for text in roots])
    assert scene.scene["root"] == expected.replace("{folder}", str(tmp_path))


@pytest.mark.parametrize("text", ["x", "=y", "x=", ""])
def test_refused_roots(tmp_path, text):
    with pytest.raises(UsageError, match="expected OLD=NEW"):
        read(write_stream(tmp_path / "t.ndjson", "a"), roots=[text])


def test_problems_of_files(tmp_path):
    with pytest.raises(InputError, match="cannot read it"):
        read(str(tmp_path / "none.ndjson"))
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="holds no finished scene"):
        read(str(tmp_path / "labels"))
    cut = write_stream(tmp_path / "cut.ndjson", "a", end=False)
    with pytest.raises(TruncatedStream):
        read(cut)
    assert [scene.id for scene in read(cut, allow_truncated=True)] == ["a"]
    twice = [write_stream(tmp_path / f"{n}.ndjson", "a") for n in "12"]
    with pytest.raises(FormatError, match='scene "a" comes twice'):
        read(*twice)


def test_lists(tmp_path):
    class Context:
        command_path = "pc3d track2d"

    path = tmp_path / "list.txt"
    path.write_text("# mine\n scans/a \n\nb.ply\n")
    assert inputs.expand_names(Context, ["x", f"@{path}"], "") == ["x", "scans/a", "b.ply"]
    path.write_text("# nothing\n")
    for name in (path, tmp_path / "none"):
        with pytest.raises(InputError):
            inputs.expand_names(Context, [f"@{name}"], "")


@pytest.mark.parametrize(
    ("shard", "expected"), [(None, "abcde"), ("1/1", "abcde"), ("1/2", "ace"), ("2/2", "bd"), ("7/7", "")]
)
def test_shards(shard, expected):
    assert "".join(sharded("abcde", shard)) == expected


@pytest.mark.parametrize("shard", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3", "1.0/2", "1/1" + "0" * 25])
def test_refused_shards(shard):
    with pytest.raises(UsageError, match="expected I/N"):
        sharded("abc", shard)


def test_same_scene_from_two_folders_is_refused(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "room.ply").touch()
    with pytest.raises(UsageError, match="scene room is both"):
        found_scenes([str(tmp_path / "x/room.ply"), str(tmp_path / "y/room.ply")], "auto")


@pytest.mark.parametrize("name", ["my scan", "_scan", "scän", "x" * 201])
def test_an_impossible_scene_id_is_refused(tmp_path, name):
    (tmp_path / f"{name}.ply").touch()
    with pytest.raises(FormatError, match="cannot be a scene id") as caught:
        found_scenes([str(tmp_path / f"{name}.ply")], "auto")
    assert "rename" in caught.value.hint


def test_digest_of_files_and_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/x").write_text("1")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a/sub/x") != digest(tmp_path / "a")
    (tmp_path / "b/sub/x").rename(tmp_path / "b/x")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    with pytest.raises(InputError):
        digest(tmp_path / "none")

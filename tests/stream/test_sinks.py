# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import subprocess
import tempfile
from dataclasses import replace

import pytest

from pc3dcli.errors import InputError, UsageError
from pc3dcli.stream.provenance import Program, heads
from pc3dcli.stream.reader import read_lines
from pc3dcli.stream.sinks import FileSink, FolderSink, StreamSink, is_scene_done

TRACK = Program("pc3d track2d", ["scans/"], {"stride": 10})
LIFT = Program("pc3d lift3d", [])


def chain(track: Program = TRACK, lift: Program = LIFT) -> tuple[dict, ...]:
    first = track.record()
    return first, lift.record(heads([first]))


def scene_lines(scene: str, *, ok: bool = True) -> io.BytesIO:
    records = [{"type": "scene", "scene": scene, "root": "/d"}, {"type": "scene_end", "scene": scene, "ok": ok}]
    return io.BytesIO("".join(json.dumps(record) + "\n" for record in records).encode())


def fill(sink, *scenes: str, programs=None, bad: str | None = None) -> None:
    sink.begin(list(chain() if programs is None else programs))
    for scene in scenes:
        sink.write(scene, scene_lines(scene, ok=scene != bad), is_ok=scene != bad)
    sink.end(len(scenes), int(bad is not None))
    sink.close()


def types(data: bytes) -> list[str]:
    return [line.type for line in read_lines(io.BytesIO(data), "test")]


def test_stream():
    file = io.BytesIO()
    sink = StreamSink(file)
    fill(sink, "a", "b")
    assert types(file.getvalue()) == ["header", "program", "program", "scene", "scene_end", "scene", "scene_end", "end"]
    assert sink.side_files("a") is None
    assert not sink.is_done("a", chain())


def test_file(tmp_path):
    path = tmp_path / "deep" / "x.ndjson"
    sink = FileSink(path, force=False)
    assert not sink.is_done("a", chain())
    sink.begin(list(chain()))
    sink.write("a", scene_lines("a"), is_ok=True)
    assert not path.exists()
    sink.end(1, 0)
    sink.close()
    assert types(path.read_bytes())[-1] == "end"
    assert [p.name for p in path.parent.iterdir()] == ["x.ndjson"]


def test_file_that_is_done_is_left_alone(tmp_path):
    path = tmp_path / "x.ndjson"
    fill(FileSink(path, force=False), "a", "b")
    before = path.stat()
    sink = FileSink(path, force=False)
    assert sink.is_done("a", chain())
    assert sink.is_done("b", ())  # --no-provenance: any maker
    sink.begin(list(chain()))
    sink.keep("a")
    sink.write("z", scene_lines("z", ok=False), is_ok=False)  # what failed upstream alone is nothing new
    sink.write(None, io.BytesIO(b'{"type":"metric","name":"ap","value":1}\n'), is_ok=True)
    sink.keep("b")
    sink.end(3, 1)
    sink.close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_file_that_lacks_a_scene_is_refused(tmp_path):
    path = tmp_path / "x.ndjson"
    fill(FileSink(path, force=False), "a")
    with pytest.raises(UsageError, match="exists and lacks scene b"):
        FileSink(path, force=False).is_done("b", chain())
    assert not FileSink(path, force=True).is_done("b", chain())


def test_file_takes_finished_scenes_over_when_a_failed_one_is_redone(tmp_path):
    path = tmp_path / "x.ndjson"
    fill(FileSink(path, force=False), "a", "b", "c", "d", bad="b")
    sink = FileSink(path, force=False)
    assert [sink.is_done(scene, chain()) for scene in "abc"] == [True, False, True]
    sink.begin(list(chain()))
    sink.keep("a")
    assert not list(tmp_path.glob(".*.tmp"))  # nothing is new so far
    sink.write("b", scene_lines("b"), is_ok=True)
    sink.keep("c")
    sink.end(3, 0)
    sink.close()
    again = tmp_path / "y.ndjson"
    fill(FileSink(again, force=False), "a", "b", "c")
    fill(FileSink(tmp_path / "z.ndjson", force=False), "d")  # what was not asked for stays, in a segment of its own
    assert path.read_bytes() == again.read_bytes() + (tmp_path / "z.ndjson").read_bytes()


@pytest.mark.parametrize("data", [b"", b"notes of mine\n", b'{"type":"header","format":"pc3d","version":"1.0"}\n'])
def test_file_that_is_no_stream_is_refused(tmp_path, data):
    path = tmp_path / "x.ndjson"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="exists and is no complete stream") as caught:
        FileSink(path, force=False)
    assert caught.value.hint == "pass --force"
    assert path.read_bytes() == data


def test_file_abort_keeps_the_earlier_one(tmp_path):
    path = tmp_path / "x.ndjson"
    path.write_bytes(b"old")
    sink = FileSink(path, force=True)
    sink.begin([])
    sink.write("a", scene_lines("a"), is_ok=True)
    sink.abort()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.ndjson"]
    FileSink(tmp_path / "never", force=False).abort()


def test_file_removes_what_its_killed_writer_left_and_nothing_else(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / "x.ndjson.files").mkdir()
    ours = [
        tmp_path / f".x.ndjson.{process.pid}.tmp",
        tmp_path / "x.ndjson.files" / f".a.safetensors.{process.pid}.tmp",
    ]
    (tmp_path / "mine").mkdir()
    theirs = [tmp_path / "mine" / f".doc.{process.pid}.tmp", tmp_path / f".doc.{process.pid}.tmp"]
    for file in (*ours, *theirs):
        file.touch()
    spool = tmp_path / f".pc3d-abc.{process.pid}.tmp"
    spool.mkdir()
    (spool / "tmpx").touch()
    FileSink(tmp_path / "x.ndjson", force=False).prepare()
    assert not any(file.exists() for file in (*ours, spool))
    assert all(file.exists() for file in theirs)


def test_stream_removes_what_a_killed_run_left_among_temporary_files(tmp_path, monkeypatch):
    process = subprocess.Popen(["true"])
    process.wait()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f".pc3d-abc.{process.pid}.tmp").mkdir()
    (tmp_path / f".pc3d-abc.{os.getppid()}.tmp").mkdir()
    StreamSink(io.BytesIO()).prepare()
    assert [path.name for path in tmp_path.iterdir()] == [f".pc3d-abc.{os.getppid()}.tmp"]


@pytest.mark.parametrize("force", [False, True])
def test_file_does_not_take_what_is_no_file(tmp_path, force):
    (tmp_path / "x.ndjson").mkdir()
    os.mkfifo(tmp_path / "y.ndjson")
    for name in ("x.ndjson", "y.ndjson"):
        with pytest.raises(UsageError, match="is no regular file"):
            FileSink(tmp_path / name, force=force)


def test_file_names_side_files(tmp_path):
    side = FileSink(tmp_path / "x.ndjson", force=False).side_files("a/b")
    assert side.path(".safetensors") == tmp_path / "x.ndjson.files/a/b.safetensors"
    assert side.relative(".safetensors") == "x.ndjson.files/a/b.safetensors"


def test_folder(tmp_path):
    sink = FolderSink(tmp_path / "labels", force=False)
    fill(sink, "a", "b/c.d", bad="b/c.d")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["labels/a.ndjson", "labels/b/c.d.ndjson", "labels/run.json"]
    expected = ["header", "program", "program", "scene", "scene_end", "end"]
    assert types((tmp_path / files[0]).read_bytes()) == types((tmp_path / files[1]).read_bytes()) == expected
    assert '"failed":1' in (tmp_path / files[1]).read_text()
    run = json.loads((tmp_path / files[2]).read_text())
    assert (run["format"], run["version"], run["programs"]) == ("pc3d", "1.0", list(chain()))


def test_folder_names_side_files(tmp_path):
    side = FolderSink(tmp_path, force=False).side_files("b/c.d")
    assert side.path(".points.ply") == tmp_path / "b/c.d.points.ply"
    assert side.relative(".points.ply") == "c.d.points.ply"  # relative to the folder of its stream file


def test_folder_does_not_take_a_file(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match="is a file"):
        FolderSink(tmp_path / "x", force=True)


def test_folder_skips_what_is_done(tmp_path):
    fill(FolderSink(tmp_path, force=False), "a", "b", bad="b")
    assert FolderSink(tmp_path, force=False).is_done("a", chain())
    assert FolderSink(tmp_path, force=False).is_done("a", ())
    for scene in ("b", "c"):  # failed, never done
        assert not FolderSink(tmp_path, force=False).is_done(scene, chain())
    assert not FolderSink(tmp_path, force=True).is_done("a", chain())


def test_folder_takes_a_scene_once(tmp_path):
    sink = FolderSink(tmp_path, force=False)
    assert not sink.is_done("a", chain())
    with pytest.raises(InputError, match="scene a comes twice"):
        sink.is_done("a", chain())


def test_folder_lists_the_programs_of_all_segments(tmp_path):
    sink = FolderSink(tmp_path, force=False)
    other = chain(replace(TRACK, seed=3))
    sink.begin(list(chain()))
    fill(sink, "b", programs=other)
    assert json.loads((tmp_path / "run.json").read_text())["programs"] == [*chain(), *other]


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (chain(lift=replace(LIFT, config={"merge": "none"})), 'made with merge = the default, now "none"'),
        (chain(replace(TRACK, config={"stride": 5})), "made with stride = 10, now 5"),  # the cause, not its consequence
        (chain(lift=replace(LIFT, seed=1)), "made with seed None, now 1"),
        ((LIFT.record(),), "made from other inputs"),
        ((Program("pc3d view", []).record(),), "made by pc3d lift3d, not pc3d view"),
    ],
)
def test_other_settings_are_refused_naming_the_first_difference(tmp_path, programs, message):
    fill(FolderSink(tmp_path, force=False), "a")
    fill(FileSink(tmp_path / "x.ndjson", force=False), "a")
    for sink in (FolderSink(tmp_path, force=False), FileSink(tmp_path / "x.ndjson", force=False)):
        with pytest.raises(UsageError) as caught:
            sink.is_done("a", programs)
        assert message in str(caught.value)
        assert "--force" in caught.value.hint


def test_skip_done_knows_an_earlier_stage(tmp_path):
    """`track2d scans/ --skip-done labels/`: labels were made by lift3d from what we are about to make."""
    fill(FolderSink(tmp_path, force=False), "a")
    assert is_scene_done(tmp_path, "a", chain()[:1])
    assert not is_scene_done(tmp_path, "b", chain()[:1])
    with pytest.raises(UsageError, match="made with stride = 10, now 5"):
        is_scene_done(tmp_path, "a", (replace(TRACK, config={"stride": 5}).record(),))


def test_a_damaged_scene_file_is_refused(tmp_path):
    (tmp_path / "a.ndjson").write_text("half")
    with pytest.raises(UsageError, match="no complete stream"):
        FolderSink(tmp_path, force=False).is_done("a", chain())


def test_folder_is_whole_only_while_run_json_is_there(tmp_path):
    fill(FolderSink(tmp_path, force=False), "a")
    assert (tmp_path / "run.json").exists()
    sink = FolderSink(tmp_path, force=False)
    for _ in range(2):  # segments
        sink.begin(list(chain()))
        sink.end(1, 0)
        assert not (tmp_path / "run.json").exists()
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ndjson"]


def test_folder_abort_removes_temporaries(tmp_path):
    sink = FolderSink(tmp_path, force=False)
    sink.begin([])
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / f".a.safetensors.{process.pid}.tmp").touch()
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_a_run_that_finds_all_done_leaves_run_json_as_it_was(tmp_path):
    from pc3dcli.stream.sinks import FolderSink

    made_by = [{"type": "program", "id": "a" * 12, "program": "pc3d x", "version": "1", "argv": [], "parents": []}]
    sink = FolderSink(tmp_path / "out", force=False)
    sink.begin(made_by)
    lines = b'{"type":"scene","scene":"s","root":"/s"}\n{"type":"scene_end","scene":"s","ok":true}\n'
    sink.write("s", io.BytesIO(lines), is_ok=True)
    sink.close()
    before = (tmp_path / "out/run.json").read_bytes()
    again = FolderSink(tmp_path / "out", force=False)
    again.begin([made_by[0] | {"id": "b" * 12}])
    again.close()
    assert (tmp_path / "out/run.json").read_bytes() == before

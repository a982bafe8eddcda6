# SPDX-License-Identifier: Apache-2.0
import importlib
import io
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.stream import pipeline, workers
from pc3dcli.stream.pipeline import Runner, SceneTask
from pc3dcli.stream.provenance import Program
from pc3dcli.stream.reader import TruncatedStream, read_lines, read_scenes
from pc3dcli.stream.sinks import FileSink, FolderSink, StreamSink

PROGRAM = Program("pc3d test", ["x"], {"k": 1})
NAMES = "abcd"


class Recorder:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.progress, self.finished = [], []

    def scene_progress(self, scene, done, total):
        self.progress.append((scene, done, total))

    def scene_finished(self, scene, status, message):
        self.finished.append((scene, status, message))

    def warn(self, message):
        self.finished.append(("warning", message))

    def note(self, message):
        self.finished.append(("note", message))


class FullDisk(io.BytesIO):
    """Takes a few bytes, then none."""

    def write(self, data):
        if self.tell() + len(data) > 400:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.fixture
def work(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)  # so that spawned processes find it by name
    return importlib.import_module("scene_work")


def tasks(names=NAMES, **settings) -> list[SceneTask]:
    return [
        SceneTask({"type": "scene", "scene": n * (i + 1), "root": "/d"}, i + 1, **settings) for i, n in enumerate(names)
    ]


def run(sink, the_tasks, process, **settings):
    reporter = Recorder()
    return Runner(PROGRAM, sink, reporter, **settings).run(the_tasks, process), reporter


def run_to_bytes(the_tasks, process, **settings):
    file = io.BytesIO()
    return file, *run(StreamSink(file), the_tasks, process, **settings)


def records(data: bytes) -> list[dict]:
    return [line.record for line in read_lines(io.BytesIO(data), "test")]


def of_type(data: bytes, *kinds: str) -> list[dict]:
    return [record for record in records(data) if record["type"] in kinds]


def stream_tasks(data: bytes, payload=1):
    """Yield the tasks of a stream as a filter command does."""
    for s in read_scenes(read_lines(io.BytesIO(data), "<stdin>"), lambda line: 1 if line.type == "mask2d" else None):
        yield SceneTask(s.scene, payload, tuple(s.passed), s.ok, tuple(s.programs), s.segment)


def test_a_run(work):
    file, summary, reporter = run_to_bytes(tasks("ab"), work.count)
    found = records(file.getvalue())
    kinds = ["header", "program", "scene", "step", "scene_end", "scene", "step", "step", "scene_end", "end"]
    assert [record["type"] for record in found] == kinds
    assert found[2] == {"type": "scene", "scene": "a", "root": "/d", "num_points": 1, "program": found[1]["id"]}
    assert found[8] == {"type": "scene_end", "scene": "bb", "ok": True, "counts": {"step": 2}}
    assert found[9] == {"type": "end", "scenes": 2, "failed": 0}
    assert (summary.done, summary.skipped, summary.failed, summary.exit_code) == (["a", "bb"], [], [], 0)
    assert reporter.progress == [("a", 1, 1), ("bb", 1, 2), ("bb", 2, 2)]
    assert reporter.finished == [("a", "done", None), ("bb", "done", None)]


def test_jobs_change_nothing(work, tmp_path):
    serial, *_ = run_to_bytes(tasks(), work.count)
    parallel, summary, _ = run_to_bytes(tasks(), work.count, jobs=3)
    assert parallel.getvalue() == serial.getvalue()
    assert summary.done == ["a", "bb", "ccc", "dddd"]
    for jobs in (1, 2):
        run(FolderSink(tmp_path / str(jobs), force=False), tasks(), work.count, jobs=jobs)
    files = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in "12"]
    assert files[0] == files[1] == ["a.ndjson", "bb.ndjson", "ccc.ndjson", "dddd.ndjson", "run.json"]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in files[0])


def test_unordered_writes_scenes_as_they_finish(work):
    file, summary, _ = run_to_bytes(tasks(), work.slow_first, jobs=2, is_unordered=True)
    order = [record["scene"] for record in of_type(file.getvalue(), "scene")]
    assert sorted(order) == ["a", "bb", "ccc", "dddd"]
    assert order[0] != "a"
    assert sorted(summary.done) == sorted(order)


def test_no_provenance(work):
    earlier = Program("pc3d first", []).record()
    scenes = [{"type": "scene", "scene": scene, "root": "/d", "program": earlier["id"]} for scene in ("a", "bb")]
    given = [SceneTask(scene, 1, is_ok=scene["scene"] == "a", programs=(earlier,)) for scene in scenes]
    file, *_ = run_to_bytes(given, work.count, has_provenance=False)
    assert not of_type(file.getvalue(), "program")
    assert not any("program" in scene for scene in of_type(file.getvalue(), "scene"))


def test_no_scenes_is_a_whole_stream(work):
    file, summary, _ = run_to_bytes([], work.count)
    assert [record["type"] for record in records(file.getvalue())] == ["header", "program", "end"]
    assert summary.exit_code == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_scene_becomes_an_error_and_travels_on(work, jobs):
    file, summary, reporter = run_to_bytes(tasks("abc"), work.fail_on_even, jobs=jobs)
    program = of_type(file.getvalue(), "program")[0]["id"]
    middle = [record for record in records(file.getvalue()) if record.get("scene") == "bb"]
    assert middle == [
        {"type": "scene", "scene": "bb", "root": "/d", "program": program},
        {
            "type": "error", "code": "format", "message": "expected 4 numbers, found 3", "scene": "bb",
            "program": program, "file": "pose/120.txt", "line": 2, "hint": "delete the frame",
        },
        {"type": "scene_end", "scene": "bb", "ok": False},
    ]  # fmt: skip
    assert (summary.done, summary.failed, summary.exit_code) == (["a", "ccc"], ["bb"], 3)
    assert reporter.finished[1] == (
        "bb",
        "failed",
        "pose/120.txt:2: expected 4 numbers, found 3\n  hint: delete the frame",
    )
    assert records(file.getvalue())[-1] == {"type": "end", "scenes": 3, "failed": 1}


def test_downstream_copies_a_failed_scene_and_fails_too(work):
    upstream, *_ = run_to_bytes(tasks("abc"), work.fail_on_even)
    other = Program("pc3d next", [])
    file = io.BytesIO()
    reporter = Recorder()
    summary = Runner(other, StreamSink(file), reporter).run(stream_tasks(upstream.getvalue()), work.count)
    before = [record for record in records(upstream.getvalue()) if record.get("scene") == "bb"]
    after = [record for record in records(file.getvalue()) if record.get("scene") == "bb"]
    assert after == before
    assert (summary.done, summary.failed, summary.exit_code) == (["a", "ccc"], ["bb"], 3)
    assert ("bb", "failed", "bb: failed in an earlier stage") in reporter.finished
    programs = of_type(file.getvalue(), "program")
    assert [record["program"] for record in programs] == ["pc3d test", "pc3d next"]
    assert programs[1]["parents"] == [programs[0]["id"]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_fail_fast(work, jobs, tmp_path):
    file = io.BytesIO()
    with pytest.raises(FormatError, match="expected 4 numbers"):
        run(StreamSink(file), tasks(), work.fail_on_even, jobs=jobs, is_fail_fast=True)
    assert [json.loads(line)["type"] for line in file.getvalue().splitlines()][-2:] == ["error", "scene_end"]
    with pytest.raises(TruncatedStream):
        records(file.getvalue())
    with pytest.raises(FormatError):
        run(FileSink(tmp_path / "x.ndjson", force=False), tasks(), work.fail_on_even, jobs=jobs, is_fail_fast=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_scenes_say_and_how_they_fail_names_them(work, jobs):
    _, _, reporter = run_to_bytes(tasks("ab"), work.say_things, jobs=jobs)
    assert reporter.finished == [
        ("note", "a: 40 frames"), ("warning", "a: 2 frames skipped"), ("a", "failed", "a: no points"),
        ("note", "bb: 40 frames"), ("warning", "bb: 2 frames skipped"), ("bb", "done", None),
    ]  # fmt: skip


def test_a_scene_without_a_file_that_is_needed_is_done_again(work, tmp_path):
    run(FolderSink(tmp_path, force=False), tasks("ab"), work.count)
    (tmp_path / "a.ply").touch()
    summary, _ = run(FolderSink(tmp_path, force=False), tasks("ab"), work.count, needed_files=(".ply",))
    assert (summary.skipped, summary.done) == (["a"], ["bb"])


def test_failure_before_the_first_record(work):
    file, summary, _ = run_to_bytes(tasks("a"), work.fail_at_once)
    assert [record["type"] for record in records(file.getvalue())][2:] == ["scene", "error", "scene_end", "end"]
    assert summary.exit_code == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_truncated_upstream_keeps_finished_scenes_and_writes_no_end(work, jobs, tmp_path):
    upstream, *_ = run_to_bytes(tasks("abc"), work.count)
    cut = upstream.getvalue()[: upstream.getvalue().index(b'"scene_end","scene":"ccc"')]
    file = io.BytesIO()
    with pytest.raises(TruncatedStream):
        run(StreamSink(file), stream_tasks(cut), work.count, jobs=jobs)
    kinds = [json.loads(line)["type"] for line in file.getvalue().splitlines()]
    assert (kinds.count("scene_end"), kinds.count("end")) == (2, 0)
    with pytest.raises(TruncatedStream):
        run(FolderSink(tmp_path / "labels", force=False), stream_tasks(cut), work.count, jobs=jobs)
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["a.ndjson", "bb.ndjson"]
    with pytest.raises(TruncatedStream):
        run(FileSink(tmp_path / "x.ndjson", force=False), stream_tasks(cut), work.count, jobs=jobs)
    assert not (tmp_path / "x.ndjson").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_resume(work, jobs, tmp_path):
    run(FolderSink(tmp_path, force=False), tasks("ab"), work.count)
    before = (tmp_path / "a.ndjson").stat().st_ino
    summary, reporter = run(FolderSink(tmp_path, force=False), tasks("abc"), work.count, jobs=jobs)
    assert (summary.skipped, summary.done) == (["a", "bb"], ["ccc"])
    assert reporter.finished[0] == ("a", "skipped", None)
    assert (tmp_path / "a.ndjson").stat().st_ino == before
    summary, _ = run(FolderSink(tmp_path, force=False), tasks("abc"), work.must_not_run, jobs=jobs)
    assert summary.exit_code == 0
    with pytest.raises(UsageError, match="made with k = 1, now the default"):
        Runner(Program("pc3d test", []), FolderSink(tmp_path, force=False), Recorder(), jobs).run(
            tasks("abc"), work.must_not_run
        )
    summary, _ = run(FolderSink(tmp_path, force=True), tasks("ab"), work.count, jobs=jobs)
    assert summary.done == ["a", "bb"]


def test_resume_does_failed_scenes_again(work, tmp_path):
    assert run(FolderSink(tmp_path, force=False), tasks("ab"), work.fail_on_even)[0].failed == ["bb"]
    summary, _ = run(FolderSink(tmp_path, force=False), tasks("ab"), work.count)
    assert (summary.skipped, summary.done) == (["a"], ["bb"])


def test_finished_file_is_not_touched(work, tmp_path):
    path = tmp_path / "x.ndjson"
    run(FileSink(path, force=False), tasks("ab"), work.count)
    before = path.read_bytes(), path.stat().st_ino
    loose = SceneTask(None, passed=('{"type":"metric","name":"ap","value":1}',))
    failed = SceneTask({"type": "scene", "scene": "z", "root": "/d"}, is_ok=False)
    summary, _ = run(FileSink(path, force=False), [*tasks("ab"), loose, failed], work.must_not_run)
    assert (summary.skipped, summary.failed) == (["a", "bb"], ["z"])
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_rerun_after_an_interruption_equals_an_uninterrupted_run(work, tmp_path):
    def interrupted():
        yield from tasks("ab")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(FolderSink(tmp_path / "x", force=False), interrupted(), work.count)
    assert not (tmp_path / "x/run.json").exists()
    run(FolderSink(tmp_path / "x", force=False), tasks(), work.count)
    run(FolderSink(tmp_path / "y", force=False), tasks(), work.count)
    names = sorted(path.name for path in (tmp_path / "y").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "x").iterdir())
    assert all((tmp_path / "x" / n).read_bytes() == (tmp_path / "y" / n).read_bytes() for n in names)


def test_unknown_records_pass_unchanged_in_place(work):
    odd = '{"type" : "of_the_future", "x":1.00000000001, "é":"\\u00e9"}'
    known = '{"type":"point3d","scene":"a","center":[0,0,0.123456789],"label":"chair","extra":1e-30}'
    loose = '{"type":"metric","name":"ap","value":0.5}'
    scene = [
        '{"type":"scene","scene":"a","root":"/d","of_the_future":[1]}',
        odd,
        known,
        '{"type":"scene_end","scene":"a","ok":true}',
    ]
    head = '{"type":"header","format":"pc3d","version":"1.7","of_the_future":1}'
    data = "\n".join([head, *scene, loose, '{"type":"end","scenes":1,"failed":0}']).encode()
    file, summary, _ = run_to_bytes(stream_tasks(data), work.count)
    text = file.getvalue().decode().splitlines()
    assert text.index(odd) + 1 == text.index(known) < text.index(loose)
    assert [json.loads(line)["type"] for line in text] == [
        "header", "program", "scene", "of_the_future", "point3d", "step", "scene_end", "metric", "end",
    ]  # fmt: skip
    assert of_type(file.getvalue(), "scene")[0]["of_the_future"] == [1]
    assert summary.done == ["a"]


def test_errors_outside_scenes_pass_and_make_the_run_partial(work, tmp_path):
    loose = SceneTask(None, passed=('{"type":"error","code":"input","message":"gone"}',), is_ok=False)
    file, summary, _ = run_to_bytes([loose, *tasks("a")], work.count)
    assert [record["type"] for record in records(file.getvalue())][2] == "error"
    assert (summary.failed, summary.exit_code) == ([], 3)
    assert records(file.getvalue())[-1] == {"type": "end", "scenes": 1, "failed": 0}
    assert run(FolderSink(tmp_path, force=False), [loose, *tasks("a")], work.count)[0].exit_code == 3


def test_segments_are_kept_apart(work):
    p, q = Program("pc3d p", []).record(), Program("pc3d q", []).record()
    scene = {"type": "scene", "scene": "a", "root": "/d"}
    given = [
        SceneTask(scene | {"scene": n}, 1, programs=(r,), segment=s)
        for n, r, s in [("a", p, 0), ("b", p, 0), ("c", q, 2)]
    ]
    file, *_ = run_to_bytes(given, work.count)
    assert [r["type"] for r in records(file.getvalue())].count("header") == 2
    assert [r["scenes"] for r in of_type(file.getvalue(), "end")] == [2, 1]
    parents = [r["parents"] for r in of_type(file.getvalue(), "program") if r["program"] == "pc3d test"]
    assert parents == [[p["id"]], [q["id"]]]


def test_scene_twice_is_refused_by_a_folder(work, tmp_path):
    twice = tasks("a") + tasks("a", segment=1)
    assert run_to_bytes(twice, work.count)[1].done == ["a", "a"]
    for jobs in (1, 2):
        with pytest.raises(InputError, match="scene a comes twice"):
            run(FolderSink(tmp_path / str(jobs), force=False), twice, work.count, jobs=jobs)
        assert [path.name for path in (tmp_path / str(jobs)).iterdir()][:1] == ["a.ndjson"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_full_disk(work, jobs, monkeypatch, tmp_path):
    with pytest.raises(OSError, match="No space"):
        run(StreamSink(FullDisk()), tasks(), work.count, jobs=jobs)
    sink = FileSink(tmp_path / "x.ndjson", force=False)
    monkeypatch.setattr(sink, "write", StreamSink(FullDisk()).write)
    with pytest.raises(OSError, match="No space"):
        run(sink, tasks(), work.count, jobs=jobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_no_scene_can_help_ends_the_run(work, jobs):
    file = io.BytesIO()
    with pytest.raises(UsageError, match="needs the package x"):
        run(StreamSink(file), tasks(), work.need_a_package, jobs=jobs)
    assert b"scene_end" not in file.getvalue()


@pytest.mark.parametrize("jobs", [1, 2])
def test_bugs_are_no_failed_scenes(work, jobs):
    file = io.BytesIO()
    with pytest.raises(ZeroDivisionError):
        run(StreamSink(file), tasks("ab"), work.break_down, jobs=jobs)
    assert b'"end"' not in file.getvalue()
    with pytest.raises(ValueError, match="cannot be written"):
        run(StreamSink(file), tasks("ab"), work.write_nan, jobs=jobs)


def test_large_scenes_wait_on_disk(work, monkeypatch, tmp_path):
    small, *_ = run_to_bytes(tasks("ab"), work.count)
    monkeypatch.setattr(pipeline, "SPOOL_BYTES", 10)
    large, *_ = run_to_bytes(tasks("ab"), work.count)
    assert large.getvalue() == small.getvalue()
    run(FolderSink(tmp_path, force=False), tasks("ab"), work.count)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ndjson", "bb.ndjson", "run.json"]


def test_a_worker_whose_parent_died_before_it_began_ends_too(monkeypatch):
    class Ended(Exception):
        pass

    def end(code):
        raise Ended

    class Inline(threading.Thread):
        def start(self):
            self.run()

    monkeypatch.setattr(workers.threading, "Thread", Inline)
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    monkeypatch.setattr(workers.os, "_exit", end)
    with pytest.raises(Ended):
        workers._start_worker(parent=os.getppid() + 1)


def test_interrupted_workers_are_stopped_and_leave_nothing(work, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("tmp", "marks"):
        (tmp_path / name).mkdir()
    given = [SceneTask({"type": "scene", "scene": n, "root": "/d"}, tmp_path / "marks") for n in ("a", "b", "c")]
    sink = FolderSink(tmp_path / "labels", force=False)

    def interrupt():
        deadline = time.monotonic() + 20
        awaited = [*(tmp_path / "marks" / name for name in "abc"), tmp_path / "labels/a.ndjson"]
        while not all(path.exists() for path in awaited) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(sink, given, work.sleep_forever, jobs=2)
    thread.join()
    assert time.monotonic() - start < 20
    assert not multiprocessing.active_children()
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["a.ndjson"]
    assert not list((tmp_path / "tmp").iterdir())

# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
from pathlib import Path

import pytest

from pc3dcli.stream.writer import atomic_file, remove_stale_temporaries


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_name_appears_when_the_file_is_complete(tmp_path):
    path = tmp_path / "deep" / "x.ndjson"
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        assert [p.name for p in path.parent.iterdir()] == [f".x.ndjson.{os.getpid()}.tmp"]
    assert path.read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_keeps_the_earlier_file(tmp_path, error):
    path = tmp_path / "x.ndjson"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_final_name(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught, atomic_file(tmp_path / "x.ndjson") as file:
        file.write(b"data")
    assert caught.value.filename == str(tmp_path / "x.ndjson")
    assert not list(tmp_path.iterdir())


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "x.ndjson").mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_file(tmp_path / "x.ndjson"):
        pass
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "x.ndjson"), None)


def test_a_temporary_that_cannot_be_removed_does_not_hide_what_went_wrong(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="first"), atomic_file(tmp_path / "x.ndjson"):
        raise ValueError("first")


def test_stale_temporaries(tmp_path, dead_pid):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    stale = [
        tmp_path / f".x.ndjson.{dead_pid}.tmp",
        below / f".y.safetensors.{dead_pid}.tmp",
        below / f".z.{os.getpid()}.tmp",
    ]
    kept = [
        tmp_path / "x.ndjson",
        tmp_path / f"x.{dead_pid}.tmp",  # not hidden: not ours
        tmp_path / ".x.tmp",
        tmp_path / f".x.{dead_pid}.tmp.txt",
        below / f".x.{os.getppid()}.tmp",  # of a living process
    ]
    for path in (*stale, *kept):
        path.write_bytes(b"x")
    folder = tmp_path / f".pc3d-abc.{dead_pid}.tmp"
    folder.mkdir()
    (folder / "spool").write_bytes(b"x")
    remove_stale_temporaries(tmp_path)
    left = {path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == set(kept)
    assert not folder.exists()


def test_stale_temporaries_of_one_name_only(tmp_path, dead_pid):
    ours, theirs = tmp_path / f".x.ndjson.{dead_pid}.tmp", tmp_path / f".y.ndjson.{dead_pid}.tmp"
    ours.touch(), theirs.touch()
    remove_stale_temporaries(tmp_path, ".x.ndjson.*.tmp")
    assert list(tmp_path.iterdir()) == [theirs]


def test_a_link_is_not_followed(tmp_path, dead_pid):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    inside = tmp_path / "out"
    inside.mkdir()
    (inside / f".link.{dead_pid}.tmp").symlink_to(kept)
    remove_stale_temporaries(inside)
    assert (kept / "file").exists()
    assert not list(inside.iterdir())


def test_missing_folder_is_no_error(tmp_path):
    remove_stale_temporaries(tmp_path / "none")

# SPDX-License-Identifier: Apache-2.0
"""The contract of the commands (cli.md section 11), held in a real shell."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pc3dcli.errors import FormatError
from pc3dcli.main import application

SCENES = ["a", "b", "c"]


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def kinds(text: str) -> list[str]:
    return [record["type"] for record in records(text)]


def without(text: str, *names: str) -> list[dict]:
    return [{name: value for name, value in record.items() if name not in names} for record in records(text)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_true_masks_give_an_average_precision_of_one(shell, tmp_path, write_scan):
    write_scan(tmp_path / "rooms/room", (120, 160), 12, 0.04)
    result = shell("track rooms/ | pc3d lift3d | pc3d eval --task instance --class-agnostic --gt rooms/ --json")
    assert result.returncode == 0, result.stderr
    metrics = {r["name"]: r["value"] for r in records(result.stdout) if r["type"] == "metric" and "class" not in r}
    assert metrics["ap"] == metrics["ap50"] == metrics["ap25"] == 1.0


def test_standard_output_holds_only_records(shell):
    result = shell("track $SCANS -v --progress --limit 2 | pc3d lift3d -v --progress")
    assert result.returncode == 0, result.stderr
    assert kinds(result.stdout)[-1] == "end"
    assert "track2d: b: done" in result.stderr
    assert "Traceback" not in result.stderr


def test_jobs_change_nothing_but_argv(shell, tracks):
    result = shell("track $SCANS --jobs 2")
    assert result.returncode == 0, result.stderr
    pairs = list(zip(result.stdout.splitlines(), tracks.read_text().splitlines(), strict=True))
    assert [json.loads(one)["type"] for one, other in pairs if one != other] == ["program"]
    assert without(result.stdout, "argv") == without(tracks.read_text(), "argv")


def test_shards_hold_the_records_of_one_run(shell, tracks, tmp_path):
    result = shell("for i in 1 2; do track $SCANS --shard $i/2 --out shards/$i.ndjson; done; cat shards/*.ndjson")
    assert result.returncode == 0, result.stderr
    ids = {record["id"] for record in records(result.stdout) if record["type"] == "program"}
    assert ids == {record["id"] for record in records(tracks.read_text()) if record["type"] == "program"}
    of_scenes = [[line for line in t.splitlines() if '"scene":' in line] for t in (result.stdout, tracks.read_text())]
    assert sorted(of_scenes[0]) == sorted(of_scenes[1])
    lifted = shell(f"cat shards/*.ndjson | pc3d lift3d --out labels/ && pc3d lift3d {tracks} --out whole/")
    assert lifted.returncode == 0, lifted.stderr
    for scene in SCENES:
        parts, whole = ((tmp_path / folder / f"{scene}.ndjson").read_text() for folder in ("labels", "whole"))
        assert without(parts, "argv") == without(whole, "argv")


def test_unknown_minor_version_passes_and_another_major_one_does_not(shell, tracks):
    script = """for version in 1.7 2.0; do
      sed "1s/1\\.0/$version/; s/^{\\"type\\":\\"frame\\"/&,\\"of_the_future\\":[1]/" $TRACKS > v$version.ndjson
      pc3d lift3d v$version.ndjson > out; echo $?
    done"""
    result = shell(f"TRACKS={tracks}; {script}")
    assert result.stdout.split() == ["0", "4"]
    assert "v2.0.ndjson:1: stream version 2.0 cannot be read by this program, which reads version 1.0" in result.stderr


def test_unknown_records_pass_through_unchanged(shell, tracks, tmp_path):
    odd = '{"type" : "of_the_future", "scene":"b", "x":1.000000000001}'
    point = '{"type":"point3d","scene":"b","center":[0,0,1.23456789],"label":"chair"}'
    lines = tracks.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"scene_end","scene":"b"' in line)
    (tmp_path / "t.ndjson").write_text("\n".join([*lines[:at], odd, point, *lines[at:]]) + "\n")
    out = shell("pc3d lift3d t.ndjson").stdout.splitlines()
    start = next(i for i, line in enumerate(out) if '"type":"scene","scene":"b"' in line)
    assert out[start + 1 : start + 3] == [odd, point]


# --- failure --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_scans(scans, tmp_path) -> Path:
    """The scans, with one number missing in a pose of b."""
    folder = tmp_path / "broken"
    shutil.copytree(scans, folder)
    pose = folder / "b/pose/2.txt"
    pose.write_text(pose.read_text().replace(" ", "", 1))
    return folder


def test_a_corrupt_pose_fails_its_scene_in_both_stages(shell, broken_scans, tmp_path):
    result = shell("track broken | pc3d lift3d --out labels/; echo ${PIPESTATUS[@]}")
    assert result.stdout.split() == ["3", "3"], result.stderr
    assert "broken/b/pose/2.txt" in result.stderr
    assert result.stderr.count("hint:") == 1
    assert "Traceback" not in result.stderr
    assert {path.stem for path in (tmp_path / "labels").glob("*.safetensors")} == {"a", "c"}
    failed = records((tmp_path / "labels/b.ndjson").read_text())
    assert [r["type"] for r in failed] == ["header", "program", "program", "scene", "error", "scene_end", "end"]
    assert (failed[4]["code"], failed[5]["ok"], failed[6]) == (
        "format",
        False,
        {"type": "end", "scenes": 1, "failed": 1},
    )
    assert shell("pc3d eval labels/ --class-agnostic --gt broken; echo $?").stdout.splitlines()[-1] == "4"


def test_fail_fast_stops(shell, broken_scans):
    result = shell("track broken --fail-fast; echo $?")
    lines = result.stdout.splitlines()
    assert lines[-1] == "4"
    assert kinds("\n".join(lines[:-1]))[-2:] == ["error", "scene_end"]


def test_a_killed_producer_is_noticed(shell, tracks, tmp_path):
    """The bytes of a producer that was killed in the middle of its second scene; the kill itself is in test_kill.py."""
    text = tracks.read_text()
    at = text.index('"type":"scene","scene":"b"')
    (tmp_path / "cut").write_text(text[: at + len(text[at:]) // 3])
    result = shell(
        "cat cut | pc3d lift3d --out labels/; echo $?;"
        "cat cut | pc3d lift3d | pc3d lift3d > twice; echo ${PIPESTATUS[@]}"
    )
    assert result.stdout.split() == ["4", "0", "4", "4"]
    assert 'without an "end" record' in result.stderr
    assert "a.ndjson" in tree(tmp_path / "labels")
    assert not {"b.ndjson", "run.json"} & tree(tmp_path / "labels").keys()
    assert "end" not in kinds((tmp_path / "twice").read_text())


def test_a_reader_that_leaves_is_no_error(shell):
    result = shell("track $SCANS | head -2 > head; echo ${PIPESTATUS[@]}")
    assert (result.stdout.split(), result.stderr) == (["141", "0"], "")


def test_empty_input(shell, tmp_path):
    result = shell("pc3d lift3d --out labels/ < /dev/null; echo $?; true | pc3d track2d; echo $?")
    assert result.stdout.split() == ["4", "4"]
    assert "pc3d lift3d: <stdin>: empty; expected a pc3d stream" in result.stderr
    assert not (tmp_path / "labels").exists()


def test_a_full_disk_leaves_no_final_name(shell, tmp_path, scans):
    result = shell("(ulimit -f 2; track $SCANS --out small/t.ndjson; echo $?)")
    assert (result.stdout.split(), result.stderr.count("\n")) == (["1"], 2), result.stderr
    assert not tree(tmp_path / "small")
    full = shell("track $SCANS > /dev/full; echo $?")
    assert full.stdout.split() == ["1"]
    assert "no space left" in full.stderr
    assert len(full.stderr.splitlines()) == 2


def test_every_truncation_is_valid_or_reported(tracks):
    """At and around every line end, and at many places inside lines."""
    data = tracks.read_bytes()
    data = data[: data.index(b'{"type":"scene","scene":"b"')] + b'{"type":"end","scenes":1,"failed":0}\n'
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    cuts = sorted(
        {0, len(data) - 1, len(data)} | {e + d for e in ends[::3] for d in (-1, 0, 1)} & set(range(len(data)))
    )
    runner = CliRunner()
    for cut in cuts:
        result = runner.invoke(application(), ["lift3d", "--quiet"], input=data[:cut])
        if cut >= len(data) - 1:
            assert result.exit_code == 0
            continue
        assert isinstance(result.exception, FormatError), cut
        assert b'"type":"end"' not in result.stdout_bytes


def test_a_filter_that_drops_brackets_is_told_what_to_keep(shell, tracks):
    result = shell(f"grep -v scene_end {tracks} | pc3d lift3d; echo $?")
    assert result.stdout.splitlines()[-1] == "4"
    assert 'scene_end of "a" is missing before scene "b"' in result.stderr
    assert "hint: was the stream filtered? a filter must keep header, scene, scene_end and end" in result.stderr


# --- terminals, lists, settings ---------------------------------------------------------------------------------------


def test_dry_run_touches_nothing(shell, tmp_path):
    result = shell("track $SCANS --out tracks/ --dry-run")
    assert result.returncode == 0
    what = "do\tscannet\t4 frames\t40 x 30\tdepth unit 0.001 m"
    assert result.stdout == "".join(f"{scene}\ttracks/{scene}.ndjson\t{what}\n" for scene in SCENES)
    assert not list(tmp_path.iterdir())


def test_lists_and_repeated_runs(shell, scans, tmp_path):
    (tmp_path / "list.txt").write_text(f"# two of them\n{scans}/a\n\n{scans}/c\n")
    assert shell("track @list.txt --out tracks/").returncode == 0
    before = tree(tmp_path / "tracks")
    again = shell("track @list.txt --out tracks/")
    assert (again.returncode, "2 scenes, 2 skipped" in again.stderr) == (0, True)
    assert tree(tmp_path / "tracks") == before
    other = shell("track @list.txt --out tracks/ --stride 2")
    assert other.returncode == 2
    assert "tracks/a.ndjson: exists, made with stride = the default, now 2" in other.stderr


def test_skip_done_saves_the_first_stage(shell, tmp_path):
    script = "track $SCANS --skip-done labels/ -v | pc3d lift3d --out labels/"
    assert shell(script + "; rm labels/b.ndjson").returncode == 0
    again = shell(script)
    assert again.returncode == 0, again.stderr
    said = [line for line in again.stderr.splitlines() if line.startswith("pc3d track2d: ") and "median" not in line]
    assert said[:3] == ["pc3d track2d: a: skipped", "pc3d track2d: b: done", "pc3d track2d: c: skipped"]
    assert said[3].startswith("pc3d track2d: 3 scenes, 2 skipped, ")
    assert {"a.ndjson", "b.ndjson", "c.ndjson"} <= tree(tmp_path / "labels").keys()

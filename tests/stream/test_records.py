# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest

from pc3dcli.stream.records import (
    MAX_LINE_BYTES,
    REQUIRED,
    TRACK_LIMIT,
    check_record,
    dump_record,
    header,
    is_scene_id,
    is_track_id,
)

EXAMPLES = {
    "header": {"format": "pc3d", "version": "1.0"},
    "program": {"id": "9f2c41d07be3", "program": "pc3d track2d", "version": "0.1.0", "argv": [], "parents": []},
    "scene": {"scene": "a/b-1.c_d", "root": "/data"},
    "frame": {"scene": "a", "frame": "000120", "image": "color/120.jpg", "size": [4, 6]},
    "mask2d": {"scene": "a", "frame": "000120", "track": 7, "rle": {"size": [4, 6], "counts": "h0"}},
    "detection2d": {"scene": "a", "frame": "000120", "rle": {"size": [4, 6], "counts": "h0"}},
    "patch_score": {"scene": "a", "tensor": {}},
    "point3d": {"scene": "a", "center": [0, 0, 0], "label": "chair"},
    "instance3d": {"scene": "a", "instance": 0, "rle": {}},
    "box3d": {"scene": "a", "center": [0, 0, 0], "size": [1, 1, 1], "yaw": 0.0, "label": "car"},
    "labels3d": {"scene": "a", "tensor": {}},
    "metric": {"name": "ap", "value": None},
    "step": {"step": 1, "loss": 0.5},
    "error": {"code": "input", "message": "no such file"},
    "scene_end": {"scene": "a", "ok": True},
    "end": {"scenes": 1, "failed": 0},
}


def test_every_record_type_has_an_example():
    assert EXAMPLES.keys() == REQUIRED.keys()


@pytest.mark.parametrize("kind", REQUIRED)
def test_required_fields(kind):
    record = {"type": kind, **EXAMPLES[kind]}
    assert check_record(record) is None
    assert check_record(record | {"of_a_newer_minor_version": [1, {"x": None}]}) is None
    for name in REQUIRED[kind]:
        lacking = {key: value for key, value in record.items() if key != name}
        assert check_record(lacking) == f'{kind} lacks "{name}"'


def test_unknown_types_are_accepted():
    assert check_record({"type": "of_the_future", "scene": {}}) is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "expected a JSON object, found list"),
        ("text", "expected a JSON object, found str"),
        (None, "expected a JSON object, found NoneType"),
        ({}, 'record lacks "type"'),
        ({"type": 3}, 'record lacks "type"'),
        ({"type": "scene", "scene": "a", "root": 3}, "scene root is not the name of a folder"),
        ({"type": "scene", "scene": "a", "root": "a\0b"}, "scene root is not the name of a folder"),
        ({"type": "scene", "scene": "a", "root": "/\ud800"}, "scene root is not the name of a folder"),
        ({"type": "scene_end", "scene": "a", "ok": 1}, "scene_end ok is neither true nor false"),
        ({"type": "frame", "scene": "a", "frame": 12, "points": "x.bin"}, "frame frame is not text"),
        ({"type": "frame", "scene": "a", "frame": "1", "image": "x"}, 'frame lacks "image" and "size", or "points"'),
        ({"type": "mask2d", "scene": "a", "frame": 1, "track": 1, "rle": {}}, "mask2d frame is not text"),
        ({"type": "detection2d", "scene": "a", "frame": 1, "rle": {}}, "detection2d frame is not text"),
        ({"type": "program"} | EXAMPLES["program"] | {"id": 3}, "program id and name must be text"),
        ({"type": "program"} | EXAMPLES["program"] | {"parents": "x"}, "program parents must be a list of ids"),
        ({"type": "program"} | EXAMPLES["program"] | {"parents": [3]}, "program parents must be a list of ids"),
    ],
)
def test_refused_records(record, message):
    assert check_record(record) == message


@pytest.mark.parametrize("text", ["a", "scene0011_00", "0", "a/b", "A.b-c_d/e", "x" * 200, "/".join(["x" * 200] * 2)])
def test_scene_ids(text):
    assert is_scene_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "-a",
        "/a",
        "../a",
        "a/../b",
        "a/..",
        "a//b",
        "a/",
        "a/./b",
        "ä",
        "a\n",
        "x" * 201,
        "a/" * 300 + "b",
        3,
        None,
        ["a"],
    ],
)
def test_refused_scene_ids(text):
    assert not is_scene_id(text)
    assert "scene id" in check_record({"type": "scene", "scene": text, "root": "/data"})


def test_dump_rounds_floats():
    record = {
        "type": "frame",
        "K": [[1170.187512345, 0, 1 / 3]],
        "score": 0.123456789,
        "deep": {"x": [2 / 3]},
        "n": 10**20,
    }
    assert dump_record(record) == (
        '{"type":"frame","K":[[1170.18751,0,0.333333333]],"score":0.123457,"deep":{"x":[0.666667]},"n":100000000000000000000}'
    )


def test_dump_keeps_times():
    assert dump_record({"type": "frame", "time_s": 1305031102.175304}) == '{"type":"frame","time_s":1305031102.175304}'


def test_dump_takes_numpy_values():
    record = {"type": "x", "K": np.eye(2) / 3, "track": np.int32(7), "score": np.float32(0.1), "ok": np.bool_(True)}
    assert json.loads(dump_record(record)) == {
        "type": "x", "K": [[0.333333333, 0], [0, 0.333333333]], "track": 7, "score": 0.1, "ok": True,
    }  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.array([1, np.inf])])
def test_dump_refuses_what_json_lacks(value):
    with pytest.raises(ValueError, match="cannot be written"):
        dump_record({"type": "metric", "value": value})
    with pytest.raises(ValueError, match="cannot be written"):
        dump_record({"type": "metric", "deep": [{"value": value}]})


def test_dump_keeps_lines_under_one_mebibyte():
    room = MAX_LINE_BYTES - len('{"type":"x","text":""}')
    assert len(dump_record({"type": "x", "text": "a" * (room - 1)})) == MAX_LINE_BYTES - 1
    for text in ("a" * room, "é" * (room // 2 + 1)):
        with pytest.raises(ValueError, match="1 MiB"):
            dump_record({"type": "x", "text": text})


def test_dump_keeps_file_names_that_are_not_utf8():
    root = b"/data/caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")
    line = dump_record({"type": "scene", "scene": "a", "root": root}).encode("utf-8")
    assert json.loads(line)["root"] == root


def test_header():
    assert dump_record(header()) == '{"type":"header","format":"pc3d","version":"1.0"}'


@pytest.mark.parametrize(("value", "is_track"), [(0, True), (TRACK_LIMIT - 1, True), (TRACK_LIMIT, False), (-1, False),
                                                 (True, False), (1.0, False), ("1", False), (None, False)])  # fmt: skip
def test_track_ids(value, is_track):
    assert is_track_id(value) == is_track

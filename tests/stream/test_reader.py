# SPDX-License-Identifier: Apache-2.0
import io
import json

import pytest

from pc3dcli.errors import FormatError
from pc3dcli.stream.reader import TruncatedStream, read_lines, read_scenes
from pc3dcli.stream.records import MAX_LINE_BYTES

HEADER = b'{"type":"header","format":"pc3d","version":"1.0"}\n'
PROGRAM = b'{"type":"program","id":"p0","program":"pc3d track2d","version":"0.1.0","argv":[],"parents":[]}\n'
SCENE = b'{"type":"scene","scene":"a","root":"/data/a"}\n'
MASK = b'{"type":"mask2d","scene":"a","frame":"1","track":0,"rle":{}}\n'
SCENE_END = b'{"type":"scene_end","scene":"a","ok":true}\n'
END = b'{"type":"end","scenes":1,"failed":0}\n'
SEGMENT = HEADER + PROGRAM + SCENE + MASK + SCENE_END + END


def lines(data: bytes, **settings) -> list:
    return list(read_lines(io.BytesIO(data), "<stdin>", **settings))


def scenes(data: bytes, keep=lambda line: None, **settings) -> list:
    return list(read_scenes(read_lines(io.BytesIO(data), "<stdin>", **settings), keep))


def other(segment: bytes, scene: bytes) -> bytes:
    return segment.replace(b'"scene":"a"', b'"scene":"' + scene + b'"')


def test_lines_keep_their_text_and_number():
    found = lines(HEADER + b"\n  \r\n" + SCENE.replace(b"\n", b"\r\n") + SCENE_END + END)
    assert [(line.type, line.number) for line in found] == [("header", 1), ("scene", 4), ("scene_end", 5), ("end", 6)]
    assert found[1].text == SCENE.decode().rstrip("\n")
    assert found[1].record == json.loads(SCENE)


def test_last_newline_may_be_missing():
    assert [line.type for line in lines(SEGMENT.rstrip(b"\n"))][-1] == "end"


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"", "<stdin>: empty; expected a pc3d stream", None),
        (b"\n \n", "<stdin>: empty; expected a pc3d stream", None),
        (b"\xef\xbb\xbf" + SEGMENT, "<stdin>:1: starts with a byte-order mark", "sed"),
        (b"\x1e" + SEGMENT, "<stdin>:1: is a JSON text sequence (RS bytes)", "tr -d"),
        (b" [" + SEGMENT, "<stdin>:1: is a JSON array, expected one object per line", "jq -c"),
        (b"\x1f\x8b\x08\x00\n", "<stdin>:1:2: not UTF-8 text", None),
        (b"scene0011_00\n", "<stdin>:1:1: not JSON: expecting value", None),
        (HEADER + b'{"type":"scene" "scene":"a"}\n', "<stdin>:2:17: not JSON: expecting ',' delimiter", None),
        (HEADER + SCENE + b'{"type":"x","v":NaN}\n', "<stdin>:3: not JSON: NaN is not a JSON number", None),
        (HEADER + SCENE + b'{"type":"x","v":-Infinity}\n', "<stdin>:3: not JSON: -Infinity is not a JSON number", None),
        (HEADER + SCENE + b'{"type":"x","v":1e999}\n', "<stdin>:3: not JSON: 1e999 is too large", None),
        (HEADER + SCENE + b"3\n", "<stdin>:3: expected a JSON object, found int", None),
        (HEADER + SCENE + MASK.replace(b"rle", b"rlf"), '<stdin>:3: mask2d lacks "rle"', None),
        (HEADER + b"\xff\n", "<stdin>:2:1: not UTF-8 text", None),
        (SCENE, '<stdin>:1: expected a "header" record, found "scene"', "filtered?"),
        (SEGMENT + SCENE, '<stdin>:7: expected a "header" record, found "scene"', None),
        (HEADER + SCENE + other(SCENE, b"b"), '<stdin>:3: scene_end of "a" is missing before scene "b"', "scene_end"),
        (HEADER + SCENE + END, '<stdin>:3: scene_end of "a" is missing before "end"', "scene_end"),
        (HEADER + SCENE_END, '<stdin>:2: scene_end of "a" without its "scene"', None),
        (HEADER + SCENE + other(SCENE_END, b"b"), '<stdin>:3: scene_end of "b" inside scene "a"', None),
        (HEADER + SCENE + other(MASK, b"b"), '<stdin>:3: mask2d of scene "b" inside scene "a"', None),
        (HEADER + MASK, '<stdin>:2: mask2d of scene "a" stands outside its brackets', "filtered?"),
        (HEADER + HEADER, '<stdin>:2: a second "header" before "end"', None),
        (HEADER.replace(b'"pc3d"', b'"geojson"'), "<stdin>:1: format is 'geojson', expected 'pc3d'", None),
        (HEADER.replace(b"1.0", b"2.0"), "<stdin>:1: stream version 2.0 cannot be read by this program", None),
        (SEGMENT + SEGMENT, '<stdin>:11: scene "a" comes twice with mask2d records', None),
        (HEADER + b" " * MAX_LINE_BYTES + b"\n", "<stdin>:2: line is longer than 1 MiB", None),
        (HEADER + b"[" * 100_000 + b"\n", "<stdin>:2: not JSON: maximum recursion depth", None),
        (HEADER + b"1" * 5000 + b"\n", "<stdin>:2: not JSON: Exceeds the limit", None),
    ],
)
def test_errors_of_form_name_their_place(data, message, hint):
    with pytest.raises(FormatError) as caught:
        lines(data)
    assert str(caught.value).startswith(message)
    assert (hint or "") in (caught.value.hint or "")
    assert not isinstance(caught.value, TruncatedStream)


def test_other_major_version_names_both():
    with pytest.raises(FormatError, match=r"version 2\.7 .* reads version 1\.0"):
        lines(HEADER.replace(b"1.0", b"2.7"))


@pytest.mark.parametrize("version", [b'"1.99"', b'"1"', b"1.4"])
def test_any_minor_version_passes(version):
    assert len(lines(SEGMENT.replace(b'"1.0"', version, 1))) == 6


def test_a_line_of_almost_one_mebibyte_passes():
    text = b'{"type":"x","text":"' + b"a" * (MAX_LINE_BYTES - 23) + b'"}\n'
    assert len(text) == MAX_LINE_BYTES
    assert len(lines(HEADER + text + END)) == 3


def test_long_garbage_without_newline_is_not_read_whole():
    class Endless(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.given += len(buffer)
            buffer[:] = b"a" * len(buffer)
            return len(buffer)

    source = Endless()
    with pytest.raises(FormatError, match="1 MiB"):
        list(read_lines(io.BufferedReader(source), "<stdin>"))
    assert source.given < 3 * MAX_LINE_BYTES


@pytest.mark.parametrize("name", ["scene", "é"])
def test_every_truncation_is_reported(name):
    """Cut after any byte: what was whole is yielded, then an error; only the missing last newline goes unnoticed."""
    data = SEGMENT.replace(b'"/data/a"', f'"/data/{name}"'.encode())
    data += other(data, b"b")
    for cut in range(len(data)):
        found = []
        source = read_lines(io.BytesIO(data[:cut]), "<stdin>")
        is_complete = any(data[:cut] == data[: at + n] for at in (data.find(HEADER, 1), len(data)) for n in (-1, 0))
        if is_complete:
            assert list(source)[-1].type == "end"
            continue
        with pytest.raises(FormatError) as caught:
            found.extend(source)
        whole = data[:cut].count(b"\n")
        assert len(found) in (whole, whole + 1), cut  # a cut between brace and newline loses nothing
        assert isinstance(caught.value, TruncatedStream) == (cut >= len(HEADER) - 1), cut
        if cut >= len(HEADER) - 1:
            assert len(lines(data[:cut], allow_truncated=True)) == len(found)


def test_truncation_tells_what_to_do():
    with pytest.raises(TruncatedStream, match='<stdin>:? ?.*ends after line 4 without an "end"') as caught:
        lines(HEADER + PROGRAM + SCENE + MASK)
    assert "--allow-truncated" in caught.value.hint


def test_scenes_collect_and_pass_on():
    odd = b'{"type" : "of_the_future",  "x":1.00000000001}\n'
    data = HEADER + PROGRAM + SCENE + odd + MASK + SCENE_END + END
    (scene,) = scenes(data, lambda line: line.record["track"] if line.type == "mask2d" else None)
    assert (scene.id, scene.kept, scene.ok, scene.segment) == ("a", [0], True, 0)
    assert scene.passed == [odd.decode().rstrip("\n")]  # byte for byte, blanks and digits included
    assert [record["id"] for record in scene.programs] == ["p0"]


def test_segments_are_numbered_and_have_their_own_programs():
    second = other(SEGMENT, b"b").replace(b'"p0"', b'"p1"')
    third = HEADER + other(SCENE + SCENE_END, b"c").replace(b"true", b"false") + END
    found = scenes(SEGMENT + second + third)
    assert [(s.id, s.segment, s.ok, [p["id"] for p in s.programs]) for s in found] == [
        ("a", 0, True, ["p0"]), ("b", 1, True, ["p1"]), ("c", 2, False, []),
    ]  # fmt: skip


def test_records_outside_scenes_come_in_their_place():
    metric = b'{"type":"metric","name":"ap","value":1,"scene":"z"}\n'
    error = b'{"type":"error","code":"input","message":"gone"}\n'
    found = scenes(HEADER + PROGRAM + metric + SCENE + error + SCENE_END + error + END, lambda line: 1)
    assert [(s.id, s.ok, len(s.passed), len(s.kept)) for s in found] == [
        (None, True, 1, 0),
        ("a", True, 0, 1),
        (None, False, 1, 0),
    ]
    assert all(s.programs for s in found)
    assert scenes(HEADER + metric + END)[0].passed == [metric.decode().strip()]


def test_truncated_upstream_keeps_finished_scenes():
    data = SEGMENT.removesuffix(END) + other(SCENE + MASK, b"b")
    source = read_scenes(read_lines(io.BytesIO(data), "<stdin>"), lambda line: None)
    assert next(source).id == "a"
    with pytest.raises(TruncatedStream):
        next(source)
    assert [scene.id for scene in scenes(data, allow_truncated=True)] == ["a"]


def test_accepted_truncation_keeps_whole_records_outside_scenes():
    error = b'{"type":"error","code":"input","message":"gone"}\n'
    found = scenes(HEADER + PROGRAM + error + error[:20], allow_truncated=True)
    assert [(s.id, s.ok, len(s.passed)) for s in found] == [(None, False, 1)]


def test_same_scene_with_other_records_is_no_duplicate():
    boxes = SEGMENT.replace(
        MASK, b'{"type":"frame","scene":"a","frame":"1","points":"x"}\n' + b'{"type":"new","scene":"a"}\n'
    )
    assert [scene.id for scene in scenes(SEGMENT + boxes)] == ["a", "a"]
    seen: dict[str, set[str]] = {}
    lines(SEGMENT, seen=seen)
    with pytest.raises(FormatError, match="comes twice with mask2d"):
        lines(SEGMENT, seen=seen)

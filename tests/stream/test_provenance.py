# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
from dataclasses import replace

import pytest

from pc3dcli import __version__
from pc3dcli.stream import provenance
from pc3dcli.stream.provenance import Program, chain_text, file_digest, first_difference, heads
from pc3dcli.stream.records import check_record, dump_record

TRACK = Program("pc3d track2d", ["scans/", "--stride", "10"], {"stride": 10}, 0, {"sam2": "sha256:5b1e"})


def test_record():
    record = TRACK.record(["b", "a"])
    assert check_record(record) is None
    assert record | {"id": ""} == {
        "type": "program", "id": "", "program": "pc3d track2d", "version": __version__, "argv": TRACK.argv,
        "parents": ["a", "b"], "seed": 0, "config": {"stride": 10}, "weights": {"sam2": "sha256:5b1e"},
    }  # fmt: skip
    assert len(record["id"]) == 12
    assert int(record["id"], 16) >= 0


def test_optional_fields_are_left_out():
    assert Program("pc3d eval", []).record().keys() == {"type", "id", "program", "version", "argv", "parents"}


def test_identity_is_what_decides_the_result(monkeypatch):
    first = TRACK.record(["a"])["id"]
    assert replace(TRACK, argv=["elsewhere/", "-j4"]).record(["a"])["id"] == first
    assert replace(TRACK, config=dict(TRACK.config)).record(["a"])["id"] == first
    changed = [
        replace(TRACK, name="pc3d lift3d").record(["a"]),
        replace(TRACK, config={"stride": 5}).record(["a"]),
        replace(TRACK, seed=1).record(["a"]),
        replace(TRACK, weights={}).record(["a"]),
        TRACK.record(["b"]),
        TRACK.record(),
    ]
    monkeypatch.setattr(provenance, "__version__", "9.9.9")
    changed.append(TRACK.record(["a"]))
    assert len({first, *(record["id"] for record in changed)}) == 8


def test_identity_does_not_depend_on_order():
    config = {"a": 1, "b": 2.5}
    swapped = {"b": 2.5, "a": 1}
    assert (
        replace(TRACK, config=config).record(["x", "y"])["id"]
        == replace(TRACK, config=swapped).record(["y", "x"])["id"]
    )


def test_heads_of_chains_and_merges():
    a, b = TRACK.record(), replace(TRACK, seed=1).record()
    merged = Program("pc3d lift3d", []).record(heads([a, b]))
    assert heads([a, b]) == sorted([a["id"], b["id"]])
    assert merged["parents"] == sorted([a["id"], b["id"]])
    assert heads([a, b, merged]) == [merged["id"]]
    assert heads([]) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (TRACK, replace(TRACK, config={"stride": 5}), "made with stride = 5, now 10"),
        (TRACK, replace(TRACK, config={}), "made with stride = the default, now 10"),
        (
            replace(TRACK, config={}),
            replace(TRACK, config={"stride": 10, "masks": "sam"}),
            'made with masks = "sam", now the default',
        ),
        (TRACK, replace(TRACK, weights={"sam2": "sha256:x"}), 'made with sam2 = "sha256:x", now "sha256:5b1e"'),
        (TRACK, replace(TRACK, seed=3), "made with seed 3, now 0"),
        (TRACK, Program("pc3d lift3d", []), "made by pc3d lift3d, not pc3d track2d"),
    ],
)
def test_first_difference(ours, theirs, text):
    assert first_difference(ours.record(), theirs.record()) == text


def test_difference_of_version_and_inputs():
    ours = TRACK.record()
    assert first_difference(ours, ours | {"version": "0.0.9"}) == f"made by version 0.0.9, this is {__version__}"
    assert first_difference(ours, TRACK.record(["x"])) == "made from other inputs"


def test_chain_text_is_one_line_of_ascii():
    text = chain_text([replace(TRACK, argv=["é\n"]).record()])
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text)[0]["argv"] == ["é\n"]


def test_file_digest(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"weights")
    assert file_digest(path) == "sha256:" + hashlib.sha256(b"weights").hexdigest()


def test_no_clock_no_host():
    assert dump_record(TRACK.record()) == dump_record(TRACK.record())

# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest

from pc3dcli.formats.result_json import SCHEMA, digest, file_sha256, read_result, result_text


def test_text_is_sorted_exact_and_strict():
    assert result_text({"b": 0.1, "a": None}) == '{\n "a": null,\n "b": 0.1\n}\n'
    assert result_text({"x": 1 / 3}) == '{\n "x": 0.3333333333333333\n}\n'
    with pytest.raises(ValueError):
        result_text({"x": float("nan")})


def test_digest_does_not_depend_on_order_but_on_names_and_bytes(tmp_path):
    (tmp_path / "f.txt").write_bytes(b"1\n")
    sha256 = file_sha256(tmp_path / "f.txt")
    assert sha256 == hashlib.sha256(b"1\n").hexdigest()
    entry, other = ("sub/f.txt", sha256), ("a.txt", sha256)
    assert digest([entry, other]) == digest([other, entry]) != digest([entry])
    assert digest([]).startswith("sha256:")


def test_a_written_result_reads_back(tmp_path):
    result = {
        "schema": SCHEMA,
        **dict.fromkeys(("task", "preset", "tool_version"), "x"),
        **{name: {} for name in ("options", "counts", "metrics")},
        "inputs": {"scenes": 1},
        "per_class": {"ch\u00e4ir": {"ap": 0.1 + 0.2, "gt": None}},
        "warnings": [],
    }
    (tmp_path / "result.json").write_text(result_text(result), encoding="utf-8")
    assert read_result(tmp_path) == result == read_result(tmp_path / "result.json")

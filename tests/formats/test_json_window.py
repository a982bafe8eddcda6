# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats import json_window
from pc3dcli.formats.json_window import Batch, JsonWindow


def records_of(path):
    with JsonWindow(path) as window:
        found = [(batch.line_of(i), record) for batch in window.batches() for i, record in enumerate(batch.records)]
        window.finish()
    return found


def fault(path, read=records_of):
    with pytest.raises(FormatError) as caught:
        read(path)
    return caught.value.line, caught.value.message


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 18])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_any_window_gives_the_same_records(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_window, "CHUNK", chunk)
    records = [{"a": [1, 2.5, -3e-7], "b": 'é]}, {"\\u00e9 \\', "c": None}] * 5 + [
        {},
        {"n": 10**15},
        {"x": float("inf")},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert [record for _, record in records_of(path)] == records


@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_lines(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_window, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text('[\n{"a": 1},\n\n{"a":\n2}, {"a": 3}\n,\n{"a": 4}]')
    assert [line for line, _ in records_of(path)] == [2, 4, 5, 7]


@pytest.mark.parametrize("text", ["[]", " [ ] \n", "\ufeff[]"])
def test_empty_arrays(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert records_of(tmp_path / "a.json") == []


@pytest.mark.parametrize("chunk", [4, 1 << 18])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1), ("{}", 1), ("[", 1), ('[\n{"a": 1}', 2), ('[\n{"a": 1},\n]', 3), ('[{"a": 1}\n{"a": 2}]', 2),
        ('[{"a": 1}]\n\n[]', 3), ('[{"a": tru}]', 1), ('[\n{"a": "x}]\n', 2), ('[{"a": 01}]', 1), ("[\n1]", 2),
        ('[{"a": ' + "[" * 100_000 + "]", 1), ('[{"a": ' + "9" * 10_000 + "}]", 1), ('[{"a" 1}]', 1),
    ],
)  # fmt: skip
def test_malformed_text_names_the_line(tmp_path, monkeypatch, chunk, text, line):
    monkeypatch.setattr(json_window, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(text)
    assert fault(path)[0] == line


def test_every_truncation_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(json_window, "CHUNK", 16)
    text = json.dumps([{"a": [1.5, True], "b": "c"}, {"a": [2, None], "b": "\\"}])
    path = tmp_path / "a.json"
    for stop in range(len(text)):
        path.write_text(text[:stop])
        fault(path)


def test_not_text_or_no_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}]')
    assert "UTF-8" in fault(tmp_path / "a.json")[1]
    with pytest.raises(InputError):
        records_of(tmp_path / "none.json")


def test_a_value_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(json_window, "CHUNK", 16)
    monkeypatch.setattr(json_window, "MAX_VALUE", 100)
    (tmp_path / "a.json").write_text('["' + "a" * 1000 + '"]')
    assert "more than" in fault(tmp_path / "a.json")[1]


def members_of(path):
    with JsonWindow(path) as window:
        found = {key: window.value() for key in window.members()}
        window.finish()
    return found


@pytest.mark.parametrize("chunk", [1, 7, 8, 9, 1 << 18])
def test_members(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_window, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text('{"a": [1], "b": {"c": 2}, "d": 12345}')
    assert members_of(path) == {"a": [1], "b": {"c": 2}, "d": 12345}  # a number may be cut where it still is one
    path.write_text("{}")
    assert members_of(path) == {}


@pytest.mark.parametrize("text", ['{"a": 1,\n"a": 2}', '{\n"a" 1}', '{"a": 1,\n}', '{"a": 1\n', "{\n1: 2}", '{"a":\n}'])
def test_malformed_objects(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert fault(tmp_path / "a.json", members_of)[0] == 2


def batch(*records):
    return Batch("t.json", lambda index: index + 10, "box", list(records))


def test_columns():
    part = batch({"v": [1, 2.5], "s": "x", "n": 1, "q": 2}, {"v": [3, 4], "s": "y", "n": -2, "q": 0.5})
    assert part.vectors("v", 2).tolist() == [[1, 2.5], [3, 4]]
    assert part.strings("s") == ["x", "y"] and part.scalars("q").tolist() == [2, 0.5]
    assert part.integers("n").tolist() == [1, -2] and part.integers("n").dtype == np.int64
    assert part.codes("s", {"x": 5, "y": 6}, "letter").tolist() == [5, 6]
    assert part.take([1]).strings("s") == ["y"] and part.take([1]).fault(0, "").line == 11
    assert batch().vectors("v", 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ([1], "vector"), ([1, True], "vector"), ([1, "2"], "vector"), ([1, None], "vector"), ("12", "vector"),
        ([1, float("nan")], "vector"), ([1, float("inf")], "vector"), ([1, 10**400], "vector"),
        (True, "integers"), (1.0, "integers"), (1 << 70, "integers"), (1, "strings"), (None, "strings"),
        ("1", "scalars"), (float("nan"), "scalars"), (False, "scalars"), (10**400, "scalars"),
    ],
)  # fmt: skip
def test_wrong_values_name_the_line(value, read):
    part = batch({"a": [0, 0] if read == "vector" else {"strings": ""}.get(read, 0)}, {"a": value})
    with pytest.raises(FormatError) as caught:
        part.vectors("a", 2) if read == "vector" else getattr(part, read)("a")
    assert caught.value.line == (10 if isinstance(value, list) and 10**400 in value or value == 10**400 else 11)


def test_missing_field_unknown_code_and_allowed_nan():
    with pytest.raises(FormatError, match="lacks 'a'"):
        batch({"a": 1}, {}).scalars("a")
    with pytest.raises(FormatError, match="is no letter"):
        batch({"a": "z"}).codes("a", {"x": 1}, "letter")
    assert np.isnan(batch({"a": [float("nan"), 0]}).vectors("a", 2, allow_nan=True)[0, 0])
    with pytest.raises(FormatError, match="no infinity"):
        batch({"a": [float("inf"), 0]}).vectors("a", 2, allow_nan=True)

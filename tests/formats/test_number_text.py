# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats import number_text
from pc3dcli.formats.number_text import parse_numbers


def oracle(text: str) -> np.ndarray:
    return np.array([[float(field) for field in line.replace(",", " ").split()] for line in text.split("\n") if line])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0.125,-0.500,1.000\n-0.250,0.000,-9.875\n", "_same_layout"),
        ("-0.125 0.5000 1 \n".replace(" \n", "\n") * 3, "_same_layout"),
        ("1.25 -13.5 7\n-0.001 2 -.5\n5. +3.25 100000\n", "_plain_decimals"),
        ("1\t2\t3\n4\t5\t6\n", "_same_layout"),
        ("1.5 2.5 3.5\n1.5 205 3.5\n", "_plain_decimals"),
        ("1 2 3\n4,5\t6\n", "_plain_decimals"),
        ("1e-3 2 3\n4 5 6\n", "_line_by_line"),
        ("1  2 3\n4 5   6\n", "_line_by_line"),
        ("123456789012345678901 2 3\n", "_line_by_line"),
    ],
)
def test_three_readers_agree(text, path, monkeypatch):
    found = parse_numbers(text.encode(), 3, "x")
    assert np.array_equal(found, oracle(text)) and found.dtype == np.float64
    for slower in ("_same_layout", "_plain_decimals"):
        is_fast = getattr(number_text, slower)(text.encode(), 3) is not None
        assert is_fast == (path == slower) or (path == "_same_layout" and is_fast), slower
        monkeypatch.setattr(number_text, slower, lambda *arguments: None)
        assert np.array_equal(parse_numbers(text.encode(), 3, "x"), oracle(text))


def test_random_tables():
    rng = np.random.default_rng(0)
    for decimals in (0, 3, 6):
        values = np.round(rng.uniform(-1, 1, (500, 6)) * rng.choice((1, 300), (500, 6)), decimals)
        text = "".join(",".join(f"{value:.{decimals}f}" for value in row) + "\n" for row in values)
        assert np.array_equal(parse_numbers(text.encode(), 6, "x"), oracle(text))


def test_blocks_join(monkeypatch):
    monkeypatch.setattr(number_text, "_BLOCK", 16)
    text = "".join(f"{index}.5 {-index}\n" for index in range(200))
    assert np.array_equal(parse_numbers(text.encode(), 2, "x"), oracle(text))


@pytest.mark.parametrize("text", ["1 2\n3 4", "1 2\r\n3 4\r\n", "1 2\n3 4\n\n \n", "1,2\n3,4\n"])
def test_line_ends(text):
    assert np.array_equal(parse_numbers(text.encode(), 2, "x"), [[1, 2], [3, 4]])


def test_nothing():
    assert parse_numbers(b"\n \n", 6, "x").shape == (0, 6)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 2 3\n4 5\n", 2),
        ("1 2 3\n4 5 6 7\n", 2),
        ("1 2\n3 4 5 6\n", 1),  # as many numbers as two lines of three
        ("1 2 x\n", 1),
        ("1 2 --3\n", 1),
        ("1 2 1-3\n", 1),
        ("1 2 1_0\n", 1),
        ("1 2 .\n", 1),
        ("1.2.3 2 3\n", 1),
        ("0.1 0.2 0.3\n0.1-0.2 0.3\n", 2),
        ("1 2 3\n\n4 5 6\n", 2),
        ("1 2 \xff\n", 1),
    ],
)
def test_errors_name_the_line(text, line):
    with pytest.raises(FormatError) as caught:
        parse_numbers(text.encode("latin-1"), 3, "t.txt")
    assert caught.value.line == line and "expected 3" in str(caught.value)


def test_numbers_that_are_not_finite_are_numbers():
    assert np.isnan(parse_numbers(b"nan inf -inf\n", 3, "x")[0, 0])

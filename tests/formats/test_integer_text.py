# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.errors import FormatError
from pc3dcli.formats.integer_text import parse_flags, parse_integer, parse_integers, parse_labels, parse_table


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"", []),
        (b"\n", []),
        (b"\n\n", []),
        (b"0\n1\n9\n", [0, 1, 9]),
        (b"0\n1", [0, 1]),  # no final newline
        (b"7", [7]),
        (b"0\r\n1\r\n", [0, 1]),
        (b"1\n2\n\n\r\n\n", [1, 2]),  # empty lines at the end
        (b"-100\n+5\n12\n", [-100, 5, 12]),
        (b"4.0\n4.\n-3.00\n7\n", [4, 4, -3, 7]),
        (b"00000000000000000000012\n1\n", [12, 1]),
        (b"999999999999999999\n0\n", [999_999_999_999_999_999, 0]),
    ],
)
def test_accepted_forms(text, values):
    assert parse_integers(text, "f").tolist() == values
    assert parse_flags(text, "f").tolist() == [value != 0 for value in values]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"1\n\n2\n", 2),  # an empty line that is not at the end
        (b"1\nx\n", 2),
        (b"1\n2\n1.5\n", 3),
        (b" 1\n", 1),
        (b"1 \n2\n", 1),
        (b"1\n1 2\n", 2),
        (b"1\n-\n", 2),
        (b"1\n--1\n", 2),
        (b"1\n1-1\n", 2),
        (b"1e3\n", 1),
        (b"nan\n", 1),
        (b"0x1\n", 1),
        (b"1_0\n", 1),
        (b"1\r2\n", 1),
        (b"1000000000000000000\n", 1),
        (b"1\n\xff\n", 2),
        (b"1\n\x00\n", 2),
        ("1\n\u0663\n".encode(), 2),  # a digit of another script
        (b"\xef\xbb\xbf1\n", 1),
    ],
)
def test_refused_with_its_line(text, line):
    for parse in (parse_integers, parse_flags):
        with pytest.raises(FormatError) as error:
            parse(text, "mask.txt")
        assert (error.value.file, error.value.line) == ("mask.txt", line)


def test_readers_agree_on_random_numbers():
    rng = np.random.default_rng(0)
    values = rng.integers(-(10**9), 10**9, 500)
    text = "\n".join(map(str, values))
    assert parse_integers(text.encode(), "f").tolist() == values.tolist()
    assert parse_integers((text + "\n0.0").encode(), "f").tolist() == [*values.tolist(), 0]  # line by line


def test_labels_take_little_memory():
    for text, kind in (
        (b"3\n4\n", "u2"),
        (b"3\n40\n", "u1"),
        (b"3\n1191\n", "u2"),
        (b"3\n40001\n", "i4"),
        (b"3\n-100\n", "i8"),
    ):
        labels = parse_labels(text, "f")
        assert labels.dtype == kind and np.array_equal(labels, parse_integers(text, "f"))
        assert parse_integers(text, "f").dtype == np.int64


@pytest.mark.parametrize("highest", [10, 100, 10_000, 10**9, 10**18])
@pytest.mark.parametrize("lowest", [0, 1])
def test_blocks_of_text(highest, lowest):
    rng = np.random.default_rng(highest % 97)
    values = rng.integers(-highest + 1 if lowest else 0, highest, 100_000)
    text = "\n".join(map(str, values.tolist())).encode()
    assert np.array_equal(parse_integers(text, "f"), values)


@pytest.mark.parametrize("has_signs", [False, True])
@pytest.mark.parametrize("longest", [2, 3, 4, 5, 8, 9, 13, 18])
def test_numbers_of_every_length_stand_beside_each_other(longest, has_signs):
    rng = np.random.default_rng(longest)
    values = (rng.random(3000) * 10.0 ** rng.integers(1, longest + 1, 3000)).astype(np.int64)
    values *= rng.choice([-1, 1], 3000) if has_signs else 1
    text = "\n".join(map(str, values.tolist())).encode()
    assert len(str(values.max())) == longest and np.array_equal(parse_integers(text, "f"), values)


def test_an_error_in_a_later_block():
    text = b"12\n" * 200_000
    for bad in (b"x\n", b"1-\n", b"\n", b"1" * 300_000 + b"\n"):
        with pytest.raises(FormatError) as error:
            parse_integers(text + bad + text, "f")
        assert error.value.line == 200_001


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"", np.zeros((0, 1))),
        (b"3\n4\n", [[3], [4]]),
        (b"1,2,-100\r\n4,-100,-100\r\n", [[1, 2, -100], [4, -100, -100]]),
        (b"1,2,3\n4.0,5,6", [[1, 2, 3], [4, 5, 6]]),
        (b"1\n2,3\n", [[1, -7], [2, 3]]),  # short lines are filled up
        (b"1,2\n3\n4,5\n6\n", [[1, 2], [3, -7], [4, 5], [6, -7]]),
        (b"1,2\n3\n4\n", [[1, 2], [3, -7], [4, -7]]),  # as many numbers as two full lines
    ],
)
def test_tables(text, rows):
    assert np.array_equal(parse_table(text, "f", -7), rows)


@pytest.mark.parametrize("text", [b"1,2\n1, 2\n", b"1,2\n1,2,\n", b"1,2\n,\n", b"1,2\n\n3,4\n", b"1,2\n1;2\n"])
def test_tables_refused_with_their_line(text):
    with pytest.raises(FormatError) as error:
        parse_table(text, "f", 0)
    assert (error.value.file, error.value.line) == ("f", 2)


def test_parse_integer():
    assert [parse_integer(text) for text in ("3", "-3", "+3", "3.0")] == [3, -3, 3, 3]
    assert all(parse_integer(text) is None for text in ("", " 3", "3.5", "\u0663", "1e1", "inf", "9" * 19))

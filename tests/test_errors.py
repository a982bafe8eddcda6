# SPDX-License-Identifier: Apache-2.0
import pickle
from dataclasses import dataclass
from typing import Literal

import pytest

from pc3dcli.errors import FormatError, UsageError, check_choices, check_ranges


@dataclass(frozen=True)
class Toy:
    share: float = 0.5
    count: int = 3

    def __post_init__(self):
        check_ranges(self, share=(0, 1), count=(1, 10))


def test_place_then_message_then_hint():
    error = FormatError("found 3, expected 4", file="a/b.txt", line=2, column=7, hint="delete it")
    assert error.with_hint() == "a/b.txt:2:7: found 3, expected 4\n  hint: delete it"
    assert str(UsageError("no input")) == "no input"


def test_a_message_stays_short_whatever_the_input_held():
    error = FormatError(f"found {'x' * 100_000}, expected y", file="/" + "d" * 100_000)
    assert len(str(error)) < 1300
    assert str(error).endswith("expected y")


def test_a_file_name_breaks_no_line_and_commands_no_terminal():
    assert str(FormatError("empty", file="a\nb\x1b[2Jé\udcff")) == r"a\nb\x1b[2Jé\udcff: empty"


def test_errors_travel_between_processes():
    error = FormatError("x" * 1000, file="f", line=1, column=2, hint="h")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), vars(copy)) == (FormatError, vars(error))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_ranges(value):
    assert Toy(0.0, 10) and Toy(1.0, 1) and Toy(None)
    with pytest.raises(ValueError, match="expected a number from 0 to 1$"):
        Toy(value)
    with pytest.raises(ValueError, match="count = 11: expected a number from 1 to 10"):
        Toy(count=11)


@dataclass(frozen=True)
class Choice:
    mode: Literal["a", "b"] = "a"
    count: int = 1

    def __post_init__(self) -> None:
        check_choices(self)


def test_choices():
    assert Choice() and Choice("b", 5)
    with pytest.raises(ValueError, match="mode = c: expected a or b"):
        Choice("c")

# SPDX-License-Identifier: Apache-2.0
"""Values of options that are right as they stand, so that most runs start without the type checker of Typer.

Typer 0.26 and later checks every value, defaults too, through pydantic: 0.13 s of CPU a start, a third of what
`pc3d eval` takes for a small job.  A value that is plainly right is converted here to what pydantic makes of it; any
other value, and so every message about a wrong one, is left to Typer.  Earlier and later versions that work in
another way never ask.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_NUMBERS = {int: re.compile("[0-9]{1,15}"), float: re.compile("[0-9]{1,15}([.][0-9]{1,15})?")}
_NOT_PLAIN = object()


class PlainCommand(TyperCommand):
    """A command whose plain values skip the type checker."""

    def get_params(self, ctx: typer.Context) -> list:
        """Return the parameters, each with its short way."""
        return [_without_checker(param) for param in super().get_params(ctx)]


class PlainGroup(TyperGroup):
    """A program of commands whose plain values skip the type checker."""

    def get_params(self, ctx: typer.Context) -> list:
        """Return the parameters, each with its short way."""
        return [_without_checker(param) for param in super().get_params(ctx)]


def _without_checker(param: Any) -> Any:
    checker = getattr(param, "get_runtime_param", None)
    if checker is not None and not isinstance(getattr(checker, "__self__", None), _PlainValue):
        param.get_runtime_param = _PlainValue(checker).get
    return param


class _PlainValue:
    """Stands where Typer looks for the conversion of one parameter."""

    def __init__(self, checker: Callable[[], Any]) -> None:
        self._checker = checker

    def get(self) -> _PlainValue:
        return self

    def coerce(self, value: Any, param: Any, ctx: typer.Context) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        plain = plain_value(value, param.type_descriptor.annotation, param.type_descriptor.parameter_info)
        return self._checker().coerce(value, param=param, ctx=ctx) if plain is _NOT_PLAIN else plain


def plain_value(value: Any, kind: Any, limits: Any) -> Any:
    """Return the value of an option of type `kind`, or a mark that the type checker has to see it.

    value   a text or, from --config, whatever TOML holds
    limits  `min` and `max` of a number, None where there is none
    """
    if typing.get_origin(kind) is list and isinstance(value, (list, tuple)):
        items = [plain_value(item, typing.get_args(kind)[0], limits) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    if typing.get_origin(kind) is typing.Literal:
        return value if isinstance(value, str) and value in typing.get_args(kind) else _NOT_PLAIN
    if kind in _NUMBERS:
        return _plain_number(value, kind, limits)
    if kind is str and isinstance(value, str):
        return value
    if kind is Path and isinstance(value, str) and _is_free_or_readable(value):
        return Path(value)
    return _NOT_PLAIN


def _plain_number(value: Any, kind: type, limits: Any) -> Any:
    if isinstance(value, str) and _NUMBERS[kind].fullmatch(value):
        value = kind(value)
    is_plain = type(value) is kind and abs(value) < 1e15
    is_high_enough = is_plain and (limits.min is None or value >= limits.min)
    return value if is_high_enough and (limits.max is None or value <= limits.max) else _NOT_PLAIN


def _is_free_or_readable(path: str) -> bool:
    return "\0" not in path and (os.access(path, os.R_OK) or not os.path.exists(path))  # noqa: PTH110 - no Path yet

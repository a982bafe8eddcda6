# SPDX-License-Identifier: Apache-2.0
"""Where a setting comes from: flag, PC3D_* variable, --config file, -D, default; and what of it decides the result.

Option names are those of the command line; the fields of the paper configs are reached by `-D name=value` or by the
same name in the --config file.  `-D` reaches the options too, as a default above --config: the flag and the variable
beat it.  Unknown names are refused, with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pc3dcli.errors import FormatError, InputError, UsageError

if TYPE_CHECKING:
    from pc3dcli.stream.provenance import Program

# options that choose what is done or where it goes, never what a scene's result is
_NOT_DECISIVE = frozenset(
    {
        "scenes",
        "out",
        "write",
        "force",
        "skip_done",
        "jobs",
        "device",
        "limit",
        "shard",
        "config",
        "define",
        "print_config",
        "dry_run",
        "json",
        "quiet",
        "verbose",
        "progress",
        "fail_fast",
        "no_provenance",
        "unordered",
        "root",
        "allow_truncated",
        "debug",
        "seed",
    }
)
_FILE_FIELDS, _DEFINED = "pc3dcli.config_fields", "pc3dcli.defined_options"
EXAMPLE = {int: "1", float: "0.5"}  # items of a list
_NO_SETTINGS = frozenset({"config", "print_config", "define", "help"})


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Option callback of --config: make the file's values the defaults of this command."""
    if path is None or ctx.resilient_parsing:
        return path
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or numbers and brackets without end
        raise FormatError(f"not TOML: {error}", file=path) from None
    options = {param.name for param in ctx.command.params} - _NO_SETTINGS
    named = {name.replace("-", "_"): value for name, value in values.items()}
    defaults = {name: _from_toml(value) for name, value in named.items() if name in options}
    ctx.default_map = {**(ctx.default_map or {}), **defaults, **ctx.meta.get(_DEFINED, {})}
    if not any(param.name == "define" for param in ctx.command.params):  # then the options are all there is
        for name in named:
            _check_known(name, dict.fromkeys(options), f"{path}: ")
    ctx.meta[_FILE_FIELDS] = (path, {name: value for name, value in named.items() if name not in options})
    return path


def read_define(ctx: typer.Context, texts: list[str] | None) -> list[str] | None:
    """Option callback of -D: where a name is that of an option, make the value the option's default."""
    if not texts or ctx.resilient_parsing:
        return texts
    options = {p.name: p for p in ctx.command.params if p.param_type_name == "option" and p.name not in _NO_SETTINGS}
    defined = ctx.meta.setdefault(_DEFINED, {})
    for text in texts:
        name, _, value = text.partition("=")
        name = name.replace("-", "_")
        if name in options:
            value = str(_parsed(value))  # quotes are TOML's
            defined[name] = [*defined.get(name, []), value] if options[name].multiple else value
    ctx.default_map = {**(ctx.default_map or {}), **defined}
    return texts


def configure(ctx: typer.Context, *defaults: Any) -> list[Any]:
    """Return the config dataclasses `defaults` with the values of --config and -D put in.

    A field that has the name of an option has its value, unless that is None; -D may name the option (`read_define`).
    raises  UsageError for a name that none of them has, a value of the wrong type or out of range
    """
    path, from_file = ctx.meta.get(_FILE_FIELDS, (None, {}))
    options = {param.name: ctx.params.get(param.name) for param in ctx.command.params}
    known = {f.name: f for default in defaults for f in dataclasses.fields(default) if f.name not in options}
    hints = {name: kind for default in defaults for name, kind in typing.get_type_hints(type(default)).items()}
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, value in from_file.items():
        _check_known(name, known, f"{path}: ")
        try:
            values[name] = _typed(name, value, hints[name])
        except UsageError as error:
            raise UsageError(error.message, file=path) from None
    for text in ctx.params.get("define") or []:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise UsageError(f"-D {text}: expected NAME=VALUE")
        if name in ctx.meta.get(_DEFINED, {}):
            continue
        _check_known(name, known, "-D ")
        values[name] = _typed(name, _parsed(value), hints[name])
    return [_replaced(default, values) for default in defaults]


def program(
    ctx: typer.Context, configs: list[Any], *, weights: dict[str, str], exclude: tuple[str, ...] = ()
) -> Program:
    """Describe this run: what differs from the defaults and decides the result is what identifies it."""
    from pc3dcli.stream.provenance import Program

    decisive = {}
    for param in ctx.command.params:
        value = _plain(ctx.params.get(param.name))
        if param.name not in _NOT_DECISIVE and param.name not in exclude and value != _plain(param.default):
            decisive[param.name] = value
    for config in configs:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if value != field.default and field.name != "seed":  # --seed has its own place in the record
                decisive[field.name] = _plain(value)
    return Program(
        name=f"pc3d {ctx.info_name}",
        argv=sys.argv[2:],
        config=decisive,
        seed=ctx.params.get("seed"),
        weights=weights,
    )


def print_config(ctx: typer.Context, configs: list[Any]) -> None:
    """Print every setting as TOML that --config reads back, and stop."""
    shown = [p for p in ctx.command.params if p.param_type_name == "option" and p.name not in _NO_SETTINGS]
    values = {param.name: ctx.params.get(param.name) for param in shown}
    for config in configs:
        fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        values |= {name: value for name, value in fields.items() if values.get(name) is None}
    for name, value in values.items():
        plain = _plain(value)
        print(f"# {name} =" if plain is None else f"{name} = {_toml(plain)}")
    raise typer.Exit(0)


def _toml(value: Any) -> str:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False)


def _check_known(name: str, known: dict, place: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else "--print-config lists the names"
    raise UsageError(f"{place}{name}: no such parameter", hint=hint)


def _parsed(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Check a value against a field's type; integers may stand where a float is expected."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for one in kinds:
        if _is_tuple(one) and isinstance(value, list | tuple):
            items = typing.get_args(one)
            items = items[:1] * len(value) if items[-1] is ... else items
            if len(items) == len(value):
                return tuple(_typed(name, item, type_) for item, type_ in zip(value, items, strict=True))
        if typing.get_origin(one) is typing.Literal:
            if value in typing.get_args(one):
                return value
        elif one is float:
            if type(value) in (int, float) and abs(value) < 1e300:  # NaN and infinity are not
                return float(value)
        elif one is type(None) and value == "none":
            return None
        elif isinstance(one, type) and type(value) is one:
            return value
    names = {float: "a finite number", int: "an integer", bool: "true or false", str: "text", type(None): "none"}
    names |= {one: _list_text(one) for one in kinds if _is_tuple(one)}
    shown = [names.get(one) or " or ".join(map(repr, typing.get_args(one))) or str(one) for one in kinds]
    raise UsageError(f"{name} = {value!r}: expected {' or '.join(shown)}")


def _list_text(kind: Any) -> str:
    items = [EXAMPLE[item] for item in typing.get_args(kind) if item is not ...]
    return f"a list such as [{', '.join(items)}]"


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _replaced(config: Any, values: dict[str, Any]) -> Any:
    mine = {field.name for field in dataclasses.fields(config)}
    try:
        return dataclasses.replace(config, **{name: value for name, value in values.items() if name in mine})
    except ValueError as error:  # a range check in __post_init__
        raise UsageError(str(error)) from None


def _from_toml(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value] or None
    return value

# SPDX-License-Identifier: Apache-2.0
"""Values that skip the type checker are what it would have made of them, and wrong ones still reach it."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from pc3dcli.commands.plain_values import PlainCommand
from pc3dcli.main import _run

TEXTS = [
    "", "0", "7", "07", "100", "101", "-1", "+3", " 3", "3.0", "0.5", ".5", "5.", "1e3", "1_0", "nan", "inf",
    "9" * 15, "9" * 16, "9" * 400, "12x", "a", "b", "A", "true", "no", "-", ".", "missing/x", "é", "٣",
]  # fmt: skip
OPTIONS = {
    "text": Annotated[str | None, typer.Option("--value")],
    "number": Annotated[int, typer.Option("--value")],
    "ranged": Annotated[int, typer.Option("--value", min=1, max=100)],
    "real": Annotated[float, typer.Option("--value")],
    "real-ranged": Annotated[float, typer.Option("--value", min=1e-6, max=100)],
    "choice": Annotated[Literal["a", "b"] | None, typer.Option("--value")],
    "path": Annotated[Path | None, typer.Option("--value")],
    "texts": Annotated[list[str] | None, typer.Option("--value")],
    "flag": Annotated[bool | None, typer.Option("--value/--no-value")],
}
DEFAULTS = {"number": 3, "ranged": 100, "real": 1.0, "real-ranged": 1.0}


def command_of(kind, cls, default):
    program = typer.Typer(add_completion=False)

    def take(value=default):
        pass

    take.__annotations__ = {"value": OPTIONS[kind]}
    settings = {"cls": cls} if cls else {}
    program.command(context_settings={"auto_envvar_prefix": "PC3D_TEST"}, **settings)(take)
    return typer.main.get_command(program)


def taken(kind, cls, arguments, default_map=None):
    """Return the value that the command takes, as Python writes it, or the message of the error."""
    command = command_of(kind, cls, DEFAULTS.get(kind))
    try:
        ctx = command.make_context("test", list(arguments), default_map=default_map)
    except Exception as error:  # usage errors of the option parser, which has more than one class for them
        return type(error).__name__, error.format_message()
    return repr(ctx.params["value"])


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if kind != "flag"])
def test_values_are_what_the_checker_makes_of_them(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("")
    for text in TEXTS:
        for arguments in (["--value", text], [f"--value={text}"], ["--value", text, "--value", "7"]):
            assert taken(kind, PlainCommand, arguments) == taken(kind, None, arguments), arguments
        monkeypatch.setenv("PC3D_TEST_VALUE", text)
        assert taken(kind, PlainCommand, []) == taken(kind, None, []), text
        monkeypatch.delenv("PC3D_TEST_VALUE")


@pytest.mark.parametrize("kind", OPTIONS)
def test_values_of_config_files_are_what_the_checker_makes_of_them(kind):
    for value in (None, True, False, 0, 7, 101, 10**20, 0.5, 2.0, "7", "a", ["a", "b"], [], [1], "a\0b"):
        plain, checked = ([taken(kind, cls, [], {"value": value})] for cls in (PlainCommand, None))
        assert plain == checked, value


@pytest.mark.parametrize("kind", OPTIONS)
def test_defaults_are_what_the_checker_makes_of_them(kind):
    assert taken(kind, PlainCommand, []) == taken(kind, None, [])


def test_paths_that_cannot_be_read_reach_the_checker(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("")
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may read everything
    found = taken("path", PlainCommand, ["--value", str(tmp_path / "secret")])
    assert found == taken("path", None, ["--value", str(tmp_path / "secret")]) and "not readable" in found[1]


def test_messages_about_wrong_values_stay(capsys):
    assert _run(["eval", "x", "--gt", "y", "--min-region", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err
    assert _run(["eval", "x", "--gt", "y", "--task", "instances"]) == 2
    assert "did you mean instance?" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from pc3dcli.commands import settings
from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.main import application


@dataclass(frozen=True)
class Toy:
    """Parameters of nothing."""

    radius: float = 0.5
    count: int = 3
    mode: Literal["a", "b"] = "a"
    limit_m: float | None = None
    is_on: bool = False
    name: str = "x"
    pair: tuple[float, float] = (0.5, 1.0)
    sizes: tuple[int, ...] = (3,)

    def __post_init__(self):
        if self.radius < 0:
            raise ValueError("radius is negative")


class Context:
    """What `configure` reads of a typer context."""

    class command:  # noqa: N801 - an attribute of that name
        params = ()

    def __init__(self, *define, file=None):
        self.params = {"define": list(define)}
        self.meta = {} if file is None else {settings._FILE_FIELDS: ("c.toml", file)}


def invoke(*arguments, env=None):
    return CliRunner().invoke(application(), list(map(str, arguments)), prog_name="pc3d", env=env)


def printed(*arguments, env=None) -> dict[str, str]:
    result = invoke(*arguments, "--print-config", env=env)
    assert result.exit_code == 0, result.exception
    return dict(line.split(" = ", 1) for line in result.stdout.splitlines() if " = " in line)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("radius=2", "radius", 2.0), ("radius=1e-3", "radius", 0.001), ("count=7", "count", 7), ("mode=b", "mode", "b"),
        ('mode="b"', "mode", "b"), ("limit-m=3.5", "limit_m", 3.5), ("limit_m=none", "limit_m", None),
        ("pair=[1, 0.5]", "pair", (1.0, 0.5)), ("sizes=[8, 4, 2]", "sizes", (8, 4, 2)),
        ("is_on=true", "is_on", True), ("name=some text", "name", "some text"), ("name=a=b", "name", "a=b"),
    ],
)  # fmt: skip
def test_define(text, name, value):
    (found,) = settings.configure(Context(text), Toy())
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("radius", "-D radius: expected NAME=VALUE"),
        ("radios=1", "-D radios: no such parameter"),
        ("count=1.5", "count = 1.5: expected an integer"),
        ("count=true", "count = True: expected an integer"),
        ("radius=true", "radius = True: expected a finite number"),
        ("mode=c", "mode = 'c': expected 'a' or 'b'"),
        ("is_on=1", "is_on = 1: expected true or false"),
        ("limit_m=x", "limit_m = 'x': expected a finite number or none"),
        ("radius=nan", "radius = nan: expected a finite number"),
        ("radius=inf", "radius = inf: expected a finite number"),
        ("radius=-1", "radius is negative"),
        ("pair=[1]", "pair = [1]: expected a list such as [0.5, 0.5]"),
        ("pair=1", "pair = 1: expected a list such as [0.5, 0.5]"),
        ("sizes=[1.5]", "sizes = 1.5: expected an integer"),
    ],
)
def test_refused_definitions(text, message):
    with pytest.raises(UsageError) as caught:
        settings.configure(Context(text), Toy())
    assert str(caught.value) == message
    if "radios" in text:
        assert caught.value.hint == "did you mean radius?"


@pytest.mark.parametrize("text", ["radius=1" + "0" * 400, "count=1" + "0" * 5000, "count=" + "[" * 5000])
def test_monstrous_definitions_are_refused_in_few_words(text):
    with pytest.raises(UsageError, match="expected an? ") as caught:
        settings.configure(Context(text), Toy())
    assert len(str(caught.value)) < 700


def test_a_field_has_the_value_of_the_option_of_its_name():
    context = Context("count=2")
    context.command = SimpleNamespace(params=[SimpleNamespace(name=name) for name in ("radius", "limit_m", "scenes")])
    context.params |= {"radius": 4.0, "limit_m": None, "scenes": ["x"]}
    (found,) = settings.configure(context, Toy(limit_m=7.0))
    assert (found.radius, found.limit_m, found.count) == (4.0, 7.0, 2)
    context.params["radius"] = -1.0
    with pytest.raises(UsageError, match="radius is negative"):
        settings.configure(context, Toy())


def test_define_wins_over_the_file():
    (found,) = settings.configure(Context("count=9", file={"count": 5, "radius": 2}), Toy())
    assert (found.count, found.radius) == (9, 2.0)
    with pytest.raises(UsageError, match=r"c\.toml: cuont: no such parameter"):
        settings.configure(Context(file={"cuont": 5}), Toy())


def test_precedence(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('stride = 3\nmasks = "oracle"\nmax-depth = 4.5\ntau_iou = 0.6\n')
    assert printed("track2d")["stride"] == "1"
    assert printed("track2d", "--config", file)["stride"] == "3"
    assert printed("track2d", "--config", file)["masks"] == '"oracle"'
    assert printed("track2d", "--config", file)["max_depth"] == "4.5"
    assert printed("track2d", "--config", file)["tau_iou"] == "0.6"
    environment = {"PC3D_TRACK2D_STRIDE": "5"}
    assert printed("track2d", "--config", file, env=environment)["stride"] == "5"
    assert printed("track2d", "--stride", 7, "--config", file, "-D", "tau_iou=0.7", env=environment)["stride"] == "7"


def test_define_reaches_options_below_flags_and_above_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("stride = 3\n")
    define = ("-D", "stride=4", "-D", "masks='oracle'", "-Dmax-depth=4.5")
    for order in ((*define, "--config", file), ("--config", file, *define)):
        found = printed("track2d", *order)
        assert (found["stride"], found["masks"], found["max_depth"]) == ("4", '"oracle"', "4.5")
    assert printed("track2d", *define[:2], "--stride", 7)["stride"] == "7"
    assert printed("track2d", "--stride", 7, *define[:2])["stride"] == "7"
    assert printed("track2d", *define[:2], env={"PC3D_TRACK2D_STRIDE": "5"})["stride"] == "5"
    assert printed("lift3d", "-D", "per_view=true")["per_view"] == "true"
    result = invoke("track2d", "-D", "stride=many", "--print-config")
    assert result.exit_code == 2
    assert "--stride" in result.output
    assert "no such parameter" in str(invoke("track2d", "-D", "scenes=x", "--print-config").exception)
    assert "no such parameter" in str(invoke("track2d", "-D", "config=x", "--print-config").exception)


@pytest.mark.parametrize("command", ["track2d", "lift3d", "eval", "view"])
def test_printed_settings_can_be_read_back(command, tmp_path):
    changed = {"track2d": ["--stride", 3, "-D", "reverse=false"], "lift3d": ["--merge", "none", "-D", "voxel=0.05"]}
    text = invoke(command, *changed.get(command, ["--debug"]), "--print-config").stdout
    (tmp_path / "c.toml").write_text(text)
    assert invoke(command, "--config", tmp_path / "c.toml", "--print-config").stdout == text


@pytest.mark.parametrize("command", ["track2d", "lift3d", "eval", "view"])
def test_unknown_names_in_a_file_are_refused(command, tmp_path):
    (tmp_path / "c.toml").write_text("allow_truncatd = true\n")
    error = invoke(command, "--config", tmp_path / "c.toml", "x").exception
    assert isinstance(error, UsageError)
    assert "allow_truncatd: no such parameter" in str(error)


def test_files_that_cannot_be_used(tmp_path):
    assert isinstance(invoke("track2d", "--config", tmp_path / "none.toml").exception, InputError)
    (tmp_path / "bad.toml").write_text("stride = = 3")
    assert isinstance(invoke("track2d", "--config", tmp_path / "bad.toml").exception, FormatError)
    (tmp_path / "type.toml").write_text('stride = "many"')
    result = invoke("track2d", "--config", tmp_path / "type.toml")
    assert result.exit_code == 2
    assert "--stride" in result.output


def test_only_what_decides_the_result_identifies_a_run(tmp_path):
    """Two runs with and without an option have the same id exactly when the option does not decide."""
    seen = {}
    probe = typer.Typer()

    def command(ctx: typer.Context, stride: int = 1, jobs: int = 1, seed: int = 0, out: str = "-", masks: str = "a"):
        seen["program"] = settings.program(ctx, [Toy(count=int(masks == "b") + 3)], weights={}, exclude=())

    probe.command()(command)

    def program(*arguments):
        assert CliRunner().invoke(probe, arguments).exit_code == 0
        return seen["program"]

    plain = program()
    assert plain.config == {}
    assert program("--jobs", "4", "--out", "x").config == {}
    assert program("--stride", "2").config == {"stride": 2}
    assert program("--masks", "b").config == {"masks": "b", "count": 4}
    assert (plain.seed, program("--seed", "3").seed) == (0, 3)
    assert re.fullmatch(r"[0-9a-f]{12}", plain.record()["id"])

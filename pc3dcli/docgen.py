# SPDX-License-Identifier: Apache-2.0
"""Write the OPTIONS and PARAMETERS sections of the man pages and the three completion scripts from the commands.

    python -m pc3dcli.docgen            write them
    python -m pc3dcli.docgen --check    exit 1 and name what differs

The prose of the pages is written by hand; generated parts stand between `.\\" BEGIN x` and `.\\" END x`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

import typer

from pc3dcli.main import application

ROOT = Path(__file__).resolve().parents[1]
_REFERENCE = re.compile(r"(?:,? |^)(?:of )?(?:spec(?: section)?|section) \d[\d.]*(?:'s)?|, issue text")
SUFFIXES = ("ndjson", "ply", "pcd", "bin", "sens")  # files that inputs may be, besides folders


@dataclasses.dataclass(frozen=True)
class Option:
    """One option as the pages and the completions show it."""

    names: tuple[str, ...]
    metavar: str | None
    help: str
    choices: tuple[str, ...]
    default: str | None


def commands() -> dict[str, list[Option]]:
    """Return the options of each command, in the order of its signature."""
    program = application()
    group = typer.main.get_command(program)
    hints = {i.name: typing.get_type_hints(i.callback) for i in program.registered_commands}
    return {
        name: [_option(param, hints[name].get(param.name)) for param in command.params if param.opts[0][0] == "-"]
        for name, command in group.commands.items()
    }


def _option(param: Any, kind: Any) -> Option:
    """Return the option of a parameter whose annotation, without typer's part, is `kind`."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    choices = tuple(c for k in kinds if typing.get_origin(k) is typing.Literal for c in typing.get_args(k))
    metavar = None if getattr(param, "is_flag", False) else param.metavar or ("|".join(choices) or "VALUE")
    is_shown = metavar is not None and param.default not in (None, "", ()) and not callable(param.default)
    default = str(param.default) if is_shown else None
    names = tuple(param.opts) + tuple(param.secondary_opts)
    return Option(names, metavar, param.help or "", choices, default)


def man_options(options: list[Option], configs: list[Any] = ()) -> str:
    """Return the OPTIONS entries as roff; what has no default of its own has that of the config field of its name."""
    fields = {field.name: getattr(config, field.name) for config in configs for field in dataclasses.fields(config)}
    entries = []
    for option in options:
        names = ", ".join(rf"\fB{_roff(name)}\fR" for name in option.names)
        metavar = "" if option.metavar is None else rf" \fI{_roff(option.metavar)}\fR"
        default = option.default or fields.get(option.names[0].lstrip("-").replace("-", "_"))
        default = "" if default is None else f" Default: {_roff(str(default))}."
        entries.append(f".TP\n{names}{metavar}\n{_roff(option.help)}{default}")
    return "\n".join([*entries, ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nShow the help and exit."])


def man_parameters(configs: list[Any], options: list[Option]) -> str:
    """Return the parameters that -D reaches as roff: name, type, default and the comment of the field."""
    taken = {name.lstrip("-").replace("-", "_") for option in options for name in option.names}
    entries = []
    for config in configs:
        comments = _field_comments(type(config))
        hints = typing.get_type_hints(type(config))
        for field in dataclasses.fields(config):
            if field.name in taken:
                continue
            value = getattr(config, field.name)
            value = list(value) if isinstance(value, tuple) else value  # as -D and TOML write it
            default = _roff(str(value).lower() if isinstance(value, bool | None) else str(value))
            head = rf"\fB{_roff(field.name)}\fR={default} ({_roff(_type_name(hints[field.name]))})"
            entries.append(f".TP\n{head}\n{_roff(_without_references(comments.get(field.name, '')))}")
    return "\n".join(entries)


def _without_references(comment: str) -> str:
    """Return the comment of a field without the places in our specification, which users of the page do not have."""
    return _REFERENCE.sub("", comment)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if isinstance(kind, types.UnionType):
        return " or ".join(_type_name(one) for one in typing.get_args(kind))
    names = {type(None): "none", tuple: "list"}
    return names.get(typing.get_origin(kind) or kind, kind.__name__)


def _field_comments(config: type) -> dict[str, str]:
    """Return what stands behind each field of a config and of those that it inherits from."""
    found: dict[str, str] = {}
    pattern = re.compile(r"    (\w+): [^#]*?(?:#\s*(.*))?")
    for kind in reversed([kind for kind in config.__mro__ if dataclasses.is_dataclass(kind)]):
        last = None
        for line in inspect.getsource(kind).splitlines():
            match = pattern.fullmatch(line)
            if match:
                last = match[1]
                found[last] = match[2] or ""
            elif last and line.lstrip().startswith("#"):
                found[last] += " " + line.strip().lstrip("# ")
    return found


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", escaped)


def man_tasks(tasks: dict[str, Any]) -> str:
    """Return a subsection for each task of `eval` as roff: its presets, its prose and its options."""
    parts = []
    for name, module in tasks.items():
        title = "Presets, the first being the default:" if len(module.PRESETS) > 1 else "Preset:"
        parts.append(f".SS \\-\\-task {name}\n{title}")
        parts += [f".TP\n\\fB{_roff(preset)}\\fR\n{_roff(rule)}" for preset, rule in module.PRESETS.items()]
        flags = ", ".join(f"--{option.replace('_', '-')}" for option in sorted(module.OPTIONS))
        prose = [*module.MANUAL.strip().split("\n\n"), f"Options of this task: {flags}."]
        parts += [f".PP\n{_roff(part)}" for part in prose]
    return "\n".join(parts)


def man_page(path: Path, parts: dict[str, str]) -> str:
    """Return the text of a page with its generated parts put in."""
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        pattern = re.compile(rf'(\.\\" BEGIN {name}\n).*?(\.\\" END {name}\n)', re.DOTALL)
        body = part + "\n" if part else ""
        text, count = pattern.subn(lambda match, body=body: match[1] + body + match[2], text)
        if count != 1:
            raise SystemExit(f"{path}: expected one BEGIN {name} ... END {name}")
    return text


def bash_completion(all_commands: dict[str, list[Option]]) -> str:
    """Return the completion script for bash."""
    cases, values = [], []
    for name, options in all_commands.items():
        words = " ".join(word for option in options for word in option.names)
        cases.append(f"    {name}) words='{words} -h --help' ;;")
        for option in options:
            if option.metavar is not None:
                keys = "|".join(f"{name}:{flag}" for flag in option.names)
                values.append(f"    {keys}) {_bash_value(option)}return ;;")
    return f"""# bash completion for pc3d; written by python -m pc3dcli.docgen
_pc3d_files() {{
  local IFS=$'\\n' suffix
  COMPREPLY=($(compgen -d -- "$cur"; for suffix in "$@"; do compgen -f -X "!*$suffix" -- "$cur"; done))
}}
_pc3d() {{
  local cur prev command words i
  cur=${{COMP_WORDS[COMP_CWORD]}}; prev=${{COMP_WORDS[COMP_CWORD-1]}}; command=
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in -*) ;; *) command=${{COMP_WORDS[i]}}; break ;; esac
  done
  if [ -z "$command" ]; then
    COMPREPLY=($(compgen -W '{" ".join(all_commands)} --version --show-versions --help' -- "$cur")); return
  fi
  case "$command:$prev" in
{chr(10).join(values)}
  esac
  case $command in
{chr(10).join(cases)}
    *) return ;;
  esac
  case $cur in
    -*) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    *) _pc3d_files {" ".join(f".{suffix}" for suffix in SUFFIXES)} ;;
  esac
}}
complete -o filenames -F _pc3d pc3d
"""


def _bash_value(option: Option) -> str:
    if option.choices:
        return f"COMPREPLY=($(compgen -W '{' '.join(option.choices)}' -- \"$cur\")); "
    return {"DIR": "_pc3d_files; ", "FILE": "_pc3d_files ''; ", "PATH": "_pc3d_files ''; "}.get(option.metavar, "")


def zsh_completion(all_commands: dict[str, list[Option]]) -> str:
    """Return the completion function for zsh."""
    cases = []
    for name, options in all_commands.items():
        lines = [_zsh_spec(option, flag) for option in options for flag in option.names]
        lines += ["'(- *)'{-h,--help}'[Show the help and exit.]'", f"'*:input:_files -g \"*.({'|'.join(SUFFIXES)})\"'"]
        cases.append(f"    {name})\n      _arguments \\\n        " + " \\\n        ".join(lines) + "\n      ;;")
    return f"""#compdef pc3d
# zsh completion for pc3d; written by python -m pc3dcli.docgen
local command=$words[2]
if (( CURRENT == 2 )); then
  compadd -- {" ".join(all_commands)} --version --show-versions --help
  return
fi
shift words
(( CURRENT-- ))
case $command in
{chr(10).join(cases)}
esac
"""


def _zsh_spec(option: Option, flag: str) -> str:
    text = re.sub(r"(['\[\]:\\])", "", option.help)
    if option.metavar is None:
        return f"'*{flag}[{text}]'"
    paths = {"DIR": "_files -/", "FILE": "_files", "PATH": "_files"}
    action = f"({' '.join(option.choices)})" if option.choices else paths.get(option.metavar, " ")
    return f"'*{flag}[{text}]:{option.metavar.replace(':', '')}:{action}'"


def fish_completion(all_commands: dict[str, list[Option]]) -> str:
    """Return the completion script for fish."""
    names = " ".join(all_commands)
    lines = [
        "# fish completion for pc3d; written by python -m pc3dcli.docgen",
        f"complete -c pc3d -n 'not __fish_seen_subcommand_from {names}' -f -a '{names}'",
        f"complete -c pc3d -n 'not __fish_seen_subcommand_from {names}' -l version -l show-versions",
        "complete -c pc3d -s h -l help -d 'Show the help and exit.'",
    ]
    for name, options in all_commands.items():
        for option in options:
            flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.names)
            text = option.help.replace("'", "\\'")
            lines.append(
                f"complete -c pc3d -n '__fish_seen_subcommand_from {name}' {flags}{_fish_value(option)} -d '{text}'"
            )
    return "\n".join(lines) + "\n"


def _fish_value(option: Option) -> str:
    if option.metavar is None:
        return ""
    if option.choices:
        return f" -x -a '{' '.join(option.choices)}'"
    return {"DIR": " -x -a '(__fish_complete_directories)'", "FILE": " -r", "PATH": " -r"}.get(option.metavar, " -x")


def generated() -> dict[Path, str]:
    """Return every file with generated parts and the text it should have."""
    all_commands = commands()
    files = {
        ROOT / "completions/pc3d": bash_completion(all_commands),
        ROOT / "completions/_pc3d": zsh_completion(all_commands),
        ROOT / "completions/pc3d.fish": fish_completion(all_commands),
    }
    for info in application().registered_commands:
        path = ROOT / f"man/man1/pc3d-{info.name}.1"
        module = sys.modules[info.callback.__module__]
        configs = module.configs() if hasattr(module, "configs") else []
        parts = {"OPTIONS": man_options(all_commands[info.name], configs)}
        if hasattr(module, "task_module"):
            tasks = {name: module.task_module(name) for name in typing.get_args(module.Task)}
            parts["TASKS"] = man_tasks(tasks)
        if configs:
            parts["PARAMETERS"] = man_parameters(configs, all_commands[info.name])
        files[path] = man_page(path, parts)
    return files


def main() -> None:
    is_check = sys.argv[1:] == ["--check"]
    differing = []
    for path, text in generated().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differing.append(path)
            if not is_check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if is_check and differing:
        names = ", ".join(str(path.relative_to(ROOT)) for path in differing)
        raise SystemExit(f"out of date: {names}\nrun: python -m pc3dcli.docgen")


if __name__ == "__main__":
    main()

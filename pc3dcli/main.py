# SPDX-License-Identifier: Apache-2.0
"""The program `pc3d`: its commands, its version, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, NoReturn

import typer

from pc3dcli import __version__
from pc3dcli.commands.options import Command
from pc3dcli.commands.plain_values import PlainGroup
from pc3dcli.errors import Pc3dError, UsageError

# an output that cannot be: the command line is at fault.  Inputs that cannot be read never come here as OSError.
_NO_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)

_LIBRARY_WORDS = {
    "Value error, ": "",
    "Input should be a valid integer": "expected an integer",
    "Input should be a valid number": "expected a number",
    "Input should be greater than or equal to": "expected at least",
    "Input should be less than or equal to": "expected at most",
    "Input should be": "expected",
}

# name -> its function in the module of that name
COMMANDS = {
    "track2d": "track2d",
    "lift3d": "lift3d",
    "pretrain": "pretrain",
    "mask-score": "mask_score",
    "distill": "distill",
    "segment": "segment",
    "pseudo-label": "pseudo_label",
    "demo": "demo",
    "eval": "evaluate",
    "view": "view",
}


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"pc3d {__version__}")
        raise typer.Exit


def _show_versions(is_asked: bool) -> None:
    """Print what a bug report needs: our versions, those of the packages, and the devices."""
    if not is_asked:
        return
    import importlib.metadata
    import platform

    import torch

    from pc3dcli.stream.records import VERSION

    print(f"pc3d {__version__}\nstream {VERSION}\nPython {platform.python_version()}")
    for package in ("numpy", "scipy", "scikit-learn", "opencv-python-headless", "pycocotools", "typer", "torch"):
        print(f"{package} {importlib.metadata.version(package)}")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    print(f"CUDA {torch.version.cuda}\ndevices {', '.join(devices) or 'cpu'}")
    raise typer.Exit


def pc3d(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, allow_from_autoenv=False, callback=_print_version, help="Print the version."
        ),
    ] = False,
    show_versions: Annotated[
        bool,
        typer.Option(
            "--show-versions",
            is_eager=True,
            allow_from_autoenv=False,
            callback=_show_versions,
            help="Print what a bug report needs.",
        ),
    ] = False,
) -> None:
    """Turn unlabelled 3D scans into labels, weights and comparable scores.

    \b
    Examples:
      pc3d demo
      pc3d track2d scans/ | pc3d lift3d --out labels/
    """


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the program with some of its commands; only their modules are imported."""
    program = typer.Typer(
        cls=PlainGroup,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PC3D"},
        epilog="Manual: man pc3d",
    )
    program.callback()(pc3d)
    for name in names:
        module = importlib.import_module(f"pc3dcli.commands.{name.replace('-', '_')}")
        program.command(name, cls=Command, epilog=f"Manual: man pc3d-{name}")(getattr(module, COMMANDS[name]))
    return program


class _Terminated(BaseException):
    """SIGTERM arrived: leave as with Ctrl-C, so that temporary files are removed."""


def _terminate(*_: object) -> NoReturn:
    _silence_finalizers()
    raise _Terminated


def _interrupt(*_: object) -> NoReturn:
    _silence_finalizers()
    raise KeyboardInterrupt


def _silence_finalizers() -> None:
    """Objects whose construction is interrupted may fail again in `__del__`, which Python would print."""
    sys.unraisablehook = lambda _: None


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code (cli.md section 6)."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads cost 16x on busy cores
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):  # else the shell ignores it
        signal.signal(signal.SIGINT, _interrupt)
    _occupy_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files that are no text are printed as JSON writes them
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError:  # the disk is full or the reader gone, which was said already; at exit Python would say it again
        _drop_output()
    sys.exit(code)


def _occupy_closed_streams() -> None:
    """Keep the numbers of closed standard streams from files of ours, which stray output would damage.

    Writing to a closed stdout stays an error; what goes to a closed stderr is lost.  A closed stdin stays None.
    """
    for number, name, flags in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None and os.open(os.devnull, flags) == number and number:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def _run(arguments: list[str]) -> int:
    name = next((a for a in arguments if not a.startswith("-")), "")
    label = f"pc3d {name}" if name in COMMANDS else "pc3d"
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except Pc3dError as error:
        _say(label, error, "--debug" in arguments)
        return error.exit_code
    except BrokenPipeError:
        _drop_output()
        return 141  # silence, and the code of a process that SIGPIPE ended, as `head` makes it happen
    except KeyboardInterrupt:
        return 130
    except _Terminated:
        return 143
    except Exception as error:  # the last resort of a program: one line, never a traceback by surprise
        return _unexpected(label, error, "--debug" in arguments)


def _invoke(arguments: list[str]) -> int:
    """Run the command; its own `main` is not used, because it answers broken pipes and Ctrl-C in other ways."""
    first = arguments[0] if arguments else ""  # after an option such as --help all commands are listed
    command = typer.main.get_command(application([first] if first in COMMANDS else COMMANDS))
    try:
        with command.make_context("pc3d", arguments) as ctx:
            command.invoke(ctx)
    except typer.Exit as leaving:
        return leaving.exit_code
    return 0


def _unexpected(label: str, error: Exception, is_debug: bool) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return error.exit_code
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # usage errors of the option parser
        message, hint = _usage_text(error.format_message())
        print(f"{label}: {message}\n  hint: {hint or f'{label} --help'}", file=sys.stderr)
        return error.exit_code
    if type(error).__name__ == "Abort":
        return 130
    if is_debug:
        raise error
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        message = "out of memory"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = f"{error.filename or 'output'}: no space left on the disk; unfinished files were removed"
    elif isinstance(error, OSError) and error.errno == errno.EBADF:
        _say(label, UsageError("standard input or output is closed", hint="name files, or --out"), False)
        return UsageError.exit_code
    elif isinstance(error, OSError) and error.errno in _NO_PLACE:
        problem = f"cannot write it: {error.strerror}"
        _say(label, UsageError(problem, file=error.filename or "output", hint="name another place"), False)
        return UsageError.exit_code
    elif isinstance(error, OSError):
        message = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
    else:
        message = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
    print(f"{label}: {message}\n  hint: --debug shows where", file=sys.stderr)
    return 1


def _usage_text(message: str) -> tuple[str, str | None]:
    """Return a message of the option parser without the words of the library that it checks types with, and a hint."""
    text = message.partition(", unable to parse")[0]
    for theirs, ours in _LIBRARY_WORDS.items():
        text = text.replace(theirs, ours)
    choice = re.search(r"'([^']*)' is not one of (.*)\.", text)
    near = difflib.get_close_matches(choice[1], choice[2].replace("'", "").split(", "), 1) if choice else []
    return text, f"did you mean {near[0]}?" if near else None


def _say(label: str, error: Pc3dError, is_debug: bool) -> None:
    if is_debug:
        import traceback

        traceback.print_exception(error)
    print(f"{label}: {error.with_hint()}", file=sys.stderr)


def _drop_output() -> None:
    """Send what is still buffered for standard output to nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)

# SPDX-License-Identifier: Apache-2.0
"""Programs that the benchmarks of `pc3d eval` time, ours and public scorers, and how a ratio is printed.

Every Python program finds its byte code, as after an installation.  Of several runs the least CPU seconds count: what
else the machine does only adds to them.  The peak is what the program says of itself before it ends, since a child's
`ru_maxrss` starts with what this process held when it forked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import resource
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

_STATUS = "print(open('/proc/self/status').read())"
_OURS = f"import sys; from pc3dcli.__main__ import main\ntry: main()\nfinally: {_STATUS}"
_SCRIPT = f"import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); {_STATUS}"


class Cost(NamedTuple):
    """What a program took: user + system CPU seconds, and MiB at its peak, None for calls inside this process."""

    seconds: float
    mib: float | None = None


def our_cost(arguments: list, bytecode: Path, repeats: int = 4) -> Cost:
    """Run `pc3d` and return what it took; the first run writes the byte code and does not count."""
    return min([_child([sys.executable, "-c", _OURS, *arguments], bytecode) for _ in range(1 + repeats)][1:])


def script_cost(script: Path, arguments: list, bytecode: Path, *, python: str, repeats: int = 2, **options) -> Cost:
    """Run a Python script of others and return what it took."""
    command = [python, "-c", _SCRIPT, script, *arguments]
    return min(_child(command, bytecode, **options) for _ in range(repeats))


def _child(command: list, bytecode: Path, **options) -> Cost:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": environment} | options
    output = subprocess.run(list(map(str, command)), check=True, **settings).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = next(int(line.split()[1]) for line in output.splitlines() if line.startswith("VmHWM"))
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak / 1024)


def load_script(path: Path) -> types.ModuleType:
    """Import a public script that parses its command line on import and wants packages for other things."""
    for name in ("plyfile", "imageio"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = types.SimpleNamespace(PlyData=None, PlyElement=None)
    arguments, sys.argv = sys.argv, [str(path), "--pred_path", ".", "--gt_path", "."]
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    sys.argv = arguments
    return module


def print_ratio(name: str, ours: Cost, theirs: Cost | None) -> None:
    """Print one line: what both took, and how many times as long the other one."""
    peer = "" if theirs is None else f"   peer {_shown(theirs)}   ratio {theirs.seconds / ours.seconds:6.1f}x"
    print(f"{name:40s} ours {_shown(ours)}{peer}", flush=True)


def _shown(cost: Cost) -> str:
    return f"{cost.seconds:7.2f} s" + ("" if cost.mib is None else f", {cost.mib:4.0f} MiB")

# SPDX-License-Identifier: Apache-2.0
"""What SCENE... may be: scene folders, stream files, --out folders, @list.txt and - (cli.md sections 2 and 8)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.stream.provenance import file_digest
from pc3dcli.stream.reader import Line, SceneRecords, read_lines, read_scenes
from pc3dcli.stream.records import MAX_ID_PART, is_scene_id

if TYPE_CHECKING:
    from pc3dcli.datasets.scene import SceneRef

STDIN = "<stdin>"
_FILE_SUFFIXES = frozenset((".json", ".txt", ".csv", ".npz", ".safetensors"))  # pipes of these names are no streams
_Item = TypeVar("_Item")


def expand_names(ctx: typer.Context, names: list[str] | None, examples: str) -> list[str]:
    """Return the inputs as given, lists opened, standard input as "-".

    examples  two command lines, shown when there is no input and stdin is a terminal
    raises    UsageError without input, InputError for a list that cannot be read
    """
    if not names:
        if sys.stdin is None or sys.stdin.isatty():
            argument = next(param.metavar for param in ctx.command.params if param.param_type_name == "argument")
            raise UsageError(f"no input\nusage: {ctx.command_path} {argument}\n{examples}")
        return ["-"]
    opened: list[str] = []
    for name in names:
        opened.extend(_read_list(Path(name[1:])) if name.startswith("@") else [name])
    return opened


def is_stream(name: str) -> bool:
    """Tell whether an input is a record stream: stdin or a pipe, a stream file, the --out folder of a command."""
    path = Path(name)
    is_pipe = path.is_fifo() and path.suffix not in _FILE_SUFFIXES
    return name == "-" or path.suffix == ".ndjson" or is_pipe or (path / "run.json").is_file()


def holds_stream(name: str) -> bool:
    """Tell whether an input is a record stream, or a folder of stream files without the record of the run."""
    path = Path(name)
    is_scan = (path / "frames.ndjson").is_file()  # datasets/frames_file.py
    return is_stream(name) or (path.is_dir() and not is_scan and any(path.glob("*.ndjson")))


def stream_entry(scene: str, lines: Iterable[Line]) -> tuple[str, str]:
    """Return name and SHA-256 of the lines of a scene, for digests: the same for a pipe and for an --out folder."""
    text = "".join(line.text + "\n" for line in lines)
    return f"{scene}.ndjson", hashlib.sha256(text.encode()).hexdigest()


def stream_scenes(
    names: Iterable[str],
    keep: Callable[[Line], object | None],
    *,
    store: Callable[[], Any] = list,
    roots: list[str] | None = None,
    allow_truncated: bool = False,
) -> Iterator[SceneRecords]:
    """Yield the scenes of streams, one in memory at a time; `root` becomes absolute, relocated by `roots`.

    names  inputs for which `is_stream` holds
    keep, store  see `read_scenes`
    roots  "OLD=NEW" pairs
    raises FormatError and TruncatedStream as `read_lines`, InputError for a missing file
    """
    pairs = [_split_root(text) for text in roots or []]
    seen: dict[str, set[str]] = {}
    offset = 0
    for path in _stream_files(names):
        name = STDIN if path is None else str(path)
        folder = Path.cwd() if path is None else path.parent.resolve()
        last = -1
        with nullcontext(sys.stdin.buffer) if path is None else _open(path) as file:
            lines = read_lines(file, name, allow_truncated=allow_truncated, seen=seen)
            for scene in read_scenes(lines, keep, store):
                last = scene.segment
                if scene.scene is not None:
                    scene.scene = scene.scene | {"root": _absolute_root(scene.scene["root"], folder, pairs)}
                yield replace(scene, segment=scene.segment + offset, source=name)
        offset += last + 1


def _stream_files(names: Iterable[str]) -> Iterator[Path | None]:
    for name in names:
        path = Path(name)
        if name == "-":
            yield None
        elif path.is_dir():
            files = sorted(path.rglob("*.ndjson"))
            if not files:
                raise InputError("holds no finished scene (*.ndjson)", file=path)
            yield from files
        else:
            yield path


def _open(path: Path):
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list: {error}", file=path) from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise InputError("names no scene", file=path)
    return names


def _split_root(text: str) -> tuple[Path, Path]:
    old, equals, new = text.partition("=")
    if not equals or not old or not new:
        raise UsageError(f"--root {text}: expected OLD=NEW")
    return Path(old), Path(new).resolve()


def _absolute_root(root: str, folder: Path, pairs: list[tuple[Path, Path]]) -> str:
    path = folder / root
    for old, new in pairs:
        if path == old or old in path.parents:
            return str(new / path.relative_to(old))
    return str(path)


def found_scenes(names: list[str], dataset: str) -> list[SceneRef]:
    """Return the scans on disk that `names` hold, in the order given; a scene id may come once.

    raises  UsageError for an id that comes twice, InputError where no scene is found, FormatError for a name that
            cannot be a scene id
    """
    from pc3dcli.datasets import open_scenes

    refs = [ref for name in names for ref in open_scenes(Path(name), dataset)]
    paths: dict[str, Path] = {}
    for ref in refs:
        if not is_scene_id(ref.scene):
            message = f"the name {ref.scene!r} cannot be a scene id: at most {MAX_ID_PART} letters, digits and . _ -"
            raise FormatError(f"{message} without spaces", file=ref.path, hint="rename the file or folder")
        if paths.setdefault(ref.scene, ref.path) is not ref.path:
            raise UsageError(f"scene {ref.scene} is both {paths[ref.scene]} and {ref.path}", hint="rename one folder")
    return refs


def sharded(items: Iterable[_Item], shard: str | None) -> Iterable[_Item]:
    """Return the I-th of N parts of `items` for the text "I/N", all of them for None."""
    if shard is None:
        return items
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and len(count) < 10 and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {shard}: expected I/N with 1 <= I <= N")
    return islice(items, int(index) - 1, None, int(count))


def digest(path: Path) -> str:
    """Return "sha256:..." of a file, or of the sorted names and contents of a folder.

    raises  InputError when it cannot be read
    """
    try:
        if not path.is_dir():
            return file_digest(path)
        total = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\n".encode())
        return f"sha256:{total.hexdigest()}"
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None

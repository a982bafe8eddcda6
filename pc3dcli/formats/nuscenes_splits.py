# SPDX-License-Identifier: Apache-2.0
"""Which scenes of nuScenes a split holds: the official ones (`nuscenes_splits.txt`), a file of names, `splits.json`."""

from __future__ import annotations

import json
from pathlib import Path

from pc3dcli.errors import FormatError, InputError, UsageError


def official_splits() -> dict[str, frozenset[str]]:
    """Return the scene names of train, train_detect, train_track, val, test, mini_train and mini_val."""
    splits: dict[str, set[str]] = {}
    name = ""
    for line in Path(__file__).with_name("nuscenes_splits.txt").read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            continue
        words = line.split()
        if not line.startswith(" "):
            name = words.pop(0)
        for word in words:
            first, _, last = word.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            splits.setdefault(name, set()).update(f"scene-{number:04d}" for number in numbers)
    splits["train"] = splits["train_detect"] | splits["train_track"]
    return {name: frozenset(scenes) for name, scenes in splits.items()}


def split_scenes(split: str, folder: Path) -> tuple[frozenset[str], bool]:
    """Return the scene names of a split, and whether each of them must be in the tables.

    split   an official name, a file of scene names one a line, or a name in `splits.json` of the tables' folder
    raises  UsageError for a name that is none of these, InputError for a missing file, FormatError for a malformed one
    """
    official = official_splits()
    if split in official:
        return official[split], False
    path, custom = Path(split), folder / "splits.json"
    if path.is_file():
        return _listed(path), True
    if custom.is_file():
        scenes = _custom(custom).get(split)
        if scenes is not None:
            return scenes, True
    if path.suffix or path.parent != Path():  # meant as a file
        raise InputError("no such file of scene names", file=path)
    hint = f"a file of scene names, or one of: {', '.join(sorted(official))}"
    raise UsageError(f"--split {split}: no such split or file", hint=hint)


def _listed(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise FormatError("not UTF-8 text, expected scene names one a line", file=path) from None
    names: set[str] = set()
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name in names or len(name.split()) > 1:
            raise FormatError(f"found {name!r}, expected a scene name of its own", file=path, line=number)
        if name:
            names.add(name)
    if not names:
        raise FormatError("no scene names in it", file=path)
    return frozenset(names)


def _custom(path: Path) -> dict[str, frozenset[str]]:
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(splits, dict):
            raise ValueError("expected an object")
        for name, scenes in splits.items():
            if not isinstance(scenes, list) or set(map(type, scenes)) - {str}:
                raise ValueError(f"expected a list of scene names for {name!r}")
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"not a table of splits: {error}", file=path) from None
    return {name: frozenset(scenes) for name, scenes in splits.items()}

# SPDX-License-Identifier: Apache-2.0
"""Few-shot folds as a file (evaluation.md 6.2): which classes, which samples to learn from and which to ask about.

`folds.json` is {"format": "pc3d.folds/1", "way": w, "shot": s, "queries": q, "seed": n or null, "folds": [...]}.
A fold is {"classes": [class id, ...], "support": [[sample id, ...], ...], "query": [[sample id, ...], ...]},
one list a class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import BinaryIO

from pc3dcli.errors import FormatError
from pc3dcli.formats.paths import read_file

FORMAT = "pc3d.folds/1"
SampleId = int | str


@dataclass(frozen=True)
class Fold:
    """Class ids, and the sample ids of each class: support of the train split, query of the test split."""

    classes: tuple[int, ...]
    support: tuple[tuple[SampleId, ...], ...]
    query: tuple[tuple[SampleId, ...], ...]

    def label_of_query(self) -> dict[str, int]:
        """Return {sample id as text: class id} of the queries."""
        return {str(name): label for label, names in zip(self.classes, self.query, strict=True) for name in names}


@dataclass(frozen=True)
class Folds:
    """Folds of few-shot classification: `way` classes of `shot` support and `queries` query samples each."""

    way: int
    shot: int
    queries: int
    seed: int | None
    folds: tuple[Fold, ...]


def write_folds(file: BinaryIO, folds: Folds) -> None:
    """Write `folds.json`; the same folds give the same bytes."""
    text = json.dumps({"format": FORMAT, **asdict(folds)}, sort_keys=True, indent=1)
    file.write(f"{text}\n".encode())


def read_folds(path: Path) -> Folds:
    """Read `folds.json`.

    raises  InputError when it cannot be read; FormatError for another form, for a fold whose lists do not have the
            stated sizes, or a sample that a fold names twice
    """
    try:
        content = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=path) from None
    try:
        sizes, seed = {name: content[name] for name in ("way", "shot", "queries")}, content.get("seed")
        if any(type(size) is not int for size in sizes.values()) or type(seed) not in (int, NoneType):
            raise FormatError(f"way, shot, queries or seed is no integer: {sizes}, seed {seed!r}", file=path)
        folds = tuple(_fold(fold, index, path, **sizes) for index, fold in enumerate(content["folds"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"not a file of folds: {type(error).__name__} {error}", file=path) from None
    if not folds:
        raise FormatError("no folds in it", file=path)
    return Folds(**sizes, seed=seed, folds=folds)


def _fold(content: dict, index: int, path: Path, *, way: int, shot: int, queries: int) -> Fold:
    classes = content["classes"]
    if len(classes) != way or len(set(classes)) != way or any(type(c) is not int or c < 0 for c in classes):
        raise FormatError(f"fold {index} has classes {classes}, expected {way} different ids", file=path)
    parts = {name: _lists(content[name], name, index, path) for name in ("support", "query")}
    for name, size in (("support", shot), ("query", queries)):
        if [len(part) for part in parts[name]] != [size] * way:
            raise FormatError(f"fold {index}: {name} is not {way} lists of {size} samples", file=path)
    return Fold(tuple(classes), parts["support"], parts["query"])


def _lists(content: Sequence, name: str, index: int, path: Path) -> tuple[tuple[SampleId, ...], ...]:
    lists = tuple(tuple(part) for part in content)
    names = [str(sample) for part in lists for sample in part]
    if any(type(sample) not in (int, str) for part in lists for sample in part):
        raise FormatError(f"fold {index}: {name} holds something that is no sample id", file=path)
    if len(set(names)) != len(names):
        raise FormatError(f"fold {index}: {name} names a sample twice", file=path)
    return lists

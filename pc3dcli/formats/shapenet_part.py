# SPDX-License-Identifier: Apache-2.0
"""Parts of shapes: the folders of ShapeNetPart, and predictions for them (evaluation.md section 7).

ShapeNetPart (normal-resampled) is `synsetoffset2category.txt`, `<synset>/<id>.txt` with rows x y z nx ny nz part, and
`train_test_split/shuffled_{train,val,test}_file_list.json`.  Other files hold one part a line; an `.npz` holds one
shape, `pred` (N,) or `logits` (N, 50), or many: (S, N), or all in one row with `start` (S+1,).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.arrays import read_arrays
from pc3dcli.formats.integer_text import parse_integers
from pc3dcli.formats.paths import read_file

NUM_PARTS = 50
SPLITS = ("train", "val", "test", "trainval")
ARRAY_FILES = (".npz", ".safetensors")
_CATEGORIES = "synsetoffset2category.txt"
_COLUMNS = 7
_SHAPE = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Prediction:
    """What was predicted for N points of a shape: part (N,) or logits (N, 50); index (N,) of the points or None."""

    part: np.ndarray | None
    logits: np.ndarray | None = None
    index: np.ndarray | None = None

    @property
    def num_points(self) -> int:
        """Points that were predicted, of which some may be the same point of the shape."""
        return len(self.logits if self.part is None else self.part)


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is ShapeNetPart as it is distributed."""
    return (folder / _CATEGORIES).is_file()


def find_shapes(folder: Path, split: str | None) -> dict[str, Path]:
    """Return the ground-truth file of each shape by its name, "<synset>/<id>" in ShapeNetPart, sorted.

    split   one of `SPLITS`, by the lists of ShapeNetPart; None for all shapes
    raises  InputError when the lists or files are missing, FormatError for malformed lists
    """
    if split is None:
        files = [path for synset in categories(folder).values() for path in (folder / synset).glob("*.txt")]
        found = {f"{path.parent.name}/{path.stem}": path for path in files}
        if not found:
            raise InputError("no shapes; tried <synset>/*.txt", file=folder)
        return dict(sorted(found.items()))
    names = [name for part in (("train", "val") if split == "trainval" else (split,)) for name in _listed(folder, part)]
    return {name: folder / f"{name}.txt" for name in sorted(names)}


def categories(folder: Path) -> dict[str, str]:
    """Return {category: synset, the name of its folder} in the order of the table; FormatError for other lines."""
    path = folder / _CATEGORIES
    rows = [line.split() for line in read_file(path).decode("utf-8", "replace").splitlines()]
    for number, row in enumerate(rows, 1):
        if row and not (len(row) == 2 and row[1].isalnum()):
            raise FormatError("expected a category and its synset", file=path, line=number)
    return {row[0]: row[1] for row in rows if row}


def _listed(folder: Path, split: str) -> list[str]:
    path = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
    try:
        entries = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=path) from None
    names = ["/".join(str(entry).split("/")[-2:]) for entry in entries] if isinstance(entries, list) else []
    if not names or not all(_SHAPE.fullmatch(name) for name in names):
        raise FormatError("expected entries shape_data/<synset>/<id>", file=path)
    return names


def find_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and of its folders, one a shape, by relative name without suffix, sorted.

    raises  InputError when there is none or a shape has two
    """
    found: dict[str, Path] = {}
    is_ours = (folder / "run.json").is_file()  # `segment --write npz` writes the same in both array formats
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".txt", *ARRAY_FILES):  # what is no file fails when it is read
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found and is_ours and {found[name].suffix, path.suffix} == set(ARRAY_FILES):
            continue
        if name in found:
            raise InputError(f"shape {name} has two files, {found[name].name} and {path.name}", file=folder)
        found[name] = path
    if not found:
        raise InputError("no shapes; tried **/*.txt, *.npz, *.safetensors", file=folder)
    return dict(sorted(found.items()))


def read_truth(path: Path) -> np.ndarray:
    """Read the part of each point, (N,) int64: the last of seven columns, or the only one.

    raises  FormatError for another form, and for parts that are not in 0..49
    """
    data = read_file(path)
    if len(data[: data.find(b"\n") + 1 or None].split()) > 1:
        return _last_column(data, path)
    return _checked(parse_integers(data, path), path)


def _last_column(data: bytes, path: Path) -> np.ndarray:
    lines = data.rstrip().count(b"\n") + 1
    fields = data.split()
    if len(fields) != _COLUMNS * lines:
        counts = [len(line.split()) for line in data.rstrip().split(b"\n")]
        line = next(number for number, count in enumerate(counts, 1) if count != _COLUMNS)
        raise FormatError(f"found {counts[line - 1]} numbers, expected x y z nx ny nz part", file=path, line=line)
    text = b"\n".join(fields[_COLUMNS - 1 :: _COLUMNS])
    return _checked(parse_integers(text, path), path)


def read_prediction(path: Path) -> Prediction:
    """Read what was predicted for one shape: one part a line, or arrays.

    raises  FormatError for another form, for parts that are not in 0..49 and numbers that are not finite
    """
    if path.suffix not in ARRAY_FILES:
        return Prediction(_checked(parse_integers(read_file(path), path), path))
    arrays = read_arrays(path, ("pred", "logits", "index"))
    index = arrays.get("index")
    if "logits" in arrays:
        logits = _finite(arrays["logits"], path)
        if logits.ndim != 2 or logits.shape[1] != NUM_PARTS:
            raise FormatError(f"logits are {logits.shape}, expected (N, {NUM_PARTS})", file=path)
        found = Prediction(None, logits, index)
    elif "pred" in arrays and arrays["pred"].ndim == 1:
        found = Prediction(_checked(arrays["pred"], path), None, index)
    else:
        raise FormatError(f"expected pred (N,) or logits (N, {NUM_PARTS})", file=path)
    if index is not None and (index.shape != (found.num_points,) or index.dtype.kind not in "iu"):
        raise FormatError(f"index is {index.shape} {index.dtype}, expected an integer a point", file=path)
    return found


def read_shapes(path: Path, *names: str) -> dict[str, list[np.ndarray]]:
    """Read arrays of many shapes from one file.

    names    wanted: `label` or `part`, `pred` (integers), `logits`
    returns  those that are there, an array a shape: rows of (S, N, ...), or pieces of (P, ...) between `start`
    raises   FormatError for another form
    """
    arrays = read_arrays(path, (*names, "start"))
    start = arrays.pop("start", None)
    found = {}
    for name, array in arrays.items():
        array = _finite(array, path) if name == "logits" else _checked(array, path)
        if name == "logits" and array.shape[-1:] != (NUM_PARTS,):
            raise FormatError(f"logits are {array.shape}, expected {NUM_PARTS} in the end", file=path)
        found[name] = _pieces(array, start, path, array.ndim - (name == "logits"))
    return found


def _pieces(array: np.ndarray, start: np.ndarray | None, path: Path, num_axes: int) -> list[np.ndarray]:
    if start is None:
        if num_axes != 2:
            raise FormatError(f"found {array.shape}, expected shapes x points, or start beside it", file=path)
        return list(array)
    return cut_shapes(array, start if num_axes == 1 else np.empty(0), path)


def cut_shapes(array: np.ndarray, start: np.ndarray, path: Path) -> list[np.ndarray]:
    """Return the pieces of (P, ...) between `start` (S+1,); raises FormatError unless it goes up from 0 to P."""
    is_start = start.ndim == 1 and start.dtype.kind in "iu" and start.size > 1
    if not is_start or start[0] != 0 or start[-1] != len(array) or (np.diff(start.astype(np.int64)) < 0).any():
        raise FormatError(f"start does not cut {array.shape} into shapes: expected 0, ..., {len(array)}", file=path)
    return np.split(array, start[1:-1])


def _checked(parts: np.ndarray, path: Path) -> np.ndarray:
    """Return parts as int64; raises FormatError naming the first that is none."""
    with np.errstate(invalid="ignore"):  # numbers beyond 64 bits: the next line finds them
        values = parts.astype(np.int64) if parts.dtype.kind in "iuf" else None
    if values is None or not np.array_equal(values, parts):
        raise FormatError(f"parts are {parts.dtype}, expected integers", file=path)
    check_parts(values, NUM_PARTS, path)
    return values


def check_parts(parts: np.ndarray, num_parts: int, path: Path) -> None:
    """Raise FormatError for the first of integers (...) that is no part, with its line where a file has one a line."""
    wrong = (parts < 0) | (parts >= num_parts)
    if wrong.any():
        place = int(np.argmax(wrong.reshape(-1)))
        value, line = parts.reshape(-1)[place], place + 1 if path.suffix == ".txt" else None
        raise FormatError(f"found part {value}, expected 0 to {num_parts - 1}", file=path, line=line)


def _finite(logits: np.ndarray, path: Path) -> np.ndarray:
    if logits.dtype.kind not in "iuf" or not np.isfinite(logits).all():
        raise FormatError("logits hold NaN, infinity or no numbers", file=path)
    return logits

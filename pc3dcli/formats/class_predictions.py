# SPDX-License-Identifier: Apache-2.0
"""Predicted classes of shapes (evaluation.md section 6): tables of integers, and arrays of logits or features.

A table is CSV with a header that names its columns, `label,pred` or `id,pred`; labels are integers, ids any text.
`.npz` and `.safetensors` hold `logits` (N, C) or (V, N, C), or `features`, and `label` (N,).  Of a whole training run
there may be `epoch_pred` (E, N), classes after each epoch, and `vote_logits` (R, N, C), means over passes, R times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.arrays import read_arrays
from pc3dcli.formats.integer_text import parse_integer
from pc3dcli.formats.paths import read_file

MAX_CLASSES = 1 << 12  # ours: a table of numbers that are no classes is refused, and the confusion has its square


def of_run(path: Path) -> Path:
    """Return the predictions in the folder of `pc3d distill`; any other path stands for itself."""
    found = path / "predictions.npz"
    is_run = found.is_file() and not found.with_suffix(".ndjson").exists()  # a shape of that name, by `segment`
    return found if is_run else path


def read_columns(path: Path, needed: str = "pred") -> dict[str, list[str] | np.ndarray]:
    """Read the columns of a CSV file by their names in its first line.

    needed   a column that has to be there
    returns  `id` as texts, `label` and `pred` as (N,) int64; other columns are left out
    raises   FormatError with the line for a short or long line or a label that is no integer
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("not UTF-8 text, expected CSV", file=path) from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    header = lines[0].split(",")
    if needed not in header or len(set(header)) != len(header):
        raise FormatError(f"columns are {header}, expected label,pred or id,pred", file=path, line=1)
    columns: dict[str, list] = {name: [] for name in header}
    for number, line in enumerate(lines[1:], 2):
        fields = line.split(",")
        if len(fields) != len(header):
            raise FormatError(f"found {len(fields)} columns, expected {len(header)}", file=path, line=number)
        for name, value in zip(header, fields, strict=True):
            columns[name].append(_field(name, value, path, number))
    return {
        name: values if name == "id" else np.array(values, np.int64)
        for name, values in columns.items()
        if name in ("id", "label", "pred")
    }


def read_labelled_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read the wanted arrays of an `.npz` or `.safetensors` file.

    returns  those that are there; `label`, `pred` and `epoch_pred` as int64 and `id` as (N,) of text
    raises   FormatError for labels that are no integers, for objects, and for numbers that are not finite
    """
    arrays = read_arrays(path, names)
    for name, array in arrays.items():
        if name not in ("id", "class_names") and array.dtype.kind not in "iuf":
            raise FormatError(f"{name} are {array.dtype}, expected numbers", file=path)
        if name in ("id", "class_names") and array.ndim != 1:
            raise FormatError(f"{name} are {array.shape}, expected one row", file=path)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FormatError(f"{name} hold NaN or infinity", file=path)
    if "class_names" in arrays and arrays["class_names"].size > MAX_CLASSES:
        raise FormatError(f"class_names are {arrays['class_names'].size}, expected {MAX_CLASSES} at most", file=path)
    for name in ("label", "pred", "epoch_pred"):
        if name in arrays:
            with np.errstate(invalid="ignore"):  # numbers beyond 64 bits: the next line finds them
                integers = arrays[name].astype(np.int64)
            is_class = (integers == arrays[name]) & (integers >= 0) & (integers < MAX_CLASSES)
            if not is_class.all():
                raise FormatError(f"{name} holds numbers that are not integers from 0 to {MAX_CLASSES - 1}", file=path)
            arrays[name] = integers
    return arrays


def _field(name: str, text: str, path: Path, line: int) -> str | int | None:
    if name not in ("label", "pred"):
        return text
    value = parse_integer(text)
    if value is None or not 0 <= value < MAX_CLASSES:
        raise FormatError(f"{name} is {text!r}, expected an integer from 0 to {MAX_CLASSES - 1}", file=path, line=line)
    return value

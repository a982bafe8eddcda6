# SPDX-License-Identifier: Apache-2.0
"""Tensors that records refer to: numbers in the record itself, or a safetensors file beside the stream (cli.md 3).

`{"dtype": "I32", "shape": [3], "data": [0, 2, 1]}` or `{"file": "a.safetensors", "name": "pred", ...}`.  The file is
looked for in the folder of the stream, then in the root of the scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.arrays import read_arrays
from pc3dcli.formats.paths import resolve_inside

DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "F16": np.float16,
    "U32": np.uint32, "I32": np.int32, "F32": np.float32, "U64": np.uint64, "I64": np.int64, "F64": np.float64,
}  # fmt: skip


def tensor_file(tensor: Any, folders: Sequence[Path]) -> Path | None:
    """Return the file that holds a tensor, None where its numbers stand in the record.

    folders  where it may lie, the first that has it is meant
    raises   FormatError for a path that leaves the folders, or without any; InputError when none has the file
    """
    if not isinstance(tensor, dict) or "file" not in tensor:
        return None
    if not folders:
        raise FormatError("tensor is in a file, expected its numbers in the record")
    for folder in folders[:-1]:
        try:
            return resolve_inside(folder, tensor["file"])
        except InputError:
            continue
    return resolve_inside(folders[-1], tensor["file"])


def read_tensor(tensor: Any, folders: Sequence[Path]) -> np.ndarray:
    """Return the array of a tensor, of the dtype and shape that it says.

    raises  FormatError for one that is malformed or not what it says, InputError when its file is in none of `folders`
    """
    if not isinstance(tensor, dict):
        raise FormatError(f"tensor is {type(tensor).__name__}, expected an object")
    dtype, shape = tensor.get("dtype"), tensor.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"tensor has dtype {dtype!r:.60}, expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
        raise FormatError(f"tensor has shape {shape!r:.60}, expected a list of lengths")
    path = tensor_file(tensor, folders)
    array = _inline(tensor, dtype, shape) if path is None else _stored(tensor, path)
    if array.dtype != DTYPES[dtype] or array.shape != tuple(shape):
        raise FormatError(f"tensor is {array.shape} {array.dtype}, its record says {tuple(shape)} {dtype}", file=path)
    return array


def _inline(tensor: dict, dtype: str, shape: list[int]) -> np.ndarray:
    values = tensor.get("data")
    kinds = {int} if dtype[0] in "UI" else {bool} if dtype == "BOOL" else {int, float}
    if not isinstance(values, list) or not set(map(type, values)) <= kinds:
        raise FormatError(f"tensor has neither a file nor data of {dtype}")
    if len(values) != math.prod(shape):
        raise FormatError(f"tensor has {len(values)} numbers, its shape is {shape}")
    try:
        return np.array(values, DTYPES[dtype]).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise FormatError(f"tensor of {dtype}: {error}") from None


def _stored(tensor: dict, path: Path) -> np.ndarray:
    name = tensor.get("name")
    if path.suffix != ".safetensors" or not isinstance(name, str):
        raise FormatError("tensor names no array of a .safetensors file", file=path)
    arrays = read_arrays(path, (name,))
    if name not in arrays:
        raise FormatError(f"has no array {name!r}", file=path)
    return arrays[name]

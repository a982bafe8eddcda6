# SPDX-License-Identifier: Apache-2.0
"""Arrays out of `.npz`, `.npy`, `.safetensors`: no pickle is ever loaded, sizes are checked before memory is taken."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.paths import open_file

_CHUNK = 1 << 20  # bytes
_SHOWN = 200  # characters of a message of numpy
_SURROGATES = (0xD800, 0xDFFF)  # halves of characters, which no file can be written with


def read_arrays(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Read those arrays of a file that have one of the wanted names.

    path    `.npz`, or `.safetensors` by its suffix
    raises  InputError when it cannot be read, FormatError for damaged files and pickled objects
    """
    if not path.is_file():
        raise InputError("no such file", file=path)
    return _read_safetensors(path, wanted) if path.suffix == ".safetensors" else _read_npz(path, wanted)


def read_npy(path: Path) -> np.ndarray:
    """Read the array of a `.npy` file; raises InputError when it cannot be read, FormatError for damage and pickles."""
    with open_file(path) as file:
        return _read_npy(file, path.stat().st_size, str(path))


def _read_npz(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    import zipfile  # slow to load, and text masks need none of it
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays = {}
            for name in wanted:
                if name in members:
                    with archive.open(members[name]) as file:
                        arrays[name] = _read_npy(file, members[name].file_size, f"{path}:{name}")
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"not a readable .npz archive: {error}", file=path) from None


def _read_npy(file: BinaryIO, size: int, name: str) -> np.ndarray:
    """Read one array; its header is checked against the size of the member before anything is allocated."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise FormatError(f"array format {version} is not read", file=name)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy parses a header as Python, which has opinions about its style
            shape, is_fortran, dtype = read_header(file)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise FormatError(f"not an array: {str(error)[:_SHOWN]}", file=name) from None
    if dtype.hasobject:
        raise FormatError("holds pickled objects, which are never loaded", file=name)
    count = math.prod(shape)
    if any(length < 0 for length in shape) or count * dtype.itemsize > size:
        raise FormatError(f"array {shape} of {dtype} does not fit {size} bytes", file=name)
    data = np.empty(count * dtype.itemsize, np.uint8)
    for start in range(0, data.size, _CHUNK):  # zipfile joins what it read so far at every step of a long read
        chunk = data[start : start + _CHUNK]
        if file.readinto(chunk) != chunk.size:
            raise FormatError("array is truncated", file=name)
    try:
        array = data.view(dtype).reshape(shape, order="F" if is_fortran else "C")
    except ValueError as error:  # numbers of no bytes, or 0 x 10 ** 30 of them
        raise FormatError(f"array {shape} of {dtype}: {error}", file=name) from None
    if dtype.kind == "U":
        _check_text(array, name)
    return array


def _check_text(array: np.ndarray, name: str) -> None:
    """Refuse numbers that are no characters; Python fails on them wherever they are looked at."""
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint32 if array.dtype.isnative else ">u4")
    if ((codes > sys.maxunicode) | ((codes >= _SURROGATES[0]) & (codes <= _SURROGATES[1]))).any():
        raise FormatError("text of numbers that are no characters", file=name)


def _read_safetensors(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys()) if name in wanted}
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: types numpy lacks
        raise FormatError(f"not readable safetensors: {error}", file=path) from None

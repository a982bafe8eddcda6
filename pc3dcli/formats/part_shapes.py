# SPDX-License-Identifier: Apache-2.0
"""Parts of the points of shapes in the numbering of any data set: one part a line, or arrays of integers from 0.

Of one shape `pred` (N,), with `index` (N,) of its points; of many (S, N), or (P,) in one row with `start` (S+1,).
ShapeNetPart, whose numbering and logits are known, is read by `shapenet_part`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError
from pc3dcli.formats.arrays import read_arrays
from pc3dcli.formats.integer_text import parse_integers
from pc3dcli.formats.paths import read_file
from pc3dcli.formats.shapenet_part import ARRAY_FILES, Prediction, check_parts, cut_shapes


def read_prediction(path: Path, num_parts: int) -> Prediction:
    """Read what was predicted for one shape; raises FormatError for another form and parts not below `num_parts`."""
    if path.suffix not in ARRAY_FILES:
        return Prediction(_checked(parse_integers(read_file(path), path), num_parts, path))
    arrays = read_arrays(path, ("pred", "index"))
    if "pred" not in arrays or arrays["pred"].ndim != 1:
        raise FormatError("expected pred (N,)", file=path)
    index = arrays.get("index")
    if index is not None and (index.shape != arrays["pred"].shape or index.dtype.kind not in "iu"):
        raise FormatError(f"index is {index.shape} {index.dtype}, expected an integer a point", file=path)
    return Prediction(_checked(arrays["pred"], num_parts, path), None, index)


def read_shapes(path: Path, *names: str, num_parts: int) -> dict[str, list[np.ndarray]]:
    """Read arrays of parts of many shapes; returns those that are there, (N,) int64 a shape.

    raises  FormatError for another form and parts not below `num_parts`
    """
    arrays = read_arrays(path, (*names, "start"))
    start = arrays.pop("start", None)
    found = {}
    for name, array in arrays.items():
        if array.ndim != (2 if start is None else 1):
            raise FormatError(f"{name} is {array.shape}, expected shapes x points, or start beside it", file=path)
        parts = _checked(array, num_parts, path)
        found[name] = list(parts) if start is None else cut_shapes(parts, start, path)
    return found


def _checked(parts: np.ndarray, num_parts: int, path: Path) -> np.ndarray:
    if parts.dtype.kind not in "iu":
        raise FormatError(f"parts are {parts.dtype}, expected integers", file=path)
    check_parts(parts, num_parts, path)
    return parts.astype(np.int64)

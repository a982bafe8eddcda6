# SPDX-License-Identifier: Apache-2.0
"""Arrays out of HDF5 files, through h5py, which is an extra: only two data sets come in this format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.paths import open_file

_MAX_RATIO = 1100  # bytes that deflate makes of one, about; what is not written is zeros and could be of any size


def read_hdf5(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Read arrays of numbers by their names, all of which have to be there.

    raises  InputError when the file cannot be read or h5py is missing, FormatError when it is damaged
    """
    try:
        import h5py
    except ImportError:
        hint = "pip install 'pc3d[h5]'"
        raise InputError("HDF5 files are read by h5py, which is not installed", file=path, hint=hint) from None
    with open_file(path) as stream:
        try:
            with h5py.File(stream, "r") as file:
                return {name: _read(file.get(name), path, name) for name in wanted}
        except FormatError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise FormatError(f"not a readable HDF5 file: {error}", file=path) from None


def _read(dataset, path: Path, name: str) -> np.ndarray:
    """Read one array, unless it claims more than its bytes in the file could hold."""
    shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
    if shape is None or dtype is None:
        raise FormatError(f"no array {name!r} in it", file=path)
    if dtype.kind not in "iuf":
        raise FormatError(f"{name} is {dtype}, expected numbers", file=path)
    stored, needed = dataset.id.get_storage_size(), math.prod(shape) * dtype.itemsize
    if needed > stored * (_MAX_RATIO if dataset.chunks else 1) or stored > path.stat().st_size:
        raise FormatError(f"{name} claims {shape} of {dtype}, the file holds {stored} bytes of it", file=path)
    return dataset[()]

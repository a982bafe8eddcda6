# SPDX-License-Identifier: Apache-2.0
import h5py
import numpy as np
import pytest

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.hdf5 import read_hdf5


def test_arrays_plain_and_compressed(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["plain"] = values
        file.create_dataset("packed", data=np.zeros((100, 100)), compression="gzip")
        file["text"] = "none"
        file.create_group("group")
    found = read_hdf5(tmp_path / "x.h5", ("plain", "packed"))
    assert np.array_equal(found["plain"], values) and not found["packed"].any()
    for name, message in (("text", "expected numbers"), ("group", "no array 'group'"), ("x", "no array 'x'")):
        with pytest.raises(FormatError, match=message):
            read_hdf5(tmp_path / "x.h5", (name,))


def test_sizes_that_the_file_does_not_hold(tmp_path):
    """Unwritten values are zeros that take no place in the file, so a small file could ask for any memory."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", shape=(1 << 40,), dtype="f8", chunks=(1 << 10,))
        file.create_dataset("flat", shape=(1 << 40,), dtype="f8")
    for name in ("data", "flat"):
        with pytest.raises(FormatError, match="claims"):
            read_hdf5(tmp_path / "x.h5", (name,))


def test_other_files(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    with pytest.raises(FormatError, match="not a readable HDF5 file"):
        read_hdf5(tmp_path / "x.h5", ("data",))
    with pytest.raises(InputError):
        read_hdf5(tmp_path / "missing.h5", ("data",))

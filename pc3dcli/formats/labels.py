# SPDX-License-Identifier: Apache-2.0
"""Instance labels of one scene as files: safetensors beside the records, PLY for viewing (pc3d-labels(5))."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import write_ply


def point_labels(num_points: int, point_indices: list[np.ndarray]) -> np.ndarray:
    """Return (N,) int32, the position of the instance that holds each point, -1 for none; the first instance wins."""
    labels = np.full(num_points, -1, np.int32)
    for instance, index in reversed(list(enumerate(point_indices))):
        labels[index] = instance
    return labels


def write_label_tensors(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Write <scene>.safetensors.

    arrays    instance (N,) int32, -1 for none; of lifted labels vote_share (N,) float32, the share of the votes on a
              point that its most voted track won, 0 without votes, and seen (N,) int32, frames that see the point; of
              predicted ones confidence (P,) float32, the probabilities of the points of all instances in turn
    metadata  name -> text, or anything JSON can say
    """
    from safetensors.numpy import save

    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    file.write(_sorted_header(save(dict(sorted(arrays.items())), metadata=texts)))


def read_confidences(path: Path, sizes: list[int]) -> list[np.ndarray]:
    """Read the probability of each point of each instance, of <scene>.safetensors of a segmenter.

    sizes   points of each instance
    raises  InputError without such a file, FormatError when it is of other instances
    """
    from pc3dcli.formats.arrays import read_arrays

    if not path.is_file():
        raise InputError("no such file, which holds the confidences of points", file=path)
    found = read_arrays(path, ("confidence",)).get("confidence")
    if found is None or found.shape != (sum(sizes),) or found.dtype.kind != "f":
        shape = "nothing" if found is None else f"{found.shape} {found.dtype}"
        raise FormatError(f"found {shape}, expected the confidences of {sum(sizes)} points", file=path)
    if not ((found >= 0) & (found <= 1)).all():
        raise FormatError("holds confidences that are no probabilities", file=path)
    return np.split(found, np.cumsum(sizes)[:-1])


def write_part_tensor(file: BinaryIO, part: np.ndarray, metadata: dict[str, str]) -> None:
    """Write the part (N,) int32 of each point of a shape, as the safetensors that `eval --task parts` reads."""
    from safetensors.numpy import save

    file.write(_sorted_header(save({"pred": part}, metadata=metadata)))


def _sorted_header(data: bytes) -> bytes:
    """Return a safetensors file with its header in sorted order; the library writes metadata in random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # keeps the arrays aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def write_label_ply(file: BinaryIO, cloud: Cloud, labels: np.ndarray, comments: tuple[str, ...] = ()) -> None:
    """Write a cloud with `label` and `instance_id`, int32, -1 for none; lifted instances have no label."""
    extra = {"label": np.full(len(labels), -1, np.int32), "instance_id": labels}
    write_ply(file, dataclasses.replace(cloud, faces=None, normal=None, extra=extra), comments)

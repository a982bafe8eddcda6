# SPDX-License-Identifier: Apache-2.0
"""COCO compressed run lengths for image masks ([h, w], column-major) and for point masks ([N, 1], file order).

pycocotools does the encoding.  Its decoder trusts its input (a run that is too long writes past the image), so what
comes from outside is decoded here, which checks it on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco

from pc3dcli.errors import FormatError


def encode_mask(mask: np.ndarray) -> dict:
    """Encode a (H, W) bool mask as {"size": [h, w], "counts": text}."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict) -> np.ndarray:
    """Decode {"size": [h, w], "counts": text} to a (H, W) bool mask.

    raises  FormatError when the counts are malformed or do not sum to h * w
    """
    height, width = _check_size(rle)
    runs = _checked_runs(rle, height * width)
    is_inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_inside, runs).reshape((height, width), order="F")


def paint_labels(masks: Sequence[tuple[int, dict]], size: tuple[int, int]) -> np.ndarray:
    """Paint masks into one label image, large ones first so that small ones stay on top.

    masks    (id >= 0, rle) of one frame; size (H, W) that each must have
    returns  (H, W) int32, -1 where no mask is
    raises   FormatError for a malformed mask or one of another size
    """
    total = size[0] * size[1]
    edges, values = [], []
    for number, rle in masks:
        if _check_size(rle) != tuple(size):
            raise FormatError(f"mask is {rle['size'][1]} x {rle['size'][0]}, expected {size[1]} x {size[0]}")
        bounds = np.cumsum(_checked_runs(rle, total))
        bounds = bounds[: len(bounds) // 2 * 2]  # where the runs of ones start and end, in turn
        edges.append(bounds)
        values.append(np.tile([number + 1, -number - 1], len(bounds) // 2))
    if not edges:
        return np.full(size, -1, np.int32)
    edges, values = np.concatenate(edges), np.concatenate(values)
    cover = np.zeros(total + 1, np.int32)
    np.add.at(cover, edges, np.sign(values).astype(np.int32))
    if np.cumsum(cover, out=cover).max() > 1:
        return _paint_overlapping(masks, size)
    labels = np.zeros(total + 1, np.int32)
    np.add.at(labels, edges, values.astype(np.int32))
    np.cumsum(labels, out=labels)
    return np.ascontiguousarray(labels[:total].reshape(size, order="F")) - np.int32(1)


def _paint_overlapping(masks: Sequence[tuple[int, dict]], size: tuple[int, int]) -> np.ndarray:
    decoded = [decode_mask(rle) for _, rle in masks]
    labels = np.full(size, -1, np.int32, order="F")  # the order of the runs
    for index in np.argsort([-mask.sum() for mask in decoded], kind="stable"):
        np.copyto(labels, np.int32(masks[index][0]), where=decoded[index])
    return np.ascontiguousarray(labels)


def encode_points(mask: np.ndarray) -> dict:
    """Encode a (N,) bool point mask as an RLE of size [N, 1]."""
    return encode_mask(mask[:, None])


def decode_points(rle: dict, num_points: int) -> np.ndarray:
    """Decode an RLE of size [N, 1] to a (N,) bool mask and check N.

    raises  FormatError when the mask is for another number of points
    """
    height, width = _check_size(rle)
    if (height, width) != (num_points, 1):
        raise FormatError(f"mask is for {height} x {width} points, expected {num_points} x 1")
    return decode_mask(rle)[:, 0]


def _check_size(rle: dict) -> tuple[int, int]:
    size = rle.get("size") if isinstance(rle, dict) else None
    good = isinstance(size, list | tuple) and len(size) == 2
    if not good or not all(type(n) is int and 0 <= n < 1 << 31 for n in size):
        raise FormatError(f"rle size is {size!r}, expected [height, width]")
    if size[0] * size[1] >= 1 << 31:  # counts are 32-bit in the library
        raise FormatError(f"rle of {size[0]} x {size[1]} is too large")
    return size[0], size[1]


def _checked_runs(rle: dict, total: int) -> np.ndarray:
    """Return the lengths of the runs, zeros first, once they are non-negative and sum to `total`."""
    counts = rle.get("counts")
    if not isinstance(counts, str):
        raise FormatError(f"rle counts are {type(counts).__name__}, expected compressed text")
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise FormatError("rle counts hold characters outside COCO's alphabet") from None
    if codes.size and (codes.min() < 0 or codes.max() > 63):
        raise FormatError("rle counts hold characters outside COCO's alphabet")
    if codes.size and codes[-1] & 32:
        raise FormatError("rle counts end inside a number")
    runs = _runs(codes)
    if runs is None or runs.sum() != total:
        raise FormatError(f"rle runs do not sum to {total} pixels")
    return runs


def _runs(codes: np.ndarray) -> np.ndarray | None:
    """Decode 6-bit groups (5 bits of value, low first, one to continue); None when a run is negative or too long."""
    ends = np.flatnonzero((codes & 32) == 0)
    if ends.size == 0:
        return np.zeros(0, np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        return None
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    values = values - (negative.astype(np.int64) << (5 * (ends - starts + 1)))
    # from the fourth number on, each is a difference to the one two places earlier: two running sums
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    if runs.size > 2:
        runs[2::2] = np.cumsum(values[2::2])
    return None if runs.min() < 0 else runs

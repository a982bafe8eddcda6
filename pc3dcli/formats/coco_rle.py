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
    return decode_masks([rle])[0]


def decode_masks(rles: Sequence[dict]) -> list[np.ndarray]:
    """Decode many masks at once, as `decode_mask` does each: column-major (H, W) bool arrays."""
    if not rles:
        return []
    sizes = [_check_size(rle) for rle in rles]
    pairs, starts = _checked_runs(rles, [height * width for height, width in sizes])
    is_inside = np.arange(2 * len(pairs)) % 2 == 1
    bounds = np.r_[starts, len(pairs)]
    masks = []
    for (height, width), a, b in zip(sizes, bounds, bounds[1:], strict=False):
        flat = np.repeat(is_inside[: 2 * (b - a)], pairs[a:b].reshape(-1))
        masks.append(flat.reshape((height, width), order="F"))
    return masks


def paint_labels(masks: Sequence[tuple[int, dict]], size: tuple[int, int]) -> np.ndarray:
    """Paint masks into one label image, large ones first so that small ones stay on top.

    masks    (id >= 0, rle) of one frame; size (H, W) that each must have
    returns  (H, W) int32, -1 where no mask is
    raises   FormatError for a malformed mask or one of another size
    """
    total = size[0] * size[1]
    for _, rle in masks:
        if _check_size(rle) != tuple(size):
            raise FormatError(f"mask is {rle['size'][1]} x {rle['size'][0]}, expected {size[1]} x {size[0]}")
    if not masks:
        return np.full(size, -1, np.int32)
    pairs, starts = _checked_runs([rle for _, rle in masks], [total] * len(masks))
    ends = np.cumsum(pairs.reshape(-1)).reshape(-1, 2)  # where the ones of each pair begin and end, masks in a row
    rows = np.diff(np.r_[starts, len(pairs)])
    edges = ends - np.repeat(total * np.arange(len(masks)), rows)[:, None]
    values = np.repeat(np.array([number + 1 for number, _ in masks], np.int32), rows)
    cover, labels = np.zeros(total + 1, np.int32), np.zeros(total + 1, np.int32)
    for column, sign in ((0, 1), (1, -1)):
        np.add.at(cover, edges[:, column], np.int32(sign))
        np.add.at(labels, edges[:, column], sign * values)
    if np.cumsum(cover, out=cover).max() > 1:
        return _paint_overlapping(masks, size)
    np.cumsum(labels, out=labels)
    return np.ascontiguousarray(labels[:total].reshape(size, order="F")) - np.int32(1)


def _paint_overlapping(masks: Sequence[tuple[int, dict]], size: tuple[int, int]) -> np.ndarray:
    decoded = decode_masks([rle for _, rle in masks])
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


def _checked_runs(rles: Sequence[dict], totals: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs of all masks, once they are non-negative and sum to what each mask should hold.

    returns  (P, 2) int64 lengths of a run of zeros and of the ones after it, masks in a row, and the first row of each
             mask; where a mask ends with zeros, its last run of ones is 0 long
    """
    texts = [_checked_text(rle) for rle in rles]
    codes = np.frombuffer("".join(texts).encode("ascii"), np.uint8).astype(np.int64) - 48
    if codes.size and (codes.min() < 0 or codes.max() > 63):
        raise FormatError("rle counts hold characters outside COCO's alphabet")
    last = np.cumsum([len(text) for text in texts])  # where each mask ends
    if (codes[last[np.diff(last, prepend=0) > 0] - 1] & 32).any():
        raise FormatError("rle counts end inside a number")
    numbers, ends = _numbers(codes)
    first = np.searchsorted(ends, np.r_[0, last[:-1]])  # number that each mask begins with
    runs, starts = _undo_differences(numbers, first)
    sums = np.r_[0, np.cumsum(runs.sum(axis=1))]
    found = sums[np.r_[starts[1:], len(runs)]] - sums[starts]
    if runs.min(initial=0) < 0 or (found != totals).any():
        wrong = totals[int(np.argmax(found != totals))]
        raise FormatError(f"rle runs do not sum to {wrong} pixels")
    return runs, starts


def _checked_text(rle: dict) -> str:
    counts = rle.get("counts")
    if not isinstance(counts, str):
        raise FormatError(f"rle counts are {type(counts).__name__}, expected compressed text")
    if not counts.isascii():
        raise FormatError("rle counts hold characters outside COCO's alphabet")
    return counts


def _numbers(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode 6-bit groups (5 bits of value, low first, one to continue); return numbers and where each ends."""
    ends = np.flatnonzero((codes & 32) == 0)
    if ends.size == 0:
        return np.zeros(0, np.int64), ends
    starts = np.r_[0, ends[:-1] + 1]
    length = ends - starts + 1
    if length.max() > 7:
        raise FormatError("rle counts hold a number of more than 35 bits")
    place = np.arange(codes.size) - np.repeat(starts, length)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    return values - (negative.astype(np.int64) << (5 * length)), ends


def _undo_differences(numbers: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn numbers into runs: from the fourth on, each is a difference to the one two places earlier.

    numbers  (n,) of all masks; first (M,) where each mask begins
    returns  (P, 2) runs and the first row of each mask
    """
    count = np.diff(np.r_[first, len(numbers)])
    rows = (count + 1) // 2  # a mask starts a row, so that both columns are plain running sums
    starts = np.cumsum(rows) - rows
    table = np.zeros(2 * rows.sum(), np.int64)
    table[np.arange(len(numbers)) + np.repeat(2 * starts - first, count)] = numbers
    table = table.reshape(-1, 2)
    used, starts_used = rows > 0, starts[rows > 0]
    leading = table[starts_used, 0]
    table[starts_used, 0] = 0  # the third number is no difference to the first
    sums = np.cumsum(table, axis=0)
    before = sums[starts_used] - table[starts_used]
    sums -= np.repeat(before, rows[used], axis=0)
    sums[starts_used, 0] = leading
    odd = np.flatnonzero(count % 2)
    sums[starts[odd] + rows[odd] - 1, 1] = 0  # no number stands here
    return sums, starts

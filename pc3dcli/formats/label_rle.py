# SPDX-License-Identifier: Apache-2.0
"""COCO run lengths of all labels of a label image at once: its pixels are walked once, not once a label."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco


def encode_labels(labels: np.ndarray) -> dict[int, dict]:
    """Encode each label above 0 of a (H, W) integer image as {"size": [h, w], "counts": text}, by ascending label.

    The same text as `coco_rle.encode_mask(labels == k)` gives.
    """
    H, W = labels.shape
    flat = np.ascontiguousarray(labels.T).reshape(-1)  # COCO runs go down the columns
    if not flat.any():
        return {}
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.concatenate((starts[1:], [flat.size]))
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    order = order[values[order] > 0]
    tracks, first = np.unique(values[order], return_index=True)
    encoded = {}
    for track, runs in zip(tracks.tolist(), np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)  # off, on, off, ...
        counts = np.diff(np.concatenate(([0], edges, [flat.size])))
        if not counts[-1]:
            counts = counts[:-1]
        rle = coco.frPyObjects({"size": [H, W], "counts": counts.tolist()}, H, W)
        encoded[track] = {"size": [H, W], "counts": rle["counts"].decode("ascii")}
    return encoded

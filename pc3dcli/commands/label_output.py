# SPDX-License-Identifier: Apache-2.0
"""What commands that find instances write: their records, points of their own, and files beside (pc3d-labels(5))."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from pc3dcli.formats.cloud import Cloud, xyz_sha256
from pc3dcli.formats.coco_rle import encode_points
from pc3dcli.formats.labels import point_labels, write_label_ply, write_label_tensors
from pc3dcli.formats.ply import write_ply
from pc3dcli.formats.scannet_instances import write_prediction
from pc3dcli.stream.pipeline import Context
from pc3dcli.stream.provenance import chain_text
from pc3dcli.stream.writer import atomic_file

FORMATS = {"ply": ".ply", "scannet": ".txt"}  # of --write, and the suffix of the file that is there when it is written


def instance_record(scene: str, number: int, index: np.ndarray, num_points: int) -> dict:
    """Return the `instance3d` record of an instance that consists of the points `index`, (n,) int, of `num_points`."""
    mask = np.zeros(num_points, bool)
    mask[index] = True
    return {"type": "instance3d", "scene": scene, "instance": number, "rle": encode_points(mask)}


def write_points(scene: dict, cloud: Cloud, context: Context) -> dict:
    """Write points of our own beside the records and return the scene record that names them."""
    with atomic_file(context.side.path(".points.ply")) as file:
        write_ply(file, cloud, _comments(context))
    points = {"points": context.side.relative(".points.ply"), "num_points": len(cloud.xyz)}
    return scene | {"root": "."} | points | {"xyz_sha256": xyz_sha256(cloud.xyz)}


@dataclass(frozen=True)
class Labels:
    """What the files of a scene are made of.

    cloud    its N points
    indices  (n,) int of each instance: its points
    scores   in [0, 1], of each instance
    arrays   name -> (N,) numbers of each point, beside its instance
    """

    cloud: Cloud
    indices: list[np.ndarray]
    scores: list[float]
    arrays: dict[str, np.ndarray]


def write_files(context: Context, labels: Labels, *, method: str, config: Any, formats: tuple[str, ...]) -> None:
    """Write the tensors of a scene, and the formats that --write names; method and config go into their metadata."""
    num_points = len(labels.cloud.xyz)
    instance = point_labels(num_points, labels.indices)
    metadata = {"format": "pc3d", "method": method, "config": dataclasses.asdict(config)}
    metadata["pc3d"] = chain_text(list(context.programs))
    with atomic_file(context.side.path(".safetensors")) as file:
        write_label_tensors(file, {"instance": instance, **labels.arrays}, metadata)
    if "ply" in formats:
        with atomic_file(context.side.path(".ply")) as file:
            write_label_ply(file, labels.cloud, instance, _comments(context))
    if "scannet" in formats:
        masks = (np.isin(np.arange(num_points), index) for index in labels.indices)
        stem = context.side.stem
        write_prediction(stem.parent, stem.name, masks, [1] * len(labels.indices), labels.scores)


def _comments(context: Context) -> tuple[str, ...]:
    return (f"pc3d {chain_text(list(context.programs))}",) if context.programs else ()

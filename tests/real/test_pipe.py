# SPDX-License-Identifier: Apache-2.0
"""The main pipeline on real recordings: a part of the kitchen, and the labelled shelf."""

import json

import numpy as np

from pc3dcli.formats.cloud import read_cloud
from pc3dcli.formats.coco_rle import decode_points


def pipe(run, out, track: list, lift: list) -> list[dict]:
    tracks = run("track2d", *track)
    assert tracks.code == 0, tracks.err
    lifted = run("lift3d", "--out", out, *lift, stdin=tracks.out)
    assert lifted.code == 0, lifted.err
    (path,) = out.glob("*.ndjson")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_kitchen_gives_a_table_and_objects_on_it(run, shared_data, tmp_path):
    records = pipe(run, tmp_path / "labels", [shared_data / "rgbd_redkitchen", "--stride", "8"], [])
    kappa = next(record["value"] for record in records if record.get("name") == "conflict_rate")
    assert kappa < 0.15
    cloud = read_cloud(tmp_path / "labels/rgbd_redkitchen.points.ply")
    masks = [decode_points(r["rle"], len(cloud.xyz)) for r in records if r["type"] == "instance3d"]
    assert 8 <= len(masks) <= 80
    # the table is the flat instance of about 1.6 x 0.8 m
    spans = [np.sort(_extent(cloud.xyz[mask])) for mask in masks]
    assert any(span[0] < 0.25 and 0.5 < span[1] < 1.2 and 1.0 < span[2] < 2.4 for span in spans)


def _extent(points: np.ndarray) -> np.ndarray:
    """Return the spread along the three principal axes, between the 2nd and the 98th percentile, metres."""
    centered = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(centered[:: max(1, len(centered) // 5000)], full_matrices=False)
    low, high = np.percentile(centered @ axes.T, [2, 98], axis=0)
    return high - low


def test_shelf_runs_at_its_own_depth_scale(run, shared_data, tmp_path):
    options = [shared_data / "rgbd_gt_shelf", "--depth-scale", "0.0001"]
    records = pipe(run, tmp_path / "labels", options, ["-D", "voxel=0.005"])
    assert sum(record["type"] == "instance3d" for record in records) >= 4

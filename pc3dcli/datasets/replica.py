# SPDX-License-Identifier: Apache-2.0
"""Replica as NICE-SLAM ships it: results/frame000000.jpg and depth000000.png, traj.txt, cam_params.json; and its mesh.

traj.txt has one camera-to-world matrix a line (16 numbers, camera x right, y down, z forward); line i belongs to frame
i.  cam_params.json lies beside it or one folder up, as in the download; without it the download's numbers are assumed
for 1200 x 680 images, and noted.

A scene of the original data set is its mesh, habitat/mesh_semantic.ply, without frames.  Its faces name their object,
and habitat/info_semantic.json the class of each object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pc3dcli.datasets.frame_files import (
    LOST,
    POSE_HINT,
    camera_grid,
    find_points,
    make_frames,
    numbered_files,
    pair_files,
    require_frames,
    usable_pose,
)
from pc3dcli.datasets.scene import OpenOptions, Scene, check_depth_scale
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_lists import label_id
from pc3dcli.formats.cloud import read_cloud
from pc3dcli.formats.images import image_size, read_bytes
from pc3dcli.formats.poses import parse_numbers, text_lines

PATTERN = "traj.txt with results/frame000000.jpg and results/depth000000.png; or habitat/mesh_semantic.ply"
MESH, OBJECTS = "habitat/mesh_semantic.ply", "habitat/info_semantic.json"
MAX_JSON_BYTES = 64 << 20  # ours
MAX_OBJECTS = 999  # of a scene, that fit below the label
MAX_TRAJECTORY_BYTES = 64 << 20  # ours: 150,000 poses
DEFAULT = {"fx": 600.0, "fy": 600.0, "cx": 599.5, "cy": 339.5, "scale": 6553.5}  # NICE-SLAM, configs of Replica
DEFAULT_SIZE = (680, 1200)


def matches(path: Path) -> bool:
    """Say whether `path` is a folder of this layout."""
    return _has_frames(path) or (path / MESH).is_file()


def open_scene(scene: str, path: Path, options: OpenOptions) -> Scene:
    """Read the trajectory and camera of one room; see SceneRef.open."""
    if not _has_frames(path):
        return Scene(scene, path, "replica", (), MESH)
    poses, lost = _read_trajectory(path / "traj.txt", options)
    images = numbered_files(path, "results", r"frame(\d+)\.(?:jpg|jpeg|png)")
    depths = numbered_files(path, "results", r"depth(\d+)\.png")
    names = {number: images.get(number, depths.get(number, (f"{number:06d}",)))[0] for number in poses}
    candidates, unpictured = pair_files(path, poses, names, images, depths)
    require_frames(candidates, lost + unpictured, path)
    camera, source, notes = _camera(path, candidates[0].image)
    K = np.array([[camera["fx"], 0, camera["cx"]], [0, camera["fy"], camera["cy"]], [0, 0, 1]])
    grid = camera_grid(path, candidates[0].image, candidates[0].depth, K, None, source)
    points, name = find_points(path, path.name), path.resolve().name
    if points is None and (path.parent / f"{name}_mesh.ply").is_file():
        notes += (f"{name}_mesh.ply lies outside the scene's folder: move it inside to label its points",)
    return Scene(
        scene=scene,
        root=path,
        dataset="replica",
        frames=make_frames(candidates, grid, options.depth_scale or 1.0 / camera["scale"]),
        points=points,
        skipped=tuple(sorted(lost + unpictured)),
        notes=notes,
    )


def _has_frames(path: Path) -> bool:
    return (path / "traj.txt").is_file() and (path / "results").is_dir()


def truth_files(path: Path) -> tuple[Path, ...]:
    """Return the files that say what the vertices are; none of scenes with frames, whose meshes have no objects."""
    files = path / MESH, path / OBJECTS
    return files if not _has_frames(path) and files[1].is_file() else ()


def instance_ids(path: Path, label_ids: Mapping[str, int]) -> np.ndarray:
    """Read one id per vertex (N,) int64, label * 1000 + instance, 0 for none: the object of most of its faces.

    label_ids  of the names of classes, in lower case; other names are `class_lists.UNLISTED`
    raises     FormatError for malformed files
    """
    mesh = read_cloud(path / MESH)
    if mesh.faces is None or mesh.of_face.get("object_id", mesh.xyz).dtype.kind not in "iu":
        raise FormatError("its faces have no integer property object_id", file=path / MESH)
    class_of = _object_classes(path / OBJECTS)
    objects, row = np.unique(mesh.of_face["object_id"], return_inverse=True)
    if len(objects) > MAX_OBJECTS:
        raise FormatError(f"holds {len(objects)} objects, expected at most {MAX_OBJECTS}", file=path / MESH)
    labels = [label_id(class_of[number], label_ids) if number in class_of else 0 for number in objects.tolist()]
    ids = np.array([label * 1000 + k if label else 0 for k, label in enumerate(labels, 1)], np.int64)
    pairs, count = np.unique(mesh.faces.astype(np.int64) * len(objects) + row.reshape(-1, 1), return_counts=True)
    order = np.argsort(count, kind="stable")  # the most frequent is written last
    vertex, of_vertex = np.divmod(pairs[order], len(objects))
    found = np.zeros(len(mesh.xyz), np.int64)
    found[vertex] = ids[of_vertex]
    return found


def _object_classes(file: Path) -> dict[int, str]:
    try:
        objects = json.loads(read_bytes(file, MAX_JSON_BYTES))["objects"]
        names = {entry["id"]: entry["class_name"] for entry in objects}
    except (ValueError, TypeError, KeyError, RecursionError):
        names = {None: None}
    if not all(type(number) is int and isinstance(name, str) for number, name in names.items()):
        raise FormatError('expected {"objects": [{"id": ..., "class_name": ...}, ...]}', file=file)
    return names


def _read_trajectory(file: Path, options: OpenOptions) -> tuple[dict[int, np.ndarray], list[tuple[str, str]]]:
    poses, skipped = {}, []
    for index, (number, line) in enumerate(text_lines(file, MAX_TRAJECTORY_BYTES)):
        try:
            values = parse_numbers(line, 16, file, number)
            pose = usable_pose(np.array(values).reshape(4, 4), file, number)
        except FormatError as error:
            if not options.skip_bad_poses:
                raise FormatError(error.message, file=file, line=number, hint=POSE_HINT) from None
            skipped.append((f"{index:06d}", str(error)))
            continue
        if pose is None:
            skipped.append((f"{index:06d}", LOST))
        else:
            poses[index] = pose
    return poses, skipped


def _camera(path: Path, image: str) -> tuple[dict[str, float], Path, tuple[str, ...]]:
    for file in (path / "cam_params.json", path.parent / "cam_params.json"):
        if file.is_file():
            return _read_camera(file), file, ()
    if image_size(path / image) != DEFAULT_SIZE:
        message = "no cam_params.json, and the images are not 1200 x 680 as those of NICE-SLAM's Replica"
        raise InputError(message, file=path, hint="copy cam_params.json into the scene's folder or beside it")
    return DEFAULT, path, ("no cam_params.json: assumed 600 600 599.5 339.5 and 6553.5 units a metre",)


def _read_camera(file: Path) -> dict[str, float]:
    try:
        camera = json.loads(read_bytes(file, 1 << 16))["camera"]
        values = {name: camera[name] for name in DEFAULT}
    except (ValueError, TypeError, KeyError, RecursionError):
        expected = '{"camera": {"fx": ..., "fy": ..., "cx": ..., "cy": ..., "scale": ...}}'
        raise FormatError(f"expected {expected}", file=file) from None
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
            raise FormatError(f"camera.{name} is {str(value)[:40]}, expected a positive number", file=file)
    check_depth_scale(1.0 / values["scale"], file)
    return {name: float(value) for name, value in values.items()}

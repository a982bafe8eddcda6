# SPDX-License-Identifier: Apache-2.0
"""The same four tiny frames written in every layout, and a tiny mesh in every cloud format; loaded with runpy."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from pc3dcli.formats.cloud import Cloud
from pc3dcli.formats.ply import write_ply

SIZE = (12, 16)  # (H, W) of colour and depth
K = np.array([[20.0, 0, 7.5], [0, 20, 5.5], [0, 0, 1]])
GL_FROM_CV = np.diag([1.0, -1, -1, 1])


def frames(count: int = 4) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return [(rgb (H, W, 3) uint8, depth (H, W) uint16 millimetres, world_from_cam (4, 4))]."""
    rows, columns = np.indices(SIZE)
    result = []
    for index in range(count):
        rgb = np.stack([columns * 12 + 10, rows * 15 + 20, np.full(SIZE, 60 + 20 * index)], axis=2).astype(np.uint8)
        depth = (1000 + 30 * rows + 10 * columns + index).astype(np.uint16)
        depth[0, 0], depth[0, 1] = 0, 65535
        angle = 0.1 * index
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        pose[:3, 3] = (0.1 * index, 0.2, -0.3)
        result.append((rgb, depth, pose))
    return result


def png(array: np.ndarray) -> bytes:
    picture = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    return cv2.imencode(".png", picture)[1].tobytes()


def jpeg(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def matrix_text(matrix: np.ndarray) -> str:
    return "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in matrix)


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def scannet(folder: Path, width: int = 0, numbers=(0, 2, 10, 9)) -> Path:
    """Exported ScanNet folder; `width` pads the file names with zeros, `numbers` are the frames' names."""
    for number, (rgb, depth, pose) in zip(numbers, frames(len(numbers)), strict=True):
        name = f"{number:0{width}d}"
        put(folder / f"color/{name}.png", png(rgb))
        put(folder / f"depth/{name}.png", png(depth))
        put(folder / f"pose/{name}.txt", matrix_text(pose))
    camera = np.eye(4)
    camera[:3, :3] = K
    for kind in ("color", "depth"):
        put(folder / f"intrinsic/intrinsic_{kind}.txt", matrix_text(camera))
    return folder


def seven_scenes(folder: Path, count: int = 4) -> Path:
    for index, (rgb, depth, pose) in enumerate(frames(count)):
        put(folder / f"frame-{index:06d}.color.png", png(rgb))
        put(folder / f"frame-{index:06d}.depth.png", png(depth))
        put(folder / f"frame-{index:06d}.pose.txt", matrix_text(pose))
    put(folder / "camera-intrinsics.txt", matrix_text(K))
    return folder


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Return x y z w of a rotation about the y axis."""
    half = np.arctan2(rotation[0, 2], rotation[0, 0]) / 2
    return 0.0, np.sin(half), 0.0, np.cos(half)


def tum(folder: Path, count: int = 4) -> Path:
    lists = {"rgb": ["# color images"], "depth": ["# depth maps"], "groundtruth": ["# timestamp tx ty tz qx qy qz qw"]}
    for index, (rgb, depth, pose) in enumerate(frames(count)):
        time_s = 1305031102.175304 + index / 30
        put(folder / f"rgb/{time_s:.6f}.png", png(rgb))
        put(folder / f"depth/{time_s + 0.01:.6f}.png", png(np.where(depth < 60000, depth * 5, depth).astype(np.uint16)))
        lists["rgb"].append(f"{time_s:.6f} rgb/{time_s:.6f}.png")
        lists["depth"].append(f"{time_s + 0.01:.6f} depth/{time_s + 0.01:.6f}.png")
        values = (*pose[:3, 3], *quaternion(pose))
        lists["groundtruth"].append(f"{time_s - 0.004:.4f} " + " ".join(f"{value:.9f}" for value in values))
    for name, lines in lists.items():
        put(folder / f"{name}.txt", "\n".join(lines) + "\n")
    put(folder / "calibration.txt", "20 20 7.5 5.5\n")
    return folder


def replica(folder: Path, count: int = 4) -> Path:
    rows = []
    for index, (rgb, depth, pose) in enumerate(frames(count)):
        put(folder / f"results/frame{index:06d}.jpg", jpeg(rgb))
        put(folder / f"results/depth{index:06d}.png", png((depth % 65535 * 6.5535).astype(np.uint16)))
        rows.append(" ".join(f"{value:.18e}" for value in pose.ravel()))
    put(folder / "traj.txt", "\n".join(rows) + "\n")
    camera = {"w": 16, "h": 12, "fx": 20.0, "fy": 20.0, "cx": 7.5, "cy": 5.5, "scale": 6553.5}
    put(folder / "cam_params.json", json.dumps({"camera": camera}))
    return folder


def transforms(folder: Path, count: int = 4, **camera) -> Path:
    document = {"fl_x": 20.0, "fl_y": 20.0, "cx": 8.0, "cy": 6.0, "w": 16, "h": 12, "camera_model": "OPENCV", **camera}
    document["frames"] = []
    for index, (rgb, depth, pose) in enumerate(frames(count)):
        put(folder / f"images/frame_{index:05d}.png", png(rgb))
        put(folder / f"depths/frame_{index:05d}.png", png(depth))
        entry = {"file_path": f"./images/frame_{index:05d}.png", "depth_file_path": f"depths/frame_{index:05d}.png"}
        document["frames"].insert(0, entry | {"transform_matrix": (pose @ GL_FROM_CV).tolist()})
    put(folder / "transforms.json", json.dumps(document))
    return folder


def frames_list(folder: Path, count: int = 4) -> Path:
    lines = []
    for index, (rgb, depth, pose) in enumerate(frames(count)):
        put(folder / f"c{index}.png", png(rgb))
        put(folder / f"d{index}.png", png(depth))
        record = {
            "type": "frame",
            "scene": "s",
            "frame": str(index),
            "image": f"c{index}.png",
            "depth": f"d{index}.png",
        }
        record |= {"size": list(SIZE), "K": K.tolist(), "world_from_cam": pose.tolist(), "time_s": index / 30}
        lines.append(json.dumps(record))
    put(folder / "frames.ndjson", "\n".join(lines) + "\n")
    return folder


def sens(path: Path, color_kind: int = 2, depth_kind: int = 1, count: int = 4, bad_pose: int | None = None) -> Path:
    """A .sens file, version 4; kinds as in its header (colour 0 raw 1 png 2 jpeg, depth 0 raw 1 zlib 2 occi)."""
    camera = np.eye(4, dtype="<f4")
    camera[:3, :3] = K
    name, identity = b"StructureSensor", np.eye(4, dtype="<f4")
    data = struct.pack("<IQ", 4, len(name)) + name
    data += b"".join(matrix.tobytes() for matrix in (camera, identity, camera, identity))
    data += struct.pack("<iiIIIIfQ", color_kind, depth_kind, SIZE[1], SIZE[0], SIZE[1], SIZE[0], 1000.0, count)
    for index, (rgb, depth, pose) in enumerate(frames(count)):
        color = (rgb.tobytes, lambda rgb=rgb: png(rgb), lambda rgb=rgb: jpeg(rgb))[color_kind]()
        raw = depth.astype("<u2").tobytes()
        packed = zlib.compress(raw) if depth_kind else raw
        matrix = np.full((4, 4), -np.inf) if index == bad_pose else pose
        data += matrix.astype("<f4").tobytes() + struct.pack(
            "<QQQQ", index * 33333, index * 33333, len(color), len(packed)
        )
        data += color + packed
    put(path, data + struct.pack("<Q", 0))
    return path


def mesh() -> dict[str, np.ndarray]:
    """Five points, two triangles and a label a point."""
    xyz = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5], [0.5, 0.5, -1.25]], np.float32)
    rgb = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7], [1, 2, 3]], np.uint8)
    return {"xyz": xyz, "rgb": rgb, "faces": np.array([[0, 1, 2], [0, 2, 3]], np.int32), "label": np.arange(5)}


def ply(order: str = "<") -> bytes:
    """A mesh with float x y z, uchar colour, ushort label and polygons of 3 and 4 corners; order "<", ">" or "a"."""
    parts = mesh()
    name = {"<": "binary_little_endian", ">": "binary_big_endian", "a": "ascii"}[order]
    lines = ["ply", f"format {name} 1.0", "comment tiny", "element vertex 5"]
    lines += [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    lines += ["property ushort label", "element face 2", "property list uchar int vertex_indices", "end_header"]
    body, polygons = b"", ([0, 1, 2], [0, 1, 2, 3])
    for point, color, label in zip(parts["xyz"], parts["rgb"], parts["label"], strict=True):
        if order == "a":
            body += f"{' '.join(map(str, point))} {' '.join(map(str, color))} {label}\n".encode()
        else:
            body += struct.pack(f"{order}fffBBBH", *point, *color, label)
    for polygon in polygons:
        if order == "a":
            body += (" ".join(map(str, [len(polygon), *polygon])) + "\n").encode()
        else:
            body += struct.pack(f"{order}B{len(polygon)}i", len(polygon), *polygon)
    return ("\n".join(lines) + "\n").encode() + body


def lzf(data: bytes) -> bytes:
    """Compress greedily with literals and references, enough to exercise a decoder."""
    out, literals, position, seen = bytearray(), bytearray(), 0, {}

    def flush():
        for start in range(0, len(literals), 32):
            out.extend([len(literals[start : start + 32]) - 1, *literals[start : start + 32]])
        literals.clear()

    while position < len(data):
        start, length = seen.get(data[position : position + 3], -1), 0
        if start >= 0 and position - start <= 8192 and position + 3 <= len(data):
            while position + length < len(data) and length < 264 and data[start + length] == data[position + length]:
                length += 1
        seen[data[position : position + 3]] = position
        if length < 3:
            literals.append(data[position])
            position += 1
            continue
        flush()
        distance, code = position - start - 1, length - 2
        high = distance >> 8
        out.extend([code << 5 | high] if code < 7 else [7 << 5 | high, code - 7])
        out.append(distance & 255)
        position += length
    flush()
    return bytes(out)


def pcd(kind: str = "binary") -> bytes:
    """The points of `mesh` with packed float rgb and uint16 label; kind ascii, binary or binary_compressed."""
    parts = mesh()
    red, green, blue = parts["rgb"].astype(np.uint32).T
    packed = (red << 16 | green << 8 | blue).astype("<u4").view("<f4")
    columns = [*parts["xyz"].astype("<f4").T, packed, parts["label"].astype("<u2")]
    lines = ["# .PCD v0.7", "VERSION 0.7", "FIELDS x y z rgb label", "SIZE 4 4 4 4 2", "TYPE F F F F U"]
    lines += ["COUNT 1 1 1 1 1", "WIDTH 5", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0", "POINTS 5", f"DATA {kind}"]
    header = ("\n".join(lines) + "\n").encode()
    rows = list(zip(*columns, strict=True))
    if kind == "ascii":
        return header + b"".join((" ".join(repr(value.item()) for value in row) + "\n").encode() for row in rows)
    if kind == "binary":
        return header + b"".join(b"".join(value.tobytes() for value in row) for row in rows)
    plain = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    small = lzf(plain)
    return header + struct.pack("<II", len(small), len(plain)) + small


KITTI_LABEL = "Car 0.00 0 -1.57 100.0 100.0 200.5 180.0 1.5 1.6 4.0 0.0 1.7 20.0 -1.55\nDontCare -1 -1 -10 1 2 3 4 " + (
    "-1 -1 -1 -1000 -1000 -1000 -10\n"
)
KITTI_RESULT = KITTI_LABEL.replace("\n", " 0.5\n")
FOLDS = {
    "format": "pc3d.folds/1", "way": 2, "shot": 1, "queries": 2, "seed": 0,
    "folds": [{"classes": [0, 4], "support": [["a"], ["b"]], "query": [["c", 1], ["d", 2]]}],
}  # fmt: skip


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(members: dict[str, bytes]) -> bytes:
    """Pack the bytes of arrays, damaged ones too, with right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def nuscenes(folder: Path) -> Path:
    """Tables of one scene of two samples with a pedestrian and a bicycle rack, and a submission for it."""
    pose = {"translation": [1.0, 2.0, 0.5], "rotation": [1.0, 0.0, 0.0, 0.0]}
    box = pose | {"size": [0.6, 0.7, 1.8]}
    chain = [{"prev": "", "next": "a1"}, {"prev": "a0", "next": ""}]
    tables = {
        "attribute": [{"token": "at", "name": "pedestrian.moving"}],
        "sensor": [{"token": "se", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [{"token": "cs", "sensor_token": "se", **pose}],
        "category": [
            {"token": "c0", "name": "human.pedestrian.adult"},
            {"token": "c1", "name": "static_object.bicycle_rack"},
        ],
        "instance": [{"token": "i0", "category_token": "c0"}, {"token": "i1", "category_token": "c1"}],
        "scene": [{"token": "sc", "name": "scene-0103"}],
        "sample": [{"token": f"s{i}", "scene_token": "sc", "timestamp": 500_000 * i} for i in range(2)],
        "ego_pose": [{"token": f"e{i}", **pose} for i in range(2)],
        "sample_data": [
            {"sample_token": f"s{i}", "calibrated_sensor_token": "cs", "is_key_frame": True, "ego_pose_token": f"e{i}"}
            for i in range(2)
        ],
    }
    points = {"num_lidar_pts": 5, "num_radar_pts": 0}
    tables["sample_annotation"] = [
        {"token": f"a{i}", "sample_token": f"s{i}", "instance_token": "i0", "attribute_tokens": ["at"], **box, **points}
        | chain[i]
        for i in range(2)
    ] + [
        {"token": "r", "sample_token": "s0", "instance_token": "i1", "attribute_tokens": [], "prev": "", "next": ""}
        | box
        | points
    ]  # fmt: skip
    for name, rows in tables.items():
        put(folder / f"{name}.json", json.dumps(rows, indent=0))
    found = box | {"velocity": [0.5, float("nan")], "detection_name": "pedestrian", "detection_score": 0.5}
    boxes = [found | {"sample_token": "s0", "attribute_name": "pedestrian.moving"}] * 2
    submission = {"meta": {"use_lidar": True}, "results": {"s0": boxes, "s1": []}}
    put(folder / "submission.json", json.dumps(submission, indent=0))
    return folder


def aggregation(folder: Path) -> Path:
    """ScanNet's annotations of a scan of 6 vertices: two groups, and the label map."""
    groups = [
        {"objectId": i, "segments": part, "label": name}
        for i, (part, name) in enumerate((([3, 7], "chair"), ([9], "desk")))
    ]
    put(folder / "s.aggregation.json", json.dumps({"segGroups": groups}, indent=0))
    put(folder / "s_vh_clean_2.0.010000.segs.json", json.dumps({"segIndices": [3, 3, 7, 9, 9, 11]}))
    put(folder / "scannetv2-labels.combined.tsv", "id\traw_category\tnyu40id\n2\tchair\t5\n35\tdesk\t14\n")
    return folder


def shapenet_part(folder: Path) -> Path:
    put(folder / "synsetoffset2category.txt", "Cap\t02954340\n")
    put(folder / "train_test_split/shuffled_test_file_list.json", '["shape_data/02954340/a", "shape_data/02954340/b"]')
    return folder


def h5(path: Path, **arrays: np.ndarray) -> Path:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip" if array.ndim == 3 else None)
    return path


def off(order: str = "OFF\n") -> str:
    """The same mesh as `ply`, without colours."""
    parts = mesh()
    lines = [f"{order}5 2 0", *(" ".join(map(str, point)) for point in parts["xyz"]), "3 0 1 2", "4 0 1 2 3"]
    return "\n".join(lines) + "\n"


CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)


def cloud_file(name: str) -> bytes:
    """One object in the format that the suffix of `name` says."""
    return {
        ".ply": ply(),
        ".off": off().encode(),
        ".pcd": pcd("ascii"),
        ".npy": npy(CUBE),
        ".npz": npz({"points": npy(CUBE)}),
    }[Path(name).suffix]


def shapenet55(folder: Path) -> Path:
    for part, names in (("train", ("03001627-u6028f63e-4111-b412", "02691156-1a04e3ea")), ("test", ("04379243-a",))):
        put(folder / f"ShapeNet-55/{part}.txt", "".join(f"{name}.npy\n" for name in names))
        for name in names:
            put(folder / f"shapenet_pc/{name}.npy", npy(np.repeat(CUBE, 5, axis=0)))
    return folder


def modelnet40(folder: Path) -> Path:
    put(folder / "modelnet40_shape_names.txt", "night_stand\nbed\n")
    put(folder / "modelnet40_train.txt", "bed_0001\nnight_stand_0002\n")
    put(folder / "modelnet40_test.txt", "bed_0003\n")
    rows = "".join(",".join(f"{value:.6f}" for value in (*(point * 0.9), 0, 0, -1)) + "\n" for point in CUBE)
    for name in ("bed/bed_0001", "night_stand/night_stand_0002", "bed/bed_0003"):
        put(folder / f"{name}.txt", rows)
    return folder


def modelnet_h5(folder: Path) -> Path:
    put(folder / "shape_names.txt", "".join(f"class{index}\n" for index in range(40)))
    h5(folder / "ply_data_train0.h5", data=CUBE[None] + 5, label=np.array([[3]], np.uint8))
    h5(folder / "ply_data_train1.h5", data=CUBE[None] * 2 + 5, label=np.array([[39]], np.uint8))
    h5(folder / "ply_data_test0.h5", data=CUBE[None], label=np.array([[3]], np.uint8))
    return folder


def scanobjectnn(folder: Path) -> Path:
    h5(folder / "training_objectdataset.h5", data=np.stack([CUBE, CUBE * 2 + 5]), label=np.array([0, 14], np.int32))
    h5(folder / "test_objectdataset.h5", data=CUBE[None], label=np.array([2], np.int32))
    return folder


def shapenet_part_shapes(folder: Path) -> Path:
    put(folder / "synsetoffset2category.txt", "Bag\t02773838\nCap\t02954340\n")
    listed = {"train": ("02773838/a", "02954340/b"), "val": ("02773838/c",), "test": ("02954340/d",)}
    for part, names in listed.items():
        entries = [f"shape_data/{name}" for name in names]
        put(folder / f"train_test_split/shuffled_{part}_file_list.json", json.dumps(entries))
        for name in names:
            parts = (4, 5) if name.startswith("02773838") else (6, 7)
            rows = [(*point, 0, 0, 1, parts[index % 2]) for index, point in enumerate(CUBE)]
            put(folder / f"{name}.txt", "".join(" ".join(f"{value:.5f}" for value in row) + "\n" for row in rows))
    return folder


def shape_arrays(folder: Path) -> Path:
    names = npy(np.array(["bed", "chair"]))
    for part, count in (("train", 2), ("test", 1)):
        points, label = np.stack([CUBE] * count).astype(np.float16), np.arange(count) % 2
        put(folder / f"{part}.npz", npz({"points": npy(points), "label": npy(label), "class_names": names}))
    return folder


def cloud_folder(folder: Path) -> Path:
    for name in ("bed/train/1.off", "chair/train/2.ply", "chair/test/3.npy"):
        put(folder / name, cloud_file(name))
    return folder


SHAPES = {  # layout of object clouds: writer of two training shapes and one test shape
    "shapenet55": shapenet55,
    "shapenetpart": shapenet_part_shapes,
    "modelnet40": modelnet40,
    "modelnet-h5": modelnet_h5,
    "scanobjectnn": scanobjectnn,
    "arrays": shape_arrays,
    "clouds": cloud_folder,
}


ROOM_XYZ = np.round(np.random.default_rng(5).uniform(0, 3, (60, 3)), 3)
ROOM_RGB = np.arange(180, dtype=np.uint8).reshape(60, 3)
ROOM_OBJECTS = (  # class, and the points of each object; the last ten points are of none
    ("wall", np.arange(20)), ("chair", np.arange(20, 35)), ("lamp shade", np.arange(35, 50)),
)  # fmt: skip


def scannetpp(folder: Path) -> Path:
    """A mesh whose vertex i is of segment 7 (i // 5), and whose second chair overlaps the wall by one segment."""
    (folder / "scans").mkdir(parents=True)
    write_ply(folder / "scans/mesh_aligned_0.05.ply", Cloud(ROOM_XYZ, ROOM_RGB))
    put(folder / "scans/segments.json", json.dumps({"segIndices": (7 * (np.arange(60) // 5)).tolist()}))
    groups = [
        {"id": k, "objectId": k, "label": name, "segments": sorted({7 * (i // 5) for i in points.tolist()})}
        for k, (name, points) in reversed(list(enumerate(ROOM_OBJECTS, 1)))
    ]
    groups[1]["segments"].append(21)  # of the wall too, which is larger
    put(folder / "scans/segments_anno.json", json.dumps({"segGroups": groups}))
    return folder


def s3dis(folder: Path) -> Path:
    def lines(points: np.ndarray) -> str:
        rows = np.concatenate((ROOM_XYZ, ROOM_RGB), axis=1)[points].tolist()
        return "".join("{:.3f} {:.3f} {:.3f} {:.0f} {:.0f} {:.0f}\n".format(*row) for row in rows)

    put(folder / f"{folder.name}.txt", lines(np.arange(60)))
    for name, points in ROOM_OBJECTS:
        put(folder / f"Annotations/{name}_1.txt", lines(points[::-1]))
    return folder


def replica_mesh(folder: Path) -> Path:
    """Quads of five vertices' distance; the vertices of a quad are of one object but for one that is at a border."""
    quads = [[i, i + 1, i + 2, i + 3] for i in range(0, 57)]
    of_point = np.full(60, 40)
    for k, (_, points) in enumerate(ROOM_OBJECTS):
        of_point[points] = 10 * k
    header = ["ply", "format ascii 1.0", "element vertex 60", *(f"property float {axis}" for axis in "xyz")]
    header += [*(f"property uchar {color}" for color in ("red", "green", "blue")), f"element face {len(quads)}"]
    header += ["property list uchar int vertex_indices", "property int object_id", "end_header"]
    vertices = [" ".join(map(str, (*place, *color))) for place, color in zip(ROOM_XYZ, ROOM_RGB, strict=True)]
    faces = [" ".join(map(str, (4, *quad, of_point[quad[0]]))) for quad in quads]
    put(folder / "habitat/mesh_semantic.ply", "\n".join([*header, *vertices, *faces]) + "\n")
    objects = [{"id": 10 * k, "class_name": name} for k, (name, _) in enumerate(ROOM_OBJECTS)]
    put(folder / "habitat/info_semantic.json", json.dumps({"objects": objects}))
    return folder


def labelled_ply(folder: Path) -> Path:
    instance = np.full(60, -1, np.int32)
    for k, (_, points) in enumerate(ROOM_OBJECTS):
        instance[points] = k
    folder.mkdir(parents=True)
    write_ply(folder / "room.ply", Cloud(ROOM_XYZ, ROOM_RGB, extra={"instance_id": instance}))
    return folder

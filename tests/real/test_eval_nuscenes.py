# SPDX-License-Identifier: Apache-2.0
"""A key frame of nuScenes with its 69 boxes, scored against itself and against moved copies."""

import json

import numpy as np
import pytest

from pc3dcli.stream.records import header

SCENE, CATEGORY = "scene-0061", {
    "car": "vehicle.car", "truck": "vehicle.truck", "trailer": "vehicle.trailer", "bus": "vehicle.bus.rigid",
    "construction_vehicle": "vehicle.construction", "bicycle": "vehicle.bicycle", "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult", "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}  # fmt: skip


def quaternion(matrix):
    """Return w x y z of a rotation matrix whose turn is no half turn."""
    w = np.sqrt(max(0, 1 + np.trace(matrix))) / 2
    x, y, z = (matrix[k, j] - matrix[j, k] for j, k in ((1, 2), (2, 0), (0, 1)))
    values = np.array([w, x / (4 * w), y / (4 * w), z / (4 * w)])
    return (values / np.linalg.norm(values)).tolist()


class KeyFrame:
    """Boxes of the recording in the LiDAR frame, and tables made of them."""

    def __init__(self, folder):
        info = json.loads((folder / "info.json").read_text())
        sample = info["sample"]
        self.token, self.time = sample["token"], round(sample["timestamp"] * 1e6)
        self.ego = np.array(sample["ego2global"])
        self.lidar = np.array(sample["lidar_points"]["lidar2ego"])
        self.global_from_lidar = self.ego @ self.lidar
        names = {index: name for name, index in info["metainfo"]["categories"].items()}
        self.boxes = [
            (names[item["bbox_label_3d"]], np.array(item["bbox_3d"]), item["num_lidar_pts"], item["num_radar_pts"])
            for item in sample["instances"]
            if item["bbox_label_3d"] >= 0
        ]

    def in_global(self, box):
        """Return center, size and rotation as nuScenes writes them."""
        turn = np.array([[np.cos(box[6]), -np.sin(box[6]), 0], [np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        center = self.global_from_lidar @ [*box[:3], 1]
        rotation = quaternion(self.global_from_lidar[:3, :3] @ turn)
        return {"translation": center[:3].tolist(), "size": box[[4, 3, 5]].tolist(), "rotation": rotation}

    def write_tables(self, folder):
        categories = [{"token": name, "name": category} for name, category in CATEGORY.items()]
        annotations = [
            {"token": f"a{i}", "sample_token": self.token, "instance_token": f"i{i}", "attribute_tokens": [],
             "num_lidar_pts": lidar, "num_radar_pts": radar, "prev": "", "next": ""} | self.in_global(box)
            for i, (_, box, lidar, radar) in enumerate(self.boxes)
        ]  # fmt: skip
        poses = {
            name: {"translation": matrix[:3, 3].tolist(), "rotation": quaternion(matrix[:3, :3])}
            for name, matrix in (("ego", self.ego), ("lidar", self.lidar))
        }
        tables = {
            "category": categories, "attribute": [], "sample_annotation": annotations,
            "instance": [{"token": f"i{i}", "category_token": box[0]} for i, box in enumerate(self.boxes)],
            "sensor": [{"token": "s", "channel": "LIDAR_TOP", "modality": "lidar"}],
            "calibrated_sensor": [{"token": "c", "sensor_token": "s"} | poses["lidar"]],
            "ego_pose": [{"token": "e"} | poses["ego"]],
            "scene": [{"token": "scene", "name": SCENE}],
            "sample": [{"token": self.token, "timestamp": self.time, "scene_token": "scene"}],
            "sample_data": [{"token": "d", "sample_token": self.token, "ego_pose_token": "e", "is_key_frame": True,
                             "calibrated_sensor_token": "c"}],
        }  # fmt: skip
        for name, records in tables.items():
            (folder / f"{name}.json").write_text(json.dumps(records))

    def write_submission(self, path, rng, noise, with_empty=False):
        boxes = []
        for label, box, lidar, radar in self.boxes:
            if lidar + radar == 0 and not with_empty:
                continue
            moved = box.copy()
            moved[:2] += noise * np.array([0.6, 0.8])
            moved[3:6] *= 1 + noise / 5
            moved[6] += noise / 2
            boxes.append({"sample_token": self.token, "velocity": [0, 0], "detection_name": label,
                          "detection_score": float(rng.uniform(0.1, 1)), "attribute_name": ""}
                         | self.in_global(moved))  # fmt: skip
        path.write_text(json.dumps({"meta": {}, "results": {self.token: boxes}}))
        return boxes

    def stream(self):
        lines = [
            header(),
            {"type": "scene", "scene": SCENE, "root": "."},
            {"type": "frame", "scene": SCENE, "frame": self.token, "points": "x.pcd.bin"},
        ]
        lines += [
            {"type": "box3d", "scene": SCENE, "frame": self.token, "center": box[:3].tolist(),
             "size": box[3:6].tolist(), "yaw": box[6], "label": label, "score": 1.0}
            for label, box, lidar, radar in self.boxes
            if lidar + radar
        ]  # fmt: skip
        lines += [{"type": "scene_end", "scene": SCENE, "ok": True}, {"type": "end", "scenes": 1, "failed": 0}]
        return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def frame(shared_data, tmp_path, monkeypatch):
    folder = shared_data / "nuscenes" / "keyframe_scene0061_0"
    if not folder.is_dir():
        pytest.skip(f"no key frame at {folder}")
    frame = KeyFrame(folder)
    frame.write_tables(tmp_path)
    monkeypatch.chdir(tmp_path)
    return frame


def metrics_of(run, *arguments, stdin=b""):
    common = ("--task", "nuscenes", "--gt", ".", "--preset", "nuscenes-present", "--json", "-q")
    result = run("eval", *arguments, *common, stdin=stdin)
    assert result.code == 0, result.err
    return {record["name"]: record["value"] for record in result.of("metric") if len(record) == 3}


def test_annotations_as_predictions(frame, run, tmp_path):
    frame.write_submission(tmp_path / "pred.json", np.random.default_rng(0), 0)
    metrics = metrics_of(run, "pred.json")
    assert metrics["map"] == pytest.approx(1) and metrics["spnds"] == pytest.approx(1)
    assert metrics["mate"] == pytest.approx(0, abs=1e-6) and metrics["maoe"] == pytest.approx(0, abs=1e-6)
    assert metrics["mave"] == 1 and metrics["maae"] == 1  # one key frame tells neither
    frame.write_submission(tmp_path / "pred.json", np.random.default_rng(0), 0, with_empty=True)
    assert 0.9 < metrics_of(run, "pred.json")["map"] < 1  # an annotation without points is no truth, but a prediction


def test_moved_boxes(frame, run, tmp_path):
    frame.write_submission(tmp_path / "pred.json", np.random.default_rng(0), 0.3)
    near = metrics_of(run, "pred.json")
    frame.write_submission(tmp_path / "pred.json", np.random.default_rng(0), 1.5)
    far = metrics_of(run, "pred.json")
    assert near["map"] == pytest.approx(1, abs=0.05) and near["mate"] == pytest.approx(0.3, abs=0.02)
    assert near["mase"] == pytest.approx(1 - 1.06**-3, abs=0.01)
    assert far["map"] < 0.6 < near["map"] and far["spnds"] < near["spnds"]


def test_stream_in_the_lidar_frame(frame, run):
    metrics = metrics_of(run, "-", stdin=frame.stream())
    assert metrics["map"] == pytest.approx(1) and metrics["mate"] == pytest.approx(0, abs=1e-4)
    assert metrics["mase"] == pytest.approx(0, abs=1e-9) and metrics["maoe"] == pytest.approx(0, abs=1e-2)

# SPDX-License-Identifier: Apache-2.0
"""Random nuScenes tables and submissions with the awkward traits of evaluation.md section 3, small or large."""

import json
from dataclasses import dataclass
from pathlib import Path

CATEGORIES = (
    "vehicle.car", "vehicle.truck", "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.trailer", "vehicle.construction",
    "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker",
    "human.pedestrian.police_officer", "vehicle.motorcycle", "vehicle.bicycle", "movable_object.trafficcone",
    "movable_object.barrier", "static_object.bicycle_rack", "animal", "human.pedestrian.stroller",
)  # fmt: skip
CLASSES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone",
    "barrier",
)  # fmt: skip
NAMES = {
    "vehicle.car": "car", "vehicle.truck": "truck", "vehicle.bus.bendy": "bus", "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer", "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle", "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone", "movable_object.barrier": "barrier",
}  # fmt: skip
ATTRIBUTES = (
    "pedestrian.moving", "pedestrian.sitting_lying_down", "pedestrian.standing", "cycle.with_rider",
    "cycle.without_rider", "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip


@dataclass(frozen=True)
class WorldConfig:
    """What to draw."""

    scenes: tuple[str, ...] = ("scene-0103", "scene-0916")  # of the split mini_val
    others: tuple[str, ...] = ("scene-0061",)  # outside it
    num_samples: int = 4  # of each scene
    num_instances: int = 14  # of each scene
    categories: tuple[str, ...] = CATEGORIES
    grid: float = 0.25  # metres; positions on it make equal and exact distances, 0 for none
    false_boxes: int = 8  # of each sample
    min_score: float = 0.0
    score_steps: int = 10  # distinct scores, 0 for any
    copies: int = 3  # boxes around each annotation, at most
    nan_velocity: float = 0.1  # share
    noise: float = 0.7  # metres
    turned_faces: bool = True  # boxes on the faces of turned racks too, where rounding decides


def name_of(category):
    """Return the class of a category, None for those that are not scored."""
    return "pedestrian" if category in CATEGORIES[6:10] else NAMES.get(category)


class World:
    """Tables and a submission, drawn from a numpy generator."""

    def __init__(self, config, rng):
        self.config, self.rng = config, rng
        self.tables = {name: [] for name in ("instance", "scene", "sample", "sample_data", "sample_annotation")}
        self.tables["category"] = [{"token": f"category-{name}", "name": name} for name in CATEGORIES]
        self.tables["attribute"] = [{"token": self.token(), "name": name} for name in ATTRIBUTES]
        self.tables["visibility"] = [{"token": "1", "level": "v0-40", "description": ""}]
        self.tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}]
        self.tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "", "filename": "map.png"}]
        self.tables["sensor"] = [
            {"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
            {"token": "front", "channel": "CAM_FRONT", "modality": "camera"},
        ]
        self.tables["calibrated_sensor"] = [
            {"token": f"calibrated-{name}", "sensor_token": name, "translation": [0.94, 0.0, 1.84],
             "rotation": [0.7077955, -0.006492, 0.010646, -0.7063073], "camera_intrinsic": []}
            for name in ("lidar", "front")
        ]  # fmt: skip
        self.tables["ego_pose"] = []
        self.results = {}
        for name in (*config.scenes, *config.others):
            self.add_scene(name, in_split=name in config.scenes)
        tokens = list(self.results)
        self.results = {tokens[i]: self.results[tokens[i]] for i in rng.permutation(len(tokens))}

    def token(self):
        return self.rng.bytes(16).hex()

    @property
    def submission(self):
        meta = {f"use_{name}": False for name in ("camera", "lidar", "radar", "map", "external")}
        return {"meta": meta, "results": self.results}

    def add_scene(self, name, in_split):
        config, rng = self.config, self.rng
        scene = {"token": self.token(), "name": name, "log_token": "log", "nbr_samples": config.num_samples,
                 "first_sample_token": "", "last_sample_token": "", "description": ""}  # fmt: skip
        self.tables["scene"].append(scene)
        start = rng.integers(1_500_000_000_000_000, 1_600_000_000_000_000)
        gaps = rng.choice([500_000, 500_000, 499_999, 1_500_000, 1_600_000, 3_100_000], config.num_samples)
        ego = self.snap(rng.uniform(300, 2000, 3)) * [1, 1, 0]
        samples = []
        for step in range(config.num_samples):
            ego = ego + self.snap(rng.normal(0, 3, 3)) * [1, 1, 0]
            sample = {"token": self.token(), "timestamp": int(start + gaps[:step].sum()), "scene_token": scene["token"],
                      "prev": "", "next": ""}  # fmt: skip
            self.tables["sample"].append(sample)
            self.add_sample_data(sample, ego)
            samples.append((sample, ego))
        instances = [self.add_instance(samples, ego) for _ in range(config.num_instances)]
        if in_split:
            for sample, ego in samples:
                near = [(category, by_step[sample["token"]]) for category, by_step in instances
                        if sample["token"] in by_step]  # fmt: skip
                self.results[sample["token"]] = self.predictions(sample["token"], ego, near)

    def add_sample_data(self, sample, ego):
        turn = self.rng.normal(size=4)
        for name, is_key in (("front", True), ("lidar", False), ("lidar", True)):
            pose = {"token": self.token(), "timestamp": sample["timestamp"], "translation": ego.tolist(),
                    "rotation": (turn / (turn @ turn) ** 0.5).tolist()}  # fmt: skip
            if not is_key:
                pose["translation"] = [0.0, 0.0, 0.0]
            self.tables["ego_pose"].append(pose)
            self.tables["sample_data"].append(
                {"token": self.token(), "sample_token": sample["token"], "ego_pose_token": pose["token"],
                 "calibrated_sensor_token": f"calibrated-{name}", "timestamp": sample["timestamp"],
                 "fileformat": "pcd", "is_key_frame": is_key, "height": 0, "width": 0, "filename": "x.bin",
                 "prev": "", "next": ""}
            )  # fmt: skip

    def snap(self, values):
        grid = self.config.grid
        return (values / grid).round() * grid if grid else values

    def add_instance(self, samples, ego):
        """Add an instance seen in a run of samples; return its category and annotation by sample."""
        config, rng = self.config, self.rng
        category = str(rng.choice(config.categories))
        instance = {"token": self.token(), "category_token": f"category-{category}", "nbr_annotations": 0,
                    "first_annotation_token": "", "last_annotation_token": ""}  # fmt: skip
        self.tables["instance"].append(instance)
        first = int(rng.integers(len(samples)))
        run = samples[first : first + int(rng.integers(1, len(samples) + 1))]
        run = [part for part in run if rng.random() < 0.9]
        center = self.snap(ego + rng.normal(0, 1, 3) * rng.choice([8, 20, 35]))
        if rng.random() < 0.2:  # on the limit of a class
            center = self.snap(ego) + rng.choice([[30.0, 0, 1], [0, 40.0, 1], [30.0, 40.0, 1], [0, -50.0, 1]])
        size = self.snap(rng.uniform(0.5, 5, 3)) + 0.25
        yaw = rng.choice([0.0, rng.uniform(-3.2, 3.2)])
        by_sample = {}
        for sample, _ in run:
            center = center + self.snap(rng.normal(0, 1, 3)) * [1, 1, 0]
            tokens = [str(rng.choice([item["token"] for item in self.tables["attribute"]]))]
            by_sample[sample["token"]] = {
                "token": self.token(), "sample_token": sample["token"], "instance_token": instance["token"],
                "visibility_token": "1", "attribute_tokens": tokens if rng.random() < 0.8 else [],
                "translation": center.tolist(), "size": size.tolist(), "rotation": self.rotation(yaw),
                "prev": "", "next": "", "num_lidar_pts": int(rng.integers(0, 3)), "num_radar_pts": int(rng.integers(2)),
            }  # fmt: skip
        chain = list(by_sample.values())
        for before, after in zip(chain, chain[1:], strict=False):
            before["next"], after["prev"] = after["token"], before["token"]
        self.tables["sample_annotation"] += chain
        return category, by_sample

    def rotation(self, yaw):
        """Return a quaternion of that yaw with any sign, sometimes tilted or of another length."""
        import numpy as np

        values = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        kind = self.rng.random()
        if kind < 0.1:
            values = values + self.rng.normal(0, 0.1, 4)
        elif kind < 0.15:
            values = -3 * values
        return values.tolist()

    def predictions(self, token, ego, near):
        config, rng = self.config, self.rng
        kind = rng.random()
        boxes = []
        if kind < 0.1:
            return boxes
        racks = [item for category, item in near if category == "static_object.bicycle_rack"]
        for category, item in near:
            name = name_of(category)
            for _ in range(int(rng.integers(config.copies + 1)) if name else 0):
                boxes.append(self.box(token, name, item, rng.choice([0, config.noise, 3 * config.noise])))
        for _ in range(int(rng.integers(config.false_boxes + 1))):
            center = self.snap(ego + rng.normal(0, 1, 3) * rng.choice([8, 20, 35]))
            name = str(rng.choice(CLASSES))
            if racks and rng.random() < 0.5:  # in the rack, on a face of it, or just outside
                rack = racks[int(rng.integers(len(racks)))]
                name = str(rng.choice(["bicycle", "motorcycle"]))
                is_exact = config.turned_faces or rack["rotation"] == [1.0, 0.0, 0.0, 0.0]
                offset = rng.choice([0, 0.5, -0.5, 0.25] if is_exact else [0, 0.25], 3) * [
                    rack["size"][1],
                    rack["size"][0],
                    rack["size"][2],
                ]
                center = rack["translation"] + offset
            item = {"translation": list(center), "size": [1.0, 2.0, 1.5], "rotation": self.rotation(rng.normal())}
            boxes.append(self.box(token, name, item, 0.0))
        if boxes and rng.random() < 0.3:
            boxes.append(dict(boxes[int(rng.integers(len(boxes)))]))
        return [boxes[i] for i in rng.permutation(len(boxes))]

    def box(self, token, name, item, noise):
        config, rng = self.config, self.rng
        score = rng.random() * (1 - config.min_score) + config.min_score
        if config.score_steps:
            score = round(score * config.score_steps) / config.score_steps
        is_unknown = rng.random() < config.nan_velocity
        return {
            "sample_token": token,
            "translation": (item["translation"] + self.snap(rng.normal(0, 1, 3) * noise)).tolist(),
            "size": (item["size"] * rng.choice([1.0, rng.uniform(0.5, 2)], 3)).tolist(),
            "rotation": self.rotation(rng.uniform(-7, 7)) if rng.random() < 0.7 else item["rotation"],
            "velocity": [float("nan")] * 2 if is_unknown else rng.normal(0, 2, 2).tolist(),
            "detection_name": name,
            "detection_score": float(score),
            "attribute_name": str(rng.choice([*ATTRIBUTES, ""])),
        }

    def write(self, folder, version="v1.0-mini"):
        """Write tables below `folder` and the submission beside them; return the path of the submission."""
        tables = Path(folder) / version
        tables.mkdir(parents=True)
        for name, records in self.tables.items():
            (tables / f"{name}.json").write_text(json.dumps(records, indent=0))
        (Path(folder) / "map.png").write_bytes(b"")
        path = Path(folder) / "submission.json"
        path.write_text(json.dumps(self.submission))
        return path

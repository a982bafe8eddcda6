# SPDX-License-Identifier: Apache-2.0
"""evaluation.md section 3 word by word, with loops over records: slow, and written without looking at `metrics/`."""

import math

import numpy as np

RANGE = {"car": 50, "truck": 50, "bus": 50, "trailer": 50, "construction_vehicle": 50, "pedestrian": 40,
         "motorcycle": 40, "bicycle": 40, "traffic_cone": 30, "barrier": 30}  # fmt: skip


def yaw_of(rotation):
    w, x, y, z = np.array(rotation) / np.linalg.norm(rotation)
    return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))


def is_inside(point, box):
    """Tell whether a point is in an upright or tilted box, faces included."""
    w, x, y, z = np.array(box["rotation"]) / np.linalg.norm(box["rotation"])
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    width, length, height = box["size"]
    local = matrix.T @ (np.array(point) - box["translation"])
    return all(abs(local) <= np.array([length, width, height]) / 2)


def velocity(annotation, by_token, times):
    before, after = by_token.get(annotation["prev"]), by_token.get(annotation["next"])
    if before is None and after is None:
        return [math.nan, math.nan]
    limit = 3.0 if before and after else 1.5
    first, last = before or annotation, after or annotation
    seconds = 1e-6 * times[last["sample_token"]] - 1e-6 * times[first["sample_token"]]
    if seconds > limit:
        return [math.nan, math.nan]
    return [(last["translation"][i] - first["translation"][i]) / seconds for i in (0, 1)]


def truth_of(tables, name_of, tokens):
    """Return the boxes and the racks of each sample."""
    categories = {record["token"]: record["name"] for record in tables["category"]}
    category = {record["token"]: categories[record["category_token"]] for record in tables["instance"]}
    attribute = {record["token"]: record["name"] for record in tables["attribute"]}
    by_token = {record["token"]: record for record in tables["sample_annotation"]}
    times = {record["token"]: record["timestamp"] for record in tables["sample"]}
    boxes, racks = {token: [] for token in tokens}, {token: [] for token in tokens}
    for record in tables["sample_annotation"]:
        if record["sample_token"] not in boxes:
            continue
        kind = category[record["instance_token"]]
        if kind == "static_object.bicycle_rack":
            racks[record["sample_token"]].append(record)
        elif name_of(kind) and record["num_lidar_pts"] + record["num_radar_pts"] != 0:
            names = [attribute[token] for token in record["attribute_tokens"]]
            extra = {"detection_name": name_of(kind), "attribute_name": names[0] if names else ""}
            boxes[record["sample_token"]].append(record | extra | {"velocity": velocity(record, by_token, times)})
    return boxes, racks


def is_kept(box, ego, racks):
    offset = np.array(box["translation"][:2]) - ego[:2]
    if not math.sqrt(offset[0] ** 2 + offset[1] ** 2) < RANGE[box["detection_name"]]:
        return False
    is_bike = box["detection_name"] in ("bicycle", "motorcycle")
    return not (is_bike and any(is_inside(box["translation"], rack) for rack in racks))


def errors_of(truth, box, name):
    iou_top = math.prod(map(min, truth["size"], box["size"]))
    period = math.pi if name == "barrier" else 2 * math.pi
    turn = (yaw_of(truth["rotation"]) - yaw_of(box["rotation"])) % period
    return {
        "ate": math.dist(truth["translation"][:2], box["translation"][:2]),
        "ase": 1 - iou_top / (math.prod(truth["size"]) + math.prod(box["size"]) - iou_top),
        "aoe": min(turn, period - turn),
        "ave": math.dist(truth["velocity"], box["velocity"]),
        "aae": math.nan if not truth["attribute_name"] else float(truth["attribute_name"] != box["attribute_name"]),
    }


def score_class(truth, results, name, limit):
    """Return AP and the five errors of a class at one distance."""
    num_truth = sum(box["detection_name"] == name for boxes in truth.values() for box in boxes)
    rows = [box for boxes in results.values() for box in boxes if box["detection_name"] == name]
    rows = [rows[i] for i in sorted(range(len(rows)), key=lambda i: (rows[i]["detection_score"], i), reverse=True)]
    taken, hits, found = set(), [], []
    for box in rows:
        best, index = math.inf, None
        for i, candidate in enumerate(truth[box["sample_token"]]):
            if candidate["detection_name"] == name and (box["sample_token"], i) not in taken:
                offset = np.array(box["translation"][:2]) - candidate["translation"][:2]
                distance = math.sqrt(offset[0] ** 2 + offset[1] ** 2)
                if distance < best:
                    best, index = distance, i
        hits.append(best < limit)
        if hits[-1]:
            taken.add((box["sample_token"], index))
            found.append((box["detection_score"], errors_of(truth[box["sample_token"]][index], box, name)))
    if not found:
        return 0.0, dict.fromkeys(("ate", "ase", "aoe", "ave", "aae"), 1.0)
    true = np.cumsum(hits)
    recalls = np.linspace(0, 1, 101)
    precision = np.interp(recalls, true / num_truth, true / (1 + np.arange(len(hits))), right=0)
    scores = np.interp(recalls, true / num_truth, [box["detection_score"] for box in rows], right=0)
    ap = np.mean([max(0, p - 0.1) / 0.9 for p in precision[11:]])
    reached = [i for i in range(101) if scores[i] != 0]
    last = max(reached, default=0)
    return ap, {key: mean_error(found, key, scores, last) for key in found[0][1]}


def mean_error(found, key, scores, last):
    if last < 11:
        return 1.0
    total, count, means = 0.0, 0, []
    for _, errors in found:
        if not math.isnan(errors[key]):
            total, count = total + errors[key], count + 1
        means.append(total / count if count else 0.0)
    if count == 0:
        return 1.0
    along = np.interp(scores[::-1], [score for score, _ in found][::-1], means[::-1])[::-1]
    return float(np.mean(along[11 : last + 1]))


def evaluate(tables, results, name_of):
    """Return (metrics, AP by class, errors by class) of preset nuscenes."""
    lidar = {record["sample_token"]: record for record in tables["sample_data"]
             if record["is_key_frame"] and record["calibrated_sensor_token"] == "calibrated-lidar"}  # fmt: skip
    poses = {record["token"]: np.array(record["translation"]) for record in tables["ego_pose"]}
    truth, racks = truth_of(tables, name_of, results)
    kept = []
    for boxes in (truth, results):
        kept.append({token: [box for box in boxes[token] if is_kept(box, poses[lidar[token]["ego_pose_token"]],
                                                                    racks[token])] for token in boxes})  # fmt: skip
    aps, errors = {}, {}
    for name in RANGE:
        aps[name] = [score_class(*kept, name, limit)[0] for limit in (0.5, 1.0, 2.0, 4.0)]
        errors[name] = score_class(*kept, name, 2.0)[1]
        for key in {"traffic_cone": ("aoe", "ave", "aae"), "barrier": ("ave", "aae")}.get(name, ()):
            errors[name][key] = math.nan
    metrics = {"map": np.mean([np.mean(ap) for ap in aps.values()])}
    for key in ("ate", "ase", "aoe", "ave", "aae"):
        metrics["m" + key] = np.nanmean([row[key] for row in errors.values()])
    good = [max(0, 1 - metrics["m" + key]) for key in ("ate", "ase", "aoe", "ave", "aae")]
    metrics["nds"] = (5 * metrics["map"] + sum(good)) / 10
    metrics["spnds"] = (5 * metrics["map"] + sum(good[:3])) / 8
    return metrics, aps, errors

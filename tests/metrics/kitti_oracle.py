# SPDX-License-Identifier: Apache-2.0
"""KITTI's average precision as a slow loop, literal from evaluation.md section 4, and random sets with its traits."""

from __future__ import annotations

import math

import numpy as np

NAMES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOUR = {"car": "van", "pedestrian": "person_sitting", "cyclist": None}
HEIGHT, OCCLUSION, TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)


def corners(x, y, length, width, heading):
    cos, sin = math.cos(heading), math.sin(heading)
    around = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return [
        (x + cos * sx * length / 2 - sin * sy * width / 2, y + sin * sx * length / 2 + cos * sy * width / 2)
        for sx, sy in around
    ]


def clipped_area(a, b):
    """Clip rectangle b by the four sides of a (Sutherland and Hodgman) and return the area of what is left."""
    polygon, frame = corners(*b), corners(*a)
    for p, q in zip(frame, frame[1:] + frame[:1], strict=True):
        side = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for x, y in polygon]
        kept = []
        for k, (x, y) in enumerate(polygon):
            if (side[k - 1] >= 0) != (side[k] >= 0):
                t = side[k - 1] / (side[k - 1] - side[k])
                kept.append(
                    (polygon[k - 1][0] + t * (x - polygon[k - 1][0]), polygon[k - 1][1] + t * (y - polygon[k - 1][1]))
                )
            if side[k] >= 0:
                kept.append((x, y))
        polygon = kept
        if not polygon:
            return 0.0
    twice = sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True))
    return abs(twice) / 2


def ground(v):
    return v[10], v[12], v[9], v[8], -v[13]


def image_overlap(det, gt, of_detection=False):
    width, height = min(det[5], gt[5]) - max(det[3], gt[3]), min(det[6], gt[6]) - max(det[4], gt[4])
    if width <= 0 or height <= 0:
        return 0.0
    inter, area = width * height, (det[5] - det[3]) * (det[6] - det[4])
    return inter / (area if of_detection else area + (gt[5] - gt[3]) * (gt[6] - gt[4]) - inter)


def overlap_of(metric, det, gt):
    if metric == "bbox":
        return image_overlap(det, gt)
    inter = clipped_area(ground(gt), ground(det))
    if metric == "bev":
        return inter / (det[8] * det[9] + gt[8] * gt[9] - inter)
    volume = inter * max(0.0, min(det[11], gt[11]) - max(det[11] - det[7], gt[11] - gt[7]))
    return volume / (det[7] * det[8] * det[9] + gt[7] * gt[8] * gt[9] - volume)


def states(frame, c, difficulty, preset):
    """Return per object and detection 0 counted, 1 ignored, -1 absent."""
    name, minimum = NAMES[c].lower(), HEIGHT[difficulty]
    of_gt, of_det = [], []
    for kind, v in frame["gt"]:
        height = v[6] - v[4]
        low = height < minimum if preset == "kitti" else height <= minimum
        hard = v[1] > OCCLUSION[difficulty] or v[0] > TRUNCATION[difficulty] or low
        of_gt.append(0 if kind == name and not hard else 1 if kind in (name, NEIGHBOUR[name]) else -1)
    for kind, v in frame["det"]:
        of_det.append(1 if abs(v[6] - v[4]) < minimum else 0 if kind == name else -1)
    return of_gt, of_det


def one_frame(frame, of_gt, of_det, overlaps, minimum, cutoff, metric):
    """Match one frame; cutoff None is the first pass. Returns (scores, tp, fp, similarity)."""
    free = [
        state >= 0 and (cutoff is None or v[14] >= cutoff) for state, (_, v) in zip(of_det, frame["det"], strict=True)
    ]
    is_low = [not ok for ok in free]
    scores, similarity = [], 0.0
    for i, state in enumerate(of_gt):
        if state == -1:
            continue
        open_ = [j for j in range(len(of_det)) if free[j] and overlaps[i][j] > minimum]
        if cutoff is not None:
            open_ = [j for j in open_ if of_det[j] == 0] or open_[:1]
        if not open_:
            continue
        key = (lambda j: frame["det"][j][1][14]) if cutoff is None else (lambda j, i=i: overlaps[i][j])
        best = max(open_, key=key)
        free[best] = False
        if state == 0 and of_det[best] == 0:
            scores.append(frame["det"][best][1][14])
            similarity += (1 + math.cos(frame["gt"][i][1][2] - frame["det"][best][1][2])) / 2
    fp = 0
    for j, (_, det) in enumerate(frame["det"]):
        if free[j] and not is_low[j] and of_det[j] == 0:
            covers = (image_overlap(det, v, True) for kind, v in frame["gt"] if kind == "dontcare")
            fp += not (metric == "bbox" and any(cover > minimum for cover in covers))
    return scores, len(scores), fp, similarity


def curve(frames, metric, c, difficulty, minimum, preset="kitti"):
    """Return (G, precision (41,), similarity (41,)) of one metric, class and difficulty."""
    scores, cases, num_gt = [], [], 0
    for frame in frames:
        of_gt, of_det = states(frame, c, difficulty, preset)
        overlaps = [
            [
                overlap_of(metric, det, gt) if of_gt[i] >= 0 and of_det[j] >= 0 else 0
                for j, (_, det) in enumerate(frame["det"])
            ]
            for i, (_, gt) in enumerate(frame["gt"])
        ]
        cases.append((frame, of_gt, of_det, overlaps))
        num_gt += of_gt.count(0)
        scores += one_frame(*cases[-1], minimum, None, metric)[0]
    scores.sort(reverse=True)
    cutoffs, current = [], 0.0
    for i, score in enumerate(scores):
        left = (i + 1) / num_gt
        right = (i + 2) / num_gt if i < len(scores) - 1 else left
        if right - current < current - left and i < len(scores) - 1:
            continue
        cutoffs.append(score)
        current += 1 / 40
    precision, similarity = np.zeros(41), np.zeros(41)
    for step, cutoff in enumerate(cutoffs):
        totals = np.sum([one_frame(*case, minimum, cutoff, metric)[1:] for case in cases], axis=0)
        if totals[0] + totals[1]:
            precision[step], similarity[step] = np.array([totals[0], totals[2]]) / (totals[0] + totals[1])
    return num_gt, np.maximum.accumulate(precision[::-1])[::-1], np.maximum.accumulate(similarity[::-1])[::-1]


def parsed(lines):
    return [(row[0].lower(), [float(field) for field in row[1:]]) for row in (line.split() for line in lines)]


SIZES = {
    "Car": (1.5, 1.6, 3.9),
    "Van": (2.2, 1.9, 5.0),
    "Pedestrian": (1.75, 0.6, 0.8),
    "Person_sitting": (1.2, 0.6, 0.8),
}
TYPES = ("Car", "Car", "Van", "Pedestrian", "Person_sitting", "Cyclist", "DontCare", "Truck", "car", "PEDESTRIAN")


def random_frame(rng, num_objects=8, *, has_no_alpha=False):
    """Draw the lines of one label file and one result file.

    Crowded objects, boxes at the minimum height, exact overlaps of 0.5 and 0.7, tied scores, duplicates, detections
    of tiny height, DontCare regions, neighbour classes, empty files.
    """
    labels, results = [], []
    for _ in range(rng.integers(0, num_objects + 1)):
        kind = str(rng.choice(TYPES))
        box = _draw_box(rng, kind)
        occlusion, truncation = rng.choice([0, 0, 0, 1, 2, 3]), rng.choice([0, 0, 0.15, 0.2, 0.3, 0.5, 0.6])
        if kind == "DontCare":
            image = " ".join(f"{v:.2f}" for v in box[1:5])
            labels.append(f"DontCare -1 -1 -10 {image} -1 -1 -1 -1000 -1000 -1000 -10")
        else:
            labels.append(f"{kind} {truncation:.2f} {occlusion} " + " ".join(f"{v:.10g}" for v in box))
        for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
            near = np.array(_perturbed(rng, box))
            named = (
                kind
                if rng.random() < 0.85 and kind != "DontCare"
                else str(rng.choice(["Car", "Pedestrian", "Cyclist", "Van"]))
            )
            near[0] = -10 if has_no_alpha and rng.random() < 0.1 else near[0]
            score = rng.choice([round(rng.random(), 1), round(rng.random(), 4), 0.0, -1.5, 1e-8])
            results.append(f"{named} -1 -1 " + " ".join(f"{v:.10g}" for v in [*near, score]))
    for _ in range(rng.integers(0, 3)):
        box = _draw_box(rng, kind := str(rng.choice(["Car", "Pedestrian", "Cyclist"])))
        results.append(f"{kind} -1 -1 " + " ".join(f"{v:.10g}" for v in [*box, round(rng.random(), 2)]))
    order = rng.permutation(len(results))
    return labels, [] if rng.random() < 0.1 else [results[i] for i in order]


def _draw_box(rng, kind):
    h, w, length = (
        s * rng.uniform(0.9, 1.1) for s in SIZES.get(kind.capitalize() if kind.isupper() else kind, (1.7, 0.6, 1.8))
    )
    if rng.random() < 0.3:
        h, w, length = 1.5, 2.0, 4.25  # exact in binary
    height = rng.choice([24.99, 25.0, 25.01, 39.99, 40.0, 40.01, rng.uniform(10, 120)])
    x1, y1 = np.round(rng.uniform(0, 150), 0 if rng.random() < 0.5 else 2), np.round(rng.uniform(100, 160), 0)
    yaw = rng.choice([0.0, np.pi / 2, rng.uniform(-np.pi, np.pi)])
    x, z = rng.uniform(-4, 4), rng.uniform(5, 15)
    if rng.random() < 0.5:
        x, z = round(x * 4) / 4, round(z * 4) / 4
    return [
        round(rng.uniform(-3, 3), 2),
        x1,
        y1,
        x1 + round(height * rng.uniform(0.5, 2)),
        y1 + height,
        h,
        w,
        length,
        x,
        1.5,
        z,
        yaw,
    ]


def _perturbed(rng, box):
    alpha, x1, y1, x2, y2, h, w, length, x, y, z, yaw = box
    case = rng.integers(6)
    if case == 0:  # the same box
        return list(box)
    if case == 1:  # overlap of exactly 0.7 in the image, and on the ground where the numbers are exact in binary
        is_exact = yaw == 0 and length == 4.25 and x % 0.25 == 0 and z % 0.25 == 0
        move = (x2 - x1) * 3 / 17
        return [
            alpha,
            x1 + move,
            y1,
            x2 + move,
            y2,
            h,
            w,
            length,
            x + length * (3 / 17 if is_exact else 0.17),
            y,
            z,
            yaw,
        ]
    if case == 2:  # of tiny height
        return [alpha, x1, y1, x2, y1 + rng.choice([20.0, 24.99, 25.0, 39.99]), h, w, length, x, y, z, yaw]
    if case == 3:  # turned by half, a quarter or a little
        return [alpha + np.pi, x1, y1, x2, y2, h, w, length, x, y, z, yaw + rng.choice([np.pi, np.pi / 2, 0.1])]
    shift = rng.normal(0, 0.08, 4)
    image = [x1 + shift[0] * (x2 - x1), y1, x2, y2 + shift[1] * (y2 - y1)]
    place = [x + shift[2] * length, y + 0.1, z + shift[3] * w, yaw + rng.normal(0, 0.1)]
    return [alpha + rng.normal(0, 0.5), *image, h * 1.05, w, length, *place]

# SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.formats.nuscenes_results import read_submission
from pc3dcli.formats.nuscenes_tables import TableReader
from pc3dcli.metrics import nuscenes_boxes
from pc3dcli.metrics.nuscenes_boxes import CLASSES, Boxes, Racks, scoring_order
from pc3dcli.metrics.nuscenes_detection import ERRORS, class_scores, matched, summary
from pc3dcli.metrics.nuscenes_pseudo import label_quality


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


oracle, nuscenes_world = load("nuscenes_oracle"), load("nuscenes_world")


def boxes(centers, scores=None, label="car", samples=None, **columns):
    """Return boxes of one class at (x, y), 2 x 4 x 1.5 m, that stand still."""
    count = len(centers)
    defaults = {
        "sample": np.zeros(count, np.int32) if samples is None else np.array(samples, np.int32),
        "label": np.full(count, CLASSES.index(label), np.int8),
        "center": np.pad(np.array(centers, float).reshape(-1, 2), ((0, 0), (0, 1))),
        "size": np.tile([2.0, 4.0, 1.5], (count, 1)),
        "yaw": np.zeros(count),
        "velocity": np.zeros((count, 2)),
        "attribute": np.zeros(count, np.int16),
        "score": np.zeros(count) if scores is None else np.array(scores, float),
    }
    return Boxes(**defaults | columns)


def scored(truth, predicted):
    return class_scores(matched(truth, predicted.take(scoring_order(predicted.score))))


def car(scores):
    index = CLASSES.index("car")
    return scores.ap[index], dict(zip(ERRORS, scores.errors[index], strict=True))


@pytest.mark.parametrize("seed", range(16))
def test_equals_the_literal_definition(tmp_path, seed):
    rng = np.random.default_rng(seed)
    config = nuscenes_world.WorldConfig(
        num_instances=int(rng.choice([3, 12, 25])),
        num_samples=int(rng.integers(1, 6)),
        categories=nuscenes_world.CATEGORIES if seed % 2 else tuple(rng.choice(nuscenes_world.CATEGORIES, 5)),
        grid=float(rng.choice([0.25, 0.5, 1])),
        score_steps=int(rng.choice([0, 2, 10])),
        min_score=float(rng.choice([0, -1])),
        turned_faces=False,
    )
    world = nuscenes_world.World(config, rng)
    path = world.write(tmp_path)
    reader = TableReader(tmp_path / "v1.0-mini")
    samples = reader.samples(frozenset(config.scenes))
    annotations = reader.annotations(CLASSES)
    submission = read_submission(path, CLASSES)
    truth, predicted = (columns(part.boxes) for part in (annotations, submission))
    index = np.array([samples.tokens.index(token) for token in submission.samples])
    predicted["sample"] = index[predicted["sample"]]
    truth, predicted = Boxes(**truth), Boxes(**predicted)
    truth, ego = truth.take(annotations.num_points != 0), samples.ego_center[:, :2]
    kept = []
    for part in (truth, predicted.take(scoring_order(predicted.score))):
        is_near = nuscenes_boxes.in_class_range(part, nuscenes_boxes.ego_distance(part, ego))
        kept.append(part.take(is_near & ~nuscenes_boxes.in_rack(part, Racks(**annotations.racks))))
    ours = class_scores(matched(*kept))
    metrics, aps, errors = oracle.evaluate(world.tables, world.results, nuscenes_world.name_of)
    found = summary(ours, skip_absent=False)
    assert {name: pytest.approx(value, abs=1e-9) for name, value in metrics.items()} == found
    np.testing.assert_allclose(ours.ap, list(aps.values()), rtol=0, atol=1e-9)
    theirs = [[errors[name][key] for key in ERRORS] for name in CLASSES]
    np.testing.assert_allclose(ours.errors, theirs, rtol=0, atol=1e-9)


def columns(part):
    part = dict(part)
    part["yaw"] = nuscenes_boxes.quaternion_yaw(part.pop("rotation"))
    return {"score": np.zeros(part["yaw"].size)} | part


def test_a_match_is_strictly_nearer_than_the_limit():
    ap, _ = car(scored(boxes([(0, 0)]), boxes([(0.5, 0)], [1])))
    assert ap[0] == 0 and ap[1:] == pytest.approx(1)


def test_equal_scores_stand_in_reverse_order():
    truth = boxes([(0, 0)])
    late = scored(truth, boxes([(9, 0), (0, 0)], [0.5, 0.5]))
    early = scored(truth, boxes([(0, 0), (9, 0)], [0.5, 0.5]))
    rise = np.maximum(np.arange(11, 101) / 200 - 0.1, 0).mean() / 0.9  # precision 0 at recall 0, 0.5 at 1
    assert car(early)[0] == pytest.approx(rise)
    # of the two points at recall 1 the last counts there
    assert car(late)[0] == pytest.approx((89 + 4 / 9) / 90)


def test_nearest_annotation_that_is_left_is_taken():
    truth = boxes([(0, 0), (3, 0)])
    found = matched(truth, boxes([(1, 0), (0, 0)], [0.9, 0.8]))
    assert found.partner.tolist() == [[-1, 0], [-1, 0], [0, -1], [0, 1]]


def test_equally_near_annotations_are_taken_in_their_order():
    found = matched(boxes([(1, 0), (-1, 0)]), boxes([(0, 0), (0, 0)], [0.9, 0.8]))
    assert found.partner[2].tolist() == [0, 1]


def test_samples_and_classes_do_not_mix():
    truth = boxes([(0, 0)], samples=[1])
    assert (matched(truth, boxes([(0, 0)], [1], samples=[0])).partner < 0).all()
    assert (matched(truth, boxes([(0, 0)], [1], samples=[1], label="truck")).partner < 0).all()


def test_absent_class_counts_as_nothing_found_or_is_left_out():
    scores = scored(boxes([(0, 0)]), boxes([(0, 0)], [1]))
    whole, present = (summary(scores, skip_absent=flag) for flag in (False, True))
    assert whole["map"] == pytest.approx(0.1) and whole["mate"] == pytest.approx(0.9)
    assert whole["maoe"] == pytest.approx(8 / 9) and whole["mave"] == pytest.approx(7 / 8)
    assert present["map"] == pytest.approx(1) and present["nds"] == pytest.approx(1)


def test_without_annotations_everything_is_undefined_or_zero():
    scores = scored(boxes([]), boxes([(0, 0)], [1]))
    assert all(np.isnan(value) for value in summary(scores, skip_absent=True).values())
    assert summary(scores, skip_absent=False)["nds"] == 0


def test_errors_of_one_match():
    truth = boxes([(0, 0)], velocity=np.array([[1.0, 0]]))
    predicted = boxes([(0.6, 0.8)], [1], yaw=np.array([0.5]), size=np.array([[1.0, 4, 1.5]]), attribute=np.array([1]))
    _, errors = car(scored(truth, predicted))
    assert errors == pytest.approx({"ate": 1, "ase": 0.5, "aoe": 0.5, "ave": 1, "aae": 1})


def test_a_barrier_has_no_front():
    truth, predicted = (boxes([(0, 0)], [1], "barrier", yaw=np.array([yaw])) for yaw in (0, np.pi))
    assert scored(truth, predicted).errors[CLASSES.index("barrier")] == pytest.approx(
        [0, 0, 0, np.nan, np.nan], nan_ok=True
    )


def test_unknown_velocity_and_attribute_are_skipped():
    nan = np.full((2, 2), np.nan)
    truth = boxes([(0, 0), (9, 0)], velocity=np.array([[np.nan] * 2, [3.0, 4]]), attribute=np.array([-1, 0]))
    predicted = boxes([(0, 0), (9, 0)], [0.9, 0.8])
    errors = car(scored(truth, predicted))[1]
    assert 0 < errors["ave"] < 5  # 0 while none was seen
    assert errors["aae"] == 0
    errors = car(scored(truth, boxes([(0, 0), (9, 0)], [0.9, 0.8], velocity=nan)))[1]
    assert errors["ave"] == 1  # all unknown


def test_score_zero_does_not_extend_the_recall():
    truth = boxes([(0, 0), (9, 0)])
    errors = [car(scored(truth, boxes([(0, 0), (10, 0)], [0.9, low])))[1]["ate"] for low in (0.0, 0.1)]
    assert 0 < errors[0] < errors[1]


def test_recall_below_a_tenth_is_error_one():
    truth = boxes([(20.0 * i, 0) for i in range(20)])
    ap, errors = car(scored(truth, boxes([(0, 0)], [0.9])))
    assert ap[2] == 0 and errors["ate"] == 1


def test_negative_scores_are_scores():
    truth = boxes([(0, 0), (9, 0)])
    predicted = [(0, 0), (9, 0)]
    values = [car(scored(truth, boxes(predicted, scores)))[0] for scores in ([0.2, 0.1], [-0.1, -0.2])]
    assert values[0] == pytest.approx(values[1])


def test_ranges_are_strict_and_racks_closed():
    part = boxes([(50, 0), (49.999, 0)])
    assert nuscenes_boxes.in_class_range(part, nuscenes_boxes.ego_distance(part, np.zeros((1, 2)))).tolist() == [0, 1]
    rack = Racks(np.zeros(1, np.int32), np.zeros((1, 3)), np.array([[2.0, 6, 1]]), np.array([[1.0, 0, 0, 0]]))
    bikes = boxes([(3, 0), (3.001, 0), (0, 1), (0, 1.001)], label="bicycle")
    assert nuscenes_boxes.in_rack(bikes, rack).tolist() == [True, False, True, False]
    assert not nuscenes_boxes.in_rack(boxes([(0, 0)]), rack).any()


def test_pairs_in_parts_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    truth = boxes(rng.uniform(0, 20, (60, 2)), samples=rng.integers(5, size=60))
    predicted = boxes(rng.uniform(0, 20, (300, 2)), rng.random(300), samples=rng.integers(7, size=300))
    whole = nuscenes_boxes.match(truth, predicted)
    monkeypatch.setattr(nuscenes_boxes, "MAX_PAIRS", 7)
    assert np.array_equal(whole, nuscenes_boxes.match(truth, predicted))


def test_long_chain_of_choices():
    count = 300
    truth = boxes([(1.9 * i, 0) for i in range(count + 1)])
    # each is nearest to the one that its predecessor takes
    predicted = boxes([(1.9 * i - (0.9 if i else 0), 0) for i in range(count)], np.linspace(1, 0.1, count))
    assert matched(truth, predicted).partner[2].tolist() == list(range(count))


def test_yaw_of_any_quaternion():
    assert nuscenes_boxes.quaternion_yaw(np.array([[0.0, 0, 0, 0], [-3, 0, 0, 0], [2, 0, 0, 2]])) == pytest.approx(
        [0, 0, np.pi / 2]
    )


def test_quality_of_labels():
    truth = boxes([(5, 0), (15, 0), (25, 0)])
    predicted = boxes([(5, 0), (5.5, 0), (16.5, 0), (26, 0)], [0.9, 0.8, 0.7, 0.6])
    found = matched(truth, predicted)
    distances = truth.center[:, 0], predicted.center[:, 0]
    near = label_quality(found, *distances, 0, 20)["car"]
    assert near["recall_1m"] == 0.5 and near["recall_2m"] == 1 and near["gt"] == 2
    assert near["precision_1m"] == pytest.approx(1 / 3) and near["precision_2m"] == pytest.approx(2 / 3)
    assert near["ate"] == pytest.approx(0.75) and near["single"] == 0.5
    assert np.isnan(label_quality(found, *distances, 30, 40)["car"]["recall_1m"])

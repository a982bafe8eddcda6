# SPDX-License-Identifier: Apache-2.0
"""A resample of frames has the curve of the same frames written out as often as they were drawn."""

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics import kitti_ap, kitti_pairs
from pc3dcli.metrics.kitti_ap import NUM_STEPS, Subset, recall_positions
from pc3dcli.metrics.kitti_bootstrap import curve_steps
from pc3dcli.metrics.kitti_pairs import KINDS, OVERLAPS, STRICT, Boxes

_spec = importlib.util.spec_from_file_location("kitti_oracle_2", Path(__file__).with_name("kitti_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def stacked(parts, width):
    kinds = [kind if kind in KINDS else "other" for rows in parts for kind, _ in rows]
    frame = np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    values = np.array([value for rows in parts for _, value in rows]).reshape(len(kinds), width)
    return Boxes(frame, np.array([KINDS.index(kind) for kind in kinds], np.int64), values)


class Set:
    """Frames with what all classes and overlaps need."""

    def __init__(self, frames):
        self.truth, self.found = (
            stacked([frame[side] for frame in frames], n) for side, n in (("gt", 14), ("det", 15))
        )
        self.pairs = kitti_pairs.matching_pairs(self.truth, self.found, STRICT)
        self.excused = kitti_pairs.excused_by_dont_care(self.truth, self.found, STRICT, OVERLAPS)

    def inputs(self, name, c, difficulty):
        seen = kitti_ap.subset(self.truth, self.found, c, difficulty, is_at_limit_ignored=False)
        return self.truth, self.found, self.pairs[name][c], Subset(seen.truth, seen.found, self.excused[name])


@pytest.mark.parametrize("seed", range(6))
def test_a_resample_is_as_its_frames_written_out(seed):
    rng = np.random.default_rng(seed)
    lines = [oracle.random_frame(rng, 9) for _ in range(int(rng.integers(1, 14)))]
    frames = [{"gt": oracle.parsed(gt), "det": oracle.parsed(det)} for gt, det in lines]
    weights = [np.ones(len(frames), np.int64), *(rng.integers(0, 4, len(frames)) for _ in range(3))]
    written = [Set([frame for frame, n in zip(frames, w.tolist(), strict=True) for _ in range(n)]) for w in weights]
    whole, heights = Set(frames), 0.0
    for key in product(OVERLAPS, range(3), range(3)):
        steps = curve_steps(*whole.inputs(*key), len(frames))
        for weight, expected in zip(weights, written, strict=True):
            curve = kitti_ap.precision_curve(*expected.inputs(*key))
            found = steps.curve(weight)
            assert found.num_truth == curve.num_truth
            for name in ("thresholds", "true_positives", "false_positives"):
                assert np.array_equal(getattr(found, name), getattr(curve, name)), (key, name)
            np.testing.assert_allclose(found.precision, curve.precision, atol=1e-12)
            np.testing.assert_allclose(found.similarity, curve.similarity, atol=1e-12)
            heights += found.precision.sum()
    assert heights > 0


def test_no_frame_at_all():
    whole = Set([{"gt": [], "det": []}])
    curve = curve_steps(*whole.inputs("3d", 0, 1), 1).curve(np.array([5]))
    assert curve.num_truth == 0 and curve.precision.sum() == 0


def test_positions_of_recalls_as_the_program_walks():
    def walked(num_scores, num_truth):
        kept, current, last = [], 0.0, num_scores - 1
        for i in range(num_scores):
            left = (i + 1) / num_truth
            right = (i + 2) / num_truth if i < last else left
            if right - current < current - left and i < last:
                continue
            kept.append(i)
            current += 1.0 / NUM_STEPS
        return kept[: NUM_STEPS + 1]

    rng = np.random.default_rng(0)
    cases = [(0, 0), *((n, n) for n in range(1, 200)), *((n, 200) for n in range(201)), *((n, 60) for n in range(61))]
    cases += [(int(rng.integers(1, g + 1)), g) for g in rng.integers(1, 30_000, 60).tolist()]
    assert all(recall_positions(*case) == walked(*case) for case in cases)

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.papers.granularity.pseudo_labels import PseudoLabelConfig, pseudo_labels

KEEP = PseudoLabelConfig(min_points=2)


def labels(*instances, config=KEEP):
    """Labels of (score, confidences) whose points are 10, 11, ..., then 20, 21, ..., and so on."""
    indices = [np.arange(10 * k, 10 * k + len(conf)) for k, (_, conf) in enumerate(instances, 1)]
    scores = np.array([score for score, _ in instances])
    return pseudo_labels(indices, scores, [np.array(conf) for _, conf in instances], config)


def test_sure_points_are_the_label_and_the_others_do_not_count():
    (found,) = labels((0.9, [0.9, 0.5, 0.85, 0.8]))
    assert found.index.tolist() == [10, 12] and found.ignored.tolist() == [11, 13] and found.instance == 0
    (found,) = labels((0.9, [0.9, 0.5, 0.85, 0.8]), config=PseudoLabelConfig(min_points=2, negatives=True))
    assert found.index.tolist() == [10, 12] and found.ignored.tolist() == []


def test_thresholds_are_strict_but_for_the_number_of_points():
    assert labels((0.6, [0.9, 0.9])) == []
    assert len(labels((0.61, [0.9, 0.9]))) == 1
    assert labels((0.9, [0.9, 0.8])) == []


def test_only_the_best_are_looked_at():
    instances = [(0.7, [0.9] * 3), (0.95, [0.1] * 3), (0.8, [0.9] * 3)]
    found = labels(*instances, config=PseudoLabelConfig(min_points=2, max_instances=2))
    assert [label.instance for label in found] == [2]  # the best is not sure of its points, the third is not asked


def test_best_first():
    assert [label.instance for label in labels((0.7, [0.9] * 3), (0.9, [0.9] * 3), (0.8, [0.9] * 3))] == [1, 2, 0]


@pytest.mark.parametrize("change", [{"min_score": 1.5}, {"min_points": 0}, {"min_confidence": -1}])
def test_impossible_thresholds_are_refused(change):
    with pytest.raises(ValueError, match="expected a number"):
        PseudoLabelConfig(**change)

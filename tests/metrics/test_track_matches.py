# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.metrics import track_matches
from pc3dcli.metrics.track_matches import (
    THRESHOLDS,
    FrameOverlaps,
    IdentityCounts,
    average_precision,
    consistency,
    identity_counts,
    label_overlaps,
    mask_overlaps,
    match_video,
)

_SPEC = importlib.util.spec_from_file_location("video_oracle", Path(__file__).with_name("video_oracle.py"))
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)


def strip(*ids, width=4):
    """A label image of one row: each id over `width` pixels."""
    return np.repeat(np.array([ids]), width, axis=1)


def counts(truth, predicted):
    return identity_counts([label_overlaps(a, b) for a, b in zip(truth, predicted, strict=True)])


def random_video(rng, frames=4, size=(5, 6), most=4):
    truth = rng.integers(0, most, (frames, *size))
    predicted = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, most + 1, truth.shape), truth)
    return truth, predicted * (rng.random((frames, 1, 1)) < 0.9)


def test_overlaps_of_labels_and_of_masks():
    truth, predicted = strip(0, 7, 7, 2), strip(3, 3, 0, 2)
    found = label_overlaps(truth, predicted)
    assert found.truth_ids.tolist() == [2, 7] and found.track_ids.tolist() == [2, 3]
    assert found.shared.tolist() == [[4, 0], [0, 4]]
    assert found.truth_area.tolist() == [4, 8] and found.track_area.tolist() == [4, 8]
    masks = {3: predicted == 3, 2: predicted == 2, 8: predicted == 8}
    again = mask_overlaps(truth, masks)
    assert all(np.array_equal(getattr(found, name), getattr(again, name)) for name in vars(found))
    nothing = mask_overlaps(truth, {})
    assert nothing.shared.shape == (2, 0) and nothing.iou.shape == (2, 0)
    assert label_overlaps(strip(0), strip(0)).iou.shape == (0, 0)


def test_identities_equal_the_slow_definition():
    rng = np.random.default_rng(5)
    for _ in range(40):
        truth, predicted = random_video(rng)
        found = counts(truth, predicted)
        assert (found.num_same, found.num_truth, found.num_predicted) == oracle.identities(truth, predicted)


def test_an_iou_of_exactly_one_half_matches():
    assert counts([strip(1, 1)], [strip(5, 0)]).num_same == 1
    assert counts([strip(1, 1, 1)], [strip(5, 0, 0)]).num_same == 0
    assert counts([strip(1, 1)] * 2, [strip(5, 0), strip(6, 0)]).num_switches == 1


def test_a_change_of_track_is_a_switch_and_halves_idf1():
    found = counts([strip(1)] * 4, [strip(5), strip(5), strip(6), strip(6)])
    assert found == IdentityCounts(2, 4, 4, num_switches=1, num_fragmentations=0)
    assert found.idf1 == 0.5


def test_a_track_that_comes_back_is_fragmented_but_not_switched():
    found = counts([strip(1)] * 3, [strip(5), strip(0), strip(5)])
    assert (found.num_switches, found.num_fragmentations) == (0, 1)
    found = counts([strip(1)] * 3, [strip(5), strip(0), strip(6)])
    assert (found.num_switches, found.num_fragmentations) == (1, 1)


def test_gaps_at_the_ends_and_absent_objects_are_no_fragmentation():
    assert counts([strip(1)] * 3, [strip(0), strip(5), strip(0)]).num_fragmentations == 0
    assert counts([strip(1), strip(0), strip(1)], [strip(5), strip(0), strip(5)]).num_fragmentations == 0
    assert counts([strip(1), strip(0), strip(1)], [strip(5), strip(0), strip(6)]).num_switches == 1


def test_the_last_match_is_kept_although_another_fits_better():
    area = np.array([10]), np.array([10, 10])
    first = FrameOverlaps(np.array([1]), np.array([5, 6]), np.array([[10, 0]]), *area)
    then = FrameOverlaps(np.array([1]), np.array([5, 6]), np.array([[7, 9]]), *area)
    assert identity_counts([first, then]).num_switches == 0
    assert identity_counts([then, first]).num_switches == 1  # without a last match the better one is taken


def test_as_many_pairs_as_possible_are_matched():
    # the two best pairs have more IoU than the three that are possible together
    shared = np.array([[14, 0, 0], [19, 14, 0], [0, 19, 14]])
    frame = FrameOverlaps(np.array([1, 2, 3]), np.array([5, 6, 7]), shared, np.full(3, 20), np.full(3, 20))
    assert track_matches._frame_matches(frame, {}) == {1: 5, 2: 6, 3: 7}


def test_counts_add_up_over_videos_and_nothing_is_undefined():
    assert IdentityCounts(1, 2, 3, 4, 5) + IdentityCounts(1, 1, 1, 1, 1) == IdentityCounts(2, 3, 4, 5, 6)
    assert IdentityCounts().idf1 is None and IdentityCounts(0, 3, 0).idf1 == 0.0
    assert identity_counts([]) == IdentityCounts()


def test_average_precision_equals_the_slow_definition():
    rng = np.random.default_rng(11)
    partial = 0
    for _ in range(60):
        truth, predicted = random_video(rng, frames=3)
        tracks, objects = oracle.ids_of(predicted), oracle.ids_of(truth)
        scores = {track: float(rng.choice([0.0, 0.5, 0.9])) for track in tracks}
        frames = [label_overlaps(a, b) for a, b in zip(truth, predicted, strict=True)]
        ap, _ = average_precision([match_video(frames, scores)])
        if not objects:
            assert ap is None
            continue
        rows = [(scores[t], [oracle.jaccard(truth == o, predicted == t) for o in objects]) for t in tracks]
        for value, threshold in zip(ap, THRESHOLDS, strict=True):
            assert value == pytest.approx(oracle.average_precision(rows, len(objects), threshold), abs=1e-12)
            partial += 0 < value < 1
    assert partial > 50


def test_tracks_of_all_videos_are_ranked_together():
    good = match_video([label_overlaps(strip(1), strip(4))], {4: 0.9})
    bad = match_video([label_overlaps(strip(1, 0), strip(0, 4))], {4: 0.5})
    ap, precision = average_precision([bad, good])
    assert ap[0] == pytest.approx(51 / 101)  # recall 0.5 at precision 1
    assert precision[:51].tolist() == [1.0] * 51 and not precision[51:].any()
    worse = match_video([label_overlaps(strip(1, 0), strip(0, 4))], {4: 0.95})
    assert average_precision([worse, good])[0][0] == pytest.approx(0.5 * 51 / 101)


def test_of_objects_that_fit_alike_the_last_is_taken():
    truth = strip(1, 2)
    frame = mask_overlaps(truth, {4: truth > 0, 5: truth == 2})
    ap, _ = average_precision([match_video([frame], {4: 0.9, 5: 0.5})])
    assert ap[0] == pytest.approx(51 / 101)  # track 4 took object 2 from track 5


def test_only_the_hundred_best_tracks_count():
    truth = strip(*range(1, 121))
    frames = [label_overlaps(truth, truth)]
    ap, _ = average_precision([match_video(frames, {track: 1.0 for track in range(1, 121)})])
    assert ap[0] == pytest.approx(84 / 101)  # recall 100 of 120
    assert average_precision([match_video([label_overlaps(truth, 0 * truth)], {})])[0].tolist() == [0.0] * 10
    assert average_precision([])[0] is None


def test_consistency_is_the_share_of_the_most_frequent_track():
    frames = [label_overlaps(strip(1, 1, 2), strip(5, 0, 0)), label_overlaps(strip(1, 1, 2), strip(6, 6, 0))]
    assert consistency(frames) == {1: 0.5, 2: 0.0}
    assert consistency([]) == {}


def test_large_ids_take_another_path():
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 5, (2, 9, 11))
    found, wide = label_overlaps(truth, predicted), label_overlaps(truth * 13000, predicted * 1000)
    assert wide.truth_ids.tolist() == [13000, 26000, 39000, 52000]
    assert wide.track_ids.tolist() == [1000, 2000, 3000, 4000]
    assert all(np.array_equal(getattr(found, n), getattr(wide, n)) for n in ("shared", "truth_area", "track_area"))
    many = np.arange(900).reshape(30, 30)  # more pairs of ids than are counted directly
    assert label_overlaps(many, many).shared.trace() == 899

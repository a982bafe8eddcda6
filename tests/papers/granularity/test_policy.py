# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

import numpy as np
import pytest

from pc3dcli.papers.granularity.policy import PolicyConfig, track_masks

SIZE = (40, 50)
EVERY = PolicyConfig(stride_key=1, reverse=False)


@dataclass(frozen=True)
class View:
    t: int
    size: tuple = SIZE


@dataclass(frozen=True)
class Detection:
    mask: np.ndarray
    score: float = 0.9


def box(top, left, height=10, width=10):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


class Script:
    """A mask source and a propagator that say what was written down for each frame."""

    tau_complete = 2.0

    def __init__(self, detections=None, masks=None, overlaps=None, backwards=None):
        self.detections, self.script = detections or {}, masks or {}
        self.overlaps, self.backwards, self.log = overlaps or {}, backwards or {}, []
        self.guesses = {}

    def masks(self, view):
        self.log.append(("detect", view.t))
        return [d if isinstance(d, Detection) else Detection(d) for d in self.detections.get(view.t, [])]

    def propagate(self, t, view, tracks):
        self.log.append(("propagate", t, tuple(tracks)))
        return {track: mask for track, mask in self.script.get(t, {}).items() if track in tracks}

    def add_object(self, t, view, track, mask):
        self.log.append(("add", t, track))

    def assumed(self, t, view):
        return self.guesses.get(t)

    def remove_object(self, track):
        self.log.append(("remove", track))

    def overlap(self, t, view, mask, tracks):
        return {track: share for track, share in self.overlaps.get(t, {}).items() if track in tracks}

    def candidates(self, t, view, dormant):
        return list(dormant)

    def reverse(self, t, views, tracks):
        for view in views:
            yield {track: self.backwards[view.t] for track in tracks if view.t in self.backwards}


def run(script, frames, config=EVERY, propagator="script"):
    times = range(frames) if isinstance(frames, int) else frames
    views = [(t, View(t)) for t in times]
    return list(track_masks(views, script, script if propagator else None, config))


def states(frames, track):
    return " ".join(frame.states.get(track, "-") for frame in frames)


A = box(5, 5)


@pytest.mark.parametrize(
    ("tau_dorm", "expected"), [(2, "A A D D A"), (1, "A A D T -"), (-1, "A A D D A"), (0, "A A D T -")]
)
def test_a_lost_object_sleeps_and_wakes_or_ends(tau_dorm, expected):  # spec section 12, test 4
    script = Script({0: [A], 4: [A]}, {t: {1: A} for t in (1, 4)})
    frames = run(script, 5, PolicyConfig(stride_key=1, reverse=False, tau_dorm=tau_dorm))
    assert states(frames, 1) == expected
    if expected.endswith("A"):
        assert list(frames[4].masks) == [1]
        assert max(max(frame.states) for frame in frames) == 1
    else:
        assert list(frames[4].masks) == [2]
        assert ("remove", 1) in script.log
        assert all(1 not in frame.masks for frame in frames[3:])


def test_terminated_ids_never_come_back():
    rng = np.random.default_rng(0)
    detections = {t: [box(*rng.integers(0, 30, 2)) for _ in range(3)] for t in range(60)}
    masks = {t: {k: box(*rng.integers(0, 30, 2)) for k in range(1, 200) if rng.random() < 0.4} for t in range(60)}
    frames = run(Script(detections, masks), 60, PolicyConfig(stride_key=3, reverse=False, tau_dorm=1))
    ended = set()
    for frame in frames:
        assert not ended & set(frame.masks)
        assert not ended & set(frame.states)
        ended |= {track for track, state in frame.states.items() if state == "T"}
    assert len(ended) > 10


def test_matching_takes_the_better_detection_and_rejects_the_other():  # spec section 12, test 5
    track = box(10, 10, 10, 10)
    worse, better = box(10, 10, 10, 6), np.logical_or(box(10, 10, 10, 7), False)
    script = Script({0: [track], 1: [worse, better]}, {1: {1: track}})
    frames = run(script, 2, PolicyConfig(stride_key=1, reverse=False, tau_contain=1.0, refresh=True, tau_refresh=0.65))
    assert list(frames[1].states) == [1]
    assert (frames[1].labels == track).all()  # the propagated mask is kept
    assert script.log.count(("add", 1, 1)) == 1  # IoU 0.7 alone is matched and, here, refreshed


def test_granularity_is_frozen_by_the_first_sighting():  # spec section 12, test 6
    whole, left, right = box(10, 10, 10, 20), box(10, 10, 10, 10), box(10, 20, 10, 10)
    detections = {0: [whole]} | {t: [left, right] for t in range(1, 6)}
    frames = run(Script(detections, {t: {1: whole} for t in range(1, 6)}), 6)
    assert {track for frame in frames for track in frame.states} == {1}


def test_a_mostly_uncovered_detection_is_a_new_object_and_a_half_covered_one_too():
    script = Script({0: [A], 1: [box(5, 10), box(5, 9, 20, 10)]}, {1: {1: A}})
    config = PolicyConfig(stride_key=1, reverse=False)
    frames = run(script, 2, config)
    assert list(frames[1].states) == [1, 2]  # 5 x 9 covers 6 of 10 columns in half of its rows; 5 x 10 then adds little
    assert 2 in frames[1].masks
    alone = run(Script({0: [A], 1: [box(5, 10)]}, {1: {1: A}}), 2, config)
    assert list(alone[1].states) == [1, 2]  # exactly half uncovered: tau_new is inclusive
    strict = run(Script({0: [A], 1: [box(5, 10)]}, {1: {1: A}}), 2, PolicyConfig(1, tau_new=0.6, reverse=False))
    assert list(strict[1].states) == [1]


def test_a_detection_on_a_dormant_objects_voxels_takes_its_id():
    script = Script({0: [A], 3: [box(20, 20)]}, {1: {1: A}}, overlaps={3: {1: 0.3}})
    frames = run(script, 4, PolicyConfig(stride_key=3, reverse=False))
    assert states(frames, 1) == "A A D A"
    assert list(frames[3].masks) == [1]
    assert ("add", 3, 1) in script.log
    for config in (PolicyConfig(3, reid="propagator", reverse=False), PolicyConfig(3, tau_reid=0.31, reverse=False)):
        assert list(run(script, 4, config)[3].masks) == [2]


def test_without_reidentification_nothing_wakes():
    script = Script({0: [A], 3: [A]}, {t: {1: A} for t in (1, 3)}, overlaps={3: {1: 1.0}})
    frames = run(script, 4, PolicyConfig(stride_key=3, reid="none", reverse=False))
    assert states(frames, 1) == "A A D D"
    assert list(frames[3].masks) == [2]


def test_keyframes_are_every_stride_the_first_and_the_first_after_a_gap():
    script = Script()
    frames = run(script, [2, 3, 4, 5, 6, 8, 9, 10, 13])
    assert [f.t for f in frames if f.is_keyframe] == [2, 3, 4, 5, 6, 8, 9, 10, 13]
    frames = run(script, [2, 3, 4, 5, 6, 8, 9, 10, 13], PolicyConfig(stride_key=5))
    assert [f.t for f in frames if f.is_keyframe] == [2, 5, 8, 10, 13]


def test_dormant_objects_are_probed_at_keyframes_and_every_probe_stride():
    def probes(stride):
        script = Script({0: [A]})
        run(script, 8, PolicyConfig(stride_key=6, reverse=False, probe_stride=stride))
        return [entry[1] for entry in script.log if entry[0] == "propagate" and entry[2] == (1,)]

    assert probes(1) == [1, 2, 3, 4, 5, 6, 7]
    assert probes(4) == [1, 4, 6]  # frame 1: still active


def test_the_backward_pass_paints_unlabelled_pixels_of_the_last_two_strides():
    old, new = box(0, 0, 10, 30), box(5, 20, 20, 20)
    masks = {t: {1: old} for t in range(1, 13)} | {t: {1: old, 2: new} for t in range(13, 20)}
    script = Script({0: [old], 12: [new]}, masks, backwards=dict.fromkeys(range(12), new))
    frames = run(script, 16, PolicyConfig(stride_key=4))
    assert [f.t for f in frames if 2 in f.masks] == list(range(4, 16))
    assert (frames[6].masks[1] == old).all()
    assert (frames[6].masks[2] == new & ~old).all()
    assert frames[6].states == {1: "A", 2: "A"}
    assert [2 in f.masks for f in run(script, 16, PolicyConfig(stride_key=4, reverse=False))][:12] == [False] * 12


def test_frames_leave_as_soon_as_they_are_final_and_the_window_is_bounded():
    taken = []

    def views():
        for t in range(40):
            taken.append(t)
            yield t, View(t)

    lead = [taken[-1] - frame.t for frame in track_masks(views(), Script(), Script(), PolicyConfig(stride_key=4))]
    assert lead[:-8] == [8] * 32
    frames = track_masks(views(), Script(), Script(), PolicyConfig(stride_key=4, reverse=False))
    assert next(frames).t == 0
    assert taken[-1] == 0


def test_the_smallest_dormant_object_makes_room_and_actives_are_never_dropped():
    config = PolicyConfig(stride_key=1, reverse=False, max_objects=2)
    detections = {0: [box(0, 0, 5, 5), box(0, 20, 8, 8)], 1: [box(20, 20)]}
    frames = run(Script(detections), 2, config)
    assert frames[1].states == {1: "D", 2: "T", 3: "A"}  # larger detections come first: track 2 is the 5 x 5 one
    still = Script(detections, {1: {1: box(0, 20, 8, 8), 2: box(0, 0, 5, 5)}})
    assert run(still, 2, config)[1].states == {1: "A", 2: "A"}


def test_tiny_masks_are_neither_admitted_nor_visible():
    config = PolicyConfig(stride_key=1, reverse=False, area_min_share=0.01)  # 20 pixels
    frames = run(Script({0: [A, box(30, 30, 4, 4)]}, {1: {1: box(5, 5, 4, 4)}}), 2, config)
    assert list(frames[0].states) == [1]
    assert frames[1].states == {1: "D"}


def test_without_a_propagator_every_detection_of_a_keyframe_is_new():
    script = Script(dict.fromkeys(range(6), [A, box(20, 20)]))
    frames = run(script, 6, PolicyConfig(stride_key=3), propagator=None)
    assert [sorted(f.masks) for f in frames] == [[1, 2], [], [], [3, 4], [], []]
    assert frames[3].scores == {3: 0.9, 4: 0.9}
    assert [entry[0] for entry in script.log] == ["detect", "detect"]


def test_an_empty_video_and_frames_without_masks():
    assert run(Script(), 0) == []
    assert all((frame.labels == 0).all() and not frame.states for frame in run(Script(), 3))


def test_order_of_detections_does_not_change_the_tracks():
    detections = {0: [A, box(20, 5, 12, 10), box(20, 30, 5, 6)]}
    flipped = {0: detections[0][::-1]}
    first, second = (run(Script(d), 1)[0].labels for d in (detections, flipped))
    assert (first == second).all()


def test_detections_of_one_keyframe_compete_large_ones_first():
    whole, hanging_over = box(5, 5, 20, 20), box(10, 22, 8, 5)  # 3 of 5 columns inside: not contained, not new either
    frames = run(Script({0: [hanging_over, whole]}), 1)
    assert frames[0].states == {1: "A"}
    assert (frames[0].labels == whole).all()


def test_a_propagator_that_asks_for_it_is_given_matched_detections():
    seen, whole = box(0, 0, 10, 6), box(0, 0, 10, 10)
    for tau, prompts in ((0.5, 2), (0.7, 1)):
        script = Script({0: [seen], 1: [whole]}, {1: {1: seen}})
        script.tau_complete = tau
        run(script, 2)
        assert sum(entry[0] == "add" for entry in script.log) == prompts


def test_a_new_object_takes_what_an_older_one_was_only_assumed_to_hold():
    table, cup = box(0, 0, 30, 30), box(12, 12, 6, 6)
    for guess, tracks in ((None, [1]), (cup, [1, 2])):
        script = Script({0: [table], 2: [table & ~cup, cup]}, {1: {1: table}, 2: {1: table}}, backwards={1: cup})
        script.guesses = {1: guess, 2: guess}
        frames = run(script, 3, PolicyConfig(stride_key=2))
        assert list(frames[2].masks) == tracks
        assert list(frames[1].masks) == tracks  # the backward pass takes the guesses of earlier frames too
        if guess is not None:
            assert np.array_equal(frames[2].masks[2], cup) and np.array_equal(frames[1].masks[2], cup)


def test_where_tracks_overlap_the_one_admitted_first_stays_on_top():
    """Not the smaller one: a track keeps what it had when a later one covers the rest."""
    first, second = box(0, 0, 10, 20), box(0, 15, 12, 12)
    masks = {1: {1: first}, 2: {1: first, 2: second}, 3: {1: box(0, 0, 30, 20), 2: second}}
    frames = run(Script({0: [first], 1: [first, second], 2: []}, masks), 4)
    for frame in frames[1:]:
        overlap = frame.labels[:10, 15:20]
        assert (overlap == 1).all() and (frame.labels[:10, 20:27] == 2).all()
    together = run(Script({0: [box(0, 0, 10, 40), box(5, 30, 10, 12)]}), 1)[0]  # of one keyframe: small on top
    assert (together.labels[5:10, 30:40] == 2).all() and together.masks[1].sum() == 400 - 50

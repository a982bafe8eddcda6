# SPDX-License-Identifier: Apache-2.0
"""The granularity-consistent tracking policy: which 2D mask of which frame belongs to which object.

J. Wang, Y. Kawanishi, T. Miyazaki, Z. Wang, S. Omachi: class-agnostic 3D segmentation from granularity-consistent 2D
mask tracking, arXiv 2511.00785.  Algorithm 1 is not public as text; this is the policy of granularity_tracking.md
section 4, of which only the states, tau_contain = 0.8 and the existence of tau_IoU and tau_dorm are published.
Pure code: it drives a `Propagator` and a mask source and knows neither network nor file.

*Departures* from section 4: the prompts and last masks of objects that are not visible are left to the propagator
(memory); dormant objects are probed every `probe_stride` frames where the propagator calls them candidates, not at
keyframes only (reprojection revives for free); a detection also competes with those admitted before it on the same
keyframe; a propagator may ask for matched detections as further prompts (`tau_complete`) and say which pixels it only
assumes (`assumed`), which cover nothing and which new objects take; where tracks overlap, the one that was
admitted first stays on top, and small on top only among those of one keyframe, because an object is admitted for what
the others leave uncovered and the order by current area changes from frame to frame; `reid="none"` switches off
every revival, for the ablation of section 13.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from pc3dcli.errors import check_ranges
from pc3dcli.papers.granularity.containment import MaskLayers, compose_labels, containment_filter

ACTIVE, DORMANT, TERMINATED = "A", "D", "T"


@dataclass(frozen=True)
class PolicyConfig:
    """Section 4.4.  [R]: recommended by the spec, unpublished; [D]: published."""

    stride_key: int = 5  # propagated frames from keyframe to keyframe [R]
    tau_iou: float = 0.5  # IoU from which a detection is a tracked object [R]
    tau_new: float = 0.5  # uncovered share from which a detection is a new object [R]
    tau_dorm: int = -1  # frames a lost object is kept, -1 for ever [R]
    area_min_share: float = 0.0005  # of the image, smallest visible mask [R]
    tau_contain: float = 0.8  # share inside a larger mask above which a mask is dropped [D]
    contain_mode: Literal["coarse", "fine"] = "coarse"  # of nested masks the large ones stay, or the small ones [R]
    tau_reid: float = 0.3  # share of a dormant object's visible voxels that a detection must hit [R]
    reid: Literal["geom", "propagator", "none"] = "geom"  # "propagator": no detection revives; "none": nothing does
    reverse: bool = True  # one backward pass a new object, 2 stride_key frames [R]
    refresh: bool = False  # matched detections of IoU >= tau_refresh become further prompts [R]
    tau_refresh: float = 0.9  # IoU from which a matched detection is such a prompt [R]
    max_objects: int = 200  # alive at a time; the smallest dormant goes first [R]
    probe_stride: int = 1  # frames between probes of dormant objects, ours; stride_key: at keyframes, section 4.6

    def __post_init__(self) -> None:
        shares = ("tau_iou", "tau_new", "area_min_share", "tau_contain", "tau_reid", "tau_refresh")
        counts = {"stride_key": (1, 9999), "tau_dorm": (-1, 1e9), "max_objects": (1, 1e5), "probe_stride": (1, 9999)}
        check_ranges(self, **counts, **dict.fromkeys(shares, (0, 1)))

    @property
    def window(self) -> int:
        """Earlier frames that a keyframe may still change."""
        return 2 * self.stride_key if self.reverse else 0


class Propagator(Protocol):
    """What carries masks from frame to frame; `view` is any object that it understands, `t` the frame number.

    tau_complete  IoU from which a matched detection becomes a further prompt, because the propagator knows only
                  surface that it has seen; above 1 for one that needs none
    """

    tau_complete: float

    def propagate(self, t: int, view: Any, tracks: Sequence[int]) -> dict[int, np.ndarray]:
        """Return (H, W) bool masks on frame t of those of `tracks` that are visible."""

    def add_object(self, t: int, view: Any, track: int, mask: np.ndarray) -> None:
        """Seed `track` with a (H, W) bool mask on frame t, or prompt a known track again."""

    def assumed(self, t: int, view: Any) -> np.ndarray | None:
        """Return (H, W) bool, pixels of the masks of frame t that any detection may take; None for none."""

    def remove_object(self, track: int) -> None:
        """Forget a track."""

    def overlap(self, t: int, view: Any, mask: np.ndarray, tracks: Sequence[int]) -> dict[int, float]:
        """Return the share r (section 4.2 step 3d) of each track's visible voxels that `mask` hits, {} if unknown."""

    def candidates(self, t: int, view: Any, dormant: Sequence[int]) -> list[int]:
        """Return the dormant tracks worth probing on frame t."""

    def reverse(self, t: int, views: Sequence[Any], tracks: Sequence[int]) -> Iterator[dict[int, np.ndarray]]:
        """Yield the masks of `tracks`, just seeded on t, on each of the earlier `views`, nearest first."""


class MaskSource(Protocol):
    """What proposes masks on a keyframe."""

    def masks(self, view: Any) -> list:
        """Return objects with `.mask` (H, W) bool and `.score` in [0, 1]."""


@dataclass
class TrackedFrame:
    """One frame's result.

    labels  (H, W) int32, L_t: 0 none, else the track; states: "A", "D" or "T" (terminated on this frame) by track
    scores  score of the detection that seeded each track of `states`
    """

    t: int
    view: Any
    labels: np.ndarray
    states: dict[int, str]
    scores: dict[int, float]
    is_keyframe: bool
    assumed: np.ndarray | None = None  # (H, W) bool, labels that a new object seen later may still take

    @property
    def masks(self) -> dict[int, np.ndarray]:
        """The (H, W) bool mask of each track in `labels`, by ascending track."""
        return {int(track): self.labels == track for track in np.unique(self.labels) if track}


@dataclass
class _Object:
    score: float
    area: int  # pixels when last seen
    born: tuple[int, int]  # frame and pixels when first seen
    state: str = ACTIVE
    miss: int = 0  # consecutive frames not visible


def track_masks(
    views: Iterable[tuple[int, Any]], source: MaskSource, propagator: Propagator | None, config: PolicyConfig
) -> Iterator[TrackedFrame]:
    """Track objects through a video, one frame at a time.

    views       (t, view) in ascending t; a step other than one is a gap, after which a keyframe follows;
                `view.size` is the (H, W) of its masks
    propagator  None: every keyframe for itself, each detection a new track, nothing in between (the baseline)
    yields      frames in order, each as soon as no later keyframe can change it (2 stride_key frames later)
    """
    if propagator is None:
        yield from _independent_frames(views, source, config)
        return
    policy = _Policy(source, propagator, config)
    pending: deque[TrackedFrame] = deque()
    previous = None
    for t, view in views:
        is_keyframe = t % config.stride_key == 0 or previous is None or t != previous + 1
        previous = t
        pending.append(policy.step(t, view, is_keyframe, pending))
        if len(pending) > config.window:
            yield pending.popleft()
    yield from pending


def _independent_frames(views, source, config: PolicyConfig) -> Iterator[TrackedFrame]:
    next_track, previous = 1, None
    for t, view in views:
        is_keyframe = t % config.stride_key == 0 or previous is None or t != previous + 1
        previous = t
        detections = _detect(source, view, config) if is_keyframe else []
        tracks = range(next_track, next_track + len(detections))
        next_track += len(detections)
        masks = {track: d.pixels for track, d in zip(tracks, detections, strict=True)}
        labels = compose_labels(masks, view.size, _area_min(view, config))
        scores = {track: d.score for track, d in zip(tracks, detections, strict=True)}
        yield TrackedFrame(t, view, labels, dict.fromkeys(tracks, ACTIVE), scores, is_keyframe)


@dataclass(frozen=True)
class _Detection:
    mask: np.ndarray
    pixels: np.ndarray  # (n,) int64 flat indices
    score: float


def _detect(source: MaskSource, view, config: PolicyConfig) -> list[_Detection]:
    """Return D_t: the source's masks of at least a_min pixels after the containment filter (step 3a)."""
    found = [_Detection(m.mask, np.flatnonzero(m.mask), float(m.score)) for m in source.masks(view)]
    found = [d for d in found if len(d.pixels) >= max(_area_min(view, config), 1)]
    num_pixels = view.size[0] * view.size[1]
    kept = containment_filter([d.pixels for d in found], num_pixels, config.tau_contain, config.contain_mode)
    return [found[k] for k in kept]


def _area_min(view, config: PolicyConfig) -> float:
    return config.area_min_share * view.size[0] * view.size[1]


@dataclass
class _Policy:
    """The objects of one scene and the steps of section 4.2 on them."""

    source: MaskSource
    propagator: Propagator
    config: PolicyConfig
    objects: dict[int, _Object] = field(default_factory=dict)  # alive, by ascending track
    next_track: int = 1

    def step(self, t: int, view, is_keyframe: bool, earlier: Sequence[TrackedFrame]) -> TrackedFrame:
        """Run the steps of one frame; `earlier` frames receive the backward pass of new objects."""
        visible = self._propagate(t, view, is_keyframe)
        assumed = self.propagator.assumed(t, view)
        ended = self._update_states(visible)
        if is_keyframe:
            detections = _detect(self.source, view, self.config)
            unmatched = self._match(t, view, detections, visible)
            unmatched = self._revive(t, view, unmatched, visible)
            born = self._admit(t, view, unmatched, visible, ended, assumed)
            self._paint_backwards(t, earlier, born)
        newest_first = sorted(visible, key=lambda track: self.objects[track].born, reverse=True)
        labels = compose_labels(visible, view.size, _area_min(view, self.config), newest_first)
        states = {track: item.state for track, item in self.objects.items()} | dict.fromkeys(ended, TERMINATED)
        scores = {track: item.score for track, item in self.objects.items()}
        return TrackedFrame(t, view, labels, states, scores, is_keyframe, assumed)

    def _propagate(self, t: int, view, is_keyframe: bool) -> dict[int, np.ndarray]:
        """Step 1: return the flat pixels of all visible objects."""
        tracks = self._in_state(ACTIVE)
        dormant = self._in_state(DORMANT)
        if dormant and self.config.reid != "none" and (is_keyframe or t % self.config.probe_stride == 0):
            tracks = sorted(tracks + self.propagator.candidates(t, view, dormant))
        masks = self.propagator.propagate(t, view, tracks)
        pixels = {track: np.flatnonzero(masks[track]) for track in tracks if track in masks}
        area_min = max(_area_min(view, self.config), 1)
        return {track: p for track, p in pixels.items() if len(p) >= area_min}

    def _update_states(self, visible: dict[int, np.ndarray]) -> list[int]:
        """Step 2, the table of section 4.3: return the tracks terminated now."""
        ended = []
        for track, item in list(self.objects.items()):
            if track in visible:
                item.state, item.miss, item.area = ACTIVE, 0, len(visible[track])
                continue
            was_active, item.state, item.miss = item.state == ACTIVE, DORMANT, item.miss + 1
            if not was_active and 0 <= self.config.tau_dorm < item.miss:
                self._terminate(track)
                ended.append(track)
        return ended

    def _match(self, t: int, view, detections: list[_Detection], visible: dict) -> list[_Detection]:
        """Steps 3b and 3c: assign detections to visible tracks, keep the propagated masks, return the rest."""
        tracks = sorted(visible)
        iou = _iou_matrix(detections, [visible[track] for track in tracks], view.size[0] * view.size[1])
        rows, columns = linear_sum_assignment(-iou)
        matched = {int(d): int(o) for d, o in zip(rows, columns, strict=True) if iou[d, o] >= self.config.tau_iou}
        tau = min(self.propagator.tau_complete, self.config.tau_refresh if self.config.refresh else np.inf)
        for d, o in matched.items():
            if iou[d, o] >= tau:
                self.propagator.add_object(t, view, tracks[o], detections[d].mask)
        return [detection for d, detection in enumerate(detections) if d not in matched]

    def _revive(self, t: int, view, detections: list[_Detection], visible: dict) -> list[_Detection]:
        """Step 3d: give detections that lie on a dormant object's voxels its old id, return the rest."""
        if self.config.reid != "geom":
            return detections
        rest = []
        for detection in detections:
            dormant = self._in_state(DORMANT)
            shares = self.propagator.overlap(t, view, detection.mask, dormant) if dormant else {}
            best = min(shares, key=lambda track: (-shares[track], track), default=None)
            if best is None or shares[best] < self.config.tau_reid:
                rest.append(detection)
                continue
            item = self.objects[best]
            item.state, item.miss, item.area = ACTIVE, 0, len(detection.pixels)
            self.propagator.add_object(t, view, best, detection.mask)
            visible[best] = detection.pixels
        return rest

    def _admit(self, t: int, view, detections: list[_Detection], visible: dict, ended: list[int], assumed) -> list[int]:
        """Steps 3e and 3f: make new objects of detections that the visible ones leave uncovered.

        assumed  (H, W) bool, pixels that the visible ones only seem to cover, or None
        """
        covered = np.zeros(view.size[0] * view.size[1], bool)
        for pixels in visible.values():
            covered[pixels] = True
        free = np.zeros_like(covered) if assumed is None else assumed.reshape(-1).copy()
        covered &= ~free
        born = []
        for detection in detections:
            uncovered = 1.0 - covered[detection.pixels].mean()
            if uncovered < self.config.tau_new or not self._make_room(ended):
                continue
            track, self.next_track = self.next_track, self.next_track + 1
            self.objects[track] = _Object(detection.score, len(detection.pixels), (t, len(detection.pixels)))
            self.propagator.add_object(t, view, track, detection.mask)
            claimed = np.zeros_like(covered)
            claimed[detection.pixels] = free[detection.pixels]
            for other in visible:
                visible[other] = visible[other][~claimed[visible[other]]]
            visible[track] = detection.pixels
            covered[detection.pixels] = True
            born.append(track)
        return born

    def _make_room(self, ended: list[int]) -> bool:
        """Keep below max_objects by ending the smallest dormant object; False when all are active."""
        if len(self.objects) < self.config.max_objects:
            return True
        dormant = self._in_state(DORMANT)
        if not dormant:
            return False
        smallest = min(dormant, key=lambda track: (self.objects[track].area, track))
        self._terminate(smallest)
        ended.append(smallest)
        return True

    def _paint_backwards(self, t: int, earlier: Sequence[TrackedFrame], born: list[int]) -> None:
        """Carry new objects back over the pending frames, painting only pixels that are still unlabelled."""
        if not (born and earlier and self.config.reverse):
            return
        frames = list(earlier)[::-1][: self.config.window]
        passes = self.propagator.reverse(t, [frame.view for frame in frames], born)
        for frame, masks in zip(frames, passes, strict=False):  # a propagator may stop early
            area_min = max(_area_min(frame.view, self.config), 1)
            flat = frame.labels.reshape(-1)
            for track in sorted(masks):
                pixels = np.flatnonzero(masks[track])
                is_free = flat[pixels] == 0
                if frame.assumed is not None:
                    is_free |= frame.assumed.reshape(-1)[pixels]
                free = pixels[is_free]
                if len(pixels) >= area_min and (len(free) >= 0.5 * len(pixels) or len(free) >= area_min):
                    flat[free] = track
                    frame.states[track], frame.scores[track] = ACTIVE, self.objects[track].score

    def _terminate(self, track: int) -> None:
        self.propagator.remove_object(track)
        del self.objects[track]

    def _in_state(self, state: str) -> list[int]:
        return [track for track, item in self.objects.items() if item.state == state]


def _iou_matrix(detections: list[_Detection], tracks: list[np.ndarray], num_pixels: int) -> np.ndarray:
    """Return (D, O) float64 IoU between detections and the flat pixels of tracked masks."""
    layers = MaskLayers(num_pixels)
    for pixels in tracks:
        layers.add(pixels)
    shared = np.array([layers.overlaps(d.pixels) for d in detections], np.float64).reshape(len(detections), len(tracks))
    area = np.array([len(d.pixels) for d in detections])[:, None] + np.array([len(p) for p in tracks])[None, :]
    return shared / np.maximum(area - shared, 1)

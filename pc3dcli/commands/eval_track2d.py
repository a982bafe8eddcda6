# SPDX-License-Identifier: Apache-2.0
"""`eval --task track2d`: masks of video against ground-truth label images, frame by frame (evaluation.md section 8).

The rules of the numbers are in `metrics/video_masks.py` (J and F) and `metrics/track_matches.py` (the others).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from pc3dcli.commands.eval_track2d_inputs import (
    MAX_DAVIS_ID,
    FolderVideo,
    FrameMasks,
    StreamVideo,
    folder_videos,
    stream_videos,
)
from pc3dcli.commands.eval_track2d_result import HIGHER_IS_BETTER, ScoredRun, VideoScores, evaluation_of
from pc3dcli.commands.evaluation import Evaluation, Request, check_partners, named
from pc3dcli.commands.pairing import Pairing
from pc3dcli.errors import InputError
from pc3dcli.formats.mask_videos import MaskVideo, find_videos, split_videos
from pc3dcli.formats.result_json import file_sha256
from pc3dcli.metrics.track_matches import FrameOverlaps, consistency, identity_counts, match_video
from pc3dcli.metrics.video_masks import FreeScores, PromptedScores

PRESETS = {
    "davis": "J and F of objects against the masks of the same id, without the first and the last frame",
    "davis-unsupervised": "J and F of objects against the tracks assigned to them, all frames, void pixels left out",
}
OPTIONS = frozenset(("scores", "split", "per_scene", "bootstrap", "seed", "allow_missing", "allow_truncated"))
MAX_PROPOSALS = 20  # that the public scorer takes for a video
MANUAL = """\
Masks of video. Ground truth and predictions are folders of one PNG a frame, Annotations/480p/<video>/*.png,
Annotations/<video>/*.png, <video>/*.png, or <video>/instance/*.png as ScanNet has them: 16-bit grey, 8-bit grey or
palette, 0 background, ids the same over a video. Predictions may be a stream of frame and mask2d records as well.
Videos and frames pair by name; --split names the videos that are scored, in a file or as in ImageSets (val).

preset davis (DAVIS 2017, semi-supervised): the objects are 1 to the largest id of the first frame, whose masks a
method was given, and each is compared with the masks of its own id. J is the IoU of the masks, 1 where both are
empty. F compares contours: precision and recall of boundary pixels that have one of the other mask within 0.008 of
the image diagonal, rounded up to whole pixels. The first and the last frame do not count. J and F of an object are
means over frames, those of the data set means over the objects of all videos; J&F is the mean of both. J recall is the
share of frames above 0.5, J decay the mean of the first quarter of the frames minus that of the last. An id below the
largest that no frame has is an object still (public behaviour; warned of), objects that appear later are none. Void
pixels (255 beside other ids in 8 bits) are background. Predicted ids that are no object stop the public scorer; here
they are warned of.

preset davis-unsupervised (DAVIS 2019, unsupervised): each object is compared with the track that the assignment of
the largest sum of mean J and F gives it, over all frames; void pixels are taken out of the predictions. The public
scorer refuses more than 20 tracks in a video; here that is warned of. It is the preset for tracks found
automatically.

With both, the tracks are scored as they are, whatever their ids. IDF1, id switches and fragmentations are those of
CLEAR MOT and of identity measures (package motmetrics) for pairs whose masks have an IoU of 0.5 or more in a frame.
AP, AP50 and AP75 are those of video instance segmentation: IoU over all frames, precision at 101 recalls, the 100
best tracks of a video; AP is the mean over thresholds 0.50 to 0.95. A track's score is the mean over its masks, 1
where there is none. Consistency is the mean over objects of the share of their pixels that carry their most frequent
track.

Published numbers: J&F on DAVIS 2016 val (masks of 0 and 255; its own scorer is the same for one object) and 2017 val
are preset davis; DAVIS 2019 unsupervised val is davis-unsupervised. YouTube-VOS is another server's mean over seen
and unseen classes, YouTube-VIS AP is with classes: neither compares.
"""


def metric_names(request: Request) -> list[str]:
    """Return the metrics that --fail-under knows: those of which more is better."""
    return list(HIGHER_IS_BETTER)


def run(request: Request) -> Evaluation:
    """Score predictions against ground truth; raises InputError and FormatError for inputs."""
    is_prompted = request.preset == "davis"
    annotations = ("Annotations",) if is_prompted else ("Annotations_unsupervised", "Annotations")
    truth = find_videos(request.gt, annotations)
    if request.options["split"] is not None:
        wanted = split_videos(request.options["split"], request.gt)
        missing = sorted(set(wanted) - truth.keys())
        if missing:
            raise InputError(f"{named(missing, 'video')} of --split without ground truth", file=request.gt)
        truth = {name: truth[name] for name in wanted}
    run = _Run(truth, request)
    folders = folder_videos(request.predictions, annotations)
    if folders is not None:
        check_partners(truth, run.chosen(folders), request.gt, allow_missing=run.allow_missing, what="video")
    is_cut = request.options["allow_truncated"]
    videos = stream_videos(request.predictions, allow_truncated=is_cut) if folders is None else folders.values()
    for number, video in enumerate(videos, 1):
        run.add(video)
        request.progress(video.name, number, len(truth))
    return run.finish()


class _Run:
    """One evaluation in progress; of a finished video only its numbers are kept."""

    def __init__(self, truth: dict[str, MaskVideo], request: Request) -> None:
        self.truth, self.request = truth, request
        self.is_prompted = request.preset == "davis"
        self.allow_missing = request.options["allow_missing"]
        self.pairing = Pairing(truth.keys(), request.gt, self.allow_missing, what="video")
        self.videos: dict[str, VideoScores] = {}
        self.warnings: set[tuple[str, str, str]] = set()
        self.prediction_entries: list[tuple[str, str]] = []

    def chosen(self, names: Collection[str]) -> Collection[str]:
        """Return the names that --split chooses, all of them without it."""
        return names if self.request.options["split"] is None else self.truth.keys() & set(names)

    def add(self, video: FolderVideo | StreamVideo) -> None:
        """Score one video."""
        if not self.chosen([video.name]):
            return
        is_taken = self.pairing.accepts(video.name, is_ok=video.is_ok, programs=video.programs)
        if is_taken and (video.frames or video.name not in self.videos):  # a scene may come again with other records
            self.videos[video.name] = self._score(self.truth[video.name], video)
            self.pairing.scored.add(video.name)
            if self.request.has_digest:
                self.prediction_entries += video.entries()

    def _score(self, truth: MaskVideo, video: FolderVideo | StreamVideo | None) -> VideoScores:
        places = [f"{truth.name}/{frame}" for frame in truth.frames]
        found = [f"{truth.name}/{frame}" for frame in video.frames] if video else []
        gt = self.request.gt
        missing = check_partners(places, found, gt, allow_missing=self.allow_missing, what="frame")
        if missing and video:
            self._warn("missing-frame", truth.name, f"{named(missing, 'frame')} scored as without masks")
        scorer = _VideoScorer(truth, self.is_prompted)
        for index, frame in enumerate(truth.frames):
            scorer.add(index, video if video and frame in video.frames else None)
        for code, detail in scorer.warnings():
            self._warn(code, truth.name, detail)
        is_uniform = self.request.options["scores"] == "uniform"
        return scorer.finish(video, {} if is_uniform or video is None else video.scores())

    def _warn(self, code: str, video: str, detail: str) -> None:
        self.warnings.add((code, video, detail))

    def finish(self) -> Evaluation:
        """Put the numbers together; videos without predictions count as such under --allow-missing."""
        missing = self.pairing.missing()
        for name in missing:
            self.videos[name] = self._score(self.truth[name], None)
        return evaluation_of(
            ScoredRun(
                videos=dict(sorted(self.videos.items())),
                num_scored=len(self.pairing.scored),
                about=PRESETS[self.request.preset],
                request=self.request,
                warnings=self.warnings | self.pairing.warnings_of(missing),
                programs=list(self.pairing.programs.values()),
                digest_entries=(self._truth_entries(), self.prediction_entries),
            )
        )

    def _truth_entries(self) -> list[tuple[str, str]]:
        if not self.request.has_digest:
            return []
        files = [path for video in self.truth.values() for path in video.frames.values()]
        return [(path.relative_to(self.request.gt).as_posix(), file_sha256(path)) for path in files]


class _VideoScorer:
    """The frames of one video, added in order; objects are those of the first frame."""

    def __init__(self, truth: MaskVideo, is_prompted: bool) -> None:
        self.truth, self.is_prompted = truth, is_prompted
        self.frames = list(truth.frames)
        first = truth.read_truth(self.frames[0])[0]
        self.present = np.unique(first[first > 0]).tolist()
        largest = max(self.present, default=0)
        self.objects = list(range(1, largest + 1)) if largest <= MAX_DAVIS_ID else self.present
        self.scores = PromptedScores(self.objects) if is_prompted else FreeScores(self.objects)
        self.overlaps: list[FrameOverlaps] = []

    def add(self, index: int, video: FolderVideo | StreamVideo | None) -> None:
        """Score the frame of position `index`; `video` None when it has no predictions."""
        frame = self.frames[index]
        truth, is_void = self.truth.read_truth(frame)
        if self.is_prompted:
            is_void = np.zeros(truth.shape, bool)
        predicted = video.read(frame, is_void) if video else FrameMasks(masks={})
        overlaps = predicted.overlaps(truth)
        self.overlaps.append(overlaps)
        if self.is_prompted and index in (0, len(self.frames) - 1):
            return
        ids = self.objects if self.is_prompted else overlaps.track_ids.tolist()
        there = set(overlaps.truth_ids.tolist()).intersection(self.objects)
        self.scores.add({number: truth == number for number in there}, predicted.by_id(ids), truth.shape)

    def warnings(self) -> list[tuple[str, str]]:
        """Return (code, detail) of what the public scorer does unexpectedly, or refuses."""
        truth_ids = {number for frame in self.overlaps for number in frame.truth_ids.tolist()}
        track_ids = {number for frame in self.overlaps for number in frame.track_ids.tolist()}
        found = []
        absent, late = sorted(set(self.objects) - truth_ids), sorted(truth_ids - set(self.objects))
        if absent:
            detail = f"{_ids(absent)} below the largest in no frame: objects still, of J and F 1 where not predicted"
            found.append(("absent-object", detail))
        if late:
            found.append(("late-object", f"{_ids(late)} not in the first frame: no objects of J and F"))
        strange = sorted(track_ids - set(self.objects))
        if self.is_prompted and strange:
            detail = f"{_ids(strange)} of no object, left out of J and F; the public scorer stops there"
            found.append(("unknown-object", detail))
        if not self.is_prompted and len(track_ids) > MAX_PROPOSALS:
            found.append(("many-tracks", f"{len(track_ids)} tracks; the public scorer takes {MAX_PROPOSALS}"))
        return found

    def finish(self, video: FolderVideo | StreamVideo | None, scores: dict[int, float]) -> VideoScores:
        """Return the numbers of the video; tracks that `scores` lacks count 1."""
        tracks = sorted({number for frame in self.overlaps for number in frame.track_ids.tolist()})
        if self.is_prompted:
            j, f = self.scores.finish()
        else:
            j, f = self.scores.finish(video.num_proposals(len(tracks)) - len(tracks) if video else 0)
        frames_with: dict[int, int] = {}
        for frame in self.overlaps:
            for number in frame.truth_ids.tolist():
                frames_with[number] = frames_with.get(number, 0) + 1
        return VideoScores(
            objects=self.objects,
            j=j,
            f=f,
            frames_with=frames_with,
            num_frames=len(self.frames),
            num_tracks=len(tracks),
            identities=identity_counts(self.overlaps),
            matches=match_video(self.overlaps, {track: scores.get(track, 1.0) for track in tracks}),
            consistency=consistency(self.overlaps),
        )


def _ids(numbers: list[int]) -> str:
    return named([str(number) for number in numbers], "id")

# SPDX-License-Identifier: Apache-2.0
"""What `eval --task track2d` makes of its numbers: `result.json`, the tables and the curve."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import (
    Entries,
    Evaluation,
    Request,
    Table,
    base_result,
    has_intervals,
    shown,
    warning_records,
)
from pc3dcli.formats.result_names import shown_name
from pc3dcli.metrics import track_matches
from pc3dcli.metrics.bootstrap import percentile_interval
from pc3dcli.metrics.track_matches import IdentityCounts, VideoMatches
from pc3dcli.metrics.video_masks import statistics

HIGHER_IS_BETTER = ("jf", "j", "f", "j_recall", "f_recall", "idf1", "ap", "ap50", "ap75", "consistency")
_AT_50, _AT_75 = 0, 5  # among track_matches.THRESHOLDS
_TRACKS = ("idf1", "id_switches", "fragmentations", "ap", "ap50", "ap75", "consistency")


@dataclass(frozen=True)
class VideoScores:
    """The numbers of one video.

    objects      ids of the objects of J and F; j, f (objects, frames) float64
    frames_with  frames in which each ground-truth id is, of every id
    consistency  of every ground-truth id
    """

    objects: list[int]
    j: np.ndarray
    f: np.ndarray
    frames_with: dict[int, int]
    num_frames: int
    num_tracks: int
    identities: IdentityCounts
    matches: VideoMatches
    consistency: dict[int, float]

    @cached_property
    def statistics(self) -> dict[str, list[tuple[float | None, ...]]]:
        """Mean, recall and decay of every object, of "j" and of "f"."""
        return {"j": [statistics(values) for values in self.j], "f": [statistics(values) for values in self.f]}


@dataclass(frozen=True)
class ScoredRun:
    """All videos by name.

    about           the preset in a line
    digest_entries  (relative path, SHA-256) of ground truth and predictions
    """

    videos: dict[str, VideoScores]
    num_scored: int
    about: str
    request: Request
    warnings: set[tuple[str, str, str]]
    programs: list[dict]
    digest_entries: tuple[Entries, Entries]


def evaluation_of(run: ScoredRun) -> Evaluation:
    """Return the finished evaluation."""
    result = _result(run)
    counts = result["counts"]
    return Evaluation(
        result=result,
        num_scored=run.num_scored,
        tables=_tables(result, {name: _summary([video]) for name, video in run.videos.items()}),
        footnote=(
            f"{run.request.preset}: {run.about}\n"
            f"{counts['gt']} objects and {counts['pred']} tracks in {counts['frames']} frames; "
            "IDF1, switches, fragmentations and AP are of tracks whatever their ids"
        ),
        curves=_curves(run) if run.request.has_digest else {},
        programs=run.programs,
    )


def _result(run: ScoredRun) -> dict:
    videos, request = list(run.videos.values()), run.request
    num_truth = sum(video.matches.num_truth for video in videos)
    warnings = set(run.warnings)
    intervals = {"intervals": _intervals(videos, request, warnings)} if request.options["bootstrap"] else {}
    entries = run.digest_entries if request.has_digest else None
    result = base_result("track2d", request.preset, len(videos), entries) | {
        "options": _options(request),
        "metrics": _summary(videos),
        "per_class": {
            f"{name}_{number}": row for name, video in run.videos.items() for number, row in _object_rows(video).items()
        },
        "counts": {
            "gt": num_truth,
            "pred": sum(video.num_tracks for video in videos),
            "ignored_pred": 0,
            "classes": 1,
            "undefined_classes": int(num_truth == 0),
            "frames": sum(video.num_frames for video in videos),
        },
        **intervals,
        "warnings": warning_records(warnings),
    }
    if request.options["per_scene"] or request.has_digest:
        result["per_scene"] = {name: _summary([video]) for name, video in run.videos.items()}
    return result


def _options(request: Request) -> dict:
    """Every option that changes a number; a split by the name of its file, since folders differ between machines."""
    options = request.options
    split = options["split"]
    return {
        "allow_missing": options["allow_missing"],
        "bootstrap": options["bootstrap"],
        "scores": options["scores"],
        "seed": options["seed"] if options["bootstrap"] else None,
        "split": split and Path(split).name,
    }


def _object_rows(video: VideoScores) -> dict[int, dict]:
    """Return the row of every object, and of ground-truth ids that are no object of J and F."""
    rows = {}
    for number in sorted(video.frames_with.keys() | set(video.objects)):
        j = f = None
        if number in video.objects:
            index = video.objects.index(number)
            j, f = (video.statistics[name][index][0] for name in ("j", "f"))
        rows[number] = {
            "jf": None if j is None else (j + f) / 2,
            "j": j,
            "f": f,
            "consistency": video.consistency.get(number),
            "gt": video.frames_with.get(number, 0),
        }
    return rows


def _summary(videos: list[VideoScores]) -> dict[str, float | int | None]:
    """Return the flat metrics: J and F are means over objects, AP pools the tracks of all videos."""
    j, f = (_measure(row for video in videos for row in video.statistics[name]) for name in ("j", "f"))
    identities = sum((video.identities for video in videos), IdentityCounts())
    ap, _ = track_matches.average_precision([video.matches for video in videos])
    return {
        "jf": None if j[0] is None else (j[0] + f[0]) / 2,
        **dict(zip(("j", "j_recall", "j_decay"), j, strict=True)),
        **dict(zip(("f", "f_recall", "f_decay"), f, strict=True)),
        "idf1": identities.idf1,
        "id_switches": identities.num_switches,
        "fragmentations": identities.num_fragmentations,
        "ap": None if ap is None else float(ap.mean()),
        "ap50": None if ap is None else float(ap[_AT_50]),
        "ap75": None if ap is None else float(ap[_AT_75]),
        "consistency": _mean(share for video in videos for share in video.consistency.values()),
    }


def _measure(objects: Iterable[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    """Return the means over objects of mean, recall and decay."""
    rows = list(objects)
    return tuple(_mean(row[k] for row in rows if row[k] is not None) for k in range(3))


def _intervals(
    videos: list[VideoScores], request: Request, warnings: set[tuple[str, str, str]]
) -> dict[str, list[float | None]]:
    """Return 2.5 and 97.5 percentiles over videos drawn with replacement; null for a single video."""
    if not has_intervals(len(videos), "video", warnings):
        return {name: [None, None] for name in HIGHER_IS_BETTER}
    rng = np.random.default_rng(request.options["seed"])
    drawn = rng.integers(len(videos), size=(request.options["bootstrap"], len(videos)))
    draws = [_summary([videos[index] for index in sorted(row)]) for row in drawn.tolist()]
    return {
        name: percentile_interval(np.array([draw[name] for draw in draws], np.float64)) for name in HIGHER_IS_BETTER
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def _curves(run: ScoredRun) -> dict[str, dict]:
    ap, precision = track_matches.average_precision([video.matches for video in run.videos.values()])
    if ap is None:
        return {}
    recall = np.linspace(0, 1, precision.size)
    names = {"x_name": "recall at IoU over the video >= 0.5", "y_name": "precision"}
    return {"tracks": {"x": recall.tolist(), "y": precision.tolist(), **names}}


def _tables(result: dict, by_video: dict[str, dict]) -> list[Table]:
    metrics = result["metrics"]
    names = ("jf", "j", "f", "consistency")
    rows = [[name, *(shown(row[key]) for key in names), str(row["gt"])] for name, row in result["per_class"].items()]
    rows.append(["mean", *(shown(metrics[key]) for key in names), ""])
    objects = Table("", ["object", *map(shown_name, names), "frames"], rows)
    rows = [[name, *(shown(row[key]) for key in _TRACKS)] for name, row in (by_video | {"all": metrics}).items()]
    return [objects, Table("tracks", ["video", *map(shown_name, _TRACKS)], rows)]

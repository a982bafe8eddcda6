# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over scenes (Efron and Tibshirani, 1993): intervals, and how sure the difference of two runs is.

Both runs lose or keep a scene together, so that what makes a scene hard for both cancels.  The rule for undefined
numbers is ours: a scene counts for a metric where both runs have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERCENTILES = (2.5, 97.5)
_CHUNK = 256  # resamples at a time: 256 x scenes, 12 MB for 6,000


def percentile_interval(values: np.ndarray) -> list[float | None]:
    """Return the 95 % percentile interval of a metric (B,) over resamples, NaN left out; None where nothing is left."""
    known = values[~np.isnan(values)]
    return np.percentile(known, PERCENTILES).tolist() if known.size else [None, None]


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of one metric over the scenes that have it, None where none does.

    low, high   95 % percentile interval, None below two scenes
    num_scenes  scenes in which both runs have the metric
    """

    mean: float | None
    low: float | None
    high: float | None
    num_scenes: int


def paired_differences(
    first: np.ndarray, second: np.ndarray, num_resamples: int, rng: np.random.Generator
) -> list[PairedDifference]:
    """Return the mean of `second - first` of each metric, with its interval over resamples of the scenes.

    first, second  (S, M) float64, S scenes in the same order, NaN where undefined
    num_resamples  0 for no intervals; each draws S scenes with replacement, the same ones for all metrics
    """
    difference = second - first
    is_known = np.isfinite(difference)
    value = np.where(is_known, difference, 0.0)
    means = _resampled_means(value, is_known.astype(np.float64), num_resamples, rng)
    return [_summary(value[is_known[:, m], m], means[:, m]) for m in range(difference.shape[1])]


def _resampled_means(
    value: np.ndarray, is_known: np.ndarray, num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return (B, M) means over resamples, NaN where a resample has no scene with the metric."""
    num_scenes = len(value)
    means = np.full((num_resamples if num_scenes else 0, value.shape[1]), np.nan)
    for start in range(0, len(means), _CHUNK):
        size = min(_CHUNK, len(means) - start)
        weight = rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), size).astype(np.float64)
        count = weight @ is_known
        np.divide(weight @ value, count, out=means[start : start + size], where=count > 0)
    return means


def _summary(differences: np.ndarray, means: np.ndarray) -> PairedDifference:
    count = differences.size
    means = means[np.isfinite(means)]
    if count < 2 or not means.size:  # over one scene each resample would be that scene
        return PairedDifference(float(differences.mean()) if count else None, None, None, count)
    low, high = np.percentile(means, PERCENTILES)
    return PairedDifference(float(differences.mean()), float(low), float(high), count)

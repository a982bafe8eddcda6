# SPDX-License-Identifier: Apache-2.0
"""`eval --protocol`: what stands first in a result on shapes (geomask3d.md 4.2).

fair is the last epoch and the mean over repeated votes.  official is what the papers print: the best epoch, the best
vote, the best C, each chosen on the very samples that it is measured on.  Its numbers have names of their own, so
that none is ever taken for a result, and come with a warning.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc3dcli.commands.evaluation import Request
from pc3dcli.commands.result_draft import ResultDraft
from pc3dcli.errors import FormatError


def is_official(request: Request) -> bool:
    """Tell whether the best on the test set is asked for."""
    return request.options["protocol"] == "official"


def put_first(draft: ResultDraft, best: dict[str, float], what: str, count: int) -> None:
    """Put numbers that were chosen on the test set before all others, with a warning.

    best   metric -> the highest of its `count` values
    what   what was chosen: "epoch", "vote", "c"
    """
    draft.metrics = best | {name: value for name, value in draft.metrics.items() if name not in best}
    detail = f"{' and '.join(best)}: the best of {count}, chosen on the samples that it is measured on"
    draft.warnings.add((f"best-test-{what}", "", detail))


def refuse_single(path: Path) -> None:
    """Raise for a file that --protocol official has nothing to choose from."""
    raise FormatError(
        "one epoch and no votes in it, --protocol official has nothing to choose from",
        file=path,
        hint="pc3d distill --protocol official writes every epoch",
    )


def accuracies_of(label: np.ndarray, predictions: np.ndarray) -> list[float]:
    """Return the share of right predictions of each row: label (N,), predictions (E, N)."""
    return (predictions == label).mean(axis=1).tolist()

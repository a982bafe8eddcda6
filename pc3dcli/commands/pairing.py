# SPDX-License-Identifier: Apache-2.0
"""Which scenes of the ground truth met a prediction, where predictions come one by one out of a stream.

The scenes of a folder are known before the work starts (`check_partners`); those of a stream only at its end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pc3dcli.commands.evaluation import check_partners
from pc3dcli.errors import InputError


@dataclass
class Pairing:
    """The scenes of an evaluation in progress.

    truth     names of the scenes with ground truth, which lies in `gt`
    what      what they are called in messages
    scored    names that were scored; failed  names whose producer failed; extra  names without ground truth
    programs  program records of the predictions by their id
    """

    truth: Collection[str]
    gt: Path
    allow_missing: bool
    what: str = "scene"
    scored: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    extra: set[str] = field(default_factory=set)
    programs: dict[str, dict] = field(default_factory=dict)

    def accepts(self, name: str, *, is_ok: bool, programs: Iterable[dict] = ()) -> bool:
        """Note that predictions of a scene came, and tell whether they are to be scored.

        is_ok     false when their producer failed at the scene
        programs  records of the programs that made them
        """
        self.programs |= {record["id"]: record for record in programs}
        if name not in self.truth:
            self.extra.add(name)
        elif not is_ok:
            self.failed.add(name)
        return is_ok and name in self.truth

    def missing(self) -> list[str]:
        """Return the sorted scenes that no prediction came for.

        raises  InputError naming up to ten that have no ground truth, or without `allow_missing` no predictions
        """
        try:
            names = self.scored | self.extra
            return check_partners(self.truth, names, self.gt, allow_missing=self.allow_missing, what=self.what)
        except InputError as error:
            if not self.extra and self.failed.issuperset(set(self.truth) - self.scored):
                error.message += "; their producer failed"
            raise

    def warnings_of(self, missing: Iterable[str]) -> set[tuple[str, str, str]]:
        """Return the warnings of scenes that are scored though they have no predictions."""
        detail = f"scored as a {self.what} without predictions"
        reason = {name: "failed" if name in self.failed else "missing" for name in missing}
        return {(f"{why}-{self.what}", name, detail) for name, why in reason.items()}

# SPDX-License-Identifier: Apache-2.0
"""Program records: who made an output, from what, with which settings (cli.md section 5)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pc3dcli import __version__


@dataclass(frozen=True)
class Program:
    """One run of a command, without its inputs.

    name     "pc3d track2d"
    argv     as typed; kept, never hashed
    config   values that differ from their defaults and decide the result
    seed     None where nothing is random
    weights  name -> "sha256:..." of every weights file that was read
    """

    name: str
    argv: list[str]
    config: dict = field(default_factory=dict)
    seed: int | None = None
    weights: dict[str, str] = field(default_factory=dict)

    def record(self, parents: Iterable[str] = ()) -> dict:
        """Return the `program` record for inputs made by the programs `parents`."""
        decides = {
            "program": self.name,
            "version": __version__,
            "config": self.config,
            "seed": self.seed,
            "weights": self.weights,
            "parents": sorted(parents),
        }
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        record = {
            "type": "program",
            "id": hashlib.sha256(text.encode()).hexdigest()[:12],
            "program": self.name,
            "version": __version__,
            "argv": self.argv,
            "parents": decides["parents"],
        }
        optional = {"seed": self.seed, "config": self.config, "weights": self.weights}
        return record | {name: value for name, value in optional.items() if value not in (None, {})}


def heads(programs: list[dict]) -> list[str]:
    """Return the ids that no other program of the chain names as a parent."""
    parents = {parent for record in programs for parent in record["parents"]}
    return sorted({record["id"] for record in programs} - parents)


def first_difference(ours: dict, theirs: dict) -> str:
    """Say in one line how two program records of the same command differ."""
    if ours["program"] != theirs["program"]:
        return f"made by {theirs['program']}, not {ours['program']}"
    if ours["version"] != theirs["version"]:
        return f"made by version {theirs['version']}, this is {ours['version']}"
    for part in ("config", "weights"):
        mine, other = ours.get(part, {}), theirs.get(part, {})
        for name in sorted(mine.keys() | other.keys()):
            if mine.get(name) != other.get(name):
                there, here = _shown(other.get(name)), _shown(mine.get(name))
                return f"made with {name} = {there}, now {here}"
    if ours.get("seed") != theirs.get("seed"):
        return f"made with seed {theirs.get('seed')}, now {ours.get('seed')}"
    return "made from other inputs"


def _shown(value: object) -> str:
    return "the default" if value is None else json.dumps(value)


def chain_text(programs: list[dict]) -> str:
    """Return the chain as the JSON text that safetensors metadata and PLY comments carry."""
    return json.dumps(programs, separators=(",", ":"), ensure_ascii=True)


def file_digest(path: Path) -> str:
    """Return "sha256:..." of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

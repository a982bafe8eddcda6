# SPDX-License-Identifier: Apache-2.0
"""Kill -9 at seeded random moments: a few of those of tests/experiments/kill_pipe.py, on a tiny world."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments/kill_pipe.py"


@pytest.fixture
def kill_pipe(monkeypatch):
    spec = importlib.util.spec_from_file_location("kill_pipe", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kill_pipe", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_rerun_after_kill_equals_an_uninterrupted_run(kill_pipe, tmp_path, moments=4, seed=1):
    kill_pipe.write_scans(tmp_path / "scans", 3, 6)
    outcomes = list(kill_pipe.kill_and_rerun(tmp_path / "scans", tmp_path, moments, seed))
    assert [outcome.side for outcome in outcomes] == ["track2d", "lift3d"] * (moments // 2)
    assert not any(outcome.differing for outcome in outcomes), outcomes
    for outcome in outcomes:
        killed = kill_pipe.SIDES.index(outcome.side)
        assert outcome.codes[killed] in (-9, 0)
        # a consumer whose producer was killed says that its input is cut; a producer without a reader leaves with 141
        assert outcome.codes[1 - killed] in ((0, 4) if killed == 0 else (0, 141)), outcome

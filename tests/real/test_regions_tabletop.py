# SPDX-License-Identifier: Apache-2.0
"""Floors on real labelled frames, below what tests/experiments/regions_tabletop.py measures."""

import importlib.util
from itertools import islice
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).resolve().parents[1] / "experiments" / "regions_tabletop.py"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("regions_tabletop", EXPERIMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_objects_on_a_table_are_found(shared_data, experiment):
    found = experiment.measure(islice(experiment.tabletop(shared_data), 0, None, 4))
    assert found["all"].mean() > 0.78 and (found["all"] >= 0.5).mean() > 0.88
    assert found["kept"].mean() > 0.74 and (found["kept"] >= 0.5).mean() > 0.82
    assert found["count"].max() <= 100


def test_sparse_warped_depth_and_a_dark_shelf(shared_data, experiment):
    found = experiment.measure(islice(experiment.shelf(shared_data), 0, None, 5))
    assert found["all"].mean() > 0.28
    assert found["count"].max() <= 100

# SPDX-License-Identifier: Apache-2.0
"""Two real ScanNet scans scored with perfect, perturbed and wrong predictions."""

from inspect import signature

import numpy as np
import pytest

from pc3dcli.commands import eval as command
from pc3dcli.commands import eval_instance
from pc3dcli.commands.evaluation import Request
from pc3dcli.formats.scannet_instances import write_prediction, write_truth

DEFAULTS = {name: option.default for name, option in signature(command.evaluate).parameters.items()}
SCENES = ("scene0000_00", "scene0000_01")


@pytest.fixture
def world(shared_data, tmp_path):
    """Ground truth of both scans in `gt/`; returns the folder and the ids (N,) of each."""
    ids = {}
    for scene in SCENES:
        path = shared_data / "scannet" / f"{scene}.npz"
        if not path.is_file():
            pytest.skip("no ScanNet scans")
        with np.load(path) as scan:
            instance = scan["instance"].astype(np.int64)
            ids[scene] = np.where(instance > 0, scan["semantic_nyu40"].astype(np.int64) * 1000 + instance, 0)
        write_truth(tmp_path / "gt" / f"{scene}.txt", ids[scene])
    return tmp_path, ids


def evaluate(folder, ids, change, **options):
    for scene, numbers in ids.items():
        objects = [number for number in np.unique(numbers) if number]
        masks = [change(numbers == number) for number in objects]
        labels, scores = [number // 1000 for number in objects], np.linspace(1, 0.5, len(objects))
        write_prediction(folder / "pred", scene, masks, labels, scores)
    request = Request([str(folder / "pred")], folder / "gt", options.pop("preset"), DEFAULTS | options)
    return eval_instance.run(request).result


@pytest.mark.parametrize("preset", ["scannet", "agnostic-segment3d", "agnostic-valid"])
def test_perfect_predictions_score_one(world, preset):
    classes = "scannet" if preset == "agnostic-valid" else None
    result = evaluate(*world, lambda mask: mask, preset=preset, classes=classes)
    assert result["metrics"] == {"ap": 1.0, "ap50": 1.0, "ap25": 1.0}
    assert result["counts"]["gt"] > 20


def test_unlabelled_vertices_are_an_instance_for_maskclustering(world):
    result = evaluate(*world, lambda mask: mask, preset="agnostic-maskclustering")
    plain = evaluate(*world, lambda mask: mask, preset="agnostic-segment3d")
    assert result["counts"]["gt"] == plain["counts"]["gt"] + len(SCENES) and result["metrics"]["ap"] < 1


def test_perturbed_predictions_fall_by_threshold(world):
    rng = np.random.default_rng(0)
    metrics = evaluate(*world, lambda mask: mask & (rng.random(mask.size) < 0.72), preset="scannet")["metrics"]
    assert metrics["ap25"] == metrics["ap50"] == 1.0 and 0.4 < metrics["ap"] < 0.7
    assert evaluate(*world, lambda mask: np.roll(mask, mask.size // 2), preset="scannet")["metrics"]["ap"] < 0.1

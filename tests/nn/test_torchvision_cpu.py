# SPDX-License-Identifier: Apache-2.0
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from pc3dcli.errors import UsageError
from pc3dcli.nn import torchvision_cpu
from pc3dcli.nn.torchvision_cpu import import_torchvision, nms

needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="no torchvision")


def slow_nms(boxes: np.ndarray, scores: np.ndarray, limit: float) -> list[int]:
    """The definition: visit boxes best first, keep each that no kept one covers too much."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[index], boxes[other]) <= limit for other in kept):
            kept.append(int(index))
    return kept


def iou(first: np.ndarray, second: np.ndarray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    overlap = np.float32(max(sides[0], 0) * max(sides[1], 0))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)


def test_nms_equals_the_definition_on_random_boxes():
    rng = np.random.default_rng(0)
    for trial in range(40):
        boxes = random_boxes(rng, int(rng.integers(1, 40)))
        scores = rng.choice([0.2, 0.5, 0.9], len(boxes)) if trial % 2 else rng.random(len(boxes))  # half with ties
        limit = float(rng.uniform(0.1, 0.9))
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), limit)
        assert kept.tolist() == slow_nms(boxes, scores, limit)


def test_nms_of_nothing_one_and_equal_boxes():
    assert nms(torch.empty(0, 4), torch.empty(0), 0.5).tolist() == []
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert nms(box, torch.ones(1), 0.5).tolist() == [0]
    assert nms(box.repeat(3, 1), torch.tensor([0.1, 0.3, 0.2]), 0.5).tolist() == [1]


def test_nms_keeps_a_box_at_exactly_the_threshold():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def test_nms_keeps_empty_boxes():
    assert nms(torch.zeros(2, 4), torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]


@needs_torchvision
def test_torchvision_imports_and_its_nms_works():
    torchvision = import_torchvision()
    rng = np.random.default_rng(1)
    boxes, scores = torch.from_numpy(random_boxes(rng, 60)), torch.from_numpy(rng.random(60).astype(np.float32))
    assert torchvision.ops.nms(boxes, scores, 0.4).tolist() == slow_nms(boxes.numpy(), scores.numpy(), 0.4)
    groups = torch.from_numpy(rng.integers(0, 2, 60))
    kept = torchvision.ops.batched_nms(boxes, scores, groups, 0.4)
    apart = [
        np.flatnonzero(groups == group)[slow_nms(boxes[groups == group].numpy(), scores[groups == group].numpy(), 0.4)]
        for group in (0, 1)
    ]
    assert sorted(kept.tolist()) == sorted(np.concatenate(apart).tolist())
    assert import_torchvision() is torchvision


@needs_torchvision
def test_a_fresh_process_imports_what_dies_without_the_cure():
    program = (
        "from pc3dcli.nn.torchvision_cpu import import_torchvision\n"
        "import_torchvision()\n"
        "import torchvision.ops, torchvision.transforms\n"
        "print(torchvision.extension._has_ops())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == "True"


def test_missing_torchvision_is_a_usage_error_with_the_command(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        import_torchvision()
    assert caught.value.hint == "pip install 'pc3d[sam]'"


def test_nothing_is_registered_where_torchvision_loads_by_itself(monkeypatch):
    registered = []
    monkeypatch.setattr(torchvision_cpu, "_register_nms", lambda: registered.append(1))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_cpu, "_own_operators_load", lambda folder: True)
    stand_in = type(sys)("torchvision")
    stand_in.__spec__ = importlib.util.spec_from_loader("torchvision", None, is_package=True)
    stand_in.__spec__.submodule_search_locations = ["nowhere"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: stand_in.__spec__)
    monkeypatch.setattr("builtins.__import__", _import_instead(stand_in))
    assert import_torchvision() is stand_in
    assert registered == []


def _import_instead(stand_in):
    import builtins

    original = builtins.__import__
    return lambda name, *rest: stand_in if name == "torchvision" else original(name, *rest)

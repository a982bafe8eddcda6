# SPDX-License-Identifier: Apache-2.0
"""Damaged copies of a stream of labels and of the tensor beside it: a project error or labels of the right form."""

import json
import random
import runpy
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pc3dcli.commands.eval_semantic_predictions import stream_labels
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.class_lists import semantic_classes

damage = runpy.run_path(str(Path(__file__).parent / "mutations.py"))
CLASSES = semantic_classes("scannet")
TENSOR = {"file": "a.safetensors", "name": "pred", "dtype": "I32", "shape": [5]}
INLINE = {"dtype": "U8", "shape": [2, 2], "data": [0, 1, 1, 0]}
RECORDS = [
    {"type": "header", "format": "pc3d", "version": "1.0"},
    {"type": "scene", "scene": "a", "root": "."},
    {"type": "labels3d", "scene": "a", "tensor": TENSOR, "kind": "semantic"},
    {"type": "scene_end", "scene": "a", "ok": True},
    {"type": "scene", "scene": "b", "root": "."},
    {"type": "labels3d", "scene": "b", "tensor": INLINE, "classes": ["wall", "kettle"]},
    {"type": "scene_end", "scene": "b", "ok": True},
    {"type": "end", "scenes": 2, "failed": 0},
]


def read(path):
    """Return how many scenes gave labels."""
    count = 0
    for found in stream_labels([str(path)], CLASSES, allow_truncated=False):
        if found.has_labels:
            guesses = found.guesses()
            assert guesses.dtype == np.int64 and guesses.ndim == 2
            assert found.entries()
            count += 1
    return count


def survive(folder, name, good, count):
    rng, done = random.Random(5), 0
    for _ in range(count):
        (folder / name).write_bytes(damage["mutate"](good, rng))
        try:
            done += read(folder / "s.ndjson") > 0
        except (FormatError, InputError) as error:
            assert str(error) and len(str(error)) < 900, error
    (folder / name).write_bytes(good)
    return done


def test_labels(tmp_path):
    text = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    tensor = save({"pred": np.array([1, 2, 39, 0, -1], np.int32)})
    (tmp_path / "s.ndjson").write_bytes(text)
    (tmp_path / "a.safetensors").write_bytes(tensor)
    assert read(tmp_path / "s.ndjson") == 2
    assert survive(tmp_path, "s.ndjson", text, 3000) > 100
    assert survive(tmp_path, "a.safetensors", tensor, 2000) > 100

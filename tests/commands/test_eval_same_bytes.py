# SPDX-License-Identifier: Apache-2.0
"""The same result, byte for byte, whatever the order of files, the threads, the locale and the hash seed."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from pc3dcli.formats.images import write_png
from pc3dcli.formats.scannet_instances import write_prediction, write_truth

SCENES = ("b", "a", "ö", "Z", "a_1")
SETTINGS = [  # threads, locale, hash seed, order of creation
    ("1", "C", "0", 0),
    ("4", "C.UTF-8", "1", 1),
    ("2", "de_DE.UTF-8", "random", 2),  # where it is not installed, Python takes C
]


def write_instances(folder, order):
    for scene in order:
        rng = np.random.default_rng(SCENES.index(scene))
        ids = np.repeat(rng.choice([0, 3001, 3002, 5003, 39004], 6), 150)
        masks = [(ids == rng.choice(ids)) & (rng.random(ids.size) < 0.8) for _ in range(8)]
        write_truth(folder / "gt" / f"{scene}.txt", ids)
        labels, scores = rng.choice([3, 5, 39], 8), rng.choice([0.1, 0.5, 0.7], 8)
        write_prediction(folder / "pred", scene, masks, labels, scores)
    return ["--per-scene", "--size-bins", "--confusion", "--recall", "--bootstrap", "10"]


def write_tracks(folder, order):
    for scene in order:
        rng = np.random.default_rng(SCENES.index(scene))
        for number in random.Random(order[0]).sample(range(5), 5):
            labels = rng.integers(0, 4, (1, 6)).repeat(20, axis=0).repeat(5, axis=1).astype(np.uint8)
            labels = np.roll(labels, number)
            for part, image in (("gt", labels), ("pred", np.roll(labels, 1, axis=1))):
                (folder / part / scene).mkdir(parents=True, exist_ok=True)
                write_png(folder / part / scene / f"{number}.png", image)
            rng = np.random.default_rng(SCENES.index(scene))
    return ["--task", "track2d", "--per-scene"]


@pytest.mark.parametrize("write", [write_instances, write_tracks])
def test_result_is_the_same(tmp_path, write):
    texts = set()
    for threads, locale, seed, number in SETTINGS:
        folder = tmp_path / str(number)
        arguments = write(folder, random.Random(number).sample(SCENES, len(SCENES)))
        environment = os.environ | {
            "LC_ALL": locale,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
            **{name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")},
        }
        command = [sys.executable, "-m", "pc3dcli", "eval", "pred", "--gt", "gt", "--report", "report", *arguments]
        result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        report = {path.name: path.read_bytes() for path in sorted((folder / "report").iterdir())}
        texts.add((result.stdout, *report.items()))
    assert len(texts) == 1

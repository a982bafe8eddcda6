# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and numbers of `pc3d eval --task semantic` against the public scorers on the same inputs.

    python tests/benchmarks/eval_semantic.py --peer .../3d_evaluation/evaluate_semantic_label.py [--python PEER_PYTHON]
    python tests/benchmarks/eval_semantic.py --peer ... --equality 200 [--scannet200 .../BenchmarkScripts/ScanNet200]
        [--confmat .../semantic/utils/confmat.py]

PEER is the public BenchmarkScripts/3d_evaluation/evaluate_semantic_label.py made to run under Python 3 (2to3), with
util.py and util_3d.py in the folder above it; CONFMAT is the scorer of ScanNet++.  Two runs: text files, both as
programs, and arrays in memory, the peer's reading of files replaced.  --equality compares random small cases instead;
with ScanNet200's constants the same script scores its 200 classes, and its lists of head, common and tail.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import runpy
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from programs import Cost, load_script, our_cost, print_ratio, script_cost

from pc3dcli.commands import eval_semantic
from pc3dcli.commands.evaluation import Request
from pc3dcli.formats.class_lists import semantic_classes
from pc3dcli.metrics import miou

CLASSES, CLASSES_200 = semantic_classes("scannet"), semantic_classes("scannet200")
OPTIONS = {
    "classes": None, "vertex_masks": None, "groups": None, "per_scene": False, "confusion": False, "bootstrap": 0,
    "seed": 0, "allow_missing": False, "allow_truncated": False,
}  # fmt: skip


def make_scene(rng, num_vertices):
    """Draw labels of a mesh, NYU40 ids in patches of neighbouring vertices, and a prediction that is 75 % right."""
    patch = np.repeat(rng.integers(0, 41, num_vertices // 20 + 1), 20)[:num_vertices]
    truth = np.where(rng.random(num_vertices) < 0.8, patch, rng.integers(0, 41, num_vertices))
    return truth, np.where(rng.random(num_vertices) < 0.75, truth, rng.integers(0, 41, num_vertices))


def write(folder, name, labels):
    folder.mkdir(parents=True, exist_ok=True)
    rows = labels.tolist() if labels.ndim == 1 else [",".join(map(str, row)) for row in labels.tolist()]
    (folder / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))


def text_files(scenes, peer, python):
    """Time both programs on the same files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (truth, prediction) in enumerate(scenes):
            write(folder / "gt", f"s{index}", truth)
            write(folder / "pred", f"s{index}", prediction)
        ours = our_cost(["eval", folder / "pred", "--gt", folder / "gt", "--task", "semantic"], folder / "bytecode")
        paths = ["--pred_path", folder / "pred", "--gt_path", folder / "gt", "--output_file", folder / "result.txt"]
        theirs = script_cost(peer, paths, folder / "bytecode", python=python, repeats=1) if peer else None
    print_ratio(f"{len(scenes)} scenes as text, as programs", ours, theirs)


def in_memory(scenes, peer):
    """Time both on arrays; return nothing."""
    start = time.process_time()
    table = miou.label_table(CLASSES.ids)
    counts = sum(miou.label_confusion(*scene, table, len(CLASSES.ids)) for scene in scenes)
    iou = miou.class_iou(miou.class_counts(counts))
    ours = Cost(time.process_time() - start)
    theirs = None
    if peer:
        start = time.process_time()
        expected = peer_iou(load_script(peer), scenes)
        theirs = Cost(time.process_time() - start)
        assert np.array_equal(np.isnan(iou), np.isnan(expected)) and np.nanmax(np.abs(iou - expected)) < 1e-12
    print_ratio("arrays in memory", ours, theirs)


def peer_iou(module, scenes):
    """Return the IoU (C,) of the public code on arrays."""
    confusion = np.zeros((module.UNKNOWN_ID + 1, module.UNKNOWN_ID + 1), np.ulonglong)
    for truth, prediction in scenes:
        arrays = {"gt": truth, "pred": prediction}
        module.util_3d.load_ids = arrays.__getitem__
        module.evaluate_scan("pred", "gt", confusion)
    values = [module.get_iou(label, confusion) for label in module.VALID_CLASS_IDS]
    return np.array([value[0] if isinstance(value, tuple) else value for value in values])


def random_scene(rng, ids):
    """Draw a small case: empty, one vertex, everything ignored, few classes, labels outside of the list."""
    size = int(rng.choice([0, 1, 2, 30, 400]))
    known = rng.choice(ids, int(rng.integers(1, 20)), replace=False)
    outside = [0, ids[-1] + 1, ids[-1] + 2, 1000, 65536, -1, -100]
    truth = rng.choice([[0, 13, ids[-1] + 1], known, [*known, *outside]][rng.integers(3)], size)
    others = rng.choice([*(ids if rng.random() < 0.5 else known), 0, 13, ids[-1] + 1, 99999, -5], size)
    return truth, np.where(rng.random(size) < rng.random(), truth, others)


def scannet200(module, folder):
    """Let the public script score the classes of ScanNet200; return the positions of the classes of each group."""
    constants, splits = (runpy.run_path(str(folder / f"scannet200_{name}.py")) for name in ("constants", "splits"))
    module.VALID_CLASS_IDS = np.array(constants["VALID_CLASS_IDS_200"])
    module.UNKNOWN_ID = np.max(module.VALID_CLASS_IDS) + 1
    names = constants["CLASS_LABELS_200"]
    assert (tuple(module.VALID_CLASS_IDS), names) == (CLASSES_200.ids, CLASSES_200.names)
    groups = {group: splits[f"{group.upper()}_CATS_SCANNET_200"] for group in ("head", "common", "tail")}
    return {group: [names.index(name) for name in members] for group, members in groups.items()}


def equality(preset, classes, peer, num_cases, groups_of=None):
    """Compare the command's numbers with the public code on random cases."""
    module, rng = load_script(peer), np.random.default_rng(0)
    groups = groups_of(module) if groups_of else {}
    largest = compared = undefined = 0
    for _ in range(num_cases):
        scenes = [random_scene(rng, classes.ids) for _ in range(int(rng.integers(1, 4)))]
        iou = peer_iou(module, scenes)
        expected = np.array([*iou, mean(iou), *(mean(iou[members]) for members in groups.values())])
        result = command_values(scenes, preset, {})
        metrics = [result["metrics"][name] for name in ("miou", *(f"{group}_miou" for group in groups))]
        found = np.array([row["iou"] for row in result["per_class"].values()] + metrics, float)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        compared, undefined = compared + int((~np.isnan(found)).sum()), undefined + int(np.isnan(found).sum())
        largest = max(largest, np.nanmax(np.abs(found - expected), initial=0))
    print(f"{preset:10s} {num_cases} cases, {compared} numbers, {undefined} undefined on both, largest {largest:.1e}")


def mean(values):
    return np.nan if np.isnan(values).all() else np.nanmean(values)


def equality_top(confmat, num_cases):
    """Compare top-1 and top-3 of the command with the public ScanNet++ code, refusals included."""
    import torch

    spec = importlib.util.spec_from_file_location("confmat", confmat)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(1)
    largest = compared = refused = undefined = 0
    for _ in range(num_cases):
        num_classes = int(rng.integers(1, 12))
        scenes = [random_top_scene(rng, num_classes) for _ in range(int(rng.integers(1, 4)))]
        expected = {}
        for k in (1, 3):
            matrix = module.ConfMat(num_classes, top_k_pred=k, ignore_label=-100)
            with contextlib.suppress(AssertionError, ValueError):  # it stops where a first label is none
                for truth, guesses in scenes:
                    three = np.repeat(guesses, 3, axis=1) if guesses.shape[1] == 1 else guesses
                    if ((truth >= 0) & (truth < num_classes)).any():  # it fails on a scene without any
                        matrix.update(torch.as_tensor(three), torch.as_tensor(truth))
                with np.errstate(all="ignore"):
                    ious = matrix.ious
                expected[k] = np.append(ious, mean(ious))
        try:
            found = command_values(scenes, "scannetpp", {"names": num_classes})
        except eval_semantic.FormatError:
            assert len(expected) < 2
            refused += 1
            continue
        assert len(expected) == 2
        for k, values in expected.items():
            ours = [row[f"iou_top{k}"] for row in found["per_class"].values()] + [found["metrics"][f"miou_top{k}"]]
            ours = np.array([np.nan if value is None else value for value in ours])
            assert np.array_equal(np.isnan(ours), np.isnan(values))
            compared, undefined = compared + int((~np.isnan(ours)).sum()), undefined + int(np.isnan(ours).sum())
            largest = max(largest, np.nanmax(np.abs(ours - values), initial=0))
    print(
        f"scannetpp  {num_cases} cases ({refused} refused by both), {compared} numbers, {undefined} undefined on both, "
        f"largest {largest:.1e}"
    )


def random_top_scene(rng, num_classes):
    """Draw labels in the first columns and -100 behind, and now and then a label that is no class."""
    size = int(rng.choice([1, 2, 30, 200]))
    truth = rng.integers(0, num_classes, (size, 3))
    truth[np.arange(3) >= rng.integers(0, 4, size)[:, None]] = -100
    if rng.random() < 0.15:
        truth[rng.integers(size), rng.integers(3)] = rng.choice([-100, num_classes, num_classes + 5])
    return truth, rng.integers(0, num_classes, (size, int(rng.choice([1, 3]))))


def command_values(scenes, preset, extra):
    """Return the result of the command on files of these scenes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (truth, prediction) in enumerate(scenes):
            write(folder / "gt", f"s{index}", truth)
            write(folder / "pred", f"s{index}", prediction)
        options = dict(OPTIONS)
        if extra:
            (folder / "classes").write_text("".join(f"class{index}\n" for index in range(extra["names"])))
            options["classes"] = str(folder / "classes")
        return eval_semantic.run(Request([str(folder / "pred")], folder / "gt", preset, options)).result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--scannet200", type=Path)
    parser.add_argument("--confmat", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--equality", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--vertices", type=int, default=150_000)
    options = parser.parse_args()
    if options.equality:
        if options.peer:
            equality("scannet", CLASSES, options.peer, options.equality)
        if options.peer and options.scannet200:
            groups_of = partial(scannet200, folder=options.scannet200)
            equality("scannet200", CLASSES_200, options.peer, options.equality, groups_of)
        if options.confmat:
            equality_top(options.confmat, options.equality)
        return
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng, options.vertices) for _ in range(options.scenes)]
    text_files(scenes, options.peer, options.python)
    in_memory(scenes, options.peer)


if __name__ == "__main__":
    main()

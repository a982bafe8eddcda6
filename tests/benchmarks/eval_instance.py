# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of `pc3d eval --task instance` against the public ScanNet script on the same inputs.

    python tests/benchmarks/eval_instance.py --peer .../3d_evaluation/evaluate_semantic_instance.py

PEER is the public BenchmarkScripts/3d_evaluation/evaluate_semantic_instance.py made to run under Python 3 (2to3, and
the numpy names that are gone), with util.py and util_3d.py in the folder above it.  Three runs: text masks, both as
programs; arrays in memory with classes and without, the peer's reading of files replaced.  Without --peer only our
side is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from programs import Cost, load_script, our_cost, print_ratio, script_cost

from pc3dcli.formats.class_lists import instance_classes
from pc3dcli.formats.scannet_instances import write_prediction, write_truth
from pc3dcli.metrics.instance_ap import TruthRule, class_scores, match_scene, scene_truth

CLASSES = instance_classes("scannet")


def make_scene(rng, num_vertices, num_instances, num_predictions):
    """Draw ids (N,), masks (N, P) bool, labels (P,), scores (P,): objects are runs, masks of every quality."""
    cuts = np.sort(rng.choice(num_vertices, num_instances * 2 - 1, replace=False))
    run = np.searchsorted(cuts, np.arange(num_vertices), side="right")
    labels = rng.choice(CLASSES.ids, num_instances)
    ids = np.where(run % 2 == 0, 0, labels[run // 2] * 1000 + run // 2 + 1)
    masks = np.zeros((num_vertices, num_predictions), bool)
    owner = rng.integers(num_instances, size=num_predictions)
    for p, instance in enumerate(owner):
        members = np.flatnonzero(run == 2 * instance + 1) if instance < num_instances - 1 else np.arange(500)
        masks[members[rng.random(members.size) < rng.uniform(0.3, 1)], p] = True
        masks[rng.integers(num_vertices, size=members.size // 5), p] = True
    return ids, masks, labels[owner], rng.random(num_predictions)


def text_masks(scenes, peer):
    """Time both programs on the same files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (ids, masks, labels, scores) in enumerate(scenes):
            write_truth(folder / "gt" / f"s{index}.txt", ids)
            write_prediction(folder / "pred", f"s{index}", masks.T, labels, scores)
        ours = our_cost(["eval", folder / "pred", "--gt", folder / "gt"], folder / "bytecode")
        paths = ["--pred_path", folder / "pred", "--gt_path", folder / "gt", "--output_file", folder / "result.csv"]
        theirs = script_cost(peer, paths, folder / "bytecode", python=sys.executable) if peer else None
    print_ratio(f"text masks of {len(scenes)} scenes, as programs", ours, theirs)


def in_memory(scenes, peer, is_agnostic):
    """Time both on arrays: overlaps, matching, average precision; ours is the least of three runs."""
    rule = TruthRule(CLASSES.ids, "all" if is_agnostic else None)
    costs = []
    for _ in range(3):
        start = time.process_time()
        ap = our_ap(scenes, rule)
        costs.append(Cost(time.process_time() - start))
    theirs = None
    if peer:
        theirs, their_ap = peer_in_memory(scenes, peer, is_agnostic)
        difference = np.nanmax(np.abs(ap - their_ap))
        assert np.array_equal(np.isnan(ap), np.isnan(their_ap)) and difference < 1e-9, difference
    print_ratio("arrays, one class" if is_agnostic else "arrays, 18 classes", min(costs), theirs)


def our_ap(scenes, rule):
    """Return the AP (C, T) of scenes by our functions."""
    matched = []
    for ids, masks, labels, scores in scenes:
        truth = scene_truth(ids, rule)
        table = truth.overlaps_of_columns(masks)
        matched.append(match_scene(truth, table, rule.class_index(labels), scores, num_classes=rule.num_classes))
    return class_scores(matched, rule.num_classes).ap


def peer_in_memory(scenes, peer, is_agnostic):
    """Run the peer's functions with arrays in the place of files; return what it took and AP (C, T)."""
    module = load_script(peer)
    if is_agnostic:
        module.CLASS_LABELS, module.VALID_CLASS_IDS, module.ID_TO_LABEL = ["object"], np.array([3]), {3: "object"}
    arrays, infos = {}, {}
    for index, (ids, masks, labels, scores) in enumerate(scenes):
        # one label for all; ids keep their order, which decides ties
        arrays[f"gt{index}"] = np.where(ids > 0, 3000 + ids % 1000, 0) if is_agnostic else ids
        names = [f"{index}/{p}" for p in range(masks.shape[1])]
        arrays |= dict(zip(names, masks.T, strict=True))
        labels = np.full_like(labels, 3) if is_agnostic else labels
        values = zip(names, labels, scores, strict=True)
        infos[f"pred{index}"] = {name: {"label_id": label, "conf": score} for name, label, score in values}
    module.util_3d.load_ids = arrays.__getitem__
    module.util_3d.read_instance_prediction_file = lambda name, folder: infos[name]
    start = time.process_time()
    matches = {}
    for index in range(len(scenes)):
        truth, predictions = module.assign_instances_for_scan(f"pred{index}", f"gt{index}", "")
        matches[index] = {"gt": truth, "pred": predictions}
    ap = module.evaluate_matches(matches)[0]
    module.compute_averages(ap[None])
    return Cost(time.process_time() - start), ap


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--vertices", type=int, default=150_000)
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--predictions", type=int, default=80)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    size = (options.vertices, options.instances, options.predictions)
    scenes = [make_scene(rng, *size) for _ in range(options.scenes)]
    text_masks(scenes, options.peer)
    in_memory(scenes, options.peer, is_agnostic=False)
    in_memory(scenes, options.peer, is_agnostic=True)


if __name__ == "__main__":
    main()

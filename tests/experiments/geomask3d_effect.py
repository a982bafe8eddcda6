# SPDX-License-Identifier: Apache-2.0
"""Does it help to hide what is hard? Pretraining with several masks, then linear SVMs on frozen features.

    python tests/experiments/geomask3d_effect.py --data shapes --base point-mae --seeds 0-3 --out effect/
    python tests/experiments/geomask3d_effect.py --out effect/ --table

`--data shapes` is the world of worlds/shapes.py: 640 shapes to pretrain on, 600 to train the SVM and 900 to test it;
`--data modelnet10` reads train.npz, test.npz and extra_train_*.npz from --root.  All arms of a seed see the same shapes
in the same order, start from the same weights, hide the same number of patches and take the same number of steps.
Each run is a `pc3d pretrain`; its scores become one line of OUT/results.ndjson, and what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# teacher: plain pretraining of another seed, whose frozen encoder the arms with distillation learn from
ARMS = {
    "random": ("--mask", "random"),
    "random+kd": ("--mask", "random", "--teacher"),
    "block": ("--mask", "block"),
    "radius": ("--mask", "radius"),
    "radius+kd": ("--mask", "radius", "--teacher"),
    "full": ("--mask", "geometric", "-D", "gc_view=full", "--teacher"),
    "kfold": ("--mask", "geometric", "-D", "gc_view=kfold", "--teacher"),
    "kfold-nokd": ("--mask", "geometric", "-D", "gc_view=kfold"),
    "kfold-norm": ("--mask", "geometric", "-D", "gc_view=kfold", "-D", "gc_norm=patch_radius", "--teacher"),
    "kfold-feature": ("--mask", "geometric", "-D", "gc_view=kfold", "-D", "gc_target=feature", "--teacher"),
    "kfold-norm-chamfer": (
        "--mask", "geometric", "-D", "gc_norm=patch_radius", "-D", "gc_target=chamfer", "--teacher",
    ),
    "kfold-all": ("--mask", "geometric", "-D", "hard_ratio=1.0", "--teacher"),
    "kfold-half": ("--mask", "geometric", "-D", "ramp=half", "--teacher"),
}  # fmt: skip
COMMON = {"batch_size": 32, "lr": 1e-3, "schedule": "iteration", "lam_p": 100, "lam_f": 10, "checkpoint_every": 1000}
BASES = {
    "point-mae": {
        "num_points": 512, "num_patches": 32, "patch_size": 16, "dim": 64, "depth": 3, "heads": 4, "decoder_depth": 1,
        "gc_depth": 1, "mask_ratio": 0.6,
    },
    "point-m2ae": {},
}  # fmt: skip


def main() -> None:
    arguments = _arguments()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.table:
        print_tables(out / "results.ndjson")
        return
    world = load_world(arguments.data, arguments.root, out)
    first, _, last = arguments.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        for arm in arguments.arms.split(","):
            key = {"data": arguments.data, "base": arguments.base, "arm": arm, "seed": seed, "epochs": arguments.epochs}
            if not is_done(out / "results.ndjson", key):
                result = run_arm(world, key, out)
                with (out / "results.ndjson").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(key | result) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("shapes", "modelnet10"), default="shapes")
    parser.add_argument("--root", type=Path, help="folder of modelnet10")
    parser.add_argument("--base", choices=tuple(BASES), default="point-mae")
    parser.add_argument("--arms", default="random,random+kd,radius,radius+kd,full,kfold")
    parser.add_argument("--seeds", default="0-3")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def is_done(path: Path, key: dict) -> bool:
    return path.exists() and any(key.items() <= json.loads(line).items() for line in path.open(encoding="utf-8"))


def load_world(data: str, root: Path | None, out: Path) -> dict[str, Path]:
    """Return the files to pretrain on, to train the SVM on and to test it on; rendered shapes are written first."""
    folder = out / data
    files = {name: folder / f"{name}.npz" for name in ("pretrain", "train", "test")}
    if all(path.exists() for path in files.values()):
        return files
    folder.mkdir(exist_ok=True)
    parts = _render() if data == "shapes" else _modelnet10(root)
    for name, arrays in parts.items():
        np.savez(files[name], **arrays)
    return files


def _modelnet10(root: Path) -> dict[str, dict]:
    train, test = (dict(np.load(root / f"{name}.npz")) for name in ("train", "test"))
    names = list(train["class_names"])
    clouds = [train["points"][:, :1024]]
    labels = [train["label"]]
    for name in ("chair", "monitor"):
        extra = np.load(root / f"extra_train_{name}.npz")["points"][:, :1024, :3]
        clouds.append(extra)
        labels.append(np.full(len(extra), names.index(name)))
    points, label = np.concatenate([c.astype(np.float32) for c in clouds]), np.concatenate(labels)
    keep = {"points": "points", "label": "label", "class_names": "class_names"}
    probes = {name: {k: part[v] for k, v in keep.items()} for name, part in (("train", train), ("test", test))}
    return {"pretrain": {"points": points, "label": label, "class_names": train["class_names"]}, **probes}


def _render() -> dict[str, dict]:
    from pc3dcli.worlds.shapes import CLASSES, make_shapes

    parts = {}
    for name, num, seed in (("pretrain", 640, 1), ("train", 600, 2), ("test", 900, 3)):
        shapes = make_shapes(num, seed)
        parts[name] = {"points": shapes.points, "label": shapes.label, "class_names": np.array(CLASSES)}
    return parts


def run_arm(world: dict[str, Path], key: dict, out: Path) -> dict:
    """Pretrain one arm, after its teacher where it needs one, and return its scores."""
    flags = list(ARMS[key["arm"]])
    if flags[-1] == "--teacher":
        teacher = pretrain(world, key | {"arm": "random", "seed": key["seed"] + 1000}, out, ARMS["random"])[0]
        flags.append(str(teacher))
    weights, cpu_s = pretrain(world, key, out, flags)
    return probe(weights, world, key["seed"]) | ranking(weights, world) | {"cpu_s": cpu_s}


def pretrain(world: dict[str, Path], key: dict, out: Path, flags: list[str] | tuple[str, ...]) -> tuple[Path, float]:
    """Run `pc3d pretrain` and return its weights and CPU seconds; a finished run takes none."""
    folder = out / "-".join(str(value) for value in key.values())
    settings = COMMON | BASES[key["base"]] | {"ema_start": 0.99, "ema_end": 0.99, "warmup_epochs": key["epochs"] / 20}
    defines = [part for name, value in settings.items() for part in ("-D", f"{name}={value}")]
    command = ["pc3d", "pretrain", str(world["pretrain"]), "--method", "geomask3d", "--base", key["base"], *flags]
    command += ["--epochs", str(key["epochs"]), "--seed", str(key["seed"]), "--out", str(folder), "-q", *defines]
    before = time.process_time(), children_s()
    path = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return Path(path), children_s() - before[1]


def children_s() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def probe(weights: Path, world: dict[str, Path], seed: int) -> dict[str, float]:
    """Return linear-SVM accuracies (standardised features): on all training shapes, and on 10 a class (20 draws)."""
    train, train_label = features(weights, world["train"])
    test, test_label = features(weights, world["test"])
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / deviation, (test - mean) / deviation
    rng = np.random.default_rng(seed)
    cost = best_cost(train, train_label, rng)
    few = []
    for _ in range(20):
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(train_label == c))[:10] for c in np.unique(train_label)]
        )
        few.append(accuracy(train[chosen], train_label[chosen], test, test_label, 0.01))
    return {"svm": accuracy(train, train_label, test, test_label, cost), "C": cost, "svm_10shot": float(np.mean(few))}


def best_cost(train: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> float:
    order = rng.permutation(len(label))
    held, rest = order[: len(label) // 5], order[len(label) // 5 :]
    costs = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    return max(costs, key=lambda cost: accuracy(train[rest], label[rest], train[held], label[held], cost))


def accuracy(train: np.ndarray, label: np.ndarray, test: np.ndarray, truth: np.ndarray, cost: float) -> float:
    from sklearn.svm import LinearSVC

    return float(np.mean(LinearSVC(C=cost, random_state=0, dual=True).fit(train, label).predict(test) == truth))


def features(weights: Path, shapes: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D), max + mean over the tokens of the whole cloud, and labels (N,)."""
    import torch

    from pc3dcli.commands.shape_network import cloud_features, open_split
    from pc3dcli.commands.weights import pretrained_model

    model, _ = pretrained_model(weights, "this experiment")
    found = open_split(shapes, "all")
    return cloud_features(model, found, "max+mean", torch.device("cpu"), lambda *_: None), found.label


def ranking(weights: Path, world: dict[str, Path]) -> dict[str, float]:
    """Return how well scores rank the measured difficulty of held-out shapes, in both views, and the last log."""
    found = {}
    for view in ("kfold", "full"):
        command = [
            "pc3d",
            "mask-score",
            str(world["test"]),
            "--weights",
            str(weights),
            "--view",
            view,
            "--oracle",
            "20",
        ]
        lines = subprocess.run([*command, "--limit", "200", "-q"], check=True, stdout=subprocess.PIPE, text=True).stdout
        records = [json.loads(line) for line in lines.splitlines() if '"type":"patch_score"' in line]
        for name in ("spearman", "difficulty_ratio"):
            found[f"{name}_{view}"] = float(np.mean([record[name] for record in records if record[name] is not None]))
    steps = [json.loads(line) for line in (weights.parent / "log.ndjson").open(encoding="utf-8")]
    last = [step for step in steps if step.get("epoch") == steps[-1]["epoch"]]
    for name in ("pair_accuracy", "score_spearman", "difficulty_ratio"):
        values = [step[name] for step in last if name in step]
        found |= {f"train_{name}": float(np.mean(values))} if values else {}
    return found


def print_tables(path: Path) -> None:
    """Print a table for each world and base: mean and spread over seeds, and paired differences from random masks."""
    worlds: dict[tuple, dict[str, dict[int, dict]]] = defaultdict(lambda: defaultdict(dict))
    for result in map(json.loads, path.open(encoding="utf-8")):
        worlds[result["data"], result["base"], result["epochs"]][result["arm"]][result["seed"]] = result
    for (data, base, epochs), arms in worlds.items():
        print(f"\n{data}, {base}, {epochs} epochs\n")
        print(
            "| arm | seeds | SVM % | minus random | minus radius+kd | 10 a class % | Spearman k-fold / full | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for row in _rows(arms):
            print("| " + " | ".join(row) + " |")


def _rows(arms: dict[str, dict[int, dict]]) -> Iterator[list[str]]:
    for arm, seeds in arms.items():
        svm, few = ([100 * result[name] for result in seeds.values()] for name in ("svm", "svm_10shot"))
        differences = [_difference(seeds, arms.get(other, {})) for other in ("random", "radius+kd")]
        ranks = [np.mean([result[f"spearman_{view}"] for result in seeds.values()]) for view in ("kfold", "full")]
        ratio = np.mean([result["difficulty_ratio_kfold"] for result in seeds.values()])
        yield [
            arm, str(len(seeds)), _spread(svm), *differences, _spread(few), f"{ranks[0]:.2f} / {ranks[1]:.2f}",
            f"{ratio:.2f}",
        ]  # fmt: skip


def _difference(seeds: dict[int, dict], others: dict[int, dict]) -> str:
    shared = sorted(seeds.keys() & others.keys())
    if not shared or seeds is others:
        return ""
    gaps = [100 * (seeds[seed]["svm"] - others[seed]["svm"]) for seed in shared]
    return f"{_spread(gaps)}, {sum(gap > 0 for gap in gaps)} of {len(gaps)}"


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Does it help to hide what is hard? Pretraining with several masks, then linear SVMs on frozen features.

    python tests/experiments/geomask3d_effect.py --data shapes --base point-mae --seeds 0-3 --out effect/
    python tests/experiments/geomask3d_effect.py --out effect/ --table

`--data shapes` is the world of worlds/shapes.py: 640 shapes to pretrain on, 600 to train the SVM and 900 to test it,
40 epochs of 20 steps; `--data modelnet10` reads train.npz, test.npz and extra_train_*.npz from --root, 15 epochs of 59
steps.  All arms of a seed see the same shapes in the same order, start from the same weights, hide the same number of
patches and take the same number of steps.  Each run is a `pc3d pretrain`; its scores become one line of
OUT/results.ndjson, and what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np

# teacher: plain pretraining of another seed, whose frozen encoder the arms with distillation learn from
STRONG = ("-D", "hard_ratio=1.0", "-D", "ramp=half")  # all hidden patches are chosen from the middle of training on
ARMS = {
    "untrained": ("--mask", "random", "-D", "lr=0"),  # one epoch, which sets the statistics of BatchNorm alone
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
    "radius-strong+kd": ("--mask", "radius", *STRONG, "--teacher"),
    "kfold-strong": ("--mask", "geometric", *STRONG, "--teacher"),
    "kfold-strong-norm": ("--mask", "geometric", *STRONG, "-D", "gc_norm=patch_radius", "--teacher"),
    "kfold-strong-feature": ("--mask", "geometric", *STRONG, "-D", "gc_target=feature", "--teacher"),
    "kfold-detach": ("--mask", "geometric", "-D", "detach_gc=true", "--teacher"),
}  # fmt: skip
EPOCHS = {"shapes": 40, "modelnet10": 15}
COMMON = {
    "batch_size": 32, "lr": 1e-3, "lam_p": 100, "lam_f": 10, "lam_switch_epoch": 0, "ema_start": 0.99, "ema_end": 0.99,
    "num_points": 512, "heads": 4, "decoder_depth": 1, "gc_depth": 1,
}  # fmt: skip
BASES = {
    "point-mae": {"num_patches": 32, "patch_size": 16, "dim": 64, "depth": 3, "mask_ratio": 0.6, "embed_width": 128},
    "point-m2ae": {
        "scale_patches": [96, 48, 24], "patch_sizes": [8, 8, 8], "dims": [32, 48, 64], "depth": 1, "mask_ratio": 0.8,
        "num_predicted": 8, "embed_width": 64,
    },
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
            epochs = 1 if arm == "untrained" else arguments.epochs or EPOCHS[arguments.data]
            key = {"data": arguments.data, "base": arguments.base, "arm": arm, "seed": seed, "epochs": epochs}
            if not is_done(out / "results.ndjson", key):
                result = run_arm(world, key, out)
                with (out / "results.ndjson").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(key | result) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("shapes", "modelnet10"), default="shapes")
    parser.add_argument("--root", type=Path, help="folder of modelnet10")
    parser.add_argument("--base", choices=tuple(BASES), default="point-mae")
    parser.add_argument("--arms", default="untrained,random,random+kd,radius,radius+kd,full,kfold")
    parser.add_argument("--seeds", default="0-3")
    parser.add_argument("--epochs", type=int, help="40 for shapes, 15 for modelnet10")
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
    settings = COMMON | BASES[key["base"]] | {"warmup_epochs": key["epochs"] / 20}
    defines = [part for name, value in settings.items() for part in ("-D", f"{name}={value}")]
    command = ["pc3d", "pretrain", str(world["pretrain"]), "--base", key["base"], *defines, *flags]
    command += ["--epochs", str(key["epochs"]), "--seed", str(key["seed"]), "--out", str(folder), "-q"]
    before = children_s()
    path = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return Path(path), children_s() - before


def children_s() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def probe(weights: Path, world: dict[str, Path], seed: int) -> dict[str, float]:
    """Return accuracies of a linear SVM on standardised features.

    svm  trained on all training shapes, C of a fifth that is held out; svm_10shot: on 10 a class, mean of 20 draws;
    svm_cv: cross-validated over training and test shapes together, 3 times 5 folds, which has less noise
    """
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
    found = {"svm": accuracy(train, train_label, test, test_label, cost), "C": cost, "svm_10shot": float(np.mean(few))}
    both, label = np.concatenate((train, test)), np.concatenate((train_label, test_label))
    return found | {"svm_cv": cross_validated(both, label, cost)}


def best_cost(train: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> float:
    order = rng.permutation(len(label))
    held, rest = order[: len(label) // 5], order[len(label) // 5 :]
    costs = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    return max(costs, key=lambda cost: accuracy(train[rest], label[rest], train[held], label[held], cost))


def cross_validated(both: np.ndarray, label: np.ndarray, cost: float) -> float:
    from sklearn.model_selection import RepeatedStratifiedKFold

    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    return float(np.mean([accuracy(both[a], label[a], both[b], label[b], cost) for a, b in folds.split(both, label)]))


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
    """Return how well scores rank the measured difficulty of 100 test shapes in both views, and what the log says.

    train_*  of the four quarters of training: how often the head orders two hidden patches rightly, correlation of the
             scores that chose with the errors that came out, error of chosen patches over that of other hidden ones
    """
    found: dict = {}
    for view in ("kfold", "full"):
        command = ["pc3d", "mask-score", str(world["test"]), "--weights", str(weights), "--view", view]
        command += ["--oracle", "20", "--limit", "100", "-q"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        records = [json.loads(line) for line in lines if '"type":"patch_score"' in line]
        for name in ("spearman", "difficulty_ratio"):
            found[f"{name}_{view}"] = float(np.mean([record[name] for record in records if record[name] is not None]))
    steps = [json.loads(line) for line in (weights.parent / "log.ndjson").open(encoding="utf-8")]
    for name in ("pair_accuracy", "score_spearman", "chosen_over_others"):
        quarters = [[step[name] for step in part if name in step] for part in np.array_split(np.array(steps), 4)]
        found[f"train_{name}"] = [round(float(np.mean(values)), 4) if values else None for values in quarters]
    return found


def print_tables(path: Path) -> None:
    """Print tables for each world and base: mean and spread over seeds, and paired differences."""
    worlds: dict[tuple, dict[str, dict[int, dict]]] = defaultdict(lambda: defaultdict(dict))
    for result in map(json.loads, path.open(encoding="utf-8")):
        worlds[result["data"], result["base"]][result["arm"]][result["seed"]] = result
    for (data, base), arms in worlds.items():
        print(f"\n{data}, {base}\n")
        print(
            "| arm | seeds | SVM % | minus random | minus radius+kd | cross-validated % | minus random | 10 a class % |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for arm, seeds in arms.items():
            few = _spread([100 * result["svm_10shot"] for result in seeds.values()])
            row = [arm, str(len(seeds)), *_accuracies(arms, seeds, "svm", ("random", "radius+kd"))]
            print("| " + " | ".join([*row, *_accuracies(arms, seeds, "svm_cv", ("random",)), few]) + " |")
        print("\n| arm | Spearman k-fold / full | difficulty ratio | pairs in order, by quarter | scores, by quarter |")
        print("|---|---|---|---|---|")
        for arm, seeds in arms.items():
            print("| " + " | ".join([arm, *_ranks(list(seeds.values()))]) + " |")


def _accuracies(arms: dict, seeds: dict[int, dict], name: str, others: tuple[str, ...]) -> list[str]:
    gaps = [_difference(seeds, arms.get(other, {}), name) for other in others]
    return [_spread([100 * result[name] for result in seeds.values()]), *gaps]


def _ranks(results: list[dict]) -> list[str]:
    views = [np.mean([result[f"spearman_{view}"] for result in results]) for view in ("kfold", "full")]
    ratios = [np.mean([result[f"difficulty_ratio_{view}"] for result in results]) for view in ("kfold", "full")]
    quarters = []
    for name in ("train_pair_accuracy", "train_score_spearman"):
        parts = zip(*(result[name] for result in results), strict=True)
        means = [np.mean(part) if None not in part else None for part in parts]
        quarters.append(" ".join("-" if mean is None else f"{mean:.2f}" for mean in means))
    return [f"{views[0]:.2f} / {views[1]:.2f}", f"{ratios[0]:.2f} / {ratios[1]:.2f}", *quarters]


def _difference(seeds: dict[int, dict], others: dict[int, dict], name: str) -> str:
    shared = sorted(seeds.keys() & others.keys())
    if not shared or seeds is others:
        return ""
    gaps = [100 * (seeds[seed][name] - others[seed][name]) for seed in shared]
    return f"{_spread(gaps)}, {sum(gap > 0 for gap in gaps)} of {len(gaps)}"


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()

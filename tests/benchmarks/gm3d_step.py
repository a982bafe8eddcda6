# SPDX-License-Identifier: Apache-2.0
"""What a GeoMask3D step costs beside a step of plain Point-MAE, both ours, on the CPU.

    python tests/benchmarks/gm3d_step.py [--threads 1] [--rounds 3] [--batch 32]

A step is sampling, grouping, forward, backward and AdamW on 1,024 points a cloud at full size, in the last epoch, so
that the momentum teacher scores every batch.  Prints CPU seconds, the least of the rounds, and what the parts take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from geomask3d_step import surfaces

from pc3dcli.nn.ema import update_ema
from pc3dcli.papers.geomask3d.gm3d import Gm3d, Gm3dConfig
from pc3dcli.papers.geomask3d.masking import fold_masks, random_orders
from pc3dcli.papers.geomask3d.point_mae import PointMae
from pc3dcli.papers.geomask3d.scoring import patch_scores


def least(function: Callable[[], object], rounds: int) -> float:
    """Return the least CPU seconds of a call, one to warm up not counted."""
    found = []
    for _ in range(rounds + 1):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found[1:])


def step_time(learner: Gm3d, batch: SimpleNamespace, rounds: int) -> float:
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-4)
    learner.train()

    def step() -> None:
        at = SimpleNamespace(epoch=299, epochs=300, generator=torch.Generator().manual_seed(0))
        loss, _ = learner.training_loss(batch, at)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.after_step(at)

    return least(step, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clouds = surfaces(arguments.batch, torch.Generator().manual_seed(0))
    batch = SimpleNamespace(clouds=clouds, plain=clouds, index=torch.arange(len(clouds)))
    full = Gm3d(PointMae(), Gm3dConfig(), PointMae())
    arms = {
        "Point-MAE": Gm3d(PointMae(), Gm3dConfig(mask="random", gc_depth=0)),
        "GM3D before the first selected patch": Gm3d(PointMae(), Gm3dConfig(hard_ratio=0.0), PointMae()),
        "GM3D without distillation": Gm3d(PointMae(), Gm3dConfig()),
        "GM3D": full,
    }
    plain = None
    for name, learner in arms.items():
        seconds = step_time(learner, batch, arguments.rounds)
        plain = plain or seconds
        print(f"{name:40} {seconds:7.2f} s  {seconds / plain:5.2f}")
    print_parts(full, clouds, arguments.rounds)


@torch.inference_mode()
def print_parts(learner: Gm3d, clouds: torch.Tensor, rounds: int) -> None:
    teacher = learner.teacher
    groups = teacher.base.group(clouds)
    tokens = teacher.base.embed(groups)
    orders = random_orders(len(clouds), 64, torch.Generator().manual_seed(0))
    hidden = fold_masks(orders, learner.num_hidden)[0]
    visible = teacher.base.encode(groups, hidden, tokens).visible
    parts = {
        "grouping, once for all networks": lambda: teacher.base.group(clouds),
        "teacher: scores, two folds": lambda: patch_scores(teacher, groups, orders=orders),
        "  embedding, once for both folds": lambda: teacher.base.embed(groups),
        "  encoder, a fold": lambda: teacher.base.encode(groups, hidden, tokens),
        "  complexity head, a fold": lambda: teacher.hidden_scores(groups, hidden, visible),
        "frozen teacher: features": lambda: learner.frozen.full_features(groups),
        "moving average": lambda: update_ema(teacher, learner.student, 0.999),
    }
    for name, function in parts.items():
        print(f"{name:40} {least(function, rounds):7.2f} s")


if __name__ == "__main__":
    main()

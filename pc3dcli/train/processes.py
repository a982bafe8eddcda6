# SPDX-License-Identifier: Apache-2.0
"""The engine of a process: its device, and the others that torchrun started with it (Lightning Fabric)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pc3dcli.errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(device: str = "auto") -> Fabric:
    """Return the engine for this process: alone, or one of those that torchrun started.

    device  auto (a GPU where there is one), cpu, cuda or cuda:N
    raises  UsageError for a device that is not there
    """
    import logging

    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces processes on stderr
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdecimal()):
        raise UsageError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: found {torch.cuda.device_count()} CUDA devices")
    if not TorchElasticEnvironment.detect():
        return Fabric(accelerator=kind, devices=[int(number)] if number and kind == "cuda" else 1)
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = TorchElasticEnvironment().world_size() // here
    fabric = Fabric(accelerator=kind, devices=here, num_nodes=nodes, strategy=DDPStrategy(static_graph=True))
    fabric.launch()
    return fabric


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Leave torch's own generators as they were, and on the CPU let sums of scattered numbers have one order."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        try:
            if device.type == "cpu":
                torch.use_deterministic_algorithms(True, warn_only=True)
                torch.utils.deterministic.fill_uninitialized_memory = False  # which would cost time
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = fills

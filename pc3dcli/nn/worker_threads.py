# SPDX-License-Identifier: Apache-2.0
"""Threads that each do a whole part of a computation on processors, rather than all of them a part of each operation.

Operations on a few thousand rows take less time than waking the threads that share them, which is what torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch


def num_workers(device: torch.device) -> int:
    """Return how many parts are worked on at a time: the threads of torch, one on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_parallel(work: Callable[..., None], parts: Sequence[tuple[Any, ...]], device: torch.device) -> None:
    """Call work(*part) for each part, without gradients; parts write to memory of their own."""
    num = num_workers(device)
    if num == 1 or len(parts) == 1:
        for part in parts:
            _call(work, part)
        return
    for done in [_pool(num).submit(_call, work, part) for part in parts]:
        done.result()


@torch.no_grad()
def _call(work: Callable[..., None], part: tuple[Any, ...]) -> None:
    work(*part)


@lru_cache(maxsize=1)
def _pool(num: int) -> ThreadPoolExecutor:
    """Return threads in each of which torch uses one."""
    return ThreadPoolExecutor(num, initializer=torch.set_num_threads, initargs=(1,))

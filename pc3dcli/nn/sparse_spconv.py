# SPDX-License-Identifier: Apache-2.0
"""The convolutions of `sparse.py` by spconv's kernels, on the same kernel maps.

Its algorithm is `Native` (gather, product, scatter), the one that is exact on processors too.  Which wheels are right
is in the README: the processor-only wheel spconv 2.3.8 returns wrong rows with two threads, without a word.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from pc3dcli.nn.kernel_maps import KernelMap

RIGHT_WHEELS = ("spconv-cu120", "spconv-cu126")


def has_spconv() -> bool:
    """Tell whether a wheel of spconv is installed whose results are right."""
    for name in RIGHT_WHEELS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return True
    return False


def convolve_spconv(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Return what `sparse.convolve` returns, features (N, C) and weight (K, C, D) given."""
    function, algorithm = _spconv()
    side = round(len(weight) ** (1 / 3))
    filters = weight.permute(2, 0, 1).reshape(weight.shape[2], side, side, side, weight.shape[1]).contiguous()
    pairs, counts = kernel_map.packed
    with torch.autocast(features.device.type, enabled=False):  # it knows float16 and float32 only
        return function.apply(features.float(), filters.float(), pairs, counts, kernel_map.num_outputs, algorithm)


@cache
def _spconv() -> tuple[Any, Any]:
    """Import spconv without its warnings of names that torch has renamed: its convolution, and how to do it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from spconv.core import ConvAlgo
        from spconv.pytorch.functional import SparseConvFunction
    return SparseConvFunction, ConvAlgo.Native

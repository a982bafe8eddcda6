# SPDX-License-Identifier: Apache-2.0
"""The pseudo-random weights and clouds of the golden values (GeoMask3D specification, section 6.1)."""

import numpy as np
import pytest
import torch


def pseudo_random(k: int, number: int) -> np.ndarray:
    """u_k(0..number), float64 in [-0.5, 0.5)."""
    wave = np.sin(12.9898 * np.arange(1, number + 1) + 78.233 * (k + 1)) * 43758.5453
    return wave - np.floor(wave) - 0.5


@pytest.fixture(scope="session")
def golden_fill():
    """golden_fill(tensors with released names) -> the same with pseudo-random values; counters stay."""

    def fill(released: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        filled = dict(released)
        for k, name in enumerate(sorted(name for name in released if not name.endswith("num_batches_tracked"))):
            u = pseudo_random(k, released[name].numel())
            if name.endswith("running_var"):
                value = 1 + u
            elif released[name].dim() == 1 and name.endswith("weight"):
                value = 1 + 0.2 * u
            else:
                value = 0.2 * u
            filled[name] = torch.tensor(value, dtype=torch.float32).view(released[name].shape)
        return filled

    return fill


@pytest.fixture(scope="session")
def golden_clouds():
    """golden_clouds(N) -> (2, N, 3) float32"""
    assert np.allclose(pseudo_random(0, 3), (0.240085, 0.064395, -0.045251), atol=1e-6)
    assert np.allclose(pseudo_random(1000, 3), (0.139728, 0.336642, 0.340594), atol=1e-6)
    return lambda num: torch.tensor(2 * pseudo_random(1000, 6 * num), dtype=torch.float32).view(2, num, 3)

# SPDX-License-Identifier: Apache-2.0
"""The pseudo-random weights and clouds of the golden values (GeoMask3D specification, section 6.1).

The names and shapes of released Point-MAE checkpoints are those of its section 2.4.
"""

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


def block_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    shapes = {f"{prefix}norm{i}.{part}": (384,) for i in (1, 2) for part in ("weight", "bias")}
    shapes |= {f"{prefix}attn.qkv.weight": (1152, 384), f"{prefix}attn.proj.weight": (384, 384)}
    shapes |= {f"{prefix}attn.proj.bias": (384,), f"{prefix}mlp.fc1.weight": (1536, 384)}
    return shapes | {
        f"{prefix}mlp.fc1.bias": (1536,), f"{prefix}mlp.fc2.weight": (384, 1536), f"{prefix}mlp.fc2.bias": (384,)
    }  # fmt: skip


def layer_shapes(name: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def norm_shapes(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (dim,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def encoder_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """The table of section 2.4."""
    shapes = layer_shapes(f"{prefix}encoder.first_conv.0", (128, 3, 1)) | norm_shapes(
        f"{prefix}encoder.first_conv.1", 128
    )
    shapes |= layer_shapes(f"{prefix}encoder.first_conv.3", (256, 128, 1))
    shapes |= layer_shapes(f"{prefix}encoder.second_conv.0", (512, 512, 1))
    shapes |= norm_shapes(f"{prefix}encoder.second_conv.1", 512)
    shapes |= layer_shapes(f"{prefix}encoder.second_conv.3", (384, 512, 1))
    shapes |= layer_shapes(f"{prefix}pos_embed.0", (128, 3)) | layer_shapes(f"{prefix}pos_embed.2", (384, 128))
    for i in range(12):
        shapes |= block_shapes(f"{prefix}blocks.blocks.{i}.")
    return shapes | layer_shapes(f"{prefix}norm", (384,))


def pretrain_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"mask_token": (1, 1, 384)} | encoder_shapes("MAE_encoder.")
    shapes |= layer_shapes("decoder_pos_embed.0", (128, 3)) | layer_shapes("decoder_pos_embed.2", (384, 128))
    for i in range(4):
        shapes |= block_shapes(f"MAE_decoder.blocks.{i}.")
    return shapes | layer_shapes("MAE_decoder.norm", (384,)) | layer_shapes("increase_dim.0", (96, 384, 1))


def classify_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"cls_token": (1, 1, 384), "cls_pos": (1, 1, 384)} | encoder_shapes("")
    for i, weight in ((0, (256, 768)), (4, (256, 256)), (8, (40, 256))):
        shapes |= layer_shapes(f"cls_head_finetune.{i}", weight)
    return shapes | norm_shapes("cls_head_finetune.1", 256) | norm_shapes("cls_head_finetune.5", 256)


def parts_shapes() -> dict[str, tuple[int, ...]]:
    shapes = encoder_shapes("") | {"label_conv.0.weight": (64, 16, 1)} | norm_shapes("label_conv.1", 64)
    for i, weight in enumerate([(1536, 1155, 1), (1024, 1536, 1)]):
        shapes |= layer_shapes(f"propagation_0.mlp_convs.{i}", weight)
        shapes |= norm_shapes(f"propagation_0.mlp_bns.{i}", weight[0])
    for i, weight in enumerate([(512, 3392, 1), (256, 512, 1), (50, 256, 1)]):
        shapes |= layer_shapes(f"convs{i + 1}", weight)
    return shapes | norm_shapes("bns1", 512) | norm_shapes("bns2", 256)


@pytest.fixture(scope="session")
def point_mae_shapes():
    """point_mae_shapes("pretrain" | "classify" | "parts") -> released name: shape"""
    kinds = {"pretrain": pretrain_shapes, "classify": classify_shapes, "parts": parts_shapes}
    return lambda kind: kinds[kind]()


@pytest.fixture(scope="session")
def released_point_mae(golden_fill, point_mae_shapes):
    """released_point_mae(kind) -> released name: golden value"""
    return lambda kind: golden_fill({name: torch.zeros(shape) for name, shape in point_mae_shapes(kind).items()})

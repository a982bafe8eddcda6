# SPDX-License-Identifier: Apache-2.0
"""Names, shapes and pseudo-random values of released Point-MAE checkpoints (specification, sections 2.4 and 6.1)."""

from types import SimpleNamespace

import pytest
import torch


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


def pseudo_random(rank: int, count: int) -> torch.Tensor:
    """u_k(0 .. count - 1) of section 6.1, float64."""
    i = torch.arange(count, dtype=torch.float64)
    return ((12.9898 * (i + 1) + 78.233 * (rank + 1)).sin() * 43758.5453).remainder(1) - 0.5


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of the released names with the values of section 6.1."""
    tensors, names = {}, sorted(name for name in shapes if not name.endswith("num_batches_tracked"))
    for rank, name in enumerate(names):
        shape = shapes[name]
        u = pseudo_random(rank, torch.Size(shape).numel())
        if name.endswith("running_var"):
            u = 1 + u
        elif name.endswith("weight") and len(shape) == 1:
            u = 1 + 0.2 * u
        else:
            u = 0.2 * u
        tensors[name] = u.view(shape).float()
    return tensors | {name: torch.tensor(0) for name in shapes if name.endswith("num_batches_tracked")}


def clouds(num_points: int) -> torch.Tensor:
    return (2 * pseudo_random(1000, 2 * num_points * 3)).view(2, num_points, 3).float()


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
def released_point_mae():
    """shapes(kind), filled(kind), clouds(num_points) and pseudo_random(rank, count) of the released Point-MAE."""
    kinds = {"pretrain": pretrain_shapes, "classify": classify_shapes, "parts": parts_shapes}
    return SimpleNamespace(
        shapes=lambda kind: kinds[kind](),
        filled=lambda kind: filled(kinds[kind]()),
        clouds=clouds,
        pseudo_random=pseudo_random,
    )

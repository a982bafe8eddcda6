# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Mask3D and Segment3D as weights of the segmenter, without MinkowskiEngine (section 10 of the spec).

MinkowskiEngine counts the offsets of a kernel with x fastest, here z is; 1 x 1 kernels have no axis of offsets.
"""

from __future__ import annotations

import re

from torch import Tensor

from pc3dcli.errors import WeightsError

DOWN = ("conv1p1s2", "conv2p2s2", "conv3p4s2", "conv4p8s2")
UP = ("convtr4p16s2", "convtr5p8s2", "convtr6p4s2", "convtr7p2s2")
UNUSED = re.compile(r"criterion\.|model\.backbone\.final\.")
PREFIXES = (
    ("model.backbone.conv0p1s1", "backbone.stem"),
    ("model.backbone.bn0.bn", "backbone.stem_norm"),
    *((f"model.backbone.{name}", f"backbone.down.{i}") for i, name in enumerate(DOWN)),
    *((f"model.backbone.bn{i + 1}.bn", f"backbone.down_norms.{i}") for i in range(4)),
    *((f"model.backbone.block{i + 1}", f"backbone.encoder.{i}") for i in range(4)),
    *((f"model.backbone.{name}", f"backbone.up.{i}") for i, name in enumerate(UP)),
    *((f"model.backbone.bntr{i + 4}.bn", f"backbone.up_norms.{i}") for i in range(4)),
    *((f"model.backbone.block{i + 5}", f"backbone.decoder.{i}") for i in range(4)),
    ("model.mask_features_head", "decoder.mask_features"),
    ("model.query_projection.layers", "decoder.query_projection"),
    ("model.np_feature_projection", "decoder.query_content"),  # in none that is released
    ("model.pos_enc.gauss_B", "decoder.positions.directions"),
    ("model.mask_embed_head", "decoder.mask_head"),
    ("model.class_embed_head", "decoder.class_head"),
    ("model.decoder_norm", "decoder.norm"),
    *((f"model.lin_squeeze.0.{i}", f"decoder.layers.{i}.squeeze") for i in range(4)),
    *((f"model.cross_attention.0.{i}.multihead_attn", f"decoder.layers.{i}.cross") for i in range(4)),
    *((f"model.cross_attention.0.{i}.norm", f"decoder.layers.{i}.cross_norm") for i in range(4)),
    *((f"model.self_attention.0.{i}.self_attn", f"decoder.layers.{i}.own") for i in range(4)),
    *((f"model.self_attention.0.{i}.norm", f"decoder.layers.{i}.own_norm") for i in range(4)),
    *((f"model.ffn_attention.0.{i}.linear1", f"decoder.layers.{i}.ffn.0") for i in range(4)),
    *((f"model.ffn_attention.0.{i}.linear2", f"decoder.layers.{i}.ffn.2") for i in range(4)),
    *((f"model.ffn_attention.0.{i}.norm", f"decoder.layers.{i}.ffn_norm") for i in range(4)),
)
IN_BLOCK = (
    (re.compile(r"\.norm([12])\.bn\."), r".norm\1."),
    (re.compile(r"\.downsample\.0\.kernel$"), ".shortcut.kernel"),
    (re.compile(r"\.downsample\.1\.bn\."), ".shortcut_norm."),
)


def is_released(tensors: dict[str, Tensor]) -> bool:
    """Tell whether tensors are named as those of a Mask3D or Segment3D checkpoint."""
    return "model.backbone.conv0p1s1.kernel" in tensors


def from_released(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a released checkpoint under the names and in the layouts of `Segmenter`.

    raises  WeightsError for a name that none of the released networks has, or one shape that no kernel has
    """
    converted = {}
    for name, tensor in sorted(tensors.items()):
        if UNUSED.match(name):
            continue
        ours = _renamed(name)
        if ours is None:
            raise WeightsError(f"tensor {name} is in no Mask3D or Segment3D network")
        converted[ours.replace(".kernel", ".weight")] = _laid_out(name, tensor)
    return converted


def _renamed(name: str) -> str | None:
    for theirs, ours in PREFIXES:
        if name == theirs or name.startswith(theirs + "."):
            moved = ours + name[len(theirs) :]
            for pattern, replacement in IN_BLOCK:
                moved = pattern.sub(replacement, moved)
            return moved
    return None


def _laid_out(name: str, tensor: Tensor) -> Tensor:
    if name == "model.mask_features_head.bias":
        return tensor.reshape(-1)
    if name.startswith("model.query_projection") and tensor.ndim == 3:
        return tensor.squeeze(2)  # convolutions of width 1
    if not name.endswith(".kernel"):
        return tensor
    if tensor.ndim == 2:
        return tensor.T.contiguous()  # of an nn.Linear
    side = round(len(tensor) ** (1 / 3)) if tensor.ndim == 3 else 0
    if side**3 != len(tensor):
        raise WeightsError(f"tensor {name} has shape {list(tensor.shape)}, expected a cubic kernel")
    cube = tensor.reshape(side, side, side, *tensor.shape[1:])  # z, y, x: the first coordinate is fastest
    return cube.permute(2, 1, 0, 3, 4).reshape(tensor.shape).contiguous()


def sizes(tensors: dict[str, Tensor]) -> dict[str, object]:
    """Return the fields of SegmenterConfig that the shapes of converted tensors tell; heads and rounds they do not."""

    def width(name: str, axis: int) -> int:
        return int(tensors[name].shape[axis])

    def depth(part: str, level: int) -> int:
        pattern = re.compile(rf"backbone\.{part}\.{level}\.(\d+)\.conv1\.weight")
        return len([name for name in tensors if pattern.fullmatch(name)])

    places = [(part, level) for part in ("encoder", "decoder") for level in range(4)]
    try:
        return {
            "stem": width("backbone.stem.weight", 2),
            "stem_kernel": round(width("backbone.stem.weight", 0) ** (1 / 3)),
            "planes": tuple(width(f"backbone.{part}.{level}.0.conv1.weight", 2) for part, level in places),
            "depths": tuple(depth(part, level) for part, level in places),
            "dim": width("decoder.class_head.weight", 1),
            "ffn_dim": width("decoder.layers.0.ffn.0.weight", 0),
            "num_classes": width("decoder.class_head.weight", 0) - 1,
            "query_features": "decoder.query_content.0.weight" in tensors,
        }
    except (KeyError, IndexError) as error:
        raise WeightsError(f"tensor {error} is missing for a Mask3D or Segment3D network") from None

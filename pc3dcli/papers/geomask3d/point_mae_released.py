# SPDX-License-Identifier: Apache-2.0
"""Names of released Point-MAE checkpoints and of GeoMask3D's on Point-MAE, and ours.

Pang-Yatian/Point-MAE: 209 tensors for pretraining, 174 for classification.  AliBahri94/GM3D: the same, but for a final
norm called `norm_p`, a complexity head and parts that nothing uses.  Layers that act on every token alone are
convolutions of width 1 there and linear here.

*Departures*: the score of the released head is the mean of 384 outputs of a linear layer, which is one output here,
without its bias: scores are compared with each other only.
"""

from __future__ import annotations

from torch import Tensor

from pc3dcli.errors import WeightsError
from pc3dcli.nn.weights import and_more

ENCODER = {  # released beginning, or whole name where it has no full stop at its end: ours
    "encoder.": "encoder.patch_embed.",
    "pos_embed.": "encoder.pos_embed.",
    "blocks.": "encoder.blocks.",
    "norm.": "encoder.norm.",
}
NAMES = {
    "pretrain": {
        **{f"MAE_encoder.{released}": ours for released, ours in ENCODER.items()},
        "mask_token": "mask_token",
        "decoder_pos_embed.": "decoder_pos_embed.",
        "MAE_decoder.blocks.": "decoder.blocks.blocks.",
        "MAE_decoder.norm.": "decoder.norm.",
        "increase_dim.0.": "increase_dim.",
    },
    "classify": {**ENCODER, "cls_token": "cls_token", "cls_pos": "cls_pos", "cls_head_finetune.": "cls_head_finetune."},
    "parts": {
        **ENCODER,
        "label_conv.": "label_conv.",
        "propagation_0.": "propagation.",
        **{f"convs{i}.": f"head.convs{i}." for i in (1, 2, 3)},
        **{f"bns{i}.": f"head.bns{i}." for i in (1, 2)},
    },
}
GM3D_NORM = {"pretrain": "MAE_encoder.norm", "classify": "norm", "parts": "norm"}  # called norm_p there
GM3D_POINT_HEAD = "increase_dim_just_network_without_feature.0."
GM3D_SCORE = "increase_dim_2.3."  # the layer whose outputs are averaged
GM3D_UNUSED = ("norm_p.", f"{GM3D_SCORE}bias", GM3D_POINT_HEAD)
GM3D_HEAD = {
    "mask_token_loss_pred": "gc_head.mask_token",
    "MAE_decoder_loss_pred.blocks.": "gc_head.blocks.blocks.",
    "MAE_decoder_loss_pred.norm.": "gc_head.norm.",
    "increase_dim_2.": "gc_head.score.",
}
CONVOLUTIONS = ("first_conv", "second_conv", "increase_dim", "label_conv", "mlp_convs", "head.convs", "gc_head.score")


def from_released(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Rename the tensors of a released checkpoint to ours.

    kind    "pretrain", "classify" or "parts"; the complexity head of a GeoMask3D pretraining becomes gc_head.*
    raises  WeightsError naming what belongs to no such model; names that lack and shapes are for the loader to see
    """
    released = {name.removeprefix("module."): value for name, value in tensors.items()}
    norm, names = GM3D_NORM[kind], NAMES[kind]
    if f"{norm}_p.weight" in released and f"{norm}.weight" not in released:
        released = _of_gm3d(released, norm, kind)
        names = names | GM3D_HEAD if kind == "pretrain" else names
    ours, foreign = {}, []
    for name, value in released.items():
        renamed = _replace_beginning(name, names)
        if renamed is None:
            foreign.append(name)
        else:
            is_convolution = value.dim() == 3 and value.shape[2] == 1 and any(part in renamed for part in CONVOLUTIONS)
            ours[renamed] = value.squeeze(2) if is_convolution else value
    if foreign:
        raise WeightsError(
            f"found {', '.join(foreign[:3])}{and_more(foreign)}, expected names of a released Point-MAE ({kind})"
        )
    return ours


def to_released(tensors: dict[str, Tensor], kind: str = "pretrain") -> dict[str, Tensor]:
    """Rename our tensors to those of Point-MAE's release, the inverse of `from_released`."""
    theirs = {ours: released for released, ours in NAMES[kind].items()}
    released = {}
    for name, value in tensors.items():
        is_convolution = value.dim() == 2 and any(part in name for part in CONVOLUTIONS)
        released[_replace_beginning(name, theirs)] = value.unsqueeze(2) if is_convolution else value
    return released


def _of_gm3d(released: dict[str, Tensor], norm: str, kind: str) -> dict[str, Tensor]:
    """Name the final norm of a GeoMask3D model as Point-MAE does, average its score, leave out what nothing uses."""
    kept = {}
    for name, value in released.items():
        if name.startswith(f"{norm}_p."):
            name = f"{norm}.{name.rpartition('.')[2]}"
        elif kind == "pretrain" and name == f"{GM3D_SCORE}weight":
            value = value.mean(0, keepdim=True)
        elif kind == "pretrain" and name.startswith(GM3D_UNUSED):
            head = "increase_dim.0." + name.removeprefix(GM3D_POINT_HEAD)
            if not name.startswith(GM3D_POINT_HEAD) or head in released:
                continue
            name = head  # the point head of another mode, and the only one
        kept[name] = value
    return kept


def _replace_beginning(name: str, beginnings: dict[str, str]) -> str | None:
    """Replace the first of `beginnings` that `name` starts with; None: it starts with none."""
    for old, new in beginnings.items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name.removeprefix(old)
    return None

# SPDX-License-Identifier: Apache-2.0
"""Names of the released Point-M2AE checkpoints, both generations, and ours.

ZrrSkywalker/Point-M2AE: 293 tensors for pretraining, 249 for classification; a first release said `MAE_encoder` for
`h_encoder` (its issue 5).  Layers that act on every token alone are convolutions of width 1 there and linear here.
No departures.
"""

from __future__ import annotations

import re

from torch import Tensor

from pc3dcli.errors import WeightsError
from pc3dcli.nn.weights import and_more

ENCODER = ("h_encoder.token_embed.", "h_encoder.encoder_pos_embeds.", "h_encoder.encoder_blocks.")
NORMS = "h_encoder.encoder_norms."
DECODER = ("mask_token", "h_decoder.", "decoder_pos_embeds.", "token_prop.0.", "decoder_norm.", "rec_head.")
RELEASED = {  # how the released names of each kind begin
    "pretrain": (*ENCODER, NORMS, *DECODER),
    "classify": (*ENCODER, "norm.", "cls_head_finetune."),
    "parts": (*ENCODER, NORMS, "label_conv.", "propagations.", "convs", "bns"),
}
FIRST_RELEASE = {
    "MAE_encoder.encoders.": "h_encoder.token_embed.",
    "MAE_encoder.blocks.": "h_encoder.encoder_blocks.",
    "MAE_encoder.": "h_encoder.",
}
OURS = {  # released beginning: ours
    "token_prop.0.fuse.net.": "token_prop.fuse.",
    "token_prop.0.extraction.operation.0.": "token_prop.",
    "convs": "head.convs",
    "bns": "head.bns",
}
CONVOLUTIONS = re.compile(r"(first_conv|second_conv|token_prop|rec_head|label_conv|mlp_convs|convs\d)")


def from_released(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Rename the tensors of a released checkpoint to ours.

    kind    "pretrain", "classify" or "parts"
    raises  WeightsError naming what belongs to no such model; names that lack or shapes are for the loader to see
    """
    ours, foreign = {}, []
    for released, value in tensors.items():
        name = _replace_beginning(released.removeprefix("module."), FIRST_RELEASE)
        if not name.startswith(RELEASED[kind]):
            foreign.append(released)
        is_convolution = value.dim() == 3 and value.shape[2] == 1 and CONVOLUTIONS.search(name)
        ours[_replace_beginning(name, OURS)] = value.squeeze(2) if is_convolution else value
    if foreign:
        raise WeightsError(
            f"found {', '.join(foreign[:3])}{and_more(foreign)}, expected names of a released Point-M2AE ({kind})"
        )
    return ours


def to_released(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename our tensors to those of the current release, the inverse of `from_released`."""
    theirs = {ours: released for released, ours in OURS.items()}
    theirs = {key: theirs[key] for key in sorted(theirs, key=len, reverse=True)}
    released = {}
    for name, value in tensors.items():
        is_convolution = value.dim() == 2 and CONVOLUTIONS.search(name)
        released[_replace_beginning(name, theirs)] = value.unsqueeze(2) if is_convolution else value
    return released


def _replace_beginning(name: str, beginnings: dict[str, str]) -> str:
    """Replace the first of `beginnings` that `name` starts with."""
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name

# SPDX-License-Identifier: Apache-2.0
"""Small randomly initialised models of the classes of the packages segment-anything and sam2, loaded with runpy."""

import copy
from functools import cache

import torch

from pc3dcli.masks2d.sam2 import import_sam2
from pc3dcli.nn.torchvision_cpu import import_torchvision


def tiny_sam2(*, video: bool, image_size: int = 64, seed: int = 0):
    """Return sam2.1 tiny from the package's own configuration, made narrow; objects are always held to be present."""
    return copy.deepcopy(_build_sam2(video, image_size, seed))  # a copy takes a tenth of the time of building


@cache
def _build_sam2(video: bool, image_size: int, seed: int):
    import_sam2()
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    width, grid = 32, image_size // 16
    attention = "memory_attention.layer"
    settings = {
        "image_size": image_size,
        "image_encoder.trunk.embed_dim": 8,
        "image_encoder.trunk.stages": "[1,1,2,1]",
        "image_encoder.trunk.global_att_blocks": "[3]",
        "image_encoder.trunk.window_spec": "[4,4,4,2]",
        "image_encoder.neck.d_model": width,
        "image_encoder.neck.backbone_channel_list": "[64,32,16,8]",
        "image_encoder.neck.position_encoding.num_pos_feats": width,
        "memory_attention.d_model": width,
        "memory_attention.num_layers": 1,
        f"{attention}.d_model": width,
        f"{attention}.dim_feedforward": 32,
        f"{attention}.self_attention.embedding_dim": width,
        f"{attention}.self_attention.feat_sizes": f"[{grid},{grid}]",
        f"{attention}.cross_attention.embedding_dim": width,
        f"{attention}.cross_attention.feat_sizes": f"[{grid},{grid}]",
        f"{attention}.cross_attention.kv_in_dim": 16,
        "memory_encoder.in_dim": width,
        "memory_encoder.out_dim": 16,
        "memory_encoder.position_encoding.num_pos_feats": 16,
        "memory_encoder.mask_downsampler.embed_dim": width,
        "memory_encoder.fuser.layer.dim": width,
    }
    overrides = [f"++model.{name}={value}" for name, value in settings.items()]
    build = build_sam2_video_predictor if video else build_sam2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu", hydra_overrides_extra=overrides)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10.0)
    return model


def tiny_sam(seed: int = 0):
    """Build the first SAM with a narrow image encoder for images of 64 pixels."""
    import_torchvision()
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    width = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageEncoderViT(
            img_size=64,
            embed_dim=16,
            depth=2,
            num_heads=2,
            out_chans=width,
            use_rel_pos=True,
            window_size=2,
            global_attn_indexes=(1,),
        )
        prompts = PromptEncoder(
            embed_dim=width, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=32, num_heads=2)
        decoder = MaskDecoder(transformer_dim=width, transformer=transformer, num_multimask_outputs=3)
        return Sam(encoder, prompts, decoder).eval()

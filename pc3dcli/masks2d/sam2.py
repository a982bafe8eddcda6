# SPDX-License-Identifier: Apache-2.0
"""Masks from SAM 2 (Ravi et al., 2024) through its own package `sam2`, and the loading of its checkpoints.

Any official checkpoint of sam2 or sam2.1 works by path; which of the eight models it is, is read off its tensors, and
the model is built from the package's own configuration file.  Nothing is downloaded.  The generator runs with its
published defaults, which are SAM's but for a predicted IoU of 0.8 (granularity_tracking.md section 3.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pc3dcli.errors import UsageError, WeightsError
from pc3dcli.masks2d.grid_prompts import GridPromptsConfig, masks_of_annotations
from pc3dcli.masks2d.mask2d import Mask2d
from pc3dcli.nn.torchvision_cpu import import_torchvision
from pc3dcli.nn.weights import load_exactly, read_state_dict

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

# (width, depth) of the image encoder to the size and to the letters in the name of its configuration file
VARIANTS = {
    (96, 12): ("tiny", "t"),
    (96, 16): ("small", "s"),
    (112, 24): ("base_plus", "b+"),
    (144, 48): ("large", "l"),
}
PREDICTED_IOU = 0.8  # default of the package


class Sam2:
    """All masks of an image, by prompting SAM 2 with a grid of points."""

    def __init__(
        self, weights: Path | SAM2Base, device: str = "cpu", config: GridPromptsConfig = GridPromptsConfig()
    ) -> None:
        """Load the network.

        weights  official checkpoint (.pt or .safetensors), or a model of the package that is built already
        device   torch device
        raises   UsageError without the package, InputError without the file, WeightsError for any other content
        """
        model = weights if isinstance(weights, torch.nn.Module) else load_sam2(Path(weights))
        import_sam2()
        from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

        self._generator = SAM2AutomaticMaskGenerator(
            model.to(device).eval(), **config.generator_arguments(PREDICTED_IOU)
        )
        # the package writes the feature sizes of a 1024 pixel image into its predictor, whatever the model's size
        size = model.image_size
        self._generator.predictor._bb_feat_sizes = [(size // stride, size // stride) for stride in (4, 8, 16)]
        self._device = torch.device(device)

    def masks(self, view) -> list[Mask2d]:
        """Return the masks of a frame, best predicted IoU first.

        view     has `rgb`, (H, W, 3) uint8
        returns  masks (H, W) bool with the score predicted_iou * stability * (1 - edge_touch)
        """
        with autocast(self._device):
            found = self._generator.generate(view.rgb)
        return masks_of_annotations(found)


def load_sam2(path: Path, *, video: bool = False) -> SAM2Base:
    """Build the model a checkpoint is of and load it, on the CPU.

    video   build the package's video predictor, a subclass of the image model with the same tensors
    raises  UsageError without the package, InputError without the file, WeightsError for any other content
    """
    import_sam2()
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    tensors = read_state_dict(path)
    variant = sam2_variant(tensors)
    if variant is None:
        raise WeightsError("these are not weights of a sam2 or sam2.1 model", file=path, hint=_hint(tensors))
    kind, config = variant
    model = (build_sam2_video_predictor if video else build_sam2)(config, ckpt_path=None, device="cpu")
    load_exactly(model, tensors, file=path, kind=kind)
    return model


def sam2_variant(tensors: dict[str, torch.Tensor]) -> tuple[str, str] | None:
    """Return the name and the package's configuration file of a model, or None when it is no SAM 2.

    returns  for example ("sam2.1 tiny", "configs/sam2.1/sam2.1_hiera_t.yaml")
    """
    patches = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if patches is None or patches.ndim != 4 or "memory_encoder.out_proj.weight" not in tensors:
        return None
    blocks = {name.split(".")[3] for name in tensors if name.startswith("image_encoder.trunk.blocks.")}
    size = VARIANTS.get((patches.shape[0], len(blocks)))
    if size is None:
        return None
    # sam2.1 added an embedding of absence to the spatial memory; the shapes of all else agree
    version = "sam2.1" if "no_obj_embed_spatial" in tensors else "sam2"
    return f"{version} {size[0]}", f"configs/{version}/{version}_hiera_{size[1]}.yaml"


def autocast(device: torch.device) -> torch.autocast:
    """Return the context SAM 2 runs in: bfloat16 on a GPU, as its authors do, and no change on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def import_sam2() -> None:
    """Import the package `sam2`, whichever distribution brings it.

    raises  UsageError when it is not installed
    """
    import_torchvision()
    try:
        import sam2.build_sam  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"SAM 2 needs the package sam2 ({error})", hint="pip install 'pc3d[sam]'") from None


def _hint(tensors: dict[str, torch.Tensor]) -> str | None:
    is_sam1 = "image_encoder.patch_embed.proj.weight" in tensors
    return "this looks like a checkpoint of the first SAM: use --masks sam --sam-weights FILE" if is_sam1 else None

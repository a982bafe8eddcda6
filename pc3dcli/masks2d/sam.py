# SPDX-License-Identifier: Apache-2.0
"""Masks from the Segment Anything Model (Kirillov et al., 2023) through its own package `segment-anything`.

Any official checkpoint works by path; which of vit_b, vit_l and vit_h it is, is read off the shapes of its tensors.
The automatic generator runs with its published defaults (granularity_tracking.md section 3.2): a 32 x 32 grid of
points, predicted IoU 0.88, stability 0.95, box non-maximum suppression 0.7, no crops.
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
    from segment_anything.modeling import Sam as SamModel

# (width, depth) of the image encoder to the name in the package's own table of builders
VARIANTS = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
PREDICTED_IOU = 0.88  # default of the package


class Sam:
    """All masks of an image, by prompting SAM with a grid of points."""

    def __init__(
        self, weights: Path | SamModel, device: str = "cpu", config: GridPromptsConfig = GridPromptsConfig()
    ) -> None:
        """Load the network.

        weights  official checkpoint (.pth, .pt or .safetensors), or a model of the package that is built already
        device   torch device
        raises   UsageError without the package, InputError without the file, WeightsError for any other content
        """
        model = weights if isinstance(weights, torch.nn.Module) else load_sam(Path(weights))
        _import_segment_anything()
        from segment_anything import SamAutomaticMaskGenerator

        self._generator = SamAutomaticMaskGenerator(
            model.to(device).eval(), **config.generator_arguments(PREDICTED_IOU)
        )

    def masks(self, view) -> list[Mask2d]:
        """Return the masks of a frame, best predicted IoU first.

        view     has `rgb`, (H, W, 3) uint8
        returns  masks (H, W) bool with the score predicted_iou * stability * (1 - edge_touch)
        """
        found = self._generator.generate(view.rgb)
        return masks_of_annotations(found)


def load_sam(path: Path) -> SamModel:
    """Build the model a checkpoint is of and load it, on the CPU.

    raises  UsageError without the package, InputError without the file, WeightsError for any other content
    """
    registry = _import_segment_anything().sam_model_registry
    tensors = read_state_dict(path)
    name = sam_variant(tensors)
    if name is None:
        raise WeightsError("these are not weights of SAM vit_b, vit_l or vit_h", file=path, hint=_hint(tensors))
    model = registry[name]()
    load_exactly(model, tensors, file=path, kind=f"SAM {name}")
    return model


def sam_variant(tensors: dict[str, torch.Tensor]) -> str | None:
    """Return "vit_b", "vit_l" or "vit_h", or None when the tensors are not those of a SAM."""
    patches = tensors.get("image_encoder.patch_embed.proj.weight")
    if patches is None or patches.ndim != 4 or "mask_decoder.iou_token.weight" not in tensors:
        return None
    blocks = {name.split(".")[2] for name in tensors if name.startswith("image_encoder.blocks.")}
    return VARIANTS.get((patches.shape[0], len(blocks)))


def _hint(tensors: dict[str, torch.Tensor]) -> str | None:
    is_sam2 = any(name.startswith("image_encoder.trunk.") for name in tensors)
    return "this looks like a SAM 2 checkpoint: use --masks sam2 --sam2-weights FILE" if is_sam2 else None


def _import_segment_anything():
    import_torchvision()
    try:
        import segment_anything
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--masks sam needs the package segment-anything ({error})", hint="pip install 'pc3d[sam]'"
        ) from None
    return segment_anything

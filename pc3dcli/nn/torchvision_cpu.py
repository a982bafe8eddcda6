# SPDX-License-Identifier: Apache-2.0
"""The one place through which torchvision is imported, with a cure for its CUDA build beside a CPU torch.

Where a package index has only CUDA builds of torchvision, its compiled operators cannot be loaded by a CPU torch and
`import torchvision` ends with "operator torchvision::nms does not exist" (a RuntimeError, so that `except ImportError`
misses it); segment-anything, sam2, timm and open_clip die with it.  The cure declares the two operators that the
import asks for and gives them CPU kernels written here.  Nothing is touched where torch has CUDA, or where
torchvision's own operators load.  Operators other than non-maximum suppression (roi_align, deform_conv2d, ...) stay
missing and raise when they are called.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from pc3dcli.errors import UsageError

# operator registrations live as long as the library object that made them
_LIBRARIES: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, cured if need be, and return it; call this before importing anything that imports it.

    raises  UsageError when torchvision is not installed
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("this needs the package torchvision, which is not installed", hint="pip install 'pc3d[sam]'")
    if torch.version.cuda is not None or _own_operators_load(Path(spec.submodule_search_locations[0])):
        import torchvision

        return torchvision
    _register_nms()
    import torchvision
    from torchvision import extension

    # torchvision.ops asks this before each call of a compiled operator; ours is there now
    extension._has_ops = lambda: True
    return torchvision


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keep the best box of each group that overlaps: torchvision's `nms` in plain torch.

    boxes          (N, 4) float, x0 y0 x1 y1
    scores         (N,) float; equal scores keep their order
    iou_threshold  a box is dropped when its IoU with a kept one is above this
    returns        (M,) int64 indices of the kept boxes, best first
    """
    order = scores.sort(descending=True, stable=True).indices
    boxes = boxes[order].float()  # O(N M): 1,000 boxes with 300 kept take about 10 ms
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    is_left = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept = []
    for index in range(len(boxes)):
        if not is_left[index]:
            continue
        kept.append(index)
        rest = boxes[index + 1 :]
        low = torch.maximum(boxes[index, :2], rest[:, :2])
        high = torch.minimum(boxes[index, 2:], rest[:, 2:])
        overlap = (high - low).clamp(min=0).prod(dim=1)
        # two empty boxes give 0 / 0 = NaN, which is not above the threshold: both stay, as in torchvision
        is_left[index + 1 :] &= ~(overlap / (area[index] + area[index + 1 :] - overlap) > iou_threshold)
    return order[torch.tensor(kept, dtype=torch.int64, device=boxes.device)]


def _own_operators_load(folder: Path) -> bool:
    """Tell whether the compiled operators in torchvision's folder fit this torch."""
    libraries = sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd")) + sorted(folder.glob("_C*.dylib"))
    try:
        torch.ops.load_library(str(libraries[0]))
    except (IndexError, OSError):  # no library, or one whose CUDA libraries are missing
        return False
    return True


def _register_nms() -> None:
    if _LIBRARIES:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    library.impl(
        "qnms", lambda boxes, scores, limit: nms(boxes.dequantize(), scores.dequantize(), limit), "QuantizedCPU"
    )
    _LIBRARIES.append(library)

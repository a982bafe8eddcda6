# SPDX-License-Identifier: Apache-2.0
import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

from pc3dcli.errors import InputError, UsageError, WeightsError
from pc3dcli.masks2d import sam2 as module
from pc3dcli.masks2d.grid_prompts import GridPromptsConfig
from pc3dcli.masks2d.sam2 import Sam2, import_sam2, load_sam2, sam2_variant

needs_package = pytest.mark.skipif(importlib.util.find_spec("sam2") is None, reason="no sam2")
networks = runpy.run_path(str(Path(__file__).with_name("tiny_networks.py")))
tiny_sam2 = networks["tiny_sam2"]
LENIENT = GridPromptsConfig(points_per_side=3, predicted_iou=-10.0, stability=0.0, box_nms=1.0)
MODELS = [(version, size) for version in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")]


def some_view(seed: int = 0, size: tuple[int, int] = (48, 64)) -> SimpleNamespace:
    rgb = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return SimpleNamespace(rgb=rgb, depth=None, size=size)


def shapes_of(monkeypatch, version: str, size: str) -> dict[str, torch.Tensor]:
    """Return the state dict of an official model on the meta device, which needs no memory."""
    import_sam2()
    from sam2.build_sam import build_sam2

    on_cpu = torch.linspace  # the encoder reads numbers out of a linspace, which a meta tensor does not have
    monkeypatch.setattr(torch, "linspace", lambda *values, **named: on_cpu(*values, **{**named, "device": "cpu"}))
    with torch.device("meta"):
        return build_sam2(f"configs/{version}/{version}_hiera_{size}.yaml", None, device="meta").state_dict()


@needs_package
@pytest.mark.parametrize("image_size", [64, 128])
def test_masks_have_the_size_of_the_frame_whatever_the_models_image_size(image_size):
    found = Sam2(tiny_sam2(video=False, image_size=image_size), config=LENIENT).masks(some_view())
    assert found
    assert all(one.mask.shape == (48, 64) and one.mask.dtype == bool and one.mask.any() for one in found)
    assert all(0.0 <= one.score <= 1.0 for one in found)


@needs_package
def test_defaults_are_the_published_ones():
    generator = Sam2(tiny_sam2(video=False))._generator
    assert len(generator.point_grids[0]) == 32 * 32
    assert (generator.pred_iou_thresh, generator.stability_score_thresh) == (0.8, 0.95)
    assert (generator.stability_score_offset, generator.box_nms_thresh, generator.crop_n_layers) == (1.0, 0.7, 0)


@needs_package
@pytest.mark.parametrize(
    "setting", [{"points_per_side": 2}, {"predicted_iou": 5.0}, {"stability": 1.0}, {"box_nms": 0.01}]
)
def test_every_setting_matters(setting):
    view, model = some_view(), tiny_sam2(video=False)
    plain = Sam2(model, config=LENIENT).masks(view)
    changed = Sam2(model, config=GridPromptsConfig(**{**vars(LENIENT), **setting})).masks(view)
    assert len(changed) < len(plain)


@needs_package
@pytest.mark.parametrize(("version", "size"), MODELS)
def test_official_shapes_are_recognised(monkeypatch, version, size):
    names = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
    expected = (f"{version} {names[size]}", f"configs/{version}/{version}_hiera_{size}.yaml")
    assert sam2_variant(shapes_of(monkeypatch, version, size)) == expected


@needs_package
def test_an_official_tiny_checkpoint_loads_by_path(tmp_path):
    """The real thing but for its values: 39 M parameters, written as the authors do."""
    import_sam2()
    from sam2.build_sam import build_sam2

    model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, file)
    loaded = load_sam2(file, video=True)
    assert type(loaded).__name__ == "SAM2VideoPredictor"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def stand_in_for_tiny(monkeypatch):
    """Let the package build the small network of the tests for what is recognised as sam2.1 tiny."""
    import_sam2()
    import sam2.build_sam

    small = tiny_sam2(video=False, seed=5)
    monkeypatch.setattr(module, "VARIANTS", {(8, 5): ("tiny", "t")})
    monkeypatch.setattr(sam2.build_sam, "build_sam2", lambda *args, **named: small)


@needs_package
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_loaded_checkpoint_gives_the_same_masks(tmp_path, monkeypatch, suffix):
    view, model = some_view(), tiny_sam2(video=False, seed=1)
    stand_in_for_tiny(monkeypatch)
    file = tmp_path / f"sam2.{suffix}"
    if suffix == "pt":
        torch.save({"model": model.state_dict()}, file)
    else:
        safetensors.torch.save_file(model.state_dict(), file)
    loaded = load_sam2(file)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    from_file, from_model = Sam2(file, config=LENIENT).masks(view), Sam2(model, config=LENIENT).masks(view)
    assert len(from_file) == len(from_model)
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(from_file, from_model, strict=True))


@needs_package
def test_wrong_weights_are_refused(tmp_path, monkeypatch):
    tensors = tiny_sam2(video=False).state_dict()
    torch.save({"model": tensors}, tmp_path / "small.pt")
    with pytest.raises(WeightsError, match="not weights of a sam2 or sam2.1 model"):
        load_sam2(tmp_path / "small.pt")
    stand_in_for_tiny(monkeypatch)
    del tensors["no_mem_embed"]
    torch.save({"model": tensors}, tmp_path / "less.pt")
    with pytest.raises(WeightsError, match="sam2.1 tiny: the file lacks no_mem_embed"):
        load_sam2(tmp_path / "less.pt")
    torch.save(networks["tiny_sam"]().state_dict(), tmp_path / "sam.pth")
    with pytest.raises(WeightsError) as caught:
        load_sam2(tmp_path / "sam.pth")
    assert "--masks sam " in caught.value.hint


@needs_package
def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        Sam2(tmp_path / "sam2.pt")


def test_a_missing_package_is_a_usage_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "import_torchvision", lambda: None)
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(UsageError) as caught:
        Sam2(tmp_path / "sam2.pt")
    assert caught.value.hint == "pip install 'pc3d[sam]'"

# SPDX-License-Identifier: Apache-2.0
import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pc3dcli.errors import InputError, UsageError, WeightsError
from pc3dcli.masks2d import sam
from pc3dcli.masks2d.grid_prompts import GridPromptsConfig
from pc3dcli.masks2d.quality import edge_touch, mask_quality
from pc3dcli.masks2d.sam import Sam, load_sam, sam_variant

needs_package = pytest.mark.skipif(importlib.util.find_spec("segment_anything") is None, reason="no segment-anything")
networks = runpy.run_path(str(Path(__file__).with_name("tiny_networks.py")))
tiny_sam = networks["tiny_sam"]
# a random network is sure of nothing: keep what it finds
LENIENT = GridPromptsConfig(points_per_side=3, predicted_iou=-10.0, stability=0.0, box_nms=1.0)


def some_view(seed: int = 0, size: tuple[int, int] = (48, 64)) -> SimpleNamespace:
    rgb = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return SimpleNamespace(rgb=rgb, depth=None, size=size)


def test_edge_touch_by_hand():
    mask = np.zeros((5, 6), bool)
    assert edge_touch(mask) == 0.0
    mask[1:4, 1:4] = True  # 8 boundary pixels, none on the border
    assert edge_touch(mask) == 0.0
    mask = np.zeros((5, 6), bool)
    mask[0:3, 1:4] = True  # 8 boundary pixels, 3 of them in the first row
    assert edge_touch(mask) == pytest.approx(3 / 8)
    assert edge_touch(np.ones((5, 6), bool)) == 1.0
    assert edge_touch(np.ones((1, 1), bool)) == 1.0


def test_quality_multiplies_the_three_factors_and_stays_in_range():
    mask = np.zeros((5, 6), bool)
    mask[0:3, 1:4] = True
    assert mask_quality(mask, 0.8, 0.9) == pytest.approx(0.8 * 0.9 * 5 / 8)
    assert mask_quality(mask, 1.2, 1.0) == pytest.approx(5 / 8)
    assert mask_quality(mask, -1.0, 1.0) == 0.0


@needs_package
def test_masks_have_the_size_of_the_frame_and_scores_in_range():
    view = some_view()
    found = Sam(tiny_sam(), config=LENIENT).masks(view)
    assert found
    assert all(one.mask.shape == (48, 64) and one.mask.dtype == bool and one.mask.any() for one in found)
    assert all(0.0 <= one.score <= 1.0 for one in found)


@needs_package
def test_scores_are_those_of_the_generator():
    from segment_anything import SamAutomaticMaskGenerator

    view, model = some_view(), tiny_sam()
    found = Sam(model, config=LENIENT).masks(view)
    generator = SamAutomaticMaskGenerator(
        model, points_per_side=3, pred_iou_thresh=-10.0, stability_score_thresh=0.0, box_nms_thresh=1.0
    )
    expected = [one for one in generator.generate(view.rgb) if one["segmentation"].any()]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.mask, other["segmentation"])
        touch = edge_touch(one.mask)
        factors = np.clip([other["predicted_iou"], other["stability_score"]], 0, 1)
        assert one.score == pytest.approx(factors[0] * factors[1] * (1 - touch))


@needs_package
def test_defaults_are_the_published_ones():
    generator = Sam(tiny_sam())._generator
    assert len(generator.point_grids[0]) == 32 * 32
    assert (generator.pred_iou_thresh, generator.stability_score_thresh) == (0.88, 0.95)
    assert (generator.stability_score_offset, generator.box_nms_thresh, generator.crop_n_layers) == (1.0, 0.7, 0)


@needs_package
@pytest.mark.parametrize(
    "setting", [{"points_per_side": 2}, {"predicted_iou": 5.0}, {"stability": 1.0}, {"box_nms": 0.01}]
)
def test_every_setting_matters(setting):
    view, model = some_view(), tiny_sam()
    plain = Sam(model, config=LENIENT).masks(view)
    changed = Sam(model, config=GridPromptsConfig(**{**vars(LENIENT), **setting})).masks(view)
    assert len(changed) < len(plain)


@needs_package
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_shapes_are_recognised(name):
    registry = sam._import_segment_anything().sam_model_registry
    with torch.device("meta"):  # shapes without memory
        tensors = registry[name]().state_dict()
    assert sam_variant(tensors) == name


def stand_in_for_vit_b(monkeypatch):
    """Let the table of builders give the tiny network where the package has vit_b."""
    import segment_anything

    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", lambda: tiny_sam(seed=5))
    monkeypatch.setattr(sam, "VARIANTS", {(16, 2): "vit_b"})


@needs_package
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_checkpoint_loads_by_path(tmp_path, monkeypatch, suffix):
    model, view = tiny_sam(seed=1), some_view()
    stand_in_for_vit_b(monkeypatch)
    file = tmp_path / f"sam.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), file)
    else:
        import safetensors.torch

        safetensors.torch.save_file(model.state_dict(), file)
    from_file, from_model = Sam(file, config=LENIENT).masks(view), Sam(model, config=LENIENT).masks(view)
    assert len(from_file) == len(from_model)
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(from_file, from_model, strict=True))


@needs_package
def test_wrong_weights_are_refused(tmp_path, monkeypatch):
    tensors = tiny_sam().state_dict()
    torch.save(tensors, tmp_path / "small.pth")
    with pytest.raises(WeightsError, match="not weights of SAM vit_b, vit_l or vit_h"):
        load_sam(tmp_path / "small.pth")
    stand_in_for_vit_b(monkeypatch)
    tensors["mask_decoder.extra"] = torch.ones(1)
    torch.save(tensors, tmp_path / "extra.pth")
    with pytest.raises(WeightsError, match="has unknown mask_decoder.extra"):
        load_sam(tmp_path / "extra.pth")
    torch.save({"model": networks["tiny_sam2"](video=False).state_dict()}, tmp_path / "sam2.pt")
    with pytest.raises(WeightsError) as caught:
        load_sam(tmp_path / "sam2.pt")
    assert "--masks sam2" in caught.value.hint


@needs_package
def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        Sam(tmp_path / "sam.pth")


def test_a_missing_package_is_a_usage_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sam, "import_torchvision", lambda: None)
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(UsageError) as caught:
        Sam(tmp_path / "sam.pth")
    assert caught.value.hint == "pip install 'pc3d[sam]'"

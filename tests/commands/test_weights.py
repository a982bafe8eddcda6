# SPDX-License-Identifier: Apache-2.0
"""Weights of either origin: ours, and every released layout of Point-MAE, Point-M2AE and GeoMask3D (notes 2.4, 2.7)."""

import dataclasses

import pytest
import safetensors.torch
import torch

from pc3dcli.commands.weights import (
    base_config,
    base_tensors,
    downstream_model,
    new_downstream,
    open_weights,
    pretrained_model,
    weights_digest,
)
from pc3dcli.errors import InputError, WeightsError
from pc3dcli.nn.model_files import write_model
from pc3dcli.papers.geomask3d import point_m2ae_released, point_mae_released
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig

# sizes that shapes do not tell are those of the defaults: 6 heads, 64 patches, ...
MAE = PointMaeConfig(dim=12, depth=2, decoder_depth=1, patch_size=8)
M2AE = PointM2aeConfig(dims=(6, 12, 24), depth=1)
CLASSES = [str(index) for index in range(5)]


def description(base, kind, depth=None, **more):
    config = dataclasses.asdict(MAE if base == "point-mae" else M2AE)
    config["depth"] = depth or config["depth"]
    return {"method": "geomask3d", "kind": kind, "base": base, "config": config, **more}


def mae():
    torch.manual_seed(0)
    return PointMae(MAE)


def m2ae():
    torch.manual_seed(0)
    return PointM2ae(M2AE)


def old_m2ae_names(tensors):
    names = {"h_encoder.token_embed.": "MAE_encoder.encoders.", "h_encoder.encoder_blocks.": "MAE_encoder.blocks."}
    names["h_encoder."] = "MAE_encoder."
    found = {}
    for name, value in tensors.items():
        old = next((old for old in names if name.startswith(old)), "")
        found[names.get(old, "") + name.removeprefix(old)] = value
    return found


def gm3d_names(tensors):
    found = {name.replace("MAE_encoder.norm.", "MAE_encoder.norm_p."): value for name, value in tensors.items()}
    return found | {
        "norm_p.weight": torch.ones(12),
        "mask_token_loss_pred": torch.zeros(1, 1, 12),
        "MAE_decoder_loss_pred.norm.weight": torch.ones(12),
        "increase_dim_2.0.weight": torch.ones(1024, 12, 1),
        "increase_dim_just_network_without_feature.0.weight": tensors["increase_dim.0.weight"],
    }


def prefixed(tensors):
    return {f"module.{name}": value for name, value in tensors.items()}


def mae_files():
    released = point_mae_released.to_released(mae().state_dict())
    return {
        "plain": released,
        "base_model": {"base_model": prefixed(released), "optimizer": {"state": {}}, "epoch": 300},
        "model": {"model": released},
        "gm3d": {"epoch": 3, "state_dict": gm3d_names(released), "optimizer": {}, "model": "student"},
    }


def m2ae_files():
    released = point_m2ae_released.to_released(m2ae().state_dict())
    return {
        "plain": released,
        "base_model": {"base_model": prefixed(released), "epoch": 1},
        "old": {"base_model": old_m2ae_names(released)},
    }


@pytest.mark.parametrize("layout", ["plain", "base_model", "model", "gm3d"])
def test_released_point_mae(tmp_path, layout):
    torch.save(mae_files()[layout], tmp_path / "x.pth")
    config, tensors = open_weights(tmp_path / "x.pth")
    assert (config["base"], config["kind"], config["method"]) == ("point-mae", "pretrain", "released")
    expected, tensors = mae().state_dict(), base_tensors(tensors)
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)
    model, _ = pretrained_model(tmp_path / "x.pth", "a test")
    assert model.config == MAE and not model.training


@pytest.mark.parametrize("layout", ["plain", "base_model", "old"])
def test_released_point_m2ae(tmp_path, layout):
    torch.save(m2ae_files()[layout], tmp_path / "x.pth")
    model, config = pretrained_model(tmp_path / "x.pth", "a test")
    assert config["base"] == "point-m2ae" and model.config == M2AE
    expected = m2ae().state_dict()
    assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("base", "variant"), [("point-mae", None), ("point-m2ae", "modelnet"), ("point-m2ae", "scanobjectnn")]
)
def test_released_classifiers(tmp_path, base, variant, suffix):
    model = new_downstream(description(base, "classify", classes=CLASSES, variant=variant))
    names = point_mae_released if base == "point-mae" else point_m2ae_released
    arguments = ("classify",) if base == "point-mae" else ()
    released = {name: value.contiguous() for name, value in names.to_released(model.state_dict(), *arguments).items()}
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    save(released, tmp_path / f"x.{suffix}")
    found, config = downstream_model(tmp_path / f"x.{suffix}", "classify", "a test")
    assert config["classes"] == CLASSES and config.get("variant") == variant
    assert found.config.num_points == (2048 if variant == "scanobjectnn" else 1024)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_released_point_mae_of_fifteen_classes_is_of_scans(tmp_path):
    model = new_downstream(description("point-mae", "classify", classes=list(range(15))))
    torch.save(point_mae_released.to_released(model.state_dict(), "classify"), tmp_path / "x.pth")
    found, _ = downstream_model(tmp_path / "x.pth", "classify", "a test")
    assert (found.config.num_points, found.config.num_patches) == (2048, 128)


@pytest.mark.parametrize("base", ["point-mae", "point-m2ae"])
def test_released_parts(tmp_path, base):
    model = new_downstream(description(base, "parts", depth=3))
    names = point_mae_released if base == "point-mae" else point_m2ae_released
    released = names.to_released(model.state_dict(), *(("parts",) if base == "point-mae" else ()))
    torch.save({"model_state_dict": prefixed(released), "epoch": 3}, tmp_path / "x.pth")
    found, config = downstream_model(tmp_path / "x.pth", "parts", "a test")
    assert config["kind"] == "parts"
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


def test_ours_as_folder_and_as_file(tmp_path):
    head = {"gc_head.mask_token": torch.zeros(1, 1, 12)}
    write_model(tmp_path / "run", mae().state_dict() | head, description("point-mae", "pretrain"))
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        model, config = pretrained_model(path, "a test")
        assert model.config == MAE and config["method"] == "geomask3d"
    assert weights_digest(tmp_path / "run") == weights_digest(tmp_path / "run" / "model.safetensors")
    write_model(tmp_path / "c", new_downstream(description("point-m2ae", "classify", classes=CLASSES)).state_dict(),
                description("point-m2ae", "classify", classes=CLASSES))  # fmt: skip
    assert len(downstream_model(tmp_path / "c", "classify", "a test")[1]["classes"]) == 5


def test_what_is_refused_names_the_first_keys(tmp_path):
    released = mae_files()["plain"]
    cases = [
        ({"conv1.weight": torch.ones(1)}, "conv1.weight, expected a Point-MAE"),
        (released | {"extra.weight": torch.ones(1)}, "extra.weight"),
        ({name: value for name, value in released.items() if name != "mask_token"}, "lacks mask_token"),
        (released | {"mask_token": torch.ones(1, 1, 13)}, r"mask_token \(1, 1, 13\)"),
        (released | {"module.module.mask_token": torch.ones(1, 1, 12)}, "module.mask_token"),  # one prefix only
        (released | {"mask_token": torch.full((1, 1, 12), float("nan"))}, "not finite"),
    ]
    for tensors, words in cases:
        torch.save(tensors, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=words) as caught:
            pretrained_model(tmp_path / "x.pth", "a test")
        assert caught.value.file == tmp_path / "x.pth"


def test_weights_of_another_kind_are_refused(tmp_path):
    torch.save(mae_files()["plain"], tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="kind pretrain, a test needs classify") as caught:
        downstream_model(tmp_path / "x.pth", "classify", "a test")
    assert "pc3d distill --method classify" in caught.value.hint
    with pytest.raises(InputError):
        open_weights(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="model.safetensors"):
        open_weights(tmp_path / "empty")


def test_a_config_that_does_not_fit_is_a_weights_error():
    with pytest.raises(WeightsError, match="config is not of a point-mae"):
        base_config("point-mae", {"dim": 13})
    with pytest.raises(WeightsError, match="does not describe"):
        new_downstream(description("point-mae", "classify"))
    with pytest.raises(WeightsError, match="depth = 2: parts are read at three depths"):
        new_downstream(description("point-mae", "parts"))

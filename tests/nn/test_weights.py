# SPDX-License-Identifier: Apache-2.0
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from pc3dcli.errors import InputError, WeightsError
from pc3dcli.nn.weights import load_exactly, read_state_dict


class Harmful:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
def test_reads_what_was_saved(tmp_path, name):
    tensors = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones(2, dtype=torch.float16)}
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(tensors, tmp_path / name)
    read = read_state_dict(tmp_path / name)
    assert set(read) == {"x", "y"}
    assert all(torch.equal(read[key], tensors[key]) for key in read)


@pytest.mark.parametrize("key", ["model", "state_dict", "base_model", "model_state_dict"])
def test_unwraps_a_training_checkpoint(tmp_path, key):
    torch.save({key: {"x": torch.ones(1)}, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    assert list(read_state_dict(tmp_path / "a.pt")) == ["x"]


def test_numpy_numbers_beside_the_weights_are_no_code(tmp_path):
    """Trainers of this field store their best accuracy so."""
    beside = {"metrics": {"acc": np.float64(93.2)}, "best": np.float32(1), "epoch": np.int64(3)}
    torch.save({"base_model": {"x": torch.ones(1)}, **beside}, tmp_path / "a.pth")
    assert list(read_state_dict(tmp_path / "a.pth")) == ["x"]


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        read_state_dict(tmp_path / "a.pt")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    victim = tmp_path / "touched"
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"x": Harmful(victim)}))
    torch.save({"x": Harmful(victim)}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(WeightsError) as caught:
            read_state_dict(tmp_path / name)
        assert "never runs code" in caught.value.hint
    assert not victim.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1.0}, {}, "text", {3: torch.ones(1)}])
def test_other_content_is_a_weights_error(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="expected named tensors"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files_are_weights_errors(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    save({"x": torch.arange(2000.0)}, file)
    good = file.read_bytes()
    for damaged in (b"", b"junk", good[:40], good[: len(good) // 2], b"\x80\x02" + good):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError):
            read_state_dict(file)


def test_load_exactly_loads_and_names_every_kind_of_difference(tmp_path):
    model = torch.nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    load_exactly(model, good, file=tmp_path, kind="a line")
    assert torch.equal(model.weight, good["weight"])
    cases = [
        ({"weight": good["weight"]}, "lacks bias"),
        ({**good, "other": torch.ones(1)}, "has unknown other"),
        ({**good, "bias": torch.zeros(4)}, r"has bias \(4,\) instead of \(3,\)"),
        ({**good, "bias": torch.zeros(3, dtype=torch.int64)}, r"has bias \(3,\) of integers instead of \(3,\)"),
        ({**good, "bias": torch.tensor([0.0, float("nan"), 0.0])}, "bias holds values that are not finite"),
    ]
    for tensors, message in cases:
        with pytest.raises(WeightsError, match=message):
            load_exactly(model, tensors, file=tmp_path, kind="a line")
    assert torch.equal(model.bias, good["bias"])


class Hostile:
    def __reduce__(self) -> tuple:
        return print, ("code ran",)


def test_code_in_a_pickle_is_named_not_run(tmp_path, capfd):
    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(WeightsError, match=r"\(Unsupported global: GLOBAL print was not"):
        read_state_dict(tmp_path / "hostile.pth")
    assert capfd.readouterr() == ("", "")


def test_settings_of_lightning_beside_the_weights_are_no_obstacle(tmp_path, monkeypatch):
    """Released Mask3D and Segment3D files hold omegaconf's objects; other classes stay refused."""
    import sys
    import types

    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for name in ("omegaconf.dictconfig", "elsewhere"):
        found = types.ModuleType(name)
        kind = type("DictConfig", (), {"__module__": name, "__qualname__": "DictConfig"})
        found.DictConfig = kind
        monkeypatch.setitem(sys.modules, name, found)
        settings = kind()
        settings.content = {"voxel": 0.02}
        path = tmp_path / f"{name}.ckpt"
        torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": settings}, path)
        monkeypatch.delitem(sys.modules, name)
        if name == "elsewhere":
            with pytest.raises(WeightsError, match="elsewhere"):
                read_state_dict(path)
        else:
            assert read_state_dict(path)["a"].tolist() == [1, 1]

# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from pc3dcli.errors import InputError, WeightsError
from pc3dcli.nn.model_files import is_model, read_model, read_tensors, write_model

TENSORS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7), "c": torch.ones(3).bfloat16()}
DESCRIPTION = {"method": "geomask3d", "kind": "pretrain", "base": "point-mae", "config": {"dim": 384}, "classes": []}
PROGRAMS = [{"type": "program", "id": "abc", "program": "pc3d pretrain"}]


@pytest.fixture
def folder(tmp_path):
    path = write_model(tmp_path / "run", TENSORS, DESCRIPTION, PROGRAMS)
    assert path == tmp_path / "run/model.safetensors"
    return path.parent


def test_round_trip_of_folder_and_file(folder):
    for path in (folder, folder / "model.safetensors"):
        description, tensors = read_model(path)
        assert description == {"format": "pc3d.weights/1"} | DESCRIPTION
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
        assert tensors["c"].dtype == torch.bfloat16


def test_the_weights_alone_are_enough(folder, tmp_path):
    alone = tmp_path / "moved.safetensors"
    alone.write_bytes((folder / "model.safetensors").read_bytes())
    assert read_model(alone)[0]["base"] == "point-mae"
    metadata = read_tensors(alone)[1]
    assert (metadata["format"], metadata["method"]) == ("pc3d", "geomask3d")
    assert json.loads(metadata["pc3d"]) == PROGRAMS


def test_same_tensors_same_bytes(folder, tmp_path):
    backwards = dict(reversed(TENSORS.items()))
    again = write_model(tmp_path / "again", backwards, dict(reversed(DESCRIPTION.items())), PROGRAMS)
    assert again.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_views_and_transposes_are_written_as_they_look(tmp_path):
    matrix = torch.arange(6.0).reshape(2, 3)
    write_model(tmp_path, {"t": matrix.T}, DESCRIPTION)
    assert torch.equal(read_model(tmp_path)[1]["t"], matrix.T)


def test_files_of_two_runs_do_not_mix(folder, tmp_path):
    write_model(tmp_path / "other", TENSORS, DESCRIPTION | {"base": "point-m2ae"})
    (folder / "config.json").write_bytes((tmp_path / "other/config.json").read_bytes())
    with pytest.raises(WeightsError, match="says something else than model.safetensors"):
        read_model(folder)


def test_every_truncation_is_reported(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(WeightsError):
            read_model(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "carries no description"),
        ("[1]", "carries no description"),
        ('{"format": "pc3d.weights/2"}', "found format 'pc3d.weights/2', expected 'pc3d.weights/1'"),
        ('{"format": "pc3d.weights/1", "kind": "x", "config": {}}', "found kind 'x', expected one of pretrain"),
        ("[" * 100_000, "carries no description"),
    ],
)
def test_descriptions_that_are_none(folder, config, message):
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=message):
        read_model(folder)


def test_no_weights(tmp_path):
    with pytest.raises(InputError, match="no weights here, expected model.safetensors"):
        read_model(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_model(tmp_path / "x.safetensors")


def test_what_is_a_model_of_ours(folder, tmp_path):
    from safetensors.torch import save_file

    assert is_model(folder)
    assert is_model(folder / "model.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "x.pth").write_bytes(b"PK")
    assert not is_model(tmp_path / "other.safetensors")
    assert not is_model(tmp_path / "x.pth")
    assert not is_model(tmp_path / "none.pth")


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def save(tensors, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save", save)
    with pytest.raises(OSError, match="No space"):
        write_model(folder, TENSORS, DESCRIPTION)
    assert (folder / "model.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2

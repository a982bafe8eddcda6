# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pc3dcli.commands.patch_score_file import read_patch_scores
from pc3dcli.datasets.shape_set import Shape, open_shapes
from pc3dcli.errors import FormatError, InputError
from pc3dcli.formats.cloud import Cloud, read_cloud
from pc3dcli.formats.ply import write_ply
from pc3dcli.geometry.heat import interpolate_heat
from pc3dcli.nn.model_files import write_model
from pc3dcli.papers.geomask3d.gm3d import Gm3d, Gm3dConfig
from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae, PointM2aeConfig
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig
from pc3dcli.worlds.shapes import make_shapes, write_shapes

MAE = PointMaeConfig(num_points=64, num_patches=8, patch_size=8, dim=12, depth=1, heads=2, decoder_depth=1)
M2AE = PointM2aeConfig(
    num_points=64,
    scale_patches=(32, 16, 8),
    patch_sizes=(4, 4, 4),
    dims=(12, 12, 12),
    depth=1,
    heads=2,
    decoder_depth=1,
)


def write_weights(folder: Path, model: torch.nn.Module, base: str, gc_depth: int = 1) -> Path:
    learner = Gm3d(model, Gm3dConfig(mask="random", gc_depth=gc_depth))
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    description = {"method": "geomask3d", "kind": "pretrain", "base": base, "config": asdict(model.config)}
    write_model(folder, learner.exported(), description)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return write_weights(tmp_path_factory.mktemp("mae"), PointMae(MAE), "point-mae")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "train.npz"
    write_shapes(path, make_shapes(18, 0, 96))
    return path


@pytest.fixture(scope="module")
def clouds(tmp_path_factory) -> Path:
    """A folder of five clouds, three of which no network can use."""
    folder = tmp_path_factory.mktemp("clouds")
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(5, 100, 3)).astype(np.float32) * 3 + 7
    xyz[2, 50, 1] = np.nan
    xyz[3] = xyz[3, 0]
    for name, points in zip(("a", "b", "c_nan", "d_equal", "e_few"), (*xyz[:4], xyz[4, :5]), strict=True):
        with (folder / f"{name}.ply").open("wb") as file:
            write_ply(file, Cloud(points))
    return folder


@pytest.fixture
def score(run, weights):
    def start(data, *arguments):
        return run("mask-score", data, "--weights", weights, "--device", "cpu", *arguments)

    return start


def test_records_of_a_shape(score, shapes):
    result = score(shapes)
    assert result.code == 0
    kinds = [record["type"] for record in result.records]
    assert kinds == ["header", "program", *["scene", "patch_score", "scene_end"] * 18, "end"]
    names = open_shapes(shapes, split="all").names
    assert [record["scene"] for record in result.of("scene")] == list(names)
    found = open_shapes(shapes, split="all").read(0).xyz
    for record in result.of("patch_score"):
        scores = np.array(record["tensor"]["data"])
        assert record["tensor"]["shape"] == [8] == [record["patches"]]
        assert sorted(record["rank"]) == list(range(1, 9))
        assert record["rank"][scores.argmax()] == 1
        assert record["mean"] == pytest.approx(scores.mean(), rel=1e-4)
        assert (record["view"], "heat" in record, "difficulty" in record) == ("kfold", False, False)
    centers = np.array(result.of("patch_score")[0]["center"])
    gap = np.linalg.norm(centers[:, None] - found, axis=2).min(axis=1)
    assert gap.max() < 1e-5  # points of the file, in its coordinates
    assert result.of("scene")[0]["num_points"] == 96


def test_parts_of_a_set_give_what_the_whole_gives(score, shapes):
    whole = score(shapes).of("patch_score")
    assert score(shapes, "--limit", 3).of("patch_score") == whole[:3]
    for number in (1, 2):
        assert score(shapes, "--shard", f"{number}/2").of("patch_score") == whole[number - 1 :: 2]


def test_seed_and_view_decide(score, shapes):
    plain = score(shapes, "--limit", 2).of("patch_score")
    assert score(shapes, "--limit", 2, "--seed", 1).of("patch_score") != plain
    full = score(shapes, "--limit", 2, "--view", "full").of("patch_score")
    assert full[0]["tensor"] != plain[0]["tensor"]
    assert full[0]["view"] == "full"


def test_oracle_measures_difficulty(score, shapes):
    result = score(shapes, "--oracle", 2)
    assert result.code == 0
    records = result.of("patch_score")
    for record in records:
        assert np.isfinite(record["difficulty"]).all()
        assert min(record["difficulty"]) > 0
        order = np.argsort(record["tensor"]["data"])[::-1]
        difficulty = np.array(record["difficulty"])
        assert record["difficulty_ratio"] == pytest.approx(difficulty[order[:2]].mean() / difficulty.mean(), rel=1e-3)
    mean = np.mean([record["spearman"] for record in records])
    assert f"Spearman of score and measured difficulty {mean:.3f}" in result.err
    assert "(18 shapes)" in result.err
    assert "Spearman" not in score(shapes, "--oracle", 1, "-q").err
    assert [r["tensor"] for r in score(shapes).of("patch_score")] == [r["tensor"] for r in records]


def test_broken_shapes_are_told_and_the_others_are_done(score, clouds):
    result = score(clouds)
    assert result.code == 3
    assert [r["scene"] for r in result.of("patch_score")] == ["a", "b"]
    errors = {record["scene"]: record["message"] for record in result.of("error")}
    assert "not finite" in errors["c_nan"]
    assert "all 100 points are equal" in errors["d_equal"]
    assert "has 5 points, a patch has 8" in errors["e_few"]
    assert [r["ok"] for r in result.of("scene_end")] == [True, True, False, False, False]


def test_one_cloud(score, clouds):
    alone, folder = score(clouds / "a.ply"), score(clouds)
    assert alone.code == 0
    assert alone.of("patch_score")[0]["tensor"] == folder.of("patch_score")[0]["tensor"]


def test_files(score, clouds, tmp_path):
    out = tmp_path / "heat"
    assert score(clouds / "a.ply", "--out", out, "--write", "ply,npz", "--oracle", 1).code == 0
    record = json.loads((out / "a.ndjson").read_text().splitlines()[3])
    cloud = read_cloud(out / "a.ply")
    original = read_cloud(clouds / "a.ply")
    np.testing.assert_array_equal(cloud.xyz, original.xyz)
    expected = interpolate_heat(original.xyz, np.array(record["center"]), np.array(record["tensor"]["data"]))
    np.testing.assert_allclose(cloud.extra["heat"], expected, rtol=1e-3, atol=1e-4)
    assert len(np.unique(cloud.rgb, axis=0)) > 5
    with np.load(out / "a.npz") as arrays:
        assert set(arrays) == {"xyz", "heat", "center", "score", "rank", "difficulty", "pc3d"}
        np.testing.assert_array_equal(arrays["heat"], cloud.extra["heat"])
        assert arrays["rank"].tolist() == record["rank"]
    assert "mask-score" in str(json.loads((out / "a.ndjson").read_text().splitlines()[1])["program"])


def test_heat_of_points(score, shapes, clouds, tmp_path, monkeypatch):
    record = score(shapes, "--heat", "--limit", 1).of("patch_score")[0]
    assert record["heat"]["shape"] == [96]
    assert min(record["tensor"]["data"]) <= min(record["heat"]["data"]) <= max(record["heat"]["data"])
    monkeypatch.setattr("pc3dcli.commands.patch_score_file.INLINE_BYTES", 96)
    refused = score(clouds / "a.ply", "--heat")
    assert refused.code == 2
    assert "add --out scores.ndjson" in refused.err
    assert score(clouds / "a.ply", "--heat", "--out", tmp_path / "s.ndjson").code == 0
    record = json.loads((tmp_path / "s.ndjson").read_text().splitlines()[3])
    from safetensors.numpy import load_file

    heat = load_file(tmp_path / record["heat"]["file"])["heat"]
    assert heat.shape == (100,) == tuple(record["heat"]["shape"])


def test_it_goes_on_where_it_stopped(score, shapes, tmp_path):
    out = tmp_path / "scores"
    assert score(shapes, "--out", out, "--limit", 5).code == 0
    listed = score(shapes, "--out", out, "--dry-run", "--limit", 7).out.splitlines()
    assert [line.split("\t")[2] for line in listed] == ["skip"] * 5 + ["do"] * 2
    result = score(shapes, "--out", out)
    assert "5 skipped" in result.err
    at_once = tmp_path / "at_once"
    score(shapes, "--out", at_once)
    argv = ["--out", "--limit"]
    for path in sorted(at_once.rglob("train_*.ndjson")):
        same = [json.loads(line) for line in path.read_text().splitlines()]
        other = [json.loads(line) for line in (out / path.name).read_text().splitlines()]
        for record in (*same, *other):
            record.pop("argv", argv)
        assert same == other
    assert score(shapes, "--out", out, "--view", "full").code == 2


def test_it_scores_with_either_base(run, shapes, tmp_path):
    torch.manual_seed(0)
    weights = write_weights(tmp_path / "m2ae", PointM2ae(M2AE), "point-m2ae")
    result = run("mask-score", shapes, "--weights", weights, "--oracle", 1, "--device", "cpu", "--limit", 3)
    assert result.code == 0
    assert all(len(record["tensor"]["data"]) == 8 for record in result.of("patch_score"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--write", "obj"], 2, "--write obj: expected ply or npz"),
        (["--write", "ply"], 2, "add --out heat/"),
        (["--view", "half"], 2, "half"),
        (["--device", "cuda:99"], 2, "--device cuda:99"),
        (["--split", "testing"], 2, "testing"),
        (["--dataset", "modelnet"], 2, "unknown dataset"),
    ],
)
def test_what_cannot_be_is_refused(run, weights, shapes, arguments, code, words):
    result = run("mask-score", shapes.parent, "--weights", weights, *arguments)
    assert result.code == code
    assert words in result.err


def test_fail_fast_says_it_once(score, clouds):
    result = score(clouds, "--fail-fast", "--split", "all")
    assert result.code == 4
    assert result.err.splitlines() == ["pc3d mask-score: c_nan: failed", *result.err.splitlines()[-1:]]
    assert "point 50 is not finite" in result.err.splitlines()[-1]


def test_weights_without_a_head_are_refused(run, shapes, tmp_path):
    weights = write_weights(tmp_path / "plain", PointMae(MAE), "point-mae", gc_depth=0)
    result = run("mask-score", shapes, "--weights", weights)
    assert result.code == 4
    assert "holds no complexity head" in result.err
    missing = run("mask-score", shapes, "--weights", tmp_path / "none")
    assert missing.code == 4
    assert "add --weights" in run("mask-score", shapes).err
    assert run("mask-score").code == 2


def test_scores_for_pretraining(score, shapes, tmp_path):
    out = tmp_path / "scores.ndjson"
    score(shapes, "--out", out)
    found = open_shapes(shapes, split="all")
    stored = read_patch_scores(out, found.select(range(len(found))[::-1][:4]))
    records = [json.loads(line) for line in out.read_text().splitlines() if '"type":"patch_score"' in line]
    torch.testing.assert_close(stored.scores[0], torch.tensor(records[-1]["tensor"]["data"]))
    assert stored.centers.shape == (4, 8, 3)
    assert stored.centers.norm(dim=2).max() < 1.001  # as the network saw them
    with pytest.raises(InputError, match="holds scores of 18 of 19 shapes, none of other"):
        read_patch_scores(out, replace(found, names=(*found.names, "other")))
    with pytest.raises(InputError, match="no such file of scores"):
        read_patch_scores(tmp_path / "none.ndjson", found)
    others = replace(found, load=lambda index: Shape(found.load(index).xyz[::-1].copy()))
    with pytest.raises(FormatError, match=f"its scores of {found.names[0]} are of other points"):
        read_patch_scores(out, others)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("center", [[0, 0, 0]], "expected"),
        ("tensor", {"dtype": "F32", "shape": [8], "file": "x"}, "expected its numbers in the record"),
        ("tensor", {"dtype": "F32", "shape": [9], "data": [0] * 8}, "tensor has 8 numbers, its shape is .9."),
        ("scale", "big", "not of pc3d mask-score"),
        ("tensor", {"dtype": "F32", "shape": [8], "data": [1e999] * 8}, "1e999|not finite|Infinity|too large"),
    ],
)
def test_damaged_scores_are_refused(score, shapes, tmp_path, name, value, words):
    out = tmp_path / "scores.ndjson"
    score(shapes, "--out", out, "--limit", 1)
    lines = out.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"type":"patch_score"' in line)
    lines[place] = json.dumps(json.loads(lines[place]) | {name: value})
    out.write_text("\n".join(lines) + "\n")
    with pytest.raises(FormatError, match=words):
        read_patch_scores(out, open_shapes(shapes, split="all").select([0]))


def test_pretraining_with_stored_scores(run, score, shapes, weights, tmp_path):
    out = tmp_path / "scores.ndjson"
    score(shapes, "--out", out)
    common = ["pretrain", shapes, "--mask-scores", out, "--init", weights, "--epochs", 2, "--batch-size", 6]
    result = run(*common, "--device", "cpu", "--out", tmp_path / "run", "-D", "gc_depth=1")
    assert result.code == 0, result.err
    log = [json.loads(line) for line in (tmp_path / "run" / "log.ndjson").read_text().splitlines()]
    assert any(record.get("num_selected") for record in log)

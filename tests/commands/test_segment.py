# SPDX-License-Identifier: Apache-2.0
"""`pc3d segment --parts`: every point gets a part of its category, in records and in files that `eval` reads."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from pc3dcli.commands.weights import new_downstream
from pc3dcli.formats.cloud import Cloud, read_cloud, xyz_sha256
from pc3dcli.formats.ply import write_ply
from pc3dcli.metrics.parts import CATEGORIES
from pc3dcli.nn.model_files import write_model

tiny = runpy.run_path(str(Path(__file__).with_name("tiny_shapes.py")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment")
    about = {"method": "parts", "kind": "parts", "base": "point-mae", "config": dataclasses.asdict(tiny["MAE"])}
    about |= {"classes": list(CATEGORIES), "parts": [str(index) for index in range(50)]}
    about |= {"category_parts": [list(parts) for parts in CATEGORIES.values()]}
    torch.manual_seed(0)
    write_model(folder / "w", new_downstream(about).state_dict(), about)
    tiny["write_weights"](folder / "pretrained")
    rng = np.random.default_rng(0)
    (folder / "clouds" / "Cap").mkdir(parents=True)
    (folder / "clouds" / "Bag").mkdir()
    for name, size in (("Cap/a", 150), ("Cap/b", 40), ("Bag/c", 64)):
        with (folder / "clouds" / f"{name}.ply").open("wb") as file:
            write_ply(file, Cloud(rng.normal(size=(size, 3)).astype(np.float32)))
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


COMMAND = ("segment", "--parts", "--weights", "w", "--device", "cpu", "-q")


def test_records(run):
    result = run(*COMMAND, "clouds")
    assert result.code == 0, result.err
    scenes, labels = result.of("scene"), result.of("labels3d")
    assert [scene["scene"] for scene in scenes] == ["Bag/c", "Cap/a", "Cap/b"]
    xyz = read_cloud(Path("clouds/Cap/a.ply")).xyz
    assert scenes[1]["num_points"] == 150 and scenes[1]["xyz_sha256"] == xyz_sha256(xyz)
    assert [record["kind"] for record in labels] == ["parts"] * 3 and labels[1]["category"] == "Cap"
    assert set(labels[0]["tensor"]["data"]) <= {4, 5} and set(labels[1]["tensor"]["data"]) <= {6, 7}
    assert labels[1]["tensor"]["shape"] == [150] and len(labels[1]["classes"]) == 50
    assert run(*COMMAND, "clouds").out == result.out  # the same bytes again
    assert result.of("program")[0]["weights"]["weights"].startswith("sha256:")


def test_files(run):
    result = run(*COMMAND, "clouds", "--out", "pred", "--write", "ply,npz")
    assert result.code == 0, result.err
    records = [json.loads(line) for line in Path("pred/Cap/a.ndjson").read_text().splitlines()]
    record = next(record for record in records if record["type"] == "labels3d")
    part = safetensors.numpy.load_file(Path("pred/Cap") / record["tensor"]["file"])["pred"]
    assert part.shape == (150,) and part.dtype == np.int32
    cloud = read_cloud(Path("pred/Cap/a.ply"))
    np.testing.assert_array_equal(cloud.extra["label"], part)
    np.testing.assert_array_equal(cloud.xyz, read_cloud(Path("clouds/Cap/a.ply")).xyz)
    np.testing.assert_array_equal(np.load("pred/Cap/a.npz")["pred"], part)
    direct = [r["tensor"]["data"] for r in run(*COMMAND, "clouds").of("labels3d") if r["scene"] == "Cap/a"]
    assert direct == [part.tolist()]
    stamp = Path("pred/Cap/a.npz").stat().st_mtime_ns
    assert run(*COMMAND, "clouds", "--out", "pred", "--write", "ply,npz").code == 0
    assert Path("pred/Cap/a.npz").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("write", [(), ("--write", "npz,ply")])
def test_eval_reads_the_folder(run, write):
    out = f"scored{len(write)}"
    assert run(*COMMAND, "clouds", "--out", out, *write).code == 0
    for name in ("Cap/a", "Cap/b", "Bag/c"):
        pred = safetensors.numpy.load_file(f"{out}/{name}.safetensors")["pred"]
        Path(f"gt/{name}").parent.mkdir(parents=True, exist_ok=True)
        Path(f"gt/{name}.txt").write_text("".join(f"{part}\n" for part in pred))
    result = run("eval", out, "--task", "parts", "--gt", "gt", "--json")
    assert result.code == 0, result.err
    assert {r["name"]: r["value"] for r in result.of("metric") if "class" not in r}["accuracy"] == 1.0


def test_options(run):
    bag = run(*COMMAND, "clouds/Cap/a.ply", "--category", "bag").of("labels3d")[0]
    assert bag["category"] == "Bag" and set(bag["tensor"]["data"]) <= {4, 5}
    assert len(run(*COMMAND, "clouds", "--limit", "2").of("scene")) == 2
    assert len(run(*COMMAND, "clouds", "--shard", "1/2").of("scene")) == 2
    assert "labels3d" not in run(*COMMAND, "clouds", "--dry-run").out
    seeds = [run(*COMMAND, "clouds/Cap", "--category", "table", "--seed", seed).of("labels3d") for seed in (0, 1)]
    parts = [[record["tensor"]["data"] for record in records] for records in seeds]
    assert parts[0] != parts[1]  # another cut into rows of as many points as the network takes
    tiny["write_part_data"](Path("arrays"))
    assert len(run(*COMMAND, "arrays", "--split", "test", "--category", "Cap").of("scene")) == 8
    assert len(run(*COMMAND, "arrays", "--dataset", "arrays", "--category", "Cap").of("scene")) == 32


def test_the_folder_of_a_cloud_is_its_class(run):
    parts = run(*COMMAND, "clouds").of("labels3d")
    for name in ("clouds/Cap/a.ply", "clouds/Cap"):
        found = run(*COMMAND, name).of("labels3d")[0]
        assert found["category"] == "Cap" and found["tensor"] == parts[1]["tensor"]
    Path("split/cap/test").mkdir(parents=True)
    Path("split/cap/test/a.ply").write_bytes(Path("clouds/Cap/a.ply").read_bytes())
    assert run(*COMMAND, "split/cap/test/a.ply").of("labels3d")[0]["category"] == "Cap"


def test_a_shape_of_another_class_is_named(run):
    for folder in ("mixed/Cap", "mixed/house"):
        Path(folder).mkdir(parents=True)
        Path(f"{folder}/a.ply").write_bytes(Path("clouds/Cap/a.ply").read_bytes())
    result = run(*COMMAND, "mixed")
    assert result.code == 3 and "house/a: found class house" in result.err and len(result.of("labels3d")) == 1


def test_several_processes_write_the_same(run):
    single = run(*COMMAND, "clouds", "--no-provenance")
    assert run(*COMMAND, "clouds", "--no-provenance", "--jobs", "2").out == single.out


def test_a_broken_shape_fails_alone(run):
    Path("some/Cap").mkdir(parents=True)
    good = read_cloud(Path("clouds/Cap/a.ply"))
    broken = good.xyz.copy()
    broken[7, 0] = np.nan
    for name, xyz in (("1", good.xyz), ("2", broken), ("3", good.xyz[:5]), ("4", good.xyz[:1].repeat(20, axis=0))):
        with Path(f"some/Cap/{name}.ply").open("wb") as file:
            write_ply(file, Cloud(xyz))
    result = run(*COMMAND, "some", "--category", "Cap")
    assert result.code == 3 and len(result.of("labels3d")) == 1 and len(result.of("error")) == 3
    messages = " ".join(record["message"] for record in result.of("error"))
    assert "point 7 is not finite" in messages and "5 points, a patch has 8" in messages and "are equal" in messages


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("segment", "clouds", "--weights", "w"), 4, "pc3d segment --parts uses them"),
        ((*COMMAND, "clouds", "--snap"), 2, "--snap: not with --parts"),
        ((*COMMAND, "clouds", "--min-score", "0.5"), 2, "--min-score: not with --parts"),
        (("segment", "clouds", "--parts"), 2, "--weights"),
        ((*COMMAND, "clouds", "--write", "ply"), 2, "--out"),
        ((*COMMAND, "clouds", "--write", "png", "--out", "x"), 2, "--write png"),
        ((*COMMAND, "nothing"), 4, "no such file or folder"),
        ((*COMMAND, "empty"), 4, "no shapes"),
        ((*COMMAND, "clouds", "--category", "house"), 2, "--category house: the weights know Airplane"),
        ((*COMMAND, "loose/a.ply"), 2, "loose/a.ply: its shapes have no class"),
        ((*COMMAND, "loose"), 2, "loose: its shapes have no class"),
        ((*COMMAND, "named"), 4, "named: its classes are house, of which the weights know none"),
        (("segment", "clouds", "--parts", "--weights", "pretrained"), 4, "needs parts"),
        ((*COMMAND, "clouds/Cap", "clouds/Cap", "--category", "Cap"), 2, "run once for each"),
        ((*COMMAND, "x.ndjson"), 2, "not a record stream"),
    ],
)
def test_errors(run, arguments, code, words):
    Path("empty").mkdir(exist_ok=True)
    for folder in ("loose", "named/house"):
        Path(folder).mkdir(exist_ok=True, parents=True)
        for name in "ab":
            Path(f"{folder}/{name}.ply").write_bytes(Path("clouds/Cap/a.ply").read_bytes())
    result = run(*arguments)
    assert result.err.count("pc3d segment: ") == 1  # said once, not for each shape
    assert result.code == code and words in result.err + result.out, result.err
    assert "Traceback" not in result.err


def test_every_point_is_in_a_row():
    from pc3dcli.commands.part_segmenter import _rows

    for count, size in ((5, 8), (8, 8), (9, 8), (100, 8), (3, 100)):
        rows = _rows(count, size, 0)
        assert rows.shape == (-(-count // size), size) and set(rows.ravel().tolist()) == set(range(count))
        if count >= size:
            assert all(len(set(row.tolist())) == size for row in rows[:-1])

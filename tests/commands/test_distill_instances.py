# SPDX-License-Identifier: Apache-2.0
"""`pc3d distill --method instances` and `pc3d segment`: labelled scenes -> a network -> instances of scenes."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pc3dcli.datasets.scene_augment import normalized_colors
from pc3dcli.datasets.voxel_batches import voxelized
from pc3dcli.errors import InputError
from pc3dcli.formats.cloud import Cloud, read_cloud, xyz_sha256
from pc3dcli.formats.coco_rle import decode_points, encode_points
from pc3dcli.formats.ply import write_ply
from pc3dcli.formats.scannet_instances import write_truth
from pc3dcli.nn.kernel_maps import Sites
from pc3dcli.nn.model_files import read_model, write_model
from pc3dcli.nn.sparse import SparseTensor
from pc3dcli.papers.granularity.segmenter import Segmenter, SegmenterConfig

small = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "small_files.py"))

NETWORK = SegmenterConfig(
    voxel=0.1, stem=8, planes=(8, 8, 8, 8, 8, 8, 8, 8), depths=(1,) * 8, dim=16, heads=2, ffn_dim=32, num_queries=6,
    sampled_voxels=(50, 100, 200, 400), rounds=1,
)  # fmt: skip
TINY = [
    f"-D{field.name}={list(value) if isinstance(value, tuple) else value}"
    for field in dataclasses.fields(NETWORK)
    if (value := getattr(NETWORK, field.name)) != field.default
]
SHORT = ("--method", "instances", "--epochs", 2, "--batch-size", 2, "--device", "cpu", "-D", "min_points=20")


def room(seed: int) -> tuple[Cloud, list[np.ndarray]]:
    """A floor of 2 x 2 m with three coloured boxes on it; the cloud and the points of each box."""
    rng = np.random.default_rng(seed)
    parts, colors = [np.c_[rng.uniform(0, 2, (1500, 2)), np.zeros(1500)]], [np.full((1500, 3), 120)]
    for number in range(3):
        corner = [0.2 + 0.6 * number, rng.uniform(0.2, 1.2), 0.05]
        parts.append(corner + rng.uniform(0, 0.4, (500, 3)))
        colors.append(np.tile(rng.integers(0, 256, 3), (500, 1)))
    boxes = [np.arange(1500 + 500 * k, 2000 + 500 * k) for k in range(3)]
    return Cloud(np.concatenate(parts).astype(np.float32), np.concatenate(colors).astype(np.uint8)), boxes


def mask(index: np.ndarray, count: int) -> dict:
    inside = np.zeros(count, bool)
    inside[index] = True
    return encode_points(inside)


def write_stream(path: Path, scenes: dict[str, list[dict]]) -> None:
    """Write a stream of scenes: the fields of the scene record first, then its instances."""
    records = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for scene, (about, *instances) in scenes.items():
        records.append({"type": "scene", "scene": scene, "root": ".", **about})
        records += [
            {"type": "instance3d", "scene": scene, "instance": k, **fields} for k, fields in enumerate(instances)
        ]
        records.append({"type": "scene_end", "scene": scene, "ok": True})
    records.append({"type": "end", "scenes": len(scenes), "failed": 0})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instances")
    (folder / "clouds").mkdir()
    scenes = {}
    for seed in range(3):
        cloud, boxes = room(seed)
        with (folder / "clouds" / f"room{seed}.ply").open("wb") as file:
            write_ply(file, cloud)
        about = {"points": f"clouds/room{seed}.ply", "num_points": len(cloud.xyz)}
        instances = [{"rle": mask(box, len(cloud.xyz))} for box in boxes]
        scenes[f"room{seed}"] = [about | {"xyz_sha256": xyz_sha256(cloud.xyz)}, *instances]
        ids = np.zeros(len(cloud.xyz), np.int64)
        ids[:1500] = 3001  # floor, in ScanNet200
        for number, box in enumerate(boxes):
            ids[box] = 5001 + number
        write_truth(folder / "gt" / f"room{seed}.txt", ids)
    write_stream(folder / "labels.ndjson", scenes)
    write_weights(folder / "w", NETWORK)
    return folder


def write_weights(path: Path, config: SegmenterConfig) -> None:
    """Write an untrained network whose masks differ: the features that they are made of are centred on a room."""
    torch.manual_seed(0)
    model = Segmenter(config).eval()
    cloud, _ = room(0)
    voxels = voxelized(cloud.xyz, config.voxel)
    coords = torch.from_numpy(np.c_[np.zeros(len(voxels.coords), np.int64), voxels.coords])
    colors = torch.from_numpy(normalized_colors(cloud.rgb[voxels.point], len(coords)))
    with torch.no_grad():
        finest = model.backbone(SparseTensor(colors, Sites(coords)))[-1].features
        head = model.decoder.mask_features
        head.bias.copy_(-head.weight @ finest.mean(0))
    about = {"method": "instances", "kind": "instances", "config": dataclasses.asdict(config)}
    write_model(path, model.state_dict(), about)


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def distill(run, *arguments, code=0):
    result = run("distill", *SHORT, *TINY, *arguments)
    assert result.code == code, result.err
    return result


def records(path: str, kind: str) -> list[dict]:
    return [record for line in Path(path).read_text().splitlines() if (record := json.loads(line))["type"] == kind]


def steps(out: str) -> list[dict]:
    return [json.loads(line) for line in Path(out, "log.ndjson").read_text().splitlines()]


def test_a_segmenter_is_trained(run):
    result = distill(run, "labels.ndjson", "--out", "seg")
    assert result.out == "seg/model.safetensors\n" and "3 scenes with labels" in result.err
    about, tensors = read_model(Path("seg"))
    assert about["kind"] == "instances" and about["config"]["planes"] == [8] * 8 and "backbone.stem.weight" in tensors
    (first, *_, last) = steps("seg")
    assert {"loss_bce", "loss_dice", "loss_class"} <= first.keys() and len(steps("seg")) == 2
    assert first["lr"] < 2e-4 and last["step"] == 2
    again = run("distill", *SHORT, *TINY, "labels.ndjson", "--out", "seg")
    assert again.code == 0 and "was finished before" in again.err


def test_labels_of_a_stream_of_scannets_format_and_of_the_clouds_own_are_the_same(run):
    for name, arguments in {
        "own": ["labels.ndjson"],
        "stream": ["clouds", "--labels", "labels.ndjson"],
        "truth": ["clouds", "--labels", "gt"],
    }.items():
        result = distill(run, *arguments, "--out", f"of_{name}")
        assert ("labels 1, 3 is left out (skip_labels)" in result.err) == (name == "truth")
    losses = [[step["loss"] for step in steps(f"of_{name}")] for name in ("own", "stream", "truth")]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("kind", ["scannetpp", "s3dis", "replica_mesh", "labelled_ply"])
def test_annotations_of_other_data_sets(run, tmp_path, kind):
    small[kind](tmp_path / "scans/room")
    scans = tmp_path / "scans" / ("room" if kind == "labelled_ply" else "")
    arguments = (str(scans), "--labels", str(scans), "-D", "min_points=5", "-D", "voxel=0.2")
    result = distill(run, *arguments, "--out", f"of_{kind}")
    assert "1 scene with labels" in result.err and steps(f"of_{kind}")[-1]["loss_bce"] > 0


def test_walls_and_floors_are_instances_where_the_labels_are_not_skipped(run):
    result = distill(run, "clouds", "--labels", "gt", "--out", "with_floor", "-D", "skip_labels=[]")
    assert "skip_labels" not in result.err
    assert steps("with_floor")[0]["loss"] != steps("of_truth")[0]["loss"]


def test_interrupted_and_resumed_equals_uninterrupted(run, tmp_path):
    whole = distill(run, "labels.ndjson", "--out", tmp_path / "a", "-D", "checkpoint_every=1", "--epochs", 3)
    assert whole.code == 0
    from pc3dcli.train.journal import Journal

    original = Journal.save_checkpoint

    def stop(self, at, tensors):
        original(self, at, tensors)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "save_checkpoint", stop)
        stopped = run("distill", *SHORT, *TINY, "labels.ndjson", "--out", tmp_path / "b", "-D", "checkpoint_every=1",
                      "--epochs", 3)  # fmt: skip
    assert stopped.code == 130
    distill(run, "labels.ndjson", "--out", tmp_path / "b", "-D", "checkpoint_every=1", "--epochs", 3)
    for name in ("model.safetensors", "log.ndjson", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_both_implementations_of_the_convolutions_train_alike(run):
    pytest.importorskip("spconv")
    for name in ("torch", "spconv"):
        distill(run, "labels.ndjson", "-D", f"sparse={name}", "--out", f"by_{name}")
    ours, theirs = ([step["loss"] for step in steps(f"by_{name}")] for name in ("torch", "spconv"))
    assert ours == pytest.approx(theirs, rel=1e-4)
    tensors = [read_model(Path(f"by_{name}"))[1] for name in ("torch", "spconv")]
    assert any(not torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())  # summed otherwise


@pytest.mark.parametrize(
    "change", ["gray_share=1", "max_voxels=100", "augment=false", "thin=0.9", "query_features=true", "place_waves=4"]
)
def test_every_parameter_of_the_data_changes_what_is_learned(run, change):
    name = change.partition("=")[0]
    distill(run, "labels.ndjson", "-D", change, "--out", f"by_{name}")
    plain = distill(run, "labels.ndjson", "--out", "by_default", "--force")
    assert plain.code == 0 and steps(f"by_{name}")[0]["loss"] != steps("by_default")[0]["loss"]


def test_init_goes_on_from_weights_and_their_network(run):
    result = run("distill", *SHORT, "labels.ndjson", "--init", "w", "--out", "on")
    assert result.code == 0, result.err
    assert read_model(Path("on"))[0]["config"] == read_model(Path("w"))[0]["config"]
    other = run("distill", *SHORT, "labels.ndjson", "--init", "w", "--out", "no", "-D", "dim=32")
    assert other.code == 4 and "not weights of this segmenter" in other.err


def test_class_weight_zero_trains_masks_alone(run):
    distill(run, "labels.ndjson", "--out", "masks", "-D", "class_weight=0")
    assert "loss_class" not in steps("masks")[0]


def test_ignored_points_change_the_loss(run):
    scenes = {}
    for seed in range(3):
        cloud, boxes = room(seed)
        about = {"points": f"clouds/room{seed}.ply"}
        masks = [
            {"rle": mask(box, len(cloud.xyz)), "ignore": mask(np.arange(700), len(cloud.xyz))} for box in boxes
        ]  # fmt: skip
        scenes[f"room{seed}"] = [about, *masks]
    write_stream(Path("ignore.ndjson"), scenes)
    distill(run, "ignore.ndjson", "--out", "ignore")
    distill(run, "labels.ndjson", "--out", "plain")
    assert steps("ignore")[0]["loss"] != steps("plain")[0]["loss"]


def test_a_scene_without_instances_is_left_out_and_one_without_large_ones_trains(run):
    cloud, boxes = room(0)
    small = {"rle": mask(boxes[0][:5], len(cloud.xyz))}
    about = {"points": "clouds/room0.ply"}
    large = {"rle": mask(room(2)[1][0], len(cloud.xyz))}
    scenes = {"room0": [about, small], "room1": [{"points": "clouds/room1.ply"}]}
    write_stream(Path("sparse.ndjson"), scenes | {"room2": [{"points": "clouds/room2.ply"}, large]})
    result = distill(run, "sparse.ndjson", "--batch-size", 1, "--out", "sparse")
    assert "2 scenes with labels, 1 without labels left out" in result.err
    first = [step["loss_bce"] for step in steps("sparse") if step["epoch"] == 0]
    assert len(first) == 2 and min(first) == 0 < max(first)


def test_dry_run_says_what_it_would_take(run):
    result = distill(run, "labels.ndjson", "--dry-run")
    assert "3 scenes, 2 a step" in result.out and "steps       2 in 2 epochs" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("labels.ndjson",), 2, "--out runs/name"),
        (("labels.ndjson", "--out", "x", "--few-shot", "5x10"), 2, "--few-shot: not with --method instances"),
        (("labels.ndjson", "--out", "x", "--recipe", "gm3d"), 2, "--recipe: not with --method instances"),
        (("labels.ndjson", "--out", "x", "-D", "sparse=fast"), 2, "sparse"),
        (("labels.ndjson", "--out", "x", "-D", "planes=[1]"), 2, "8 widths"),
        (("clouds", "--out", "x"), 4, "holds instances of none of the scenes"),
        (("clouds", "--labels", "nothing", "--out", "x"), 4, "nothing: no such file or folder"),
        (("other.ndjson", "--out", "x"), 4, "not those that the labels were made for"),
        (("short.ndjson", "--out", "x"), 4, "mask"),
        (("far", "--labels", "far_gt", "--out", "x"), 4, "too coarse for voxels"),
        (("labels.ndjson", "--init", "clouds/room0.ply", "--out", "x"), 4, "room0.ply"),
    ],
)
def test_errors(run, arguments, code, words):
    cloud, boxes = room(0)
    instance = {"rle": mask(boxes[0], len(cloud.xyz))}
    write_stream(Path("other.ndjson"), {"room1": [{"points": "clouds/room1.ply", "xyz_sha256": "0" * 64}, instance]})
    write_stream(Path("short.ndjson"), {"room1": [{"points": "clouds/room1.ply"}, {"rle": mask(boxes[0], 2500)}]})
    Path("far").mkdir(exist_ok=True)
    with Path("far/room0.ply").open("wb") as file:
        write_ply(file, Cloud(cloud.xyz + np.float32(4e6)))
    write_truth(Path("far_gt/room0.txt"), np.full(len(cloud.xyz), 5001))
    result = run("distill", *SHORT, *TINY, *arguments)
    assert result.code == code and words in result.err, result.err
    assert "Traceback" not in result.err and not Path("x/model.safetensors").exists()
    shutil.rmtree("x", ignore_errors=True)


def test_labels_are_not_for_shapes(run):
    result = run("distill", "clouds", "--labels", "labels.ndjson", "--out", "x")
    assert result.code == 2 and "--labels: not with --method classify" in result.err


def test_the_clouds_of_the_data_are_learned_from_and_must_be_those_of_the_labels(run):
    shutil.copytree("clouds", "black", dirs_exist_ok=True)
    for path in Path("black").iterdir():
        cloud = read_cloud(path)
        with path.open("wb") as file:
            write_ply(file, Cloud(cloud.xyz, np.zeros_like(cloud.rgb)))
    distill(run, "labels.ndjson", "--out", "by_labels")
    distill(run, "black", "--labels", "labels.ndjson", "--out", "by_black")
    assert steps("by_labels")[0]["loss"] != steps("by_black")[0]["loss"]
    shutil.copytree("clouds", "others", dirs_exist_ok=True)
    shutil.copy("clouds/room1.ply", "others/room0.ply")
    result = distill(run, "others", "--labels", "labels.ndjson", "--out", "by_others", code=4)
    assert "others/room0.ply" in result.err and "not those that the labels were made for" in result.err


def test_a_run_is_not_that_of_other_clouds(run):
    shutil.copytree("clouds", "changed", dirs_exist_ok=True)
    distill(run, "changed", "--labels", "gt", "--out", "once")
    shutil.copy("clouds/room1.ply", "changed/room0.ply")
    assert "scenes" in distill(run, "changed", "--labels", "gt", "--out", "once", code=2).err


def test_scenes_that_failed_before_are_named_and_give_exit_code_3(run):
    lines = [json.loads(line) for line in Path("labels.ndjson").read_text().splitlines()]
    lines = [one for one in lines if one["type"] != "instance3d" or one["scene"] != "room1"]
    failed = {"type": "scene_end", "scene": "room1", "ok": False}
    lines = [failed if one == failed | {"ok": True} else one for one in lines]
    lines[-1]["failed"] = 1
    Path("failed.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = distill(run, "failed.ndjson", "--out", "of_failed", code=3)
    assert "1 failed before and are left out: room1" in result.err and Path("of_failed/model.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments", [("labels.ndjson", "-D", "min_points=2000"), ("clouds", "--labels", "gt", "-D", "skip_labels=[3,5]")]
)
def test_nothing_to_learn_is_an_error(run, arguments):
    result = distill(run, *arguments, "--out", "nothing", code=4)
    assert "no scene of 3 has an instance of" in result.err and not Path("nothing").exists()


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"points": "../room0.ply"}, "bad.ndjson: points of room0: path"),
        ({"points": ["room0.ply"]}, "bad.ndjson: points of room0: path is list"),
        ({"points": "clouds/room0.ply", "up": "w"}, "clouds/room0.ply: "),
        ({}, "bad.ndjson: its scenes name no clouds"),
    ],
)
def test_a_scene_that_cannot_be_is_named_with_its_file(run, about, words):
    write_stream(Path("bad.ndjson"), {"room0": [about, {"rle": mask(np.arange(900), 3000)}]})
    assert words in distill(run, "bad.ndjson", "--out", "bad", code=4).err


def test_an_instance_without_a_mask_is_an_error(run):
    write_stream(Path("bad.ndjson"), {"room0": [{"points": "clouds/room0.ply"}, {"rle": None}]})
    assert "bad.ndjson" in distill(run, "bad.ndjson", "--out", "bad", code=4).err


def test_the_data_are_no_place_for_weights(run):
    assert "--out is the folder of the data" in distill(run, "clouds", "--labels", "gt", "--out", "clouds", code=2).err


SEGMENT = ("segment", "--weights", "w", "--device", "cpu", "-q", "-D", "test_queries=20", "-D", "keep_share=1")


def test_segment_gives_instances_of_points(run):
    result = run(*SEGMENT, "clouds", "--json")
    assert result.code == 0, result.err
    cloud, _ = room(0)
    scene, *_ = result.of("scene")
    assert scene["num_points"] == len(cloud.xyz) and scene["xyz_sha256"] == xyz_sha256(cloud.xyz)
    found = [record for record in result.of("instance3d") if record["scene"] == "room0"]
    assert found and [record["score"] for record in found] == sorted((r["score"] for r in found), reverse=True)
    assert all(0 <= record["score"] <= 1 and decode_points(record["rle"], len(cloud.xyz)).any() for record in found)


def test_segment_takes_clouds_of_a_stream_in_place_of_its_instances(run):
    of_stream = run(*SEGMENT, "labels.ndjson", "--json")
    of_clouds = run(*SEGMENT, "clouds", "--json")
    assert of_stream.code == 0 and of_stream.of("instance3d") == of_clouds.of("instance3d")


def test_min_score_leaves_out(run):
    scores = [record["score"] for record in run(*SEGMENT, "clouds", "--json").of("instance3d")]
    middle = float(np.median(scores))
    kept = run(*SEGMENT, "clouds", "--json", "--min-score", middle).of("instance3d")
    assert 0 < len(kept) < len(scores) and min(record["score"] for record in kept) >= middle


def test_files_beside_the_records(run):
    import safetensors.numpy

    result = run(*SEGMENT, "clouds/room0.ply", "--out", "pred", "--write", "ply,scannet")
    assert result.code == 0, result.err
    arrays = safetensors.numpy.load_file("pred/room0.safetensors")
    assert set(arrays) == {"instance", "confidence"}
    masks = [decode_points(r["rle"], len(arrays["instance"])) for r in records("pred/room0.ndjson", "instance3d")]
    assert (arrays["instance"] >= 0).any() and (arrays["confidence"] >= 0.5).all()
    assert arrays["confidence"].shape == (sum(int(mask.sum()) for mask in masks),)
    assert Path("pred/room0.ply").is_file() and Path("pred/room0.txt").is_file()
    scored = run("eval", "pred", "--task", "instance", "--gt", "gt", "--class-agnostic", "--allow-missing")
    assert scored.code == 0, scored.err
    assert "skipped" in run(*SEGMENT[:-5], "-D", "test_queries=20", "-D", "keep_share=1", "clouds/room0.ply", "--out",
                            "pred", "--write", "ply,scannet").err  # fmt: skip


def test_snap_gives_whole_superpoints(run):
    plain, snapped = run(*SEGMENT, "clouds", "--json"), run(*SEGMENT, "clouds", "--json", "--snap")
    assert snapped.code == 0 and snapped.of("instance3d") != plain.of("instance3d")


def test_order_of_points_changes_nothing_but_their_order(run):
    """A voxel looks as its first point does: here it has one point."""
    whole, _ = room(0)
    cells, first = np.unique(np.floor(whole.xyz / 0.1).astype(np.int64), axis=0, return_index=True)
    cloud = Cloud((0.1 * cells + 0.05).astype(np.float32), whole.rgb[first])
    order = np.random.default_rng(3).permutation(len(cells))
    Path("order").mkdir(exist_ok=True)
    for name, one in {"a": cloud, "b": Cloud(cloud.xyz[order], cloud.rgb[order])}.items():
        with Path(f"order/{name}.ply").open("wb") as file:
            write_ply(file, one)
    result = run(*SEGMENT, "order", "--json")
    masks = {
        name: [decode_points(r["rle"], len(cells)) for r in result.of("instance3d") if r["scene"] == name]
        for name in "ab"
    }
    assert masks["a"] and [m[order].tolist() for m in masks["a"]] == [m.tolist() for m in masks["b"]]


def test_a_large_scene_is_done_in_pieces_and_says_so(run):
    cloud, _ = room(0)
    wide = np.concatenate([cloud.xyz + np.float32([5 * k, 0, 0]) for k in range(6)])
    with Path("wide.ply").open("wb") as file:
        write_ply(file, Cloud(wide, np.tile(cloud.rgb, (6, 1))))
    arguments = ("segment", "--weights", "w", "--device", "cpu", "-D", "test_queries=60", "-D", "keep_share=1")
    whole = run(*arguments, "wide.ply", "--json")
    pieces = run(*arguments, "-D", "chunk_voxels=1000", "wide.ply", "--json")
    assert whole.code == pieces.code == 0, pieces.err
    assert "voxels are too many at once" in pieces.err and "too many" not in whole.err
    boxes = [np.zeros(len(wide), bool) for _ in range(6)]
    for k, box in enumerate(boxes):  # every room is seen by some piece, and nothing is torn between two
        box[k * len(cloud.xyz) : (k + 1) * len(cloud.xyz)] = True
    masks = [decode_points(record["rle"], len(wide)) for record in pieces.of("instance3d")]
    assert all(any((mask & box).any() for mask in masks) for box in boxes)


def test_a_cloud_without_colour_needs_weights_that_know_such(run):
    cloud, _ = room(0)
    with Path("gray.ply").open("wb") as file:
        write_ply(file, Cloud(cloud.xyz))
    result = run(*SEGMENT, "gray.ply", "--json")
    assert result.code == 3 and "its cloud has no colour" in result.of("error")[0]["message"]
    write_weights(Path("wg"), dataclasses.replace(NETWORK, gray_share=0.5))
    both = run("segment", "--weights", "wg", "--device", "cpu", "-q", "gray.ply", "--json")
    assert both.code == 0, both.err


def test_snap_leaves_points_without_a_place_alone(run):
    cloud, _ = room(0)
    xyz = cloud.xyz.copy()
    xyz[[7, 1600]] = np.nan
    with Path("holes.ply").open("wb") as file:
        write_ply(file, Cloud(xyz, cloud.rgb))
    result = run(*SEGMENT, "holes.ply", "--json", "--snap")
    assert result.code == 0, result.err
    masks = [decode_points(r["rle"], len(xyz)) for r in result.of("instance3d")]
    assert masks and not any(mask[[7, 1600]].any() for mask in masks)


def test_one_point_and_no_point(run):
    for name, xyz in (("one", np.ones((1, 3))), ("none", np.zeros((0, 3))), ("nan", np.full((5, 3), np.nan))):
        with Path(f"{name}.ply").open("wb") as file:
            write_ply(file, Cloud(xyz.astype(np.float32), np.zeros(xyz.shape, np.uint8)))
    assert run(*SEGMENT, "one.ply", "--json").code == 0
    for name in ("none", "nan"):
        result = run(*SEGMENT, f"{name}.ply", "--json")
        assert result.code == 3 and "no point" in result.of("error")[0]["message"], result.err


def test_a_scene_of_a_stream_and_of_a_folder_is_refused(run):
    result = run(*SEGMENT, "clouds", "labels.ndjson", "--json")
    assert result.code == 2 and "scene room0 is in labels.ndjson and is clouds/room0.ply" in result.err


def test_links_are_the_clouds_that_they_lead_to_and_loops_are_not_followed(run):
    Path("links").mkdir()
    Path("links/one.ply").symlink_to(Path("clouds/room0.ply").absolute())
    Path("links/loop").symlink_to(".")
    result = run(*SEGMENT, "links", "--json")
    assert result.code == 0, result.err
    assert [scene["scene"] for scene in result.of("scene")] == ["one"] and result.of("instance3d")
    assert result.of("scene")[0]["points"] == "room0.ply"


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 16.0}, {"heads": 2.0}, {"rounds": 1.0}, {"voxel": None}, {"voxel": True}, {"ffn_dim": 10**10},
        {"stem_kernel": 9999}, {"depths": [100_000] * 8}, {"planes": [10**6] * 8}, {"dim": 10**9}, {"planes": 8},
    ],
)  # fmt: skip
def test_weights_of_a_network_that_cannot_be_are_refused(run, change):
    about, tensors = read_model(Path("w"))
    write_model(Path("strange"), tensors, about | {"config": about["config"] | change})
    result = run("segment", "--weights", "strange", "clouds", "--json")
    assert (
        result.code == 4 and "strange" in result.err and next(iter(change)).split("_")[0].rstrip("s") in result.err
    ), result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("segment", "clouds", "--weights", "nothing", "--json"), 4, "No such file"),
        ((*SEGMENT, "clouds", "--json", "--category", "chair"), 2, "--category: only with --parts"),
        ((*SEGMENT, "clouds", "--write", "ply"), 2, "--write needs a place"),
        ((*SEGMENT, "clouds", "--json", "-D", "keep_shar=1"), 2, "did you mean keep_share"),
        ((*SEGMENT, "clouds", "--json", "--seed", "1"), 2, "--seed: nothing is random"),
    ],
)
def test_segment_errors(run, arguments, code, words):
    result = run(*arguments)
    assert result.code == code and words in result.err, result.err


def test_a_released_checkpoint_is_used_as_it_is(run):
    """A small network under the names of Mask3D, in the layout of a Lightning checkpoint."""
    from pc3dcli.papers.granularity import mask3d_released

    config = dataclasses.replace(NETWORK, voxel=0.02, heads=8, rounds=3)
    write_weights(Path("same"), config)
    _, tensors = read_model(Path("same"))
    theirs = {ours: released for released, ours in mask3d_released.PREFIXES}
    state = {}
    for name, tensor in tensors.items():
        prefix = max((ours for ours in theirs if name == ours or name.startswith(ours + ".")), key=len)
        rest = name[len(prefix) :]
        if tensor.ndim == 3:  # kernels of convolutions
            side = round(len(tensor) ** (1 / 3))
            cube = tensor.reshape(side, side, side, *tensor.shape[1:]).permute(2, 1, 0, 3, 4)
            rest, tensor = rest.replace(".weight", ".kernel"), cube.reshape(tensor.shape)
        for number in "12":
            rest = rest.replace(f".norm{number}.", f".norm{number}.bn.")
        if rest.endswith(".shortcut.weight"):
            rest, tensor = rest.replace(".shortcut.weight", ".downsample.0.kernel"), tensor.T
        rest = rest.replace(".shortcut_norm.", ".downsample.1.bn.")
        if prefix == "decoder.mask_features":
            rest, tensor = (".kernel", tensor.T) if tensor.ndim == 2 else (".bias", tensor[None])
        if prefix == "decoder.query_projection" and tensor.ndim == 2:
            tensor = tensor[:, :, None]
        state[theirs[prefix] + rest] = tensor.contiguous()
    torch.save({"state_dict": state | {"criterion.empty_weight": torch.ones(2)}, "epoch": 5}, "mask3d.ckpt")
    options = ("--device", "cpu", "-q", "-D", "test_queries=20", "-D", "keep_share=1", "clouds/room0.ply", "--json")
    ours, released = (run("segment", "--weights", weights, *options) for weights in ("same", "mask3d.ckpt"))
    assert released.code == 0, released.err
    assert released.of("instance3d") == ours.of("instance3d") != []


def test_partial_views_of_scans_are_learned_from(run, scans, tmp_path):
    """Labels of whole scenes, samples of what a few frames see; the cloud is the one that the labels name."""
    from pc3dcli.commands.labelled_scenes import labelled_scenes

    found = labelled_scenes([str(scans)], str(scans), dataset="auto", structure=(1, 2), view_stride=5)
    cloud = found.clouds.load(0)
    assert len(cloud.views) == 4  # of 16 frames
    each = [cloud.views.seen(k, k) for k in range(4)]
    assert all(0.02 < view.mean() < 0.9 for view in each)
    assert np.array_equal(cloud.views.seen(2, 9), each[2] | each[3])
    common = ("distill", *SHORT, *TINY, scans, "--labels", scans)
    assert run(*common, "--out", tmp_path / "whole").code == 0
    result = run(*common, "--out", tmp_path / "partial", "-D", "partial_share=1", "-D", "partial_frames=[0,1]")
    assert result.code == 0, result.err
    assert steps(tmp_path / "partial")[0]["loss"] != steps(tmp_path / "whole")[0]["loss"]


def test_up_is_turned_to_z_and_a_scan_of_frame_records_is_a_scan(run, tmp_path):
    """The room of a stream that says up is -y is learned from, and segmented, as the same room with z up."""
    for name in ("labels.ndjson", "clouds"):
        source = Path(name)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    lying, text = tmp_path / "lying", (tmp_path / "labels.ndjson").read_text()
    (lying / "clouds").mkdir(parents=True)
    for path in (tmp_path / "clouds").glob("*.ply"):
        cloud = read_cloud(path)
        turned = np.ascontiguousarray(cloud.xyz[:, [1, 2, 0]] * np.float32([-1, -1, 1]))  # -y points up
        moved = dataclasses.replace(cloud, xyz=turned)
        write_ply(lying / "clouds" / path.name, moved)
        text = text.replace(xyz_sha256(cloud.xyz), xyz_sha256(moved.xyz))
    (lying / "labels.ndjson").write_text(text.replace('"root": "."', '"root": ".", "up": "-y"'))
    upright = str(tmp_path / "labels.ndjson")
    for name, labels in (("z", upright), ("y", str(lying / "labels.ndjson"))):
        distill(run, labels, "--out", str(tmp_path / name))
    first, second = ([step["loss"] for step in steps(tmp_path / name)] for name in ("z", "y"))
    assert first == pytest.approx(second, rel=1e-3)
    masks = [
        [record["rle"] for record in run(*SEGMENT, labels, "--json").of("instance3d")]
        for labels in (upright, str(lying / "labels.ndjson"))
    ]
    assert masks[0] == masks[1] != []
    scan = small["frames_list"](tmp_path / "scan")
    result = run(*SEGMENT, scan, "--out", tmp_path / "pred")
    assert result.code == 0, result.err


def test_labels_of_a_folder_are_read_again_and_must_be_the_same(run, tmp_path):
    from pc3dcli.commands.labelled_scenes import labelled_scenes

    shutil.copytree("clouds", tmp_path / "clouds")
    shutil.copy("labels.ndjson", tmp_path / "labels.ndjson")
    whole, folder = (
        labelled_scenes([str(name)], None, dataset="auto", structure=()) for name in ("labels.ndjson", tmp_path)
    )
    assert folder.digest == whole.digest
    for ours, theirs in zip(folder.clouds.load(1).instances, whole.clouds.load(1).instances, strict=True):
        assert np.array_equal(ours, theirs)
    path = tmp_path / "labels.ndjson"
    path.write_text(path.read_text().replace('"instance": 2', '"instance": 2, "ignore": null'))
    assert folder.clouds.load(1).instances
    path.write_text("".join(line for line in path.open() if '"instance": 2' not in line))
    with pytest.raises(InputError, match="have changed"):
        folder.clouds.load(1)


def test_compile_is_refused(run):
    assert "compile" in distill(run, "labels.ndjson", "--out", "x", "-D", "compile=true", code=2).err


def test_partial_views_need_frames(run):
    result = distill(run, "labels.ndjson", "--out", "x", "-D", "partial_share=0.5", code=4)
    assert "has no frames with depth, which partial views need" in result.err
    refused = distill(run, "labels.ndjson", "--out", "x", "-D", "partial_frames=[]", code=2)
    assert "partial_frames" in refused.err


def test_a_scan_without_a_cloud_is_fused_from_its_depth(run, scans, tmp_path):
    shutil.copytree(scans / "room0", tmp_path / "bare")
    next((tmp_path / "bare").glob("*.ply")).unlink()
    refused = run(*SEGMENT, tmp_path / "bare", "--json")
    assert refused.code == 3 and "need a place" in refused.of("error")[0]["message"]
    result = run(*SEGMENT, tmp_path / "bare", "--out", tmp_path / "pred")
    assert result.code == 0, result.err
    (scene,) = records(tmp_path / "pred/bare.ndjson", "scene")
    cloud = read_cloud(tmp_path / "pred" / scene["points"])
    assert len(cloud.xyz) == scene["num_points"] > 1000 and xyz_sha256(cloud.xyz) == scene["xyz_sha256"]


@pytest.mark.parametrize(
    "change",
    [
        "chunk_margin=0.2",
        "chunk_iou=1",
        "cluster_min_neighbors=30",
        "test_queries=5",
        "cluster_reach=1.1",
        "max_overlap=0.1",
        "min_voxels=900",
    ],
)
def test_every_parameter_of_segment_changes_what_is_found(run, change):
    cloud, _ = room(0)
    wide = np.concatenate([cloud.xyz + np.float32([1.9 * k, 0, 0]) for k in range(6)])
    with Path("long.ply").open("wb") as file:
        write_ply(file, Cloud(wide, np.tile(cloud.rgb, (6, 1))))
    base = (*SEGMENT, "long.ply", "--json", "-D", "chunk_voxels=1000")
    plain, changed = run(*base), run(*base, "-D", change)
    assert changed.code == 0, changed.err
    assert plain.of("instance3d") != changed.of("instance3d")


def test_snap_share_changes_what_is_found(run):
    shares = [run(*SEGMENT, "clouds", "--json", "--snap", "-D", f"snap_share={x}").of("instance3d") for x in (0.1, 0.9)]
    assert shares[0] != shares[1]

# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.commands.patch_score_file import ScoredPatches
from pc3dcli.commands.view_shapes import MARKED, part_instances, ply_maker, point_heat
from pc3dcli.datasets.shape_set import open_shapes
from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import Cloud, xyz_sha256
from pc3dcli.formats.images import read_color
from pc3dcli.formats.ply import write_ply
from pc3dcli.geometry.colors import instance_colors
from pc3dcli.worlds.shapes import make_shapes, write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "train.npz"
    write_shapes(path, make_shapes(3, 0, 200))
    return path


def stream(shapes: Path, tmp_path: Path, *, oracle=None, **changes) -> Path:
    """Write what mask-score would: the score of a patch is its height, its measured difficulty `oracle`(height)."""
    found = open_shapes(shapes, split="all")
    records = []
    for index, name in enumerate(found.names[:2]):
        xyz = found.read(index).xyz
        center = xyz[::10]
        measured = {"difficulty": oracle(center[:, 2]), "spearman": -0.75} if oracle else {}
        patches = ScoredPatches(center, center[:, 2], np.zeros(3), 1.0, **measured)
        records.append((scene_record(shapes, name, xyz) | {"split": "all"} | changes, patches.record(name, "kfold")))
    return written(tmp_path / "scores.ndjson", records)


def scene_record(shapes: Path, name: str, xyz: np.ndarray) -> dict:
    return {"type": "scene", "scene": name, "root": str(shapes), "dataset": "arrays", "xyz_sha256": xyz_sha256(xyz)}


def written(path: Path, records: list[tuple[dict, dict]]) -> Path:
    lines = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for scene, *others in records:
        lines += [scene, *others, {"type": "scene_end", "scene": scene["scene"], "ok": True}]
    lines.append({"type": "end", "scenes": len(records), "failed": 0})
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def parts_record(shapes: Path, **changes) -> tuple[dict, dict]:
    """Return what segment would say of the first shape: its upper half is a detail."""
    found = open_shapes(shapes, split="all")
    xyz, name = found.read(0).xyz, found.names[0]
    part = upper_half(xyz)
    tensor = {"name": "pred", "dtype": "I32", "shape": [len(part)], "data": part.tolist()}
    about = {"kind": "parts", "category": "teapot", "classes": ["base", "detail"], "tensor": tensor}
    return scene_record(shapes, name, xyz), {"type": "labels3d", "scene": name} | about | changes


def upper_half(xyz: np.ndarray) -> np.ndarray:
    return (xyz[:, 2] > np.median(xyz[:, 2])).astype(np.int32)


def _cosine(picture: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return how near each pixel is to the hue of a colour, whatever its shade."""
    pixels, color = picture.astype(float) + 1e-6, color.astype(float)
    return pixels @ color / np.linalg.norm(pixels, axis=-1) / np.linalg.norm(color)


def page_scene(path: Path) -> dict:
    return json.loads(re.search(r'id="scene">(.*?)</script>', path.read_text(), re.S).group(1))


def test_heat_is_drawn_from_blue_to_yellow(run, shapes, tmp_path):
    out = tmp_path / "pictures"
    result = run("view", stream(shapes, tmp_path), "--out", out, "--size", "640x480")
    assert result.code == 0, result.err
    scene = open_shapes(shapes, split="all").names[0]
    names = {path.name for path in (out / scene).iterdir()}
    assert {"overview.png", "top_heat.png", "corner1_heat.png"} <= names
    assert not any("inside" in name or "instances" in name for name in names)
    picture = read_color(out / scene / "corner1_heat.png").astype(int)
    is_yellow = (picture[..., 0] > 200) & (picture[..., 2] < 120)
    is_blue = (picture[..., 2] > picture[..., 0] + 30) & (picture[..., 0] < 80)
    assert is_yellow[:360].sum() > 500 < is_blue[:360].sum()  # without the legend
    assert np.nonzero(is_yellow[:360])[0].mean() + 60 < np.nonzero(is_blue[:360])[0].mean()
    border = np.concatenate(
        [picture[:8].reshape(-1, 3), picture[:, -8:].reshape(-1, 3), picture[-8:, 300:].reshape(-1, 3)]
    )
    assert (border == (250, 250, 248)).all()  # nothing is cut off
    page = page_scene(out / f"{scene}.html")
    assert page["title"] == scene and page["noun"] == "part" and page["instances"] == []
    category = open_shapes(shapes, split="all").class_names[open_shapes(shapes, split="all").label[0]]
    assert page["summary"] == [category, "200 points, 20 patches"]
    (score,) = page["values"]
    assert score["title"] == "Score" and score["ends"] == ["easy", "hard"] and -1 < score["low"] < score["high"] < 1
    assert len(score["ofPatch"]) == 20 and sorted(page["ranks"]) == list(range(1, 21))
    assert page["ranks"][int(np.argmax(score["ofPatch"]))] == 1


def test_it_draws_what_mask_score_wrote_and_no_other_cloud(run, shapes, tmp_path):
    result = run("view", stream(shapes, tmp_path, xyz_sha256="0" * 64), "--out", tmp_path / "a", "--write", "png")
    assert result.code == 3
    assert "are not those of the records" in result.err
    result = run("view", stream(shapes, tmp_path, root=str(tmp_path / "gone")), "--out", tmp_path / "b")
    assert result.code == 3
    assert "no such file or folder" in result.err


def test_point_heat():
    center = np.arange(36, dtype=np.float32).reshape(12, 3)
    patches = ScoredPatches(center, np.arange(12, dtype=np.float32), np.zeros(3), 1.0)
    heat = point_heat(patches.record("a", "kfold"), center)
    np.testing.assert_allclose(heat.values, np.arange(12), atol=1e-4)
    np.testing.assert_array_equal(heat.centers, center[::-1][:MARKED])
    with pytest.raises(FormatError, match="not of pc3d mask-score"):
        point_heat({"type": "patch_score", "scene": "a", "tensor": {"file": "x"}}, center)
    assert heat.patch.tolist() == list(range(12)) and heat.difficulty is None and heat.patches.spearman is None


def test_measured_difficulty_is_a_second_colouring_with_its_spearman(run, shapes, tmp_path):
    """Patches that were never decoded have none; the others say that of the points."""
    measured = lambda height: np.where(height > 0, np.nan, 1 - height).astype(np.float32)  # noqa: E731
    result = run("view", stream(shapes, tmp_path, oracle=measured), "--out", tmp_path / "out", "--write", "html")
    assert result.code == 0, result.err
    page = page_scene(tmp_path / f"out/{open_shapes(shapes, split='all').names[0]}.html")
    score, difficulty = page["values"]
    assert difficulty["title"] == "Measured difficulty" and difficulty["low"] >= 1
    known = [value is not None for value in difficulty["ofPatch"]]
    assert known == [value <= 0 for value in score["ofPatch"]] and True in known and False in known
    assert "Spearman of score and measured difficulty: -0.750" in page["summary"]


@pytest.mark.parametrize("difficulty", [[1.0], ["a"] * 20, "high", {"0": 1}, [True] * 20])
def test_damaged_difficulty_is_an_error(run, shapes, tmp_path, difficulty):
    path = stream(shapes, tmp_path, oracle=lambda height: 1 - height)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["type"] == "patch_score":
            line["difficulty"] = difficulty
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("view", path, "--out", tmp_path / "out")
    assert result.code == 3 and "is not one number or null for each of 20 patches" in result.err


@pytest.mark.parametrize("is_piped", [False, True])
def test_parts_are_drawn_with_their_names(run, shapes, tmp_path, is_piped):
    path = written(tmp_path / "parts.ndjson", [parts_record(shapes)])
    given = {"stdin": path.read_text()} if is_piped else {}
    result = run("view", *([] if is_piped else [path]), "--out", tmp_path / "out", "--size", "640x480", **given)
    assert result.code == 0, result.err
    scene = open_shapes(shapes, split="all").names[0]
    names = {path.name for path in (tmp_path / "out" / scene).iterdir()}
    assert {"overview.png", "top_parts.png", "corner4_parts.png"} <= names
    assert not any("inside" in name or "instances" in name or "heat" in name for name in names)
    picture = read_color(tmp_path / "out" / scene / "corner1_parts.png")
    cosine = [_cosine(picture, color) > 0.995 for color in instance_colors(np.arange(2))]
    base, detail = (is_hue & (picture != (250, 250, 248)).any(-1) for is_hue in cosine)
    assert base[:380].sum() > 3000 < detail[:380].sum()
    assert np.nonzero(detail[:380])[0].mean() + 60 < np.nonzero(base[:380])[0].mean()
    assert base[430:, :30].sum() > 50 < detail[430:, :30].sum()  # the legend
    page = page_scene(tmp_path / f"out/{scene}.html")
    assert [one["label"] for one in page["instances"]] == ["base", "detail"]
    assert [one["total"] for one in page["instances"]] == [100, 100]
    assert page["noun"] == "part" and page["summary"] == ["teapot", "200 points, 2 parts"] and page["values"] == []


def test_parts_in_a_file_beside_the_stream(run, shapes, tmp_path):
    from safetensors.numpy import save_file

    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/run.json").write_text("{}")
    scene, record = parts_record(shapes)
    part = np.array(record["tensor"].pop("data"), np.int32)
    written(
        tmp_path / "labels/one.ndjson", [(scene, record | {"tensor": record["tensor"] | {"file": "one.safetensors"}})]
    )
    result = run("view", tmp_path / "labels", "--out", tmp_path / "out", "--write", "html")
    assert result.code == 3 and "one.safetensors" in result.err
    save_file({"pred": part}, tmp_path / "labels/one.safetensors")
    assert run("view", tmp_path / "labels", "--out", tmp_path / "out", "--write", "html").code == 0
    assert len(page_scene(tmp_path / f"out/{scene['scene']}.html")["instances"]) == 2


def test_a_cloud_that_was_given_alone_is_found_beside_folders_of_other_clouds(run, shapes, tmp_path):
    """As `pc3d segment cup.ply --out sg --write ply` leaves it: the folder is no data set."""
    path = ply(tmp_path, shapes, None)
    (path.parent / "sg").mkdir()
    (path.parent / "sg/cup.ply").write_bytes(path.read_bytes())
    scene, record = parts_record(shapes)
    scene |= {"scene": "cup", "root": str(path.parent), "dataset": "clouds"}
    stream = written(tmp_path / "parts.ndjson", [(scene, record | {"scene": "cup"})])
    result = run("view", stream, "--out", tmp_path / "out", "--write", "html")
    assert result.code == 0, result.err
    assert page_scene(tmp_path / "out/cup.html")["summary"] == ["teapot", "200 points, 2 parts"]
    path.unlink()
    assert "folders of classes" not in run("view", stream, "--out", tmp_path / "gone").err
    assert run("view", stream, "--out", tmp_path / "gone").code == 3


def test_scores_and_parts_of_one_shape_are_one_page(run, shapes, tmp_path):
    parts = written(tmp_path / "parts.ndjson", [parts_record(shapes)])
    for number, inputs in enumerate(([parts, stream(shapes, tmp_path)], [stream(shapes, tmp_path), parts])):
        result = run("view", *inputs, "--out", tmp_path / f"out{number}", "--size", "100x80")
        assert result.code == 0, result.err
        scene = open_shapes(shapes, split="all").names[0]
        page = page_scene(tmp_path / f"out{number}/{scene}.html")
        assert len(page["instances"]) == 2 and len(page["values"]) == 1
        names = {path.name for path in (tmp_path / f"out{number}" / scene).iterdir()}
        assert {"top_parts.png", "top_heat.png"} <= names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor": {"dtype": "I32", "shape": [3], "data": [0, 1, 0]}}, "expected a part for each of 200 points"),
        ({"tensor": {"dtype": "F32", "shape": [200], "data": [0.5] * 200}}, "expected a part for each of 200 points"),
        ({"classes": ["base"]}, "has part 1 of 1 names"),
        ({"classes": "base"}, "is no list of names"),
        ({"tensor": 3}, "expected an object"),
    ],
)
def test_parts_that_do_not_fit_are_an_error(run, shapes, tmp_path, changes, message):
    result = run("view", written(tmp_path / "p.ndjson", [parts_record(shapes, **changes)]), "--out", tmp_path / "out")
    assert result.code == 3 and message in result.err


def test_labels_of_other_kinds_are_not_drawn(run, shapes, tmp_path):
    path = written(tmp_path / "p.ndjson", [parts_record(shapes, kind="semantic")])
    result = run("view", path, "--out", tmp_path / "out")
    assert result.code == 3 and "neither points, nor depth" in result.err


def test_points_without_a_part_are_none():
    record = {"scene": "a", "tensor": {"dtype": "I8", "shape": [5], "data": [2, -1, 2, 0, 2]}}
    parts = part_instances(record, (), 5, np.array([0, 1, 2, 3]))
    assert [(one.instance, one.points.tolist(), one.num_points, one.label) for one in parts] == [
        (0, [3], 1, "part 0"),
        (2, [0, 2], 3, "part 2"),
    ]


def ply(tmp_path: Path, shapes: Path, program: str | None, **extra) -> Path:
    """Write a PLY of the first shape as mask-score and segment do, and return its place."""
    xyz = open_shapes(shapes, split="all").read(0).xyz
    comments = () if program is None else (f"pc3d {json.dumps([{'program': 'pc3d pretrain'}, {'program': program}])}",)
    (tmp_path / "ply").mkdir()
    write_ply(tmp_path / "ply/cup.ply", Cloud(xyz, instance_colors(upper_half(xyz)), extra=extra), comments)
    return tmp_path / "ply/cup.ply"


def test_a_ply_of_segment_is_an_object_of_numbered_parts(run, shapes, tmp_path):
    part = upper_half(open_shapes(shapes, split="all").read(0).xyz)
    path = ply(tmp_path, shapes, "pc3d segment", label=part, instance_id=part)
    assert ply_maker(path) == "pc3d segment"
    result = run("view", path, "--out", tmp_path / "out", "--size", "100x80")
    assert result.code == 0, result.err
    page = page_scene(tmp_path / "out/cup.html")
    assert [one["label"] for one in page["instances"]] == ["part 0", "part 1"]
    assert page["noun"] == "part" and not page["hasPale"] and page["cut"] is None
    names = {path.name for path in (tmp_path / "out/cup").glob("*.png")}
    assert names == {"overview.png", "top_parts.png", *(f"corner{number}_parts.png" for number in range(1, 5))}


def test_a_ply_of_mask_score_is_drawn_by_its_heat(run, shapes, tmp_path):
    heat = open_shapes(shapes, split="all").read(0).xyz[:, 2].copy()
    heat[0] = np.nan
    result = run(
        "view", ply(tmp_path, shapes, "pc3d mask-score", heat=heat), "--out", tmp_path / "out", "--size", "100x80"
    )
    assert result.code == 0, result.err
    page = page_scene(tmp_path / "out/cup.html")
    assert page["summary"] == ["200 points"] and page["ranks"] == [] and page["values"][0]["ofPatch"] == []
    assert (tmp_path / "out/cup/top_heat.png").is_file()


@pytest.mark.parametrize("comment", [None, "pc3d [", "pc3d [1]", 'pc3d ["a"]', "made by hand"])
def test_other_plys_say_nothing_of_their_maker(tmp_path, comment):
    write_ply(tmp_path / "a.ply", Cloud(np.eye(3, dtype=np.float32)), () if comment is None else (comment,))
    assert ply_maker(tmp_path / "a.ply") is None


def test_the_axis_that_is_up_comes_from_the_data_set_where_no_record_says_it(monkeypatch, run, shapes, tmp_path):
    """segment does not say it; the shapes of some data sets lie on their sides in their files."""
    found = []
    for number, (layouts, up) in enumerate(
        ((frozenset(), {}), (frozenset({"arrays"}), {}), (frozenset(), {"up": "y"}))
    ):
        monkeypatch.setattr("pc3dcli.datasets.shape.Y_UP", layouts)
        scene, labels = parts_record(shapes)
        path = written(tmp_path / "p.ndjson", [(scene | up, labels)])
        run("view", path, "--out", tmp_path / f"out{number}", "--write", "html")
        found.append(page_scene(tmp_path / f"out{number}/{scene['scene']}.html")["level"])
    assert found[0] == np.eye(3).tolist() != found[1] == found[2]

# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest

from pc3dcli.commands.patch_score_file import ScoredPatches
from pc3dcli.commands.view_shapes import MARKED, PointHeat, heat_picture, point_heat
from pc3dcli.datasets.shape_set import open_shapes
from pc3dcli.errors import FormatError
from pc3dcli.formats.cloud import xyz_sha256
from pc3dcli.formats.images import read_color
from pc3dcli.geometry import render
from pc3dcli.worlds.shapes import make_shapes, write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "train.npz"
    write_shapes(path, make_shapes(3, 0, 200))
    return path


def stream(shapes: Path, tmp_path: Path, **changes) -> Path:
    """Write what mask-score would: the score of a patch is its height."""
    found = open_shapes(shapes, split="all")
    lines = [{"type": "header", "format": "pc3d", "version": "1.0"}]
    for index, name in enumerate(found.names[:2]):
        xyz = found.read(index).xyz
        scene = {"type": "scene", "scene": name, "root": str(shapes), "dataset": "arrays", "split": "all"}
        lines.append(scene | {"xyz_sha256": xyz_sha256(xyz)} | changes)
        center = xyz[::10]
        lines.append(ScoredPatches(center, center[:, 2], np.zeros(3), 1.0).record(name, "kfold"))
        lines.append({"type": "scene_end", "scene": name, "ok": True})
    lines.append({"type": "end", "scenes": 2, "failed": 0})
    path = tmp_path / "scores.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_heat_is_drawn_from_blue_to_yellow(run, shapes, tmp_path):
    out = tmp_path / "pictures"
    result = run("view", stream(shapes, tmp_path), "--out", out, "--size", "200x160")
    assert result.code == 0, result.err
    scene = open_shapes(shapes, split="all").names[0]
    names = {path.name for path in (out / scene).iterdir()}
    assert {"overview.png", "top_heat.png", "corner1_heat.png"} <= names
    assert not any("inside" in name or "instances" in name for name in names)
    picture = read_color(out / scene / "corner1_heat.png").astype(int)
    is_yellow = (picture[..., 0] > 200) & (picture[..., 2] < 120)
    is_blue = (picture[..., 2] > picture[..., 0] + 30) & (picture[..., 0] < 80)
    above = np.nonzero(is_yellow[:120])[0].mean()  # without the legend
    assert above + 20 < np.nonzero(is_blue[:120])[0].mean()
    page = (out / f"{scene}.html").read_text()
    assert "yellow is hard to fill in, blue easy" in page


def test_it_draws_what_mask_score_wrote_and_no_other_cloud(run, shapes, tmp_path):
    result = run("view", stream(shapes, tmp_path, xyz_sha256="0" * 64), "--out", tmp_path / "a", "--write", "png")
    assert result.code == 3
    assert "are not those that were scored" in result.err
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


def test_marks_are_on_what_the_view_shows():
    """Two walls, one behind the other: of the two hardest patches that on the front wall is marked."""
    side = np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)), -1).reshape(-1, 2)
    xyz = np.concatenate([np.insert(side, 2, depth, axis=1) for depth in (0.0, 2.0)])
    K = np.array([[100.0, 0, 100], [0, 100, 80], [0, 0, 1]])
    world_from_cam = np.eye(4)
    world_from_cam[2, 3] = -3
    view = render.Viewpoint("front", K, world_from_cam, (160, 200))
    visible = render.visible_points(xyz, np.full(len(xyz), 0.05), view)
    values = np.zeros(len(xyz), np.float32)

    def picture(*centers) -> np.ndarray:
        return heat_picture(PointHeat(values, np.array(centers, np.float32)), xyz, view, visible, np.ones((160, 200)))

    hidden, seen, outside = (0.2, 0.0, 2.0), (-0.3, 0.1, 0.0), (9.0, 0.0, 0.0)
    plain = picture(outside)
    assert np.array_equal(picture(hidden), plain)
    changed = np.argwhere((picture(seen) != plain).any(axis=2))
    assert np.abs(changed.mean(axis=0) - (80 + 0.1 * 100 / 3, 100 - 0.3 * 100 / 3)).max() < 2

# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of `pc3d view`'s parts on a made-up room.

OMP_NUM_THREADS=1 python tests/benchmarks/view.py [POINTS]
"""

import sys
import time

import numpy as np

from pc3dcli.formats.web_page import PageCloud, PageInstance, build_page
from pc3dcli.geometry import colors, render, viewpoints


def made_room(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points of a room's six faces and 40 boxes, inward normals, and the box of each point (-1: room)."""
    rng = np.random.default_rng(0)
    size = np.array([6.0, 5.0, 2.7])
    xyz, face = rng.uniform(0, 1, (count, 3)), rng.integers(0, 6, count)
    xyz[np.arange(count), face // 2] = face % 2
    normal = np.zeros((count, 3), np.float32)
    normal[np.arange(count), face // 2] = 1 - 2 * (face % 2)
    owner = rng.integers(-40, 40, count).clip(-1)
    boxed = owner >= 0
    corner, edges = rng.uniform(0.1, 0.75, (40, 3)) * (1, 1, 0.2), rng.uniform(0.05, 0.2, (40, 3))
    xyz[boxed] = corner[owner[boxed]] + edges[owner[boxed]] * xyz[boxed]
    normal[boxed] *= -1
    return (xyz * size).astype(np.float32), normal, owner


def timed(name: str, function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    print(f"{name:34s} {time.process_time() - start:6.2f} CPU s")
    return result


def main(count: int) -> None:
    xyz, normal, owner = made_room(count)
    rgb = np.random.default_rng(1).integers(0, 256, (count, 3), dtype=np.uint8)
    radius = timed("disc radii (once a scene)", render.splat_radii, xyz)
    views = timed("viewpoints (once a scene)", viewpoints.choose_viewpoints, xyz, (960, 1280), np.eye(3), normal)
    labels = colors.instance_colors(owner)
    for view in views:

        def draw(view=view):
            visible = render.visible_points(xyz, radius, view)
            shade = render.edge_shading(visible.depth)
            return render.paint(visible, shade, rgb), render.paint(visible, shade, labels)

        timed(f"{view.name}, 1280 x 960, two colourings", draw)
    instances = [
        PageInstance(k, np.flatnonzero(owner == k), colors.instance_colors(np.array(k)), np.array([9, 9, 9]))
        for k in range(40)
    ]
    cloud = PageCloud("room", xyz, rgb, np.eye(3), radius, normal)
    text = timed("page", lambda: build_page(cloud, instances, none_color=colors.NONE_COLOR, ramp=rgb[:8]))
    print(f"{'page of ' + format(count, ',') + ' points':34s} {len(text) / 1e6:6.2f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)

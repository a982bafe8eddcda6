# SPDX-License-Identifier: Apache-2.0
"""Pictures of a pretraining run: some shapes, what the model sees of them, and what it makes of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pc3dcli.commands.geomask3d_plan import PictureConfig
    from pc3dcli.datasets.shape_batches import Batch, ShapeData
    from pc3dcli.train import Position

SIDE = 360  # pixels of a shape
RADIUS = 0.02  # of a point's disc; shapes have radius 1
SEEN, HIDDEN = (96, 112, 138), (226, 130, 28)
KINDS = ("input", "visible", "reconstructed")  # columns of the picture
LEGEND = (("visible patches", SEEN), ("hidden patches: true (left) and as reconstructed (right)", HIDDEN))


@dataclass(frozen=True)
class Reconstruction:
    """A shape as the model sees it: points (., 3) float32 in the frame of the cloud.

    seen, hidden  of visible and of hidden patches; made  what the model makes of the hidden ones
    error         Chamfer distance (chamfer_l2) between hidden patches and those made, mean over the patches
    """

    seen: np.ndarray
    hidden: np.ndarray
    made: np.ndarray
    error: float


class PictureMaker:
    """Draws the same shapes with the same patches hidden, so that the pictures of a run can be compared."""

    def __init__(self, data: ShapeData, config: PictureConfig, folder: Path, seed: int) -> None:
        self.data, self.config, self.folder, self.seed = data, config, folder, seed
        self._batch: Batch | None = None

    def after_epoch(self, learner: Any, at: Position) -> None:
        """Write OUT/pictures/epoch<number>.png after every `picture_every` epochs; in the first process alone."""
        from pc3dcli.formats.overlay import png_bytes
        from pc3dcli.stream.writer import atomic_file

        every = self.config.picture_every
        if not every or at.rank != 0 or (at.epoch + 1) % every:
            return
        picture = self.picture(learner, at.epoch + 1)
        with atomic_file(self.folder / f"epoch{at.epoch + 1:04d}.png") as file:
            file.write(png_bytes(picture))

    def picture(self, learner: Any, epoch: int) -> np.ndarray:
        """Return the shapes as rows: true points, visible points, reconstruction; (H, W, 3) uint8 RGB."""
        from pc3dcli.formats import overlay

        batch = self._shapes()
        level = np.eye(3)[:, [0, 2, 1]] * (1, -1, 1) if self.data.shapes.up == "y" else np.eye(3)
        images, captions = [], []
        for name, one in zip(batch.ids, reconstructions(learner, batch, self.seed), strict=True):
            for kind, others in zip(KINDS, (one.hidden, None, one.made), strict=True):
                images.append(draw_patches(one.seen @ level, others if others is None else others @ level))
                room = overlay.caption_length(SIDE) - len(f": {kind}")
                captions.append(f"{overlay.shorten_middle(name, room)}: {kind}")
            images[-1] = overlay.draw_legend(images[-1], [(f"Chamfer error {one.error:.4g}", None)])
        sheet = overlay.contact_sheet(images, captions, columns=len(KINDS), cell_width=SIDE)
        return overlay.draw_header(sheet, title_text(learner.student.base, epoch), LEGEND)

    def _shapes(self) -> Batch:
        if self._batch is None:
            count = min(self.config.picture_shapes, len(self.data))
            chosen = np.linspace(0, len(self.data) - 1, count).round().astype(np.int64)
            self._batch = self.data.batch(chosen, seed=self.seed, epoch=0)
        return self._batch


def title_text(base: Any, epoch: int) -> str:
    """Return the line above a picture of a network."""
    hidden = f"{base.num_hidden} of {base.num_patches} patches hidden"
    return f"epoch {epoch}: mask ratio {base.config.mask_ratio:g} ({hidden})"


def reconstructions(learner: Any, batch: Batch, seed: int) -> list[Reconstruction]:
    """Return what the model makes of each shape.

    learner  Gm3d; hidden patches are drawn at random from the seed
    """
    import torch

    from pc3dcli.nn.chamfer import chamfer_l2
    from pc3dcli.papers.geomask3d.masking import random_hidden

    base = learner.student.base.eval()
    clouds = batch.plain.to(next(base.parameters()).device)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        groups = base.group(clouds)
        hidden = random_hidden(len(clouds), base.num_patches, base.num_hidden, generator).to(clouds.device)
        decoded = base.decode(groups, hidden, base.encode(groups, hidden))
        error = chamfer_l2(decoded.points, decoded.targets)
    # Point-M2AE decodes tokens of its middle scale
    scales = hasattr(groups, "scale_centers")
    centers = groups.scale_centers[1] if scales else groups.centers
    points = centers.unsqueeze(2) + (groups.scale_points[1] if scales else groups.points)
    is_visible = torch.ones(centers.shape[:2], dtype=torch.bool, device=clouds.device)
    is_visible[decoded.sample, decoded.token] = False
    made = decoded.points.float() + centers[decoded.sample, decoded.token].unsqueeze(1)
    found = []
    for row in range(len(clouds)):
        is_here = decoded.sample == row
        parts = points[row][is_visible[row]], points[row][~is_visible[row]], made[is_here]
        arrays = (part.reshape(-1, 3).cpu().numpy() for part in parts)
        found.append(Reconstruction(*arrays, float(error[is_here].mean())))
    return found


def draw_patches(seen: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    """Return a picture (SIDE, SIDE, 3) uint8 RGB of visible points (n, 3) in blue-grey and others (m, 3) in orange."""
    from pc3dcli.geometry import render

    xyz = seen if hidden is None else np.concatenate((seen, hidden))
    colors = np.empty((len(xyz), 3), np.uint8)
    colors[: len(seen)], colors[len(seen) :] = SEEN, HIDDEN
    visible = render.visible_points(xyz, np.full(len(xyz), RADIUS, np.float32), _viewpoint())
    return render.paint(visible, render.edge_shading(visible.depth), colors)


def _viewpoint() -> Any:
    """Return a camera that looks down at a shape of radius 1 from beside it, z up."""
    from pc3dcli.geometry.render import Viewpoint

    forward = -np.array([1.0, -1.6, 0.9])
    z = forward / np.linalg.norm(forward)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = np.stack((x, np.cross(z, x), z), axis=1)
    world_from_cam[:3, 3] = -4.0 * z
    focal = 1.75 * SIDE
    K = np.array([[focal, 0, (SIDE - 1) / 2], [0, focal, (SIDE - 1) / 2], [0, 0, 1]])
    return Viewpoint("shape", K, world_from_cam, (SIDE, SIDE))

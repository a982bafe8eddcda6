# SPDX-License-Identifier: Apache-2.0
"""What `pc3d pretrain --method geomask3d` trains: its configs from the command line, its learner and its data.

One recipe serves all masks, so that runs of two masks differ in nothing else.  --parity official has those of the
released codes: for random and block masks that of the base model, else GM3D's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pc3dcli.commands import settings
from pc3dcli.errors import UsageError, WeightsError, check_ranges

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pc3dcli.datasets.shape_batches import ShapeData
    from pc3dcli.papers.geomask3d.gm3d import Gm3d, Gm3dConfig
    from pc3dcli.papers.geomask3d.scoring import StoredScores
    from pc3dcli.stream.provenance import Program
    from pc3dcli.train import TrainConfig

PLAIN_MASKS = ("random", "block")  # those of the base models
M2AE_PERIOD = 400 / 300  # released Point-M2AE stops before the end of its cosine
WEIGHTS = ("init", "teacher", "mask_scores")  # options that name files of which only the content matters


@dataclass(frozen=True)
class PictureConfig:
    """Pictures of what the model makes of hidden patches."""

    picture_every: int = 0  # epochs between pictures in OUT/pictures, 0 for none
    picture_shapes: int = 4  # shapes in a picture, ours

    def __post_init__(self) -> None:
        check_ranges(self, picture_every=(0, 1_000_000), picture_shapes=(1, 64))


@dataclass(frozen=True)
class Plan:
    """A run as the command line asks for it.

    options  parameters of the command; base: point-mae or point-m2ae
    init     description and tensors of --init, None without
    """

    options: dict[str, Any]
    base: str
    training: TrainConfig
    gm3d: Gm3dConfig
    pictures: PictureConfig
    model: Any
    init: tuple[dict, dict[str, Tensor]] | None

    @property
    def configs(self) -> list[Any]:
        return [self.training, self.gm3d, self.pictures, self.model]

    @property
    def description(self) -> dict:
        """What config.json says of the weights."""
        config = dataclasses.asdict(self.model) | {"gc_depth": self.gm3d.gc_depth}
        return {"method": "geomask3d", "kind": "pretrain", "base": self.base, "config": config}

    def data(self) -> ShapeData:
        """Open the shapes; raises InputError when there are none."""
        from pc3dcli.commands.shape_network import smallest_cloud
        from pc3dcli.datasets.shape_batches import SCALE_SHIFT, BatchConfig, ShapeData
        from pc3dcli.datasets.shape_set import open_shapes

        options = self.options
        shapes = open_shapes(options["shapes"], dataset=options["dataset"], split=options["split"])
        normalize, smallest = shapes.normalization("sample"), smallest_cloud(self.model)
        config = BatchConfig(self.model.num_points, normalize=normalize, augment=SCALE_SHIFT, min_points=smallest)
        return ShapeData(shapes, config)

    def program(self, ctx: typer.Context, data: ShapeData) -> Program:
        """Return what identifies the run: settings, files and which shapes, wherever those lie."""
        from pc3dcli.commands.inputs import digest
        from pc3dcli.commands.weights import weights_digest

        training = dataclasses.replace(self.training, checkpoint_every=0)  # decides nothing
        given = {name: self.options[name] for name in WEIGHTS if self.options[name]}
        digests = {"mask_scores": digest}
        weights = {name: digests.get(name, weights_digest)(path) for name, path in given.items()}
        excluded = ("shapes", "split", "dataset", "base", "parity", *WEIGHTS)
        program = settings.program(ctx, [training, self.gm3d, self.model], weights=weights, exclude=excluded)
        names = hashlib.sha256("\n".join(data.shapes.names).encode()).hexdigest()[:12]
        of_data = {"base": self.base, "shapes": f"{len(data)} {names}"}
        return dataclasses.replace(program, config=program.config | of_data)

    def learner(self, data: ShapeData) -> Gm3d:
        """Build the learner; its first weights follow from the seed, or are those of --init.

        raises  UsageError for settings that do not fit together, WeightsError for files that do not fit
        """
        import torch

        from pc3dcli.commands.weights import base_model, pretrained_model
        from pc3dcli.papers.geomask3d.gm3d import Gm3d

        teacher = self.options["teacher"]
        frozen = pretrained_model(teacher, "--teacher")[0] if teacher else None
        if frozen is not None:
            self._check_teacher(frozen, teacher)
        try:
            with torch.random.fork_rng([]):
                torch.manual_seed(self.training.seed)
                learner = Gm3d(base_model(self.base, self.model), self.gm3d, frozen, self._stored_scores(data))
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self.init is not None:
            self._start_from(learner, self.init[1])
        return learner

    def _stored_scores(self, data: ShapeData) -> StoredScores | None:
        if self.options["mask_scores"] is None:
            return None
        from pc3dcli.commands.patch_score_file import read_patch_scores

        return read_patch_scores(self.options["mask_scores"], data.shapes)

    def _check_teacher(self, frozen: nn.Module, path: Path) -> None:
        ours, theirs = _shape_of(self.model), _shape_of(frozen.config)
        name = next((name for name in ours if ours[name] != theirs.get(name)), None)
        if name is not None:
            message = f"found a teacher of {name} {theirs.get(name)}, the student has {ours[name]}"
            raise WeightsError(message, file=path)

    def _start_from(self, learner: Gm3d, tensors: dict[str, Tensor]) -> None:
        from pc3dcli.commands.weights import base_tensors
        from pc3dcli.nn.weights import load_exactly

        path = self.options["init"]
        load_exactly(learner.student.base, base_tensors(tensors), file=path, kind=f"this {self.base}")
        try:
            learner.load_exported(tensors)
        except RuntimeError:
            depth = self.gm3d.gc_depth
            raise WeightsError(f"its complexity head is not of {depth} blocks", file=path) from None


def plan(ctx: typer.Context) -> Plan:
    """Return what the command line asks for; reads the weights of --init, whose config is then the default."""
    from pc3dcli.commands.weights import need_kind, open_weights
    from pc3dcli.papers.geomask3d.gm3d import Gm3dConfig

    options = ctx.params
    init = open_weights(options["init"]) if options["init"] else None
    base = options["base"] or (init[0].get("base") if init else "point-mae")
    if init:
        need_kind(init[0], ("pretrain",), options["init"], "--init")
        if init[0]["base"] != base:
            raise UsageError(f"--base {base}: the weights of --init are of {init[0]['base']}")
    mask, is_official = options["mask"] or "geometric", options["parity"] == "official"
    if options["mask_scores"] is not None and mask != "geometric":
        raise UsageError(f"--mask-scores chooses among geometric masks, not {mask} ones")
    gm3d, model = Gm3dConfig(), model_defaults(base, init, is_official, options["init"])
    if is_official:
        gm3d = Gm3dConfig(gc_depth=0) if mask in PLAIN_MASKS else Gm3dConfig.official()
    if init and "gc_depth" in init[0]["config"]:
        gm3d = _with_depth(gm3d, init[0]["config"]["gc_depth"], options["init"])
    default = training_defaults(base, mask, is_official, options["epochs"], options["batch_size"])
    training, gm3d, pictures, model = settings.configure(ctx, default, gm3d, PictureConfig(), model)
    if mask in PLAIN_MASKS:  # the base model's released code is not that of GM3D
        gm3d = dataclasses.replace(gm3d, parity="none")
    return Plan(options, base, training, gm3d, pictures, model, init)


def _with_depth(gm3d: Gm3dConfig, depth: Any, path: Path) -> Gm3dConfig:
    """Return the config with the depth of the complexity head that the weights of --init have."""
    try:
        return dataclasses.replace(gm3d, gc_depth=operator.index(depth))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"its config does not describe a complexity head: {error}", file=path) from None


def model_defaults(base: str, init: tuple[dict, Any] | None, is_official: bool, path: Path | None = None) -> Any:
    """Return the config of a base model: that of --init, read from `path`, of the released model or ours."""
    from pc3dcli.commands.weights import base_config
    from pc3dcli.papers.geomask3d.point_m2ae import PointM2aeConfig
    from pc3dcli.papers.geomask3d.point_mae import PointMaeConfig

    if init is not None:
        model = base_config(base, init[0]["config"], path)
    else:
        model = PointM2aeConfig() if base == "point-m2ae" else PointMaeConfig()
    return dataclasses.replace(model, released_masks=True) if base == "point-m2ae" and is_official else model


def training_defaults(
    base: str, mask: str, is_official: bool, epochs: int | None = None, batch_size: int | None = None
) -> TrainConfig:
    """Return the recipe: ours, GM3D's (rate in proportion to the batch) or that of a base model (by epochs)."""
    from pc3dcli.train import TrainConfig

    if not is_official:
        return TrainConfig()
    if mask not in PLAIN_MASKS:
        lr = 1e-3 * (batch_size or 256) / 256
        return TrainConfig(epochs=400, batch_size=256, lr=lr, warmup_epochs=40, decay_tokens=True)
    period = M2AE_PERIOD * (epochs or 300) if base == "point-m2ae" else None
    return TrainConfig(betas=(0.9, 0.999), schedule="epoch", min_lr=1e-6, period=period)


def _shape_of(config: Any) -> dict[str, Any]:
    """Return what student and frozen teacher must share: how clouds are cut and how wide features are."""
    names = ("num_points", "num_patches", "patch_size", "scale_patches", "patch_sizes", "dim", "dims")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}

# SPDX-License-Identifier: Apache-2.0
"""What `pc3d distill --method instances` trains: its configs from the command line, its learner and its data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from pc3dcli.commands import settings
from pc3dcli.errors import UsageError, check_choices, check_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from pc3dcli.commands.labelled_scenes import LabelledScenes
    from pc3dcli.datasets.voxel_batches import VoxelData
    from pc3dcli.papers.granularity.mask_loss import LossConfig
    from pc3dcli.papers.granularity.segmenter import Segmenter, SegmenterConfig
    from pc3dcli.stream.provenance import Program
    from pc3dcli.train import TrainConfig

# Segment3D's first stage.  Departures: its one-cycle schedule moves the first beta too, its decay reaches biases and
# norms, and its batch is 8 on each of two devices
RECIPE = {
    "epochs": 20, "batch_size": 8, "lr": 2e-4, "weight_decay": 0.01, "betas": (0.9, 0.999), "schedule": "one-cycle",
}  # fmt: skip
FOREIGN = ("few_shot", "folds", "votes", "scratch", "predict", "split", "hold_out", "base")  # options of the others


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are fed to the segmenter."""

    augment: bool = True  # the changes of Mask3D and Segment3D
    min_points: int = 100  # smaller instances are no targets
    max_voxels: int = 200_000  # a scene of more is cut to a neighbourhood
    skip_labels: tuple[int, ...] = (1, 3)  # of ground truth that are no instances: ScanNet200 wall, floor
    thin: float = 0.0  # the largest share of its voxels that a sample loses, drawn for each: for coarse meshes.  Ours
    partial_share: float = 0.0  # of the samples are cuts of the cloud to what a few frames of a scan see, ours
    partial_frames: tuple[int, ...] = (1, 5, 10, 20)  # keyframes after the first of such a sample, one of these
    view_stride: int = 5  # frames from one keyframe to the next
    sparse: Literal["auto", "torch", "spconv"] = "auto"  # which implementation convolves

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self, min_points=(1, 1e9), max_voxels=(1, 1e9), thin=(0, 1), partial_share=(0, 1))
        check_ranges(self, view_stride=(1, 1e6))
        if not self.partial_frames or min(self.partial_frames) < 0:
            raise ValueError(f"partial_frames = {self.partial_frames}: expected numbers of frames")


@dataclass(frozen=True)
class Plan:
    """A run as the command line asks for it; init: tensors of --init, None without."""

    options: dict[str, Any]
    training: TrainConfig
    network: SegmenterConfig
    loss: LossConfig
    scenes: SceneConfig
    init: dict[str, Tensor] | None

    @property
    def configs(self) -> list[Any]:
        return [self.training, self.network, self.loss, self.scenes]

    @property
    def description(self) -> dict:
        """What config.json says of the weights."""
        return {"method": "instances", "kind": "instances", "config": dataclasses.asdict(self.network)}

    def labelled(self) -> LabelledScenes:
        """Find scenes and labels; raises InputError where there are none."""
        from pc3dcli.commands.labelled_scenes import labelled_scenes

        labels = self.options["labels"]
        return labelled_scenes(
            [str(self.options["shapes"])],
            None if labels is None else str(labels),
            dataset=self.options["dataset"],
            structure=self.scenes.skip_labels,
            view_stride=self.scenes.view_stride if self.scenes.partial_share else 0,
        )

    def data(self, labelled: LabelledScenes) -> VoxelData:
        """Return the batches of scenes."""
        from pc3dcli.datasets.voxel_batches import VoxelConfig, VoxelData

        shared = {
            name: getattr(self.scenes, name)
            for name in ("augment", "min_points", "max_voxels", "thin", "partial_share", "partial_frames")
        }
        config = VoxelConfig(voxel=self.network.voxel, gray_share=self.network.gray_share, **shared)
        return VoxelData(labelled.clouds, config)

    def program(self, ctx: typer.Context, labelled: LabelledScenes) -> Program:
        """Return what identifies the weights: settings, --init, and which scenes with which labels."""
        from pc3dcli.commands.weights import weights_digest

        training = dataclasses.replace(self.training, checkpoint_every=0)  # decides nothing
        init = self.options["init"]
        weights = {"init": weights_digest(init)} if init else {}
        excluded = ("shapes", "labels", "dataset", "init", *FOREIGN)
        program = settings.program(
            ctx, [training, self.network, self.loss, self.scenes], weights=weights, exclude=excluded
        )  # fmt: skip
        return dataclasses.replace(program, config=program.config | {"scenes": labelled.digest})

    def learner(self) -> Segmenter:
        """Build the network; its first weights follow from the seed, or are those of --init.

        raises  WeightsError for an --init that does not fit
        """
        import torch

        from pc3dcli.nn.sparse import chosen_backend
        from pc3dcli.nn.weights import load_exactly
        from pc3dcli.papers.granularity.segmenter import Segmenter
        from pc3dcli.train.processes import make_fabric

        backend = chosen_backend(self.scenes.sparse, make_fabric(self.options["device"]).device)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.training.seed)
            learner = Segmenter(self.network, self.loss, backend)
        if self.init is not None:
            load_exactly(learner, self.init, file=self.options["init"], kind="this segmenter")
        return learner


def plan(ctx: typer.Context) -> Plan:
    """Return what the command line asks for; reads the weights of --init, whose config is then the default.

    raises  UsageError for options of other methods
    """
    from pc3dcli.commands.segmenter_weights import open_segmenter
    from pc3dcli.papers.granularity.mask_loss import LossConfig
    from pc3dcli.papers.granularity.segmenter import SegmenterConfig
    from pc3dcli.train import TrainConfig

    options = ctx.params
    _check_foreign(ctx)
    network, init = open_segmenter(Path(options["init"])) if options["init"] else (SegmenterConfig(), None)
    defaults = TrainConfig(**RECIPE), network, LossConfig(), SceneConfig()
    found = Plan(options, *settings.configure(ctx, *defaults), init)
    if found.training.compile:
        raise UsageError("compile: not with --method instances, whose shapes change with every step")
    return found


def _check_foreign(ctx: typer.Context) -> None:
    """Refuse options that the other methods have."""
    for param in ctx.command.params:
        is_set = ctx.params[param.name] not in (None, False, 0) if param.name in FOREIGN else False
        choice = {"protocol": "fair", "recipe": "baseline"}.get(param.name)
        if is_set or (choice is not None and ctx.params[param.name] != choice):
            raise UsageError(f"{param.opts[0]}: not with --method instances")

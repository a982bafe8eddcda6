# SPDX-License-Identifier: Apache-2.0
"""One fine-tuning run: train on one split, write what the network says of the other in the form that `eval` reads.

Nothing of the test split decides anything here: fair predictions are of the last epoch, official ones of every epoch,
for `pc3d eval --protocol official` to show what choosing among them gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pc3dcli.commands.finetune_data import Splits, best_parts, test_sampling, train_sampling
from pc3dcli.commands.shape_network import BATCH, run_network, smallest_cloud, usable_device
from pc3dcli.commands.weights import base_tensors, new_downstream
from pc3dcli.datasets.shape_batches import BatchConfig, ShapeData
from pc3dcli.errors import InputError, UsageError, WeightsError
from pc3dcli.formats.part_categories import PartCategories, category_arrays
from pc3dcli.nn.model_files import read_model
from pc3dcli.nn.weights import load_exactly
from pc3dcli.papers.geomask3d.finetune import Finetuning, predict_classes, predict_parts
from pc3dcli.stream.run_folder import RunFolder
from pc3dcli.stream.writer import atomic_file
from pc3dcli.train import Position, Result, Run, TrainConfig, measure_step, train
from pc3dcli.train.processes import make_fabric
from pc3dcli.train.walk import Walk

if TYPE_CHECKING:
    from pc3dcli.formats.folds import Folds
    from pc3dcli.papers.geomask3d.finetune import FinetuneConfig
    from pc3dcli.train import Measured, Reporter

PREDICTIONS, EPOCHS = "predictions.npz", "epochs"


@dataclass(frozen=True)
class Plan:
    """What one run does.

    method       classify or parts
    description  of the weights, for config.json
    init         tensors of a pretrained base model, to predict those of a trained one; None trains from scratch
    init_file    where they come from
    protocol     fair: predictions of the last epoch; official: of every epoch
    votes        repeats of the vote, 0 for none
    """

    method: str
    splits: Splits
    description: dict
    init: dict[str, torch.Tensor] | None
    finetune: FinetuneConfig
    training: TrainConfig
    protocol: str = "fair"
    votes: int = 0
    device: str = "auto"
    init_file: Path | None = None

    @property
    def num_points(self) -> int:
        return int(self.description["config"]["num_points"])


def run(plan: Plan, folder: RunFolder, report: Reporter | None = None) -> Result:
    """Train and write predictions, from where an earlier call was stopped; weights that are done are kept.

    raises  as `train`; FormatError and InputError for shapes that cannot be used, WeightsError for an --init that
            does not fit
    """
    learner, data = _learner(plan)
    tester = Tester(plan, folder.path, data.config.min_points)
    predictions = folder.path / PREDICTIONS
    is_old = folder.is_done()
    if not is_old:
        tester.read_all()  # a shape that cannot be used is found before hours of training, not after
        predictions.unlink(missing_ok=True)  # of other weights
        if folder.force or not folder.checkpoint.exists():
            shutil.rmtree(folder.path / EPOCHS, ignore_errors=True)
    result = train(
        learner,
        data,
        plan.training,
        Run(folder, plan.description, plan.device, learner.rate_scale),
        report=report,
        after_epoch=tester.after_epoch if plan.protocol == "official" else None,
    )
    if result.is_main and not (is_old and _has_votes(predictions, plan)):
        _, tensors = read_model(folder.path)  # of a run that was finished earlier the learner knows nothing
        load_exactly(learner.model, tensors, file=folder.path, kind="this run")
        learner.to(usable_device(plan.device))
        tester.write(learner.model, predictions)
    return result


def predict(plan: Plan, path: Path) -> dict[str, np.ndarray]:
    """Write the predictions of a trained model and return them.

    raises  WeightsError for tensors that are not of the plan's model
    """
    model = new_downstream(plan.description, plan.init_file)
    load_exactly(model, plan.init, file=plan.init_file, kind=f"a {plan.description['base']} to {plan.method}")
    model.eval().to(usable_device(plan.device))
    return Tester(plan, path.parent, smallest_cloud(model.config)).write(model, path)


def measure(plan: Plan, folds: Folds | None) -> tuple[Measured, int]:
    """Return what a run, or that of the first fold, would take, and the parameters of its model; writes nothing."""
    if folds is not None:
        from pc3dcli.commands.fewshot_runs import of_fold

        plan = replace(plan, splits=of_fold(plan.splits, folds.folds[0], 0, plan.splits.train.root))
    learner, data = _learner(plan)
    measured = measure_step(learner, data, plan.training, plan.device)
    return measured, sum(parameter.numel() for parameter in learner.parameters())


def _learner(plan: Plan) -> tuple[Finetuning, ShapeData]:
    """Return what learns and from what; raises UsageError or InputError as `_check_batch`."""
    learner = Finetuning(_model(plan), plan.method, plan.finetune)
    data = ShapeData(plan.splits.train, _train_sampling(plan, learner.model))
    _check_batch(plan, data)
    return learner, data


def _check_batch(plan: Plan, data: ShapeData) -> None:
    """Refuse batches of one shape in a process, of which the norms of a head have no statistics.

    raises  UsageError for too small a batch, InputError for too few shapes
    """
    fabric = make_fabric(plan.device)
    num_ranks, size = fabric.world_size, plan.training.batch_size
    if Walk.over(data, plan.training, fabric.global_rank, num_ranks).batch_size >= 2 * num_ranks:
        return
    each = f"two or more for each of {num_ranks} processes" if num_ranks > 1 else "two or more"
    if size < 2 * num_ranks:
        raise UsageError(f"--batch-size {size}: expected {each}", hint=f"pass --batch-size {2 * num_ranks} or more")
    raise InputError(f"found {len(data)} shapes to learn from, expected {each}", file=plan.splits.train.root)


def _has_votes(path: Path, plan: Plan) -> bool:
    """Tell whether a file of predictions is there, with the votes that are wanted."""
    if not path.is_file():
        return False
    with np.load(path) as arrays:
        found = (len(arrays["vote_logits"]), int(arrays["vote_views"])) if "vote_views" in arrays.files else None
    return not plan.votes or found == (plan.votes, plan.finetune.vote_views)


def _model(plan: Plan) -> nn.Module:
    """Return the model before training: the head drawn from the seed, the rest pretrained where there is an init."""
    with torch.random.fork_rng([]):
        torch.manual_seed(plan.training.seed)
        model = new_downstream(plan.description, plan.init_file)
    if plan.init is not None:
        try:
            model.load_pretrained(base_tensors(plan.init))
        except WeightsError as error:
            raise WeightsError(error.message, file=plan.init_file, hint=error.hint) from None
    return model


def _train_sampling(plan: Plan, model: nn.Module) -> BatchConfig:
    augment, smallest = plan.finetune.augment, smallest_cloud(model.config)
    return train_sampling(plan.splits.train, plan.method, plan.num_points, augment, smallest)


class Tester:
    """Asks a model about the test split; the sampled shapes are kept between epochs."""

    def __init__(self, plan: Plan, folder: Path, min_points: int) -> None:
        """min_points: a shape of fewer is refused."""
        self.plan, self.folder = plan, folder
        self.shapes = plan.splits.test
        self.config = test_sampling(self.shapes, plan.method, plan.num_points, min_points)
        self.data = ShapeData(self.shapes, self.config)

    def read_all(self) -> None:
        """Read every shape; raises FormatError or InputError for one that cannot be used."""
        for start in range(0, len(self.shapes), BATCH):
            self.data.batch(np.arange(start, min(start + BATCH, len(self.shapes))))

    def after_epoch(self, learner: nn.Module, at: Position) -> None:
        """Write the predictions of an epoch, in the first process alone."""
        if at.rank == 0:
            self.folder.joinpath(EPOCHS).mkdir(exist_ok=True)
            arrays = self.predictions(learner.model)
            if self.plan.method == "classify":
                arrays = {"pred": arrays["logits"].argmax(axis=1).astype(np.uint16)}
            write_arrays(self.folder / EPOCHS / f"epoch_{at.epoch:04d}.npz", arrays)

    def predictions(self, model: nn.Module) -> dict[str, np.ndarray]:
        """Return logits (S, K) and, where known, label (S,) of classes; of parts pred and label (S, N), categories."""
        if self.plan.method == "classify":
            found = {"logits": self._logits(model, self.data)}
            return found if self.shapes.label is None else found | {"label": self.shapes.label.astype(np.uint16)}
        predicted, label = [], []
        for batch, logits in self._ask(model, self.data, lambda batch: predict_parts(model, batch.clouds, batch.label)):
            predicted.append(best_parts(logits, batch.label.numpy(), self.plan.splits.category_parts))
            label.append(batch.part.numpy())
        pred, label = np.concatenate(predicted), np.concatenate(label)
        dtype = np.min_scalar_type(max(pred.max(), label.max()))  # uint8 but for parts from 256 on
        about = PartCategories(self.shapes.class_names, self.plan.splits.scored_parts, self.shapes.label)
        names = category_arrays(about, tuple(self.plan.description.get("parts") or ()))
        return {"pred": pred.astype(dtype), "label": label.astype(dtype)} | names

    def votes(self, model: nn.Module) -> np.ndarray:
        """Return (R, S, K) mean logits of R repeated votes, each over `vote_views` resampled and augmented views."""
        data = ShapeData(self.shapes, _train_sampling(self.plan, model))
        views, repeats = self.plan.finetune.vote_views, self.plan.votes
        return np.stack(
            [self._vote(model, data, range(views * repeat, views * (repeat + 1))) for repeat in range(repeats)]
        )

    def write(self, model: nn.Module, path: Path) -> dict[str, np.ndarray]:
        """Write the predictions of the trained model and return them; of classes the epochs and votes with them."""
        arrays = self.predictions(model)
        arrays["id"] = np.array(self.shapes.names)
        arrays["class_names"] = np.array(self.shapes.class_names)
        if self.plan.method == "classify":
            if self.plan.protocol == "official":
                arrays["epoch_pred"] = self._epochs(path)
            if self.plan.votes:
                arrays["vote_logits"] = self.votes(model)
                arrays["vote_views"] = np.array(self.plan.finetune.vote_views)
        write_arrays(path, arrays)
        if self.plan.method == "classify":
            shutil.rmtree(self.folder / EPOCHS, ignore_errors=True)  # they are in the one file now
        return arrays

    def _epochs(self, earlier: Path) -> np.ndarray:
        """Return (E, S) classes after each epoch, of their files or of an `earlier` one that has them all."""
        if earlier.is_file():
            with np.load(earlier) as arrays:
                return arrays["epoch_pred"]
        files = [self.folder / EPOCHS / f"epoch_{epoch:04d}.npz" for epoch in range(self.plan.training.epochs)]
        return np.stack([np.load(file)["pred"] for file in files])

    def _vote(self, model: nn.Module, data: ShapeData, views: range) -> np.ndarray:
        # epochs of the sampler from 1 on: none is that of the single pass
        return np.mean([self._logits(model, data, epoch=1 + view) for view in views], axis=0, dtype=np.float64)

    def _logits(self, model: nn.Module, data: ShapeData, epoch: int = 0) -> np.ndarray:
        batches = self._ask(model, data, lambda batch: predict_classes(model, batch.clouds), epoch)
        return np.concatenate([found for _, found in batches])

    def _ask(
        self, model: nn.Module, data: ShapeData, network: Callable[[Any], torch.Tensor], epoch: int = 0
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield the batches of `data`, sampled as in an epoch, each with what `network` makes of it with the model."""
        device, seed = next(model.parameters()).device, self.plan.training.seed
        return run_network(network, self.shapes, data.config, device, seed=seed, epoch=epoch, data=data)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz whose bytes follow from the arrays; it appears under its name when complete."""
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)

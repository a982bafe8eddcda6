# SPDX-License-Identifier: Apache-2.0
"""The loop itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from pc3dcli.nn.schedules import parameter_groups
from pc3dcli.nn.training_state import pack_state
from pc3dcli.train.config import Data, Position, TrainConfig
from pc3dcli.train.journal import Journal, Reporter, Run, restore
from pc3dcli.train.processes import make_fabric, reproducible
from pc3dcli.train.walk import Walk, step_seed

if TYPE_CHECKING:
    from lightning_fabric import Fabric


QUICK_S = 5.0  # seconds of steps after which no other is measured; ours


class Result(NamedTuple):
    """Of a finished run: steps in all, steps that this call took, and whether this process writes and speaks."""

    steps: int
    new_steps: int
    is_main: bool


class Measured(NamedTuple):
    """What a run would take: steps, shapes of one, seconds and bytes of memory of one, on which device."""

    steps: int
    batch_size: int
    seconds: float
    num_bytes: int
    device: str


AfterEpoch = Callable[[nn.Module, Position], "list[dict] | None"]


def train(
    learner: nn.Module,
    data: Data,
    config: TrainConfig,
    run: Run,
    *,
    report: Reporter | None = None,
    after_epoch: AfterEpoch | None = None,
) -> Result:
    """Train a learner and write its weights into the folder of the run, from where an earlier call was stopped.

    after_epoch  called in every process when an epoch is done, without gradients; returns records for the log.  What
                 it changes in the learner must be in the state_dict
    raises       UsageError when the folder was made with other settings, TrainingError when the loss is not finite
    """
    fabric = make_fabric(run.device)
    walk = Walk.over(data, config, fabric.global_rank, fabric.world_size)
    if run.folder.is_done():
        return Result(walk.steps, 0, fabric.is_global_zero)
    if config.compile:
        compile_parts(learner)
    adam = _optimizer(learner, config, run.rate_scale)
    model, _ = fabric.setup(learner, adam)
    model.mark_forward_method("training_loss")
    start, log_bytes = restore(run.folder, learner, adam)
    fabric.barrier()  # nobody writes before all have read
    learner.train()
    with reproducible(fabric.device), Journal(fabric, run, log_bytes, report) as journal:
        journal.start(start, walk.steps)
        for batch, at in walk.batches(start, fabric.device):
            journal.add(at, batch.ids, *_step(fabric, model, adam, batch, at, config))
            learner.after_step(at)
            if at.is_epoch_end and after_epoch is not None:
                journal.extend(_without_gradients(after_epoch, learner, at))
            if journal.is_checkpoint_due(at, config):
                journal.save_checkpoint(at, pack_state(learner, adam))
        journal.finish(learner.exported(), steps=walk.steps, new_steps=walk.steps - start)
    fabric.barrier()
    return Result(walk.steps, walk.steps - start, fabric.is_global_zero)


def measure_step(learner: nn.Module, data: Data, config: TrainConfig, device: str = "auto") -> Measured:
    """Take the first step, or three where that is quick, and say what one took; writes nothing, changes the learner.

    raises  as `train`
    """
    fabric = make_fabric(device)
    walk = Walk.over(data, config, fabric.global_rank, fabric.world_size)
    if config.compile:
        compile_parts(learner)
    adam = _optimizer(learner, config, None)
    model, _ = fabric.setup(learner, adam)
    model.mark_forward_method("training_loss")
    learner.train()
    seconds = []
    with reproducible(fabric.device):
        for batch, at in itertools.islice(walk.batches(0, fabric.device), 3):
            begin = time.perf_counter()
            float(_step(fabric, model, adam, batch, at, config)[1])  # waits for the device
            learner.after_step(at)
            seconds.append(time.perf_counter() - begin)
            if sum(seconds) > QUICK_S:
                break
    return Measured(walk.steps, walk.batch_size, seconds[-1], _peak_memory(fabric.device), str(fabric.device))


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: by tensors of a GPU, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def _step(
    fabric: Fabric, model: nn.Module, adam: torch.optim.Optimizer, batch: Any, at: Position, config: TrainConfig
) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
    """Take one step; returns the learning rate, the loss and the named scalars, the norm of the gradient with them."""
    lr = config.rate(at)
    for group in adam.param_groups:
        group["lr"] = lr * group["scale"]
    _seed_layers(step_seed(config.seed, at.step, at.rank, 1), fabric.device)
    with torch.autocast(fabric.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        loss, scalars = model.training_loss(batch, at)
    fabric.backward(loss)
    parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.double_step:
        adam.step()
    if config.clip:
        nn.utils.clip_grads_with_norm_(parameters, config.clip, norm)
    adam.step()
    adam.zero_grad(set_to_none=True)
    return lr, loss.detach(), {**scalars, "grad_norm": norm}


def _seed_layers(seed: int, device: torch.device) -> None:
    """Seed the generators that layers draw from by themselves, as dropout does."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a traceback for each kind of device, 1.4 ms
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _optimizer(
    learner: nn.Module, config: TrainConfig, rate_scale: Callable[[str], float] | None
) -> torch.optim.Optimizer:
    groups = parameter_groups(learner, config.weight_decay, decay_tokens=config.decay_tokens, rate_scale=rate_scale)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def compile_parts(learner: nn.Module) -> None:
    """Compile the parts of a learner that are worth it, in place: transformers and patch embeddings."""
    from pc3dcli.nn.patch_embed import PatchEmbed
    from pc3dcli.nn.transformer import Transformer

    for module in learner.modules():
        if isinstance(module, PatchEmbed | Transformer):
            module.compile()


def _without_gradients(after_epoch: AfterEpoch, learner: nn.Module, at: Position) -> list[dict] | None:
    with torch.no_grad():
        records = after_epoch(learner, at)
    learner.train()
    return records

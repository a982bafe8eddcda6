# SPDX-License-Identifier: Apache-2.0
"""What `pc3d distill --method classify|parts` does: its configs from the command line, and the plan of a run."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pc3dcli.commands import settings
from pc3dcli.errors import UsageError
from pc3dcli.formats.result_names import counted

if TYPE_CHECKING:
    from pc3dcli.commands.finetune_data import Splits
    from pc3dcli.commands.finetune_run import Plan
    from pc3dcli.formats.folds import Folds

# options of which only the content of what they name matters, or that decide no weights
NOT_IDENTITY = ("shapes", "split", "hold_out", "dataset", "init", "base", "few_shot", "folds", "votes", "recipe")
FEW_STEPS = 10  # of a fold; ours


@dataclass(frozen=True)
class Job:
    """The plan of the run, or of every fold where there are some.

    program   the record without a fold
    warnings  what the user should know before it starts
    """

    plan: Plan
    folds: Folds | None
    configs: list[Any]
    program: settings.Program
    warnings: tuple[str, ...] = ()


def job(ctx: typer.Context) -> Job:
    """Return what the command line asks for; opens the shapes and reads the weights of --init.

    raises  UsageError for options that do not fit together; InputError, FormatError and WeightsError for inputs
    """
    from pc3dcli.commands.finetune_run import Plan
    from pc3dcli.commands.weights import need_kind, open_weights

    options = ctx.params
    _check_options(options)
    _check_idle(ctx)
    init = open_weights(options["init"]) if options["init"] else None
    if init:
        kind = options["method"] if options["predict"] else "pretrain"
        need_kind(init[0], (kind,), options["init"], "--predict" if options["predict"] else "--init")
    base = options["base"] or (init[0]["base"] if init else "point-mae")
    if init and init[0]["base"] != base:
        raise UsageError(f"--base {base}: the weights of --init are of {init[0]['base']}")
    splits, folds = _shapes(options, init)
    training, finetune, model = _configs(ctx, base, init, splits, folds)
    description = _description(options["method"], base, model, finetune, splits)
    if options["predict"]:
        description = {name: value for name, value in description.items() if name != "parts"} | init[0]
        description["config"] = dataclasses.asdict(model)
    plan = Plan(
        method=options["method"],
        splits=splits,
        description=description,
        init=init[1] if init and not options["scratch"] else None,
        init_file=options["init"],
        finetune=finetune,
        training=training,
        protocol=options["protocol"],
        votes=options["votes"],
        device=options["device"],
    )
    configs = [training, finetune, model]
    told = () if options["predict"] else _warnings(options, plan, folds)
    return Job(plan, folds, configs, _program(ctx, configs, plan), told)


def _shapes(options: dict[str, Any], init: tuple[dict, Any] | None) -> tuple[Splits, Folds | None]:
    """Open what is learned from and tested on, with its folds; with --predict what the weights are asked about."""
    from pc3dcli.commands.finetune_data import open_predicted, open_splits

    shapes, dataset, method = (options[name] for name in ("shapes", "dataset", "method"))
    if options["predict"]:
        split = _split_names(options)[-1] if options["split"] else None
        return open_predicted(shapes, dataset, method, split, init[0]), None
    names, share = _split_names(options), options["hold_out"]
    splits = open_splits(shapes, dataset, method, names, hold_out=share, seed=options["seed"])
    return splits, _folds(options, splits)


def _warnings(options: dict[str, Any], plan: Plan, folds: Folds | None) -> tuple[str, ...]:
    """Say what may surprise: classes and shapes of the wrong split, small batches, folds of few steps.

    raises  InputError as `unlearned_classes`
    """
    from pc3dcli.commands.finetune_data import unlearned_classes

    is_whole = plan.method == "classify" and folds is None
    unlearned = unlearned_classes(plan.splits) if is_whole else None
    told, names = [unlearned] if unlearned else [], _split_names(options)
    if options["hold_out"] is None and _sets(names[0]) & _sets(names[1]):
        told.append(f"splits {names[0]} and {names[1]} share shapes, which are learned from and tested on")
    count = folds.way * folds.shot if folds else len(plan.splits.train)
    batch = min(plan.training.batch_size, count)
    if batch < plan.training.batch_size:
        told.append(f"{count} shapes are one batch, {plan.training.batch_size} were asked for")
    steps = plan.training.epochs * (count // batch)
    if folds and steps < FEW_STEPS:
        told.append(f"each fold has {counted(steps, 'step')} of training: more --epochs, or a smaller --batch-size")
    return tuple(told)


def _sets(split: str) -> set[str]:
    return {"trainval": {"train", "val"}, "all": {"train", "val", "test"}}.get(split, {split})


def program_of_folds(found: Job) -> dict:
    """Return the program record of all folds together: the run's, with their samples."""
    text = repr([(fold.classes, fold.support, fold.query) for fold in found.folds.folds])
    more = {"folds": hashlib.sha256(text.encode()).hexdigest()[:12]}
    return dataclasses.replace(found.program, config=found.program.config | more).record()


def program_of_fold(found: Job, index: int) -> dict:
    """Return the program record of a fold: the run's, with the samples of the fold."""
    fold = found.folds.folds[index]
    text = repr((fold.classes, fold.support, fold.query))
    more = {"fold": hashlib.sha256(text.encode()).hexdigest()[:12]}
    return dataclasses.replace(found.program, config=found.program.config | more).record()


def _check_options(options: dict[str, Any]) -> None:
    is_few = options["few_shot"] is not None or options["folds"] is not None
    if options["few_shot"] is not None and options["folds"] is not None:
        raise UsageError("--few-shot draws folds, --folds reads them: pass one of them")
    if options["method"] == "parts" and (is_few or options["votes"]):
        raise UsageError(f"{'--votes' if options['votes'] else '--few-shot and --folds'}: not with --method parts")
    if is_few and options["votes"]:
        raise UsageError("--votes: not with few-shot folds")
    if options["predict"] and options["init"] is None:
        raise UsageError("--predict needs --init, weights of this command or a fine-tuned release")
    if options["predict"] and (options["scratch"] or is_few or options["protocol"] == "official"):
        raise UsageError("--predict trains nothing: not with --scratch, folds or --protocol official")
    if options["method"] == "parts" and options["recipe"] == "gm3d":
        raise UsageError("--recipe gm3d is for classes, parts have one recipe")
    if options["scratch"] and options["init"] is None:
        raise UsageError("--scratch leaves out the weights of --init: without --init nothing is pretrained")


def _check_idle(ctx: typer.Context) -> None:
    """Refuse settings of training with --predict, but in a --config file, which may be for other commands too."""
    from pc3dcli.papers.geomask3d.finetune import FinetuneConfig
    from pc3dcli.train import TrainConfig

    if not ctx.params["predict"]:
        return
    of_votes = {"vote_views", "augment"} if ctx.params["votes"] else set()
    of_training = {field.name for kind in (TrainConfig, FinetuneConfig) for field in dataclasses.fields(kind)}
    idle = (of_training | {"recipe", "hold_out"}) - of_votes - {"seed"}
    names = [text.partition("=")[0].replace("-", "_") for text in ctx.params["define"] or []]
    found = [f"-D {name}" for name in names if name in idle]
    for param in ctx.command.params:
        if param.name in idle and ctx.get_parameter_source(param.name).name in ("COMMANDLINE", "ENVIRONMENT"):
            found.insert(0, param.opts[0])
    if found:
        raise UsageError(f"{found[0]}: --predict trains nothing")


def _split_names(options: dict[str, Any]) -> tuple[str, ...]:
    """Return the splits to learn from and to be tested on, or the only one: with --hold-out or --predict.

    Parts learn from trainval where there is a val split.
    """
    from pc3dcli.datasets.shape_set import SPLITS
    from pc3dcli.formats.shapenet_part import is_dataset

    is_one = options["hold_out"] is not None
    if options["split"] is None:
        is_parts = options["method"] == "parts" and is_dataset(Path(options["shapes"]))
        names = ("trainval", "test") if is_parts else ("train", "test")
        return names[:1] if is_one else names
    names = tuple(options["split"].split(","))
    counts = (1,) if is_one else (1, 2) if options["predict"] else (2,)
    if len(names) not in counts or any(name not in SPLITS for name in names):
        expected = "one" if is_one else "one or two" if options["predict"] else "two"
        hint = None if is_one or options["predict"] else "--hold-out 0.2 tests on a share of one split"
        example = "train" if is_one else "train,test"
        problem = f"--split {options['split']}: expected {expected} of {', '.join(SPLITS)}, as in {example}"
        raise UsageError(problem, hint=hint)
    return names


def _folds(options: dict[str, Any], splits: Splits) -> Folds | None:
    from pc3dcli.commands.fewshot_runs import drawn_folds, open_folds, parse_size

    if options["folds"] is not None:
        return open_folds(options["folds"], splits)
    if options["few_shot"] is None:
        return None
    return drawn_folds(splits, parse_size(options["few_shot"]), options["seed"], options["shapes"])


def _configs(
    ctx: typer.Context, base: str, init: tuple[dict, Any] | None, splits: Splits, folds: Folds | None
) -> list[Any]:
    """Return the configs of training, of fine-tuning and of the model: the recipe, with what the user changed."""
    from pc3dcli.commands.weights import base_config
    from pc3dcli.papers.geomask3d.finetune import FinetuneConfig, downstream_fields, recipe
    from pc3dcli.train import TrainConfig

    options = ctx.params
    task = "few-shot" if folds is not None else options["method"]
    is_scan = splits.train.layout == "scanobjectnn"
    beside, training = recipe(task, base, options["recipe"], is_scan=is_scan)
    pretrained = base_config(base, init[0]["config"] if init else {}, options["init"])
    fields = dataclasses.asdict(pretrained)
    if not options["predict"]:
        fields = downstream_fields(task, base, fields, is_scan=is_scan)
    model = base_config(base, fields, options["init"])
    defaults = (TrainConfig(**training), FinetuneConfig(**beside), model)
    found = settings.configure(ctx, *defaults)
    if found[1].variant == "auto":
        variant = "scanobjectnn" if is_scan else "modelnet"
        found[1] = dataclasses.replace(found[1], variant=variant)
    return found


def _description(method: str, base: str, model: Any, finetune: Any, splits: Splits) -> dict:
    """Return what config.json says of the weights."""
    about = {"method": method, "kind": method, "base": base, "config": dataclasses.asdict(model)}
    about["classes"] = list(splits.train.class_names)
    if method == "parts":
        num_parts = 1 + max(max(parts) for parts in splits.category_parts)
        about["parts"] = list(splits.train.part_names) or [str(index) for index in range(num_parts)]
        about["category_parts"] = [list(parts) for parts in splits.category_parts]
    elif base == "point-m2ae":
        about["variant"] = finetune.variant
    return about | {"is_raw": splits.train.is_raw}  # how clouds are to be normalised


def _program(ctx: typer.Context, configs: list[Any], plan: Plan) -> settings.Program:
    """Return what identifies the weights: settings, --init and which shapes, wherever those lie."""
    from pc3dcli.commands.weights import weights_digest

    training = dataclasses.replace(configs[0], checkpoint_every=0)  # decides nothing
    finetune = dataclasses.replace(configs[1], vote_views=10)  # nor does it
    init = ctx.params["init"]
    weights = {"init": weights_digest(init)} if init else {}
    program = settings.program(ctx, [training, finetune, configs[2]], weights=weights, exclude=NOT_IDENTITY)
    of_data = {"base": plan.description["base"]}
    for name, shapes in (("train", plan.splits.train), ("test", plan.splits.test)):
        text = "\n".join(shapes.names)
        of_data[name] = f"{len(shapes)} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return dataclasses.replace(program, config=program.config | of_data)

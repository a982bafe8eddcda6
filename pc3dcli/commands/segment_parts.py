# SPDX-License-Identifier: Apache-2.0
"""`pc3d segment --parts`: object clouds -> the part of each point, as records and files that `eval` reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pc3dcli.commands.options import written_formats
from pc3dcli.stream.pipeline import Context, SceneTask

if TYPE_CHECKING:
    import numpy as np

    from pc3dcli.datasets.shape_set import ShapeSet

FORMATS = {"ply": ".ply", "npz": ".npz"}  # and the suffix of the file that is there when it is written


@dataclass(frozen=True)
class Settings:
    """What decides the parts of a shape; picklable."""

    weights: Path
    category: str | None
    dataset: str
    split: str
    device: str
    seed: int
    formats: tuple[str, ...]


def run(ctx: typer.Context, examples: str) -> None:
    """Segment shapes and leave with the exit code."""
    from pc3dcli.commands import settings as common
    from pc3dcli.commands.execute import Execution
    from pc3dcli.commands.weights import weights_digest
    from pc3dcli.errors import UsageError

    params = ctx.params
    if params["print_config"]:
        common.print_config(ctx, [])
    for name in ("snap", "min_score", "define", "root"):
        if params[name]:
            raise UsageError(f"--{name.replace('_', '-')}: not with --parts")
    weights = params["weights"]
    if weights is None:
        raise UsageError("--parts needs --weights", hint="pc3d distill --method parts makes them")
    formats = written_formats(params["write"], params["out"], FORMATS, "parts/")
    settings = Settings(
        weights, *(params[name] for name in ("category", "dataset", "split", "device", "seed")), formats
    )
    program = common.program(
        ctx, [], weights={"weights": weights_digest(weights)}, exclude=("weights", "split", "dataset")
    )
    needed = tuple(FORMATS[name] for name in settings.formats)
    Execution(ctx, program).run(_tasks(ctx, settings, examples), segment_shape, needed_files=needed)


def _tasks(ctx: typer.Context, settings: Settings, examples: str) -> Iterator[SceneTask]:
    """Yield a task for each shape of all inputs.

    raises  UsageError for a shape id from two inputs, and for shapes of which nothing says what they are
    """
    from pc3dcli.commands.inputs import expand_names, is_stream, sharded
    from pc3dcli.errors import UsageError

    places: dict[str, str] = {}
    tasks, known = [], None
    for name in expand_names(ctx, ctx.params["scenes"], examples):
        if is_stream(name):
            raise UsageError(f"{name}: expected clouds of objects, not a record stream")
        shapes = _shapes(name, settings.dataset, settings.split)
        if settings.category is None:
            known = known or _known_categories(settings.weights)
            _check_classes(name, shapes, known)
        for index, shape in enumerate(shapes.names):
            if shape in places:
                raise UsageError(f"shape {shape} is in {places[shape]} and in {name}", hint="run once for each")
            places[shape] = name
            root = Path(name).resolve()
            scene = {"type": "scene", "scene": shape, "root": str(root.parent if root.is_file() else root)}
            tasks.append(SceneTask(scene | {"dataset": shapes.layout}, (settings, name, index)))
    yield from sharded(tasks, ctx.params["shard"])


def _known_categories(weights: Path) -> list[str]:
    """Return the categories of weights, in small letters; raises as `open_weights`, WeightsError for other kinds."""
    from pc3dcli.commands.weights import need_kind, open_weights
    from pc3dcli.metrics.parts import CATEGORIES

    description, _ = open_weights(weights)
    need_kind(description, ("parts",), weights, "--parts")
    return [category.lower() for category in description.get("classes") or CATEGORIES]


def _check_classes(name: str, shapes: ShapeSet, known: list[str]) -> None:
    """Refuse shapes of which nothing says what they are.

    raises  UsageError where there are no classes, InputError where the weights know none of them
    """
    from pc3dcli.errors import InputError, UsageError

    found = sorted({_class_of(shapes, index, name) or "" for index in range(len(shapes))})
    if any(one.lower() in known for one in found):
        return
    hint = f"--category NAME says what the objects are; the weights know {_some(known)}"
    if shapes.label is None:
        raise UsageError(f"{name}: its shapes have no class, pass --category", hint=hint)
    raise InputError(f"its classes are {_some(found)}, of which the weights know none", file=name, hint=hint)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def _class_of(shapes: ShapeSet, index: int, name: str) -> str | None:
    """Return the class of a shape: that of the data set, for clouds without one the name of the folder they lie in."""
    from pc3dcli.datasets.shape_set import SPLITS

    if shapes.label is not None:
        return shapes.class_names[shapes.label[index]]
    if shapes.layout != "clouds":
        return None
    path = Path(name).resolve()
    folders = path.parts[:-1] if path.is_file() else path.parts
    return next((folder for folder in reversed(folders) if folder not in SPLITS), None)


@lru_cache(maxsize=8)
def _shapes(name: str, dataset: str, split: str) -> ShapeSet:
    """Open the shapes of an input once a process."""
    from pc3dcli.datasets.shape_set import open_shapes

    return open_shapes(Path(name), dataset=dataset, split=split)


@lru_cache(maxsize=1)
def _segmenter(weights: Path, device: str) -> Any:
    """Load the network once a process."""
    from pc3dcli.commands.part_segmenter import PartSegmenter

    return PartSegmenter(weights, device)


def segment_shape(task: SceneTask, context: Context) -> Iterator[dict]:
    """Yield the records of one shape: the scene with its points, and the part of each of them.

    task.payload  (Settings, input, index of the shape in it)
    """
    from pc3dcli.errors import InputError
    from pc3dcli.formats.cloud import xyz_sha256

    settings, name, index = task.payload
    shapes = _shapes(name, settings.dataset, settings.split)
    segmenter = _segmenter(settings.weights, settings.device)
    shape = shapes.read(index)
    found = settings.category or _class_of(shapes, index, name)
    try:
        category = segmenter.category(found, settings.category is not None, shapes)
    except InputError as error:  # without a file the message names the shape
        raise InputError(error.message, hint=error.hint) from None
    part = segmenter.parts(shape.xyz, category, settings.seed)
    yield task.scene | {"num_points": len(part), "xyz_sha256": xyz_sha256(shape.xyz)}
    yield {
        "type": "labels3d",
        "scene": task.id,
        "kind": "parts",
        "category": segmenter.categories[category],
        "classes": segmenter.part_names,
        "tensor": _tensor(part, context),
    }
    if context.side is not None:
        _write_files(shape.xyz, part, settings, context)


def _tensor(part: np.ndarray, context: Context) -> dict:
    """Return how a record refers to the parts: a file beside it, or the numbers where there is no place for one.

    raises  InputError for more numbers than a record may hold
    """
    from pc3dcli.errors import InputError

    about = {"name": "pred", "dtype": "I32", "shape": [len(part)]}
    if context.side is not None:
        return {"file": context.side.relative(".safetensors")} | about
    if 4 * len(part) > 1 << 16:
        raise InputError(f"parts of {len(part)} points do not fit a record", hint="add --out parts/")
    return about | {"data": part.tolist()}


def _write_files(xyz: np.ndarray, part: np.ndarray, settings: Settings, context: Context) -> None:
    """Write the tensor of a shape, and the formats that --write names."""
    import numpy as np

    from pc3dcli.formats.cloud import Cloud
    from pc3dcli.formats.labels import write_part_tensor
    from pc3dcli.formats.ply import write_ply
    from pc3dcli.geometry.colors import instance_colors
    from pc3dcli.stream.provenance import chain_text
    from pc3dcli.stream.writer import atomic_file

    chain = chain_text(list(context.programs))
    with atomic_file(context.side.path(".safetensors")) as file:
        write_part_tensor(file, part, {"format": "pc3d", "method": "segment parts", "pc3d": chain})
    if "ply" in settings.formats:
        cloud = Cloud(xyz, instance_colors(part), extra={"label": part, "instance_id": part})
        with atomic_file(context.side.path(".ply")) as file:
            write_ply(file, cloud, (f"pc3d {chain}",) if context.programs else ())
    if "npz" in settings.formats:
        with atomic_file(context.side.path(".npz")) as file:
            np.savez_compressed(file, pred=part.astype(np.uint8 if part.max() < 256 else np.int32))

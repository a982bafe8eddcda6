# SPDX-License-Identifier: Apache-2.0
"""Weights of the instance segmenter: our own, or a Mask3D or Segment3D checkpoint as its authors published it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pc3dcli.errors import WeightsError
from pc3dcli.nn.model_files import is_model, read_model
from pc3dcli.nn.weights import load_exactly, read_state_dict
from pc3dcli.papers.granularity.mask3d_released import from_released, is_released, sizes
from pc3dcli.papers.granularity.segmenter import Segmenter, SegmenterConfig

if TYPE_CHECKING:
    from torch import Tensor


def open_segmenter(path: Path) -> tuple[SegmenterConfig, dict[str, Tensor]]:
    """Read weights of either origin.

    raises  InputError when there is none, WeightsError when they are of another network or damaged
    """
    path = Path(path)
    if is_model(path):
        description, tensors = read_model(path)
        if description["kind"] != "instances":
            is_parts = description["kind"] == "parts"
            hint = "pc3d segment --parts uses them" if is_parts else "pc3d distill --method instances makes them"
            raise WeightsError(f"found weights of kind {description['kind']}, expected instances", file=path, hint=hint)
        return _config(description["config"], path), tensors
    found = read_state_dict(path)
    if not is_released(found):
        names = ", ".join(list(found)[:3])
        raise WeightsError(f"found {names}, expected a Mask3D or Segment3D checkpoint", file=path)
    try:
        tensors = from_released(found)
        return _config(sizes(tensors), path), tensors
    except WeightsError as error:
        raise WeightsError(error.message, file=path, hint=error.hint) from None


def segmenter_of(path: Path) -> Segmenter:
    """Return the trained network of a weights file, in eval mode on the CPU; raises as `open_segmenter`."""
    config, tensors = open_segmenter(path)
    model = Segmenter(config)
    load_exactly(model, tensors, file=path, kind="an instance segmenter")
    return model.eval()


def _config(fields: dict[str, Any], path: Path) -> SegmenterConfig:
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        for field in dataclasses.fields(SegmenterConfig):
            _check_type(field.name, plain.get(field.name, field.default), field.default)
        return SegmenterConfig(**plain)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"its config is not of an instance segmenter: {error}", file=path) from None


def _check_type(name: str, value: object, like: object) -> None:
    """Raise TypeError for a value of another type than `like`; an integer is a float."""
    values, kinds = (value, like) if isinstance(like, tuple) else ((value,), (like,))
    wanted = {type(kind) for kind in kinds} | ({int} if isinstance(like, float) else set())
    if not isinstance(values, tuple) or not {type(one) for one in values} <= wanted:
        raise TypeError(f"{name} is {value!r}, expected such as {like!r}")

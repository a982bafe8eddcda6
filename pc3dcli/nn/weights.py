# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints of other projects: tensors only, no code, and nothing loaded that does not fit exactly.

A pickle is read with torch's restricted unpickler (`weights_only=True`), which refuses everything but tensors and
plain containers; a .safetensors file cannot hold code at all.  Settings that Lightning keeps beside the weights
(omegaconf's classes) are read as empty things, for which no code of theirs runs.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch

from pc3dcli.errors import InputError, WeightsError

SETTINGS = ("omegaconf.", "typing.Any")
NESTED = ("base_model", "model_state_dict", "model", "state_dict")  # where trainers of this field keep the weights


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a .safetensors, .pt or .pth file onto the CPU.

    path     a state dict, or one under a key of `NESTED` beside training leftovers
    returns  name to tensor, in file order
    raises   InputError when there is no such file, WeightsError when it is damaged, holds code or is no state dict
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such weights file", file=path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"found a {type(content).__name__}, expected named tensors", file=path)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"found {type(value).__name__} at {name!r}, expected named tensors", file=path)
    return dict(content)


def load_exactly(model: torch.nn.Module, tensors: dict[str, torch.Tensor], *, file: Path | None, kind: str) -> None:
    """Copy `tensors` into `model` when names and shapes agree one to one and every value is finite.

    file, kind  named in the error: where the tensors come from and what the model is
    raises      WeightsError with the first few differences
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} {_kind(tensors[name])} instead of {_kind(value)}"
        for name, value in expected.items()
        if name in tensors and _kind(tensors[name]) != _kind(value)
    ]
    parts = [("lacks", missing), ("has unknown", unknown), ("has", shapes)]
    problems = [f"{verb} {', '.join(names[:3])}{and_more(names)}" for verb, names in parts if names]
    if problems:
        raise WeightsError(f"these are not weights of {kind}: the file {'; '.join(problems)}", file=file)
    broken = next((name for name in expected if not bool(torch.isfinite(tensors[name]).all())), None)
    if broken is not None:
        raise WeightsError(f"{broken} holds values that are not finite", file=file)
    model.load_state_dict(tensors)


def load_encoder(
    model: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    *,
    new: tuple[str, ...],
    unused: tuple[str, ...],
    kind: str,
) -> None:
    """Copy a pretrained encoder into a downstream model.

    new      beginnings of the names that pretraining does not have; they keep the model's values
    unused   beginnings of the names that only pretraining has
    kind     named in the error, for example "a pretrained Point-MAE"
    raises   WeightsError for weights that have a head, or when anything else is missing or left over
    """
    foreign = [name for name in tensors if name.startswith(new)]
    if foreign:
        raise WeightsError(f"found {', '.join(foreign[:3])}, expected weights of {kind} without a head")
    own = {name: value for name, value in model.state_dict().items() if name.startswith(new)}
    encoder = {name: value for name, value in tensors.items() if not name.startswith(unused)}
    load_exactly(model, own | encoder, file=None, kind=kind)


def _kind(tensor: torch.Tensor) -> str:
    """Return the shape of a tensor, and whether it holds integers; floats of any width are one kind."""
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of integers'}"


def and_more(names: list[str]) -> str:
    """Return how many names are left out when the first three are listed."""
    return f" and {len(names) - 3} more" if len(names) > 3 else ""


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"not a readable safetensors file: {error}", file=path) from None


def _read_pickle(path: Path) -> object:
    try:
        harmless = [*_numpy_numbers(), *_settings_classes(path)]
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle fails in any way: IndexError, KeyError, UnicodeError, ...
        raise WeightsError(
            f"not a checkpoint of plain tensors, or one that is damaged ({_reason(error)})",
            file=path,
            hint="pc3d never runs code out of a checkpoint; download the official file again or save its state dict",
        ) from None


class _Nothing:
    """What stands for an object of somebody's settings: takes whatever it is given and keeps none of it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _settings_classes(path: Path) -> list:
    """Return stand-ins for the classes of settings that a checkpoint names."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged in any way, which reading it will say
        return []
    return [(_Nothing, name) for name in names if name.startswith(SETTINGS)]


def _reason(error: Exception) -> str:
    """Return what the unpickler stumbled over, without torch's advice to switch the check off."""
    text = str(error)
    found = re.search(r"(Unsupported (global|operand|class)|Trying to load unsupported)[^.\n]*", text)
    line = found[0] if found else next(iter(text.splitlines()), "")
    return line[:200] or type(error).__name__


def _numpy_numbers() -> list:
    """Return what a pickled numpy number names: trainers store their best accuracy as one beside the weights."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # its place differs between versions of numpy
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *dtypes]

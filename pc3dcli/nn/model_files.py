# SPDX-License-Identifier: Apache-2.0
"""Our own weights on disk: `model.safetensors` beside `config.json` (pc3d-weights(5)), and tensors with a description.

The description is in both files, so that the weights alone can be moved and a pair that does not belong together is
refused.  Files appear under their names only when complete, and the same tensors give the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch

from pc3dcli.errors import InputError, WeightsError
from pc3dcli.stream.writer import atomic_file

FORMAT = "pc3d.weights/1"
MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
KINDS = ("pretrain", "classify", "parts", "instances")


def write_model(
    folder: Path, tensors: dict[str, torch.Tensor], description: dict, programs: list[dict] | None = None
) -> Path:
    """Write weights and what they are; returns the path of model.safetensors.

    tensors      name -> tensor on any device
    description  method, kind (one of KINDS), base, config (fields of the model's config), classes and parts where
                 there are any; `format` is added
    programs     the program records that made the weights (cli.md section 5)
    """
    described = {"format": FORMAT, **description}
    metadata = {"format": "pc3d", "method": str(described.get("method", "")), "config": _json(described)}
    if programs:
        metadata["pc3d"] = json.dumps(programs, separators=(",", ":"), ensure_ascii=True)
    with atomic_file(folder / MODEL_FILE) as file:
        write_tensors(file, tensors, metadata)
    with atomic_file(folder / CONFIG_FILE) as file:
        file.write((json.dumps(described, indent=1, sort_keys=True) + "\n").encode())
    return folder / MODEL_FILE


def read_model(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read a folder that `write_model` wrote, or the model.safetensors of one; returns (description, tensors on CPU).

    raises  InputError when there is none, WeightsError when it is damaged, of another program, or the two files are
            not of one run
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no weights here, expected {MODEL_FILE}" if path.is_dir() else "no such file", file=path)
    tensors, metadata = read_tensors(file)
    description = _description(metadata.get("config", ""), file)
    beside = file.with_name(CONFIG_FILE)
    if beside.is_file() and _description(_text(beside), beside) != description:
        raise WeightsError(f"says something else than {file.name} beside it", file=beside, hint="copy both of one run")
    return description, tensors


def is_model(path: Path) -> bool:
    """Tell whether `read_model` is the way to read a path: a folder, or a .safetensors file that carries our mark."""
    if Path(path).is_dir():
        return True
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return FORMAT in (file.metadata() or {}).get("config", "")
    except (safetensors.SafetensorError, OSError):
        return False


def write_tensors(file: BinaryIO, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text as safetensors with a sorted header; the library writes metadata in random order."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = memoryview(safetensors.torch.save(plain, metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(bytes(data[8:end])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # keeps the tensors aligned
    file.write(len(header).to_bytes(8, "little") + header)
    file.write(data[end:])


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file on the CPU and its metadata; raises WeightsError when it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"not a readable safetensors file, perhaps truncated: {error}", file=path) from None


def _json(value: dict) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read it: {error}", file=path) from None


def _description(text: str, file: Path) -> dict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "format" not in found:
        raise WeightsError("carries no description of its model", file=file, hint="expected weights that pc3d wrote")
    if found["format"] != FORMAT:
        raise WeightsError(f"found format {found['format']!r}, expected {FORMAT!r}", file=file)
    if found.get("kind") not in KINDS or not isinstance(found.get("config"), dict):
        raise WeightsError(f"found kind {found.get('kind')!r}, expected one of {', '.join(KINDS)}", file=file)
    return found

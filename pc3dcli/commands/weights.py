# SPDX-License-Identifier: Apache-2.0
"""What --weights, --init and --teacher name: our own weights, or a released checkpoint recognised by its keys.

Ours are a folder that `pretrain` or `distill` wrote, or the model.safetensors in it.  Others are the Point-MAE,
Point-M2AE (both naming generations) and GeoMask3D files as their authors published them.  Whatever does not fit exactly
is refused with the first names that do not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pc3dcli.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

BASES = ("point-mae", "point-m2ae")
POINT_M2AE_KEYS = ("h_encoder.", "MAE_encoder.encoders.")  # only these models have names that begin so
POINT_MAE_KEYS = ("MAE_encoder.encoder.", "MAE_encoder.blocks.blocks.", "encoder.first_conv.", "blocks.blocks.")
SCAN_CLASSES = 15  # of ScanObjectNN, by which its classifiers are known among the released ones
KIND_KEYS = {"classify": ("cls_head_finetune.",), "parts": ("label_conv.", "propagation", "convs3.")}


def open_weights(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Read weights of either origin.

    returns  description (method, kind "pretrain", "classify" or "parts", base, config; classes and parts where there
             are any, as in config.json), and name -> tensor on the CPU under our names
    raises   InputError when there is none, WeightsError when it is damaged or of no model that is known here
    """
    from pc3dcli.nn.model_files import is_model, read_model
    from pc3dcli.nn.weights import read_state_dict

    path = Path(path)
    if is_model(path):
        return read_model(path)
    found = read_state_dict(path)
    released = {name.removeprefix("module."): value for name, value in found.items()}
    base, kind = _recognised(released, path)
    try:
        tensors = _renamed(found, base, kind)
    except WeightsError as error:
        raise _of_file(error, path) from None
    description = {"method": "released", "kind": kind, "base": base, "config": _released_config(released, base, kind)}
    if kind == "classify":
        description["classes"] = [str(index) for index in range(_num_classes(released))]
        if base == "point-m2ae":
            description["variant"] = _m2ae_variant(released)
    return description, tensors


def need_kind(description: dict, kinds: tuple[str, ...], path: Path, purpose: str) -> None:
    """Raise WeightsError unless the weights are of one of the kinds that `purpose` needs."""
    if description["kind"] not in kinds or description.get("base") not in BASES:
        found = f"{description.get('base')} of kind {description['kind']}"
        hint = {"pretrain": "pc3d pretrain makes them", "classify": "pc3d distill --method classify makes them"}
        hint["parts"] = "pc3d distill --method parts makes them"
        raise WeightsError(
            f"found weights of {found}, {purpose} needs {' or '.join(kinds)}", file=path, hint=hint[kinds[0]]
        )


def base_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the base model alone, without the complexity head that GeoMask3D trains beside it."""
    from pc3dcli.papers.geomask3d.gm3d import HEAD_PREFIX

    return {name: value for name, value in tensors.items() if not name.startswith(HEAD_PREFIX)}


def base_config(base: str, fields: dict[str, Any], path: Path | None = None) -> Any:
    """Return the config of a base model from the fields of config.json.

    fields  others are left alone: the complexity head has some there too
    raises  WeightsError for a value that it cannot have
    """
    import dataclasses

    from pc3dcli.papers.geomask3d.point_m2ae import PointM2aeConfig
    from pc3dcli.papers.geomask3d.point_mae import PointMaeConfig

    kind = {"point-mae": PointMaeConfig, "point-m2ae": PointM2aeConfig}[base]
    known = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{name: value for name, value in fields.items() if name in known})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"its config is not of a {base}: {error}", file=path) from None


def base_model(base: str, config: Any) -> Any:
    """Return an untrained base model."""
    from pc3dcli.papers.geomask3d.point_m2ae import PointM2ae
    from pc3dcli.papers.geomask3d.point_mae import PointMae

    return {"point-mae": PointMae, "point-m2ae": PointM2ae}[base](config)


def pretrained_model(path: Path, purpose: str) -> tuple[Any, dict]:
    """Return the pretrained base model of a weights file, in eval mode on the CPU, and its description.

    raises  as `open_weights`; WeightsError for weights of another kind or that do not fit their config
    """
    from pc3dcli.nn.weights import load_exactly

    description, tensors = open_weights(path)
    need_kind(description, ("pretrain",), path, purpose)
    model = base_model(description["base"], base_config(description["base"], description["config"], path))
    load_exactly(model, base_tensors(tensors), file=path, kind=f"a pretrained {description['base']}")
    return model.eval(), description


def downstream_model(path: Path, kind: str, purpose: str) -> tuple[nn.Module, dict]:
    """Return the classifier or part model of a weights file, in eval mode on the CPU, and its description.

    kind    "classify" or "parts"
    raises  as `open_weights`; WeightsError for weights of another kind or that do not fit their config
    """
    from pc3dcli.nn.weights import load_exactly

    description, tensors = open_weights(path)
    need_kind(description, (kind,), path, purpose)
    model = new_downstream(description, path)
    load_exactly(model, tensors, file=path, kind=f"a {description['base']} of kind {kind}")
    return model.eval(), description


def new_downstream(description: dict, path: Path | None = None) -> nn.Module:
    """Return an untrained classifier or part model.

    description  base, kind, config, classes; parts, of PointM2ae classifiers variant
    raises       WeightsError for a description that lacks them
    """
    from pc3dcli.papers.geomask3d import point_m2ae_heads, point_mae_heads

    base, is_small = description["base"], description["base"] == "point-mae"
    config = base_config(base, description["config"], path)
    try:
        if description["kind"] == "classify":
            num_classes = len(description["classes"])
            if is_small:
                return point_mae_heads.PointMaeClassifier(config, num_classes)
            variant = description.get("variant") or "modelnet"
            return point_m2ae_heads.PointM2aeClassifier(config, num_classes, variant)
        if is_small and config.depth < 3:
            raise ValueError(f"depth = {config.depth}: parts are read at three depths")
        kind = point_mae_heads.PointMaeParts if is_small else point_m2ae_heads.PointM2aeParts
        if not description.get("parts"):  # a released model: ShapeNetPart's
            return kind(config)
        return kind(config, num_parts=len(description["parts"]), num_categories=len(description["classes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"its config does not describe a {base} of kind {description['kind']}: {error}", file=path
        ) from None


def weights_digest(path: Path) -> str:
    """Return "sha256:..." of the file that holds the tensors."""
    from pc3dcli.commands.inputs import digest

    return digest(Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path))


def _recognised(released: dict[str, Tensor], path: Path) -> tuple[str, str]:
    """Return base and kind of a released checkpoint by its keys."""
    if any(name.startswith(POINT_M2AE_KEYS) for name in released):
        base = "point-m2ae"
    elif any(name.startswith(POINT_MAE_KEYS) for name in released):
        base = "point-mae"
    else:
        names = ", ".join(list(released)[:3])
        raise WeightsError(f"found {names}, expected a Point-MAE, Point-M2AE or GeoMask3D checkpoint", file=path)
    kinds = [kind for kind, keys in KIND_KEYS.items() if any(name.startswith(keys) for name in released)]
    return base, kinds[0] if kinds else "pretrain"


def _renamed(released: dict[str, Tensor], base: str, kind: str) -> dict[str, Tensor]:
    from pc3dcli.papers.geomask3d import point_m2ae_released, point_mae_released

    names = {"point-mae": point_mae_released, "point-m2ae": point_m2ae_released}[base]
    return names.from_released(released, kind)


def _released_config(released: dict[str, Tensor], base: str, kind: str) -> dict[str, Any]:
    """Return what the shapes of a released checkpoint say of its config; the rest is as its authors had it."""
    if base == "point-m2ae":
        return _released_m2ae(released, kind)
    norms = [
        released[name] for name in released if name.endswith(("norm.weight", "norm_p.weight")) and name.count(".") < 3
    ]
    found: dict[str, Any] = {"depth": _count(released, r"(?:MAE_encoder\.)?blocks\.blocks\.(\d+)\.")}
    found |= {"dim": len(norms[0])} if norms else {}
    if kind == "pretrain":
        found["decoder_depth"] = _count(released, r"MAE_decoder\.blocks\.(\d+)\.")
        if "mask_token_loss_pred" in released:  # GeoMask3D's complexity head
            found["gc_depth"] = _count(released, r"MAE_decoder_loss_pred\.blocks\.(\d+)\.")
        if "increase_dim.0.weight" in released:
            found["patch_size"] = len(released["increase_dim.0.weight"]) // 3
    elif kind == "parts" or _num_classes(released) == SCAN_CLASSES:
        found |= {"num_points": 2048, "num_patches": 128}
    return found


def _released_m2ae(released: dict[str, Tensor], kind: str) -> dict[str, Any]:
    blocks = r"(?:h_encoder\.encoder_blocks|MAE_encoder\.blocks)\.0\.blocks\.(\d+)\."
    found: dict[str, Any] = {"depth": _count(released, blocks)}
    positions = [f"{part}.encoder_pos_embeds.{{}}.2.weight" for part in ("h_encoder", "MAE_encoder")]
    widths = [len(released[name.format(i)]) for i in range(3) for name in positions if name.format(i) in released]
    found |= {"dims": widths} if len(widths) == 3 else {}
    if "rec_head.weight" in released:
        found["num_predicted"] = len(released["rec_head.weight"]) // 3
    if kind == "classify" and _m2ae_variant(released) == "modelnet":
        found["num_points"] = 1024
    return found


def _m2ae_variant(released: dict[str, Tensor]) -> str:
    """Return which classifier it is: one feature a channel, or mean and maximum side by side."""
    is_wide = released["cls_head_finetune.0.weight"].shape[1] != len(released["norm.weight"])
    return "scanobjectnn" if is_wide else "modelnet"


def _num_classes(released: dict[str, Tensor]) -> int:
    last = max((name for name in released if re.fullmatch(r"cls_head_finetune\.\d+\.weight", name)), key=_number)
    return len(released[last])


def _count(released: dict[str, Tensor], pattern: str) -> int:
    found = [int(match[1]) for name in released if (match := re.match(pattern, name))]
    return max(found, default=0) + 1


def _number(name: str) -> int:
    return int(name.split(".")[1])


def _of_file(error: WeightsError, path: Path) -> WeightsError:
    return error if error.file is not None else WeightsError(error.message, file=path, hint=error.hint)

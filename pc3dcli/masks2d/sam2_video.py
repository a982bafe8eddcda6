# SPDX-License-Identifier: Apache-2.0
"""Propagation of masks through a video with SAM 2's video predictor, in memory that does not grow with the video.

The package's predictor wants the whole video loaded and keeps every output of every object.  Here each frame is
encoded when it is asked for and objects are kept apart, so that dormant ones cost nothing and removing one is
dropping its entry.  Of an object only what SAM 2 can still read is kept: conditioning frames, spatial memories of the
last 6 frames, pointers of the last 15 (granularity_tracking.md section 4.5).  A prompt always becomes a conditioning
frame, as with the package's `add_all_frames_to_correct_as_cond`.

Departures from the package's own loop, masks being bit-identical otherwise:
- at most `max_prompts` conditioning frames an object, the seed and the latest; the package keeps all;
- small holes are filled only where the package's CUDA extension is built, which is also when the package does it;
- videos shorter than 16 frames use the time code of longer ones, for the length of a stream is not known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pc3dcli.errors import UsageError
from pc3dcli.masks2d.sam2 import autocast, import_sam2, load_sam2
from pc3dcli.masks2d.sam2_video_config import Sam2VideoConfig
from pc3dcli.masks2d.voxel_prior import VoxelPrior

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

_ENDLESS = 1 << 30  # frames of the video, as far as the predictor needs to know
_PIXEL_MEAN, _PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the package's loader has them


@dataclass
class _Memory:
    """What SAM 2 remembers of one object: {frame: output} of prompted and of merely tracked frames."""

    prompted: dict[int, dict] = field(default_factory=dict)
    tracked: dict[int, dict] = field(default_factory=dict)


class Sam2Video:
    """The propagator `sam2` of the tracking policy; frames are counted by `t` and come in order, each once."""

    tau_complete = 2.0  # never: the network finds new sides of an object by itself

    def __init__(
        self, weights: Path | SAM2VideoPredictor, device: str = "cpu", config: Sam2VideoConfig = Sam2VideoConfig()
    ) -> None:
        """Load the network.

        weights  official sam2 or sam2.1 checkpoint (.pt or .safetensors), or a video predictor built already
        device   torch device
        raises   UsageError without the package or for one that is too old, InputError without the file,
                 WeightsError for any other content
        """
        import_sam2()
        model = weights if isinstance(weights, torch.nn.Module) else load_sam2(Path(weights), video=True)
        if not hasattr(model, "_run_single_frame_inference") or not hasattr(model, "propagate_in_video_preflight"):
            raise UsageError(
                "--propagate sam2 needs a sam2 package of 2024-12-11 or later", hint="pip install 'pc3d[sam]'"
            )
        self._model = model.to(device).eval()
        if find_spec("sam2._C") is None:
            self._model.fill_hole_area = 0  # else the package warns at every mask
        self._device, self._config = torch.device(device), config
        stride = model.memory_temporal_stride_for_eval
        # frames back to the oldest spatial memory that is read: the previous one, then every stride-th; 6 as published
        self._spatial_reach = stride * (model.num_maskmem - 2) + 1
        self.reset()

    def reset(self) -> None:
        """Forget all tracks and frames; call it between scenes."""
        self._objects: dict[int, _Memory] = {}
        self._encoded: OrderedDict[int, list[torch.Tensor]] = OrderedDict()
        self._position_codes: list[torch.Tensor] = []  # of image features; the same for every frame
        self._prior = VoxelPrior(self._config.prior_voxel)
        self._shared = {  # what the predictor reads of its inference state and does not belong to an object
            "images": (),
            "num_frames": _ENDLESS,
            "device": self._device,
            "storage_device": self._device,
            "constants": {},
            "cached_features": {},
        }

    def propagate(self, t: int, view, tracks: Sequence[int]) -> dict[int, np.ndarray]:
        """Track objects into frame t, which becomes part of their memory.

        view     frame t; `rgb` (H, W, 3) uint8, and `depth`, `K`, `world_from_cam` for the geometric prior
        tracks   those to run; the others do not see this frame
        returns  (H, W) bool by track, of the visible ones
        raises   KeyError for a track that was never added
        """
        self._prune(self._objects, t)
        found = self._step(t, view, {track: self._objects[track] for track in tracks}, reverse=False)
        self._prior.add(view, found)
        return found

    @torch.inference_mode()
    def add_object(self, t: int, view, track: int, mask: np.ndarray) -> None:
        """Prompt with a mask on frame t: the seed of a new track, or a further conditioning frame of a known one.

        mask  (H, W) bool
        """
        with autocast(self._device):
            self._encode(t, view)
            state = self._one_object_state(mask.shape)
            self._model.add_new_mask(state, t, track, torch.from_numpy(np.ascontiguousarray(mask)))
            self._model.propagate_in_video_preflight(state)  # runs the memory encoder
        memory = self._objects.setdefault(track, _Memory())
        memory.prompted[t] = _compact(state["output_dict_per_obj"][0]["cond_frame_outputs"][t])
        memory.tracked.pop(t, None)
        latest = sorted(memory.prompted)
        for frame in latest[1 : len(latest) - self._config.max_prompts + 1]:
            del memory.prompted[frame]
        self._prior.add(view, {track: mask})

    def assumed(self, t: int, view) -> None:
        """Return None: its masks are no guesses."""

    def remove_object(self, track: int) -> None:
        """Release all memory of a track."""
        self._objects.pop(track, None)
        self._prior.remove(track)

    def overlap(self, t: int, view, mask: np.ndarray, tracks: Sequence[int]) -> dict[int, float]:
        """Return the share of each track's voxels seen in frame t that a mask covers; {} without depth.

        mask  (H, W) bool
        """
        return self._prior.overlap(view, mask, tracks)

    def candidates(self, t: int, view, dormant: Sequence[int]) -> list[int]:
        """Return the dormant tracks that frame t may show: enough of their voxels pass its depth test."""
        return self._prior.candidates(view, dormant, self._config.prior_min_seen)

    def reverse(self, t: int, views: Sequence, tracks: Sequence[int]) -> Iterator[dict[int, np.ndarray]]:
        """Track objects that were prompted on frame t backwards in time; forward memory is left as it is.

        views    earlier frames, nearest first: t - 1, t - 2, ...
        returns  for each of `views`, (H, W) bool by track, of the visible ones
        """
        scratch = {track: _Memory(dict(self._objects[track].prompted)) for track in tracks}
        for earlier, view in zip(range(t - 1, -1, -1), views, strict=False):
            self._prune(scratch, earlier)
            yield self._step(earlier, view, scratch, reverse=True)

    def _prune(self, objects: dict[int, _Memory], t: int) -> None:
        """Drop what no frame from t on can read, of every object, run or not; t lies ahead in either direction."""
        for memory in objects.values():
            for frame in [frame for frame in memory.tracked if abs(t - frame) > self._config.chunk]:
                del memory.tracked[frame]
            for frame, output in memory.tracked.items():
                if abs(t - frame) > self._spatial_reach:
                    output["maskmem_features"] = None  # from here on only its pointer is read

    @torch.inference_mode()
    def _step(self, t: int, view, objects: dict[int, _Memory], *, reverse: bool) -> dict[int, np.ndarray]:
        """Run objects on frame t, store the outputs in their memories and return the visible masks."""
        if not objects:
            return {}
        H, W = view.size
        found = {}
        with autocast(self._device):
            self._encode(t, view)
            for track, memory in objects.items():
                output, logits = self._model._run_single_frame_inference(
                    inference_state=self._shared,
                    output_dict={
                        "cond_frame_outputs": self._readable(memory.prompted),
                        "non_cond_frame_outputs": self._readable(memory.tracked),
                    },
                    frame_idx=t,
                    batch_size=1,
                    is_init_cond_frame=False,
                    point_inputs=None,
                    mask_inputs=None,
                    reverse=reverse,
                    run_mem_encoder=True,
                )
                memory.tracked[t] = _compact(output)
                mask = self._to_mask(logits, (H, W))
                # an object whose score says that it is absent has negative logits everywhere: the area tells both
                if np.count_nonzero(mask) >= max(1.0, self._config.min_area * H * W):
                    found[track] = mask
        return found

    def _readable(self, outputs: dict[int, dict]) -> dict[int, dict]:
        """Return outputs as the network can read them: memories are stored in bfloat16, which a CPU cannot mix."""
        if self._device.type == "cuda":
            return outputs
        return {
            frame: {
                name: value.float() if name == "maskmem_features" and value is not None else value
                for name, value in output.items()
            }
            for frame, output in outputs.items()
        }

    def _to_mask(self, logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """Scale (1, 1, h, w) logits to the image and return the (H, W) bool mask of positive ones."""
        scaled = torch.nn.functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        return (scaled[0, 0] > 0).cpu().numpy()

    def _encode(self, t: int, view) -> None:
        """Put the image features of frame t where the predictor looks for them."""
        if t not in self._encoded:
            encoded = self._model.forward_image(self._to_input(view.rgb))
            self._encoded[t] = list(encoded["backbone_fpn"])
            self._position_codes = self._position_codes or list(encoded["vision_pos_enc"])
            while len(self._encoded) > max(1, self._config.encoded_frames):
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(t)
        features = {"backbone_fpn": self._encoded[t], "vision_pos_enc": self._position_codes}
        image = self._encoded[t][0].new_empty((1, 1, 1, 1))  # only passed around by the predictor
        self._shared["cached_features"] = {t: (image, features)}

    def _to_input(self, rgb: np.ndarray) -> torch.Tensor:
        """Scale (H, W, 3) uint8 to the model's square, (1, 3, S, S) float32, exactly as the package's loader does."""
        from PIL import Image

        size = self._model.image_size
        scaled = np.asarray(Image.fromarray(rgb).resize((size, size)))
        image = torch.from_numpy(scaled / 255.0).permute(2, 0, 1).float()  # (3, S, S)
        image -= torch.tensor(_PIXEL_MEAN)[:, None, None]
        image /= torch.tensor(_PIXEL_STD)[:, None, None]
        return image[None].to(self._device)

    def _one_object_state(self, size: tuple[int, int]) -> dict:
        """Return an inference state of the predictor without objects; it takes in the one that is prompted."""
        per_object = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict", "frames_tracked")
        return {
            **self._shared,
            **{f"{name}_per_obj": {} for name in per_object},
            "video_height": size[0],
            "video_width": size[1],
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
        }


def _compact(output: dict) -> dict:
    """Keep of an output what later frames read."""
    return {name: output[name] for name in ("maskmem_features", "maskmem_pos_enc", "obj_ptr")}

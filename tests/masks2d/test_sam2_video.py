# SPDX-License-Identifier: Apache-2.0
import gc
import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pc3dcli.errors import InputError, UsageError
from pc3dcli.masks2d import sam2 as loading
from pc3dcli.masks2d.sam2_video import Sam2Video
from pc3dcli.masks2d.sam2_video_config import Sam2VideoConfig

if importlib.util.find_spec("sam2") is None:
    pytest.skip("no sam2", allow_module_level=True)
networks = runpy.run_path(str(Path(__file__).with_name("tiny_networks.py")))
H, W = 48, 64
EVERYTHING = Sam2VideoConfig(min_area=0.0)


def tiny_video(seed: int = 0, image_size: int = 64):
    return networks["tiny_sam2"](video=True, seed=seed, image_size=image_size)


def frame(t: int, *, depth: float | None = None) -> SimpleNamespace:
    """A noisy picture with a bright square that wanders; a wall at `depth` metres before a camera that stands still."""
    rgb = np.random.default_rng(t).integers(0, 120, (H, W, 3), dtype=np.uint8)
    rgb[10:30, 5 + t % 30 : 25 + t % 30] += 100
    K = np.array([[60.0, 0, W / 2], [0, 60.0, H / 2], [0, 0, 1]])
    wall = None if depth is None else np.full((H, W), depth, np.float32)
    return SimpleNamespace(rgb=rgb, depth=wall, size=(H, W), K=K, world_from_cam=np.eye(4))


def block(top: int, left: int, height: int = 15, width: int = 20) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def run(video: Sam2Video, frames: int, seeds: dict[int, dict[int, np.ndarray]]) -> list[dict[int, np.ndarray]]:
    """Propagate everything through `frames` frames; seeds[t][track] is added on frame t."""
    found, known = [], []
    for t in range(frames):
        view = frame(t)
        masks = video.propagate(t, view, known)
        for track, mask in seeds.get(t, {}).items():
            video.add_object(t, view, track, mask)
            known += [] if track in known else [track]
            masks[track] = mask
        found.append(masks)
    return found


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert [sorted(masks) for masks in first] == [sorted(masks) for masks in second]
    for masks, others in zip(first, second, strict=True):
        assert all(np.array_equal(mask, others[track]) for track, mask in masks.items())


def live_bytes() -> tuple[int, int]:
    """Return the number and the bytes of the tensor storages that are alive."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return len(storages), sum(storages.values())


def pointers(video: Sam2Video, track: int) -> dict[int, torch.Tensor]:
    return {t: output["obj_ptr"] for t, output in video._objects[track].tracked.items()}


# against the package


@pytest.fixture(scope="module")
def jpeg_folder(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("video")
    for t in range(20):
        Image.fromarray(frame(t).rgb).save(folder / f"{t:05d}.jpg", quality=95)
    return folder


def stored_frame(folder: Path, t: int) -> SimpleNamespace:
    from PIL import Image

    return SimpleNamespace(rgb=np.array(Image.open(folder / f"{t:05d}.jpg")), depth=None, size=(H, W))


def package_state(model, folder: Path) -> dict:
    model.fill_hole_area = 0  # the package warns and skips it where its extension is missing
    model.add_all_frames_to_correct_as_cond = True
    return model.init_state(str(folder))


def package_masks(model, state: dict, start: int, count: int, *, reverse: bool = False) -> dict[int, dict]:
    """Run the package's own loop over count + 1 frames."""
    outputs = model.propagate_in_video(state, start_frame_idx=start, max_frame_num_to_track=count, reverse=reverse)
    return {
        t: {track: (logits[row, 0] > 0).numpy() for row, track in enumerate(tracks)} for t, tracks, logits in outputs
    }


def test_masks_are_bit_identical_to_the_packages_own_loop(jpeg_folder):
    """Two objects, the second added after tracking started, the first prompted again on a frame it was tracked on."""
    prompts = {0: (1, block(10, 5)), 3: (2, block(25, 30)), 8: (1, block(8, 10))}
    model = tiny_video()
    state, expected = package_state(model, jpeg_folder), {}
    for start, end in ((0, 3), (3, 8), (8, 19)):
        track, mask = prompts[start]
        model.add_new_mask(state, start, track, mask)
        expected.update(package_masks(model, state, start, end - start))

    video, known = Sam2Video(tiny_video(), config=EVERYTHING), []
    for t in range(20):
        view = stored_frame(jpeg_folder, t)
        found = video.propagate(t, view, known)
        if t in prompts:
            track, mask = prompts[t]
            video.add_object(t, view, track, mask)
            known = sorted({*known, track})
            found.pop(track, None)
        for track in expected[t]:
            if (t, track) not in {(frame, prompt[0]) for frame, prompt in prompts.items()}:
                assert np.array_equal(found.get(track, np.zeros((H, W), bool)), expected[t][track]), (t, track)
    for track in (1, 2):
        theirs = state["output_dict_per_obj"][track - 1]["non_cond_frame_outputs"]
        assert all(torch.equal(pointer, theirs[t]["obj_ptr"]) for t, pointer in pointers(video, track).items())
    areas = {int(mask.sum()) for masks in expected.values() for mask in masks.values()}
    assert len(areas) > 10  # not a comparison of constants


def test_the_reverse_pass_is_bit_identical_to_the_packages(jpeg_folder):
    model = tiny_video()
    state = package_state(model, jpeg_folder)
    model.add_new_mask(state, 8, 1, block(10, 5))
    expected = package_masks(model, state, 8, 8, reverse=True)

    video = Sam2Video(tiny_video(), config=EVERYTHING)
    video.add_object(8, stored_frame(jpeg_folder, 8), 1, block(10, 5))
    views = [stored_frame(jpeg_folder, t) for t in range(7, -1, -1)]
    backwards = list(video.reverse(8, views, [1]))
    assert len(backwards) == 8
    for t, masks in zip(range(7, -1, -1), backwards, strict=True):
        assert np.array_equal(masks.get(1, np.zeros((H, W), bool)), expected[t][1])


# memory


def test_pruning_leaves_masks_bit_identical():
    """Spec section 12, test 11: outputs older than 16 frames are never read again."""
    seeds = {0: {1: block(10, 5)}, 4: {2: block(25, 30)}, 20: {1: block(5, 30)}}
    pruned, complete = (
        Sam2Video(tiny_video(), config=EVERYTHING),
        Sam2Video(tiny_video(), config=Sam2VideoConfig(min_area=0.0, chunk=10**6)),
    )
    complete._spatial_reach = 10**6
    assert_same(run(pruned, 32, seeds), run(complete, 32, seeds))
    assert len(pointers(complete, 2)) == 27
    assert len(pointers(pruned, 2)) == 17
    assert all(torch.equal(pointer, pointers(complete, 2)[t]) for t, pointer in pointers(pruned, 2).items())
    spatial = [output["maskmem_features"] for output in pruned._objects[2].tracked.values()]
    assert sum(feature is not None for feature in spatial) == 7


def test_a_shorter_window_does_change_results():
    """The comparison above could fail: SAM 2 does read what a window of two frames drops."""
    seeds = {0: {1: block(10, 5)}}
    kept, dropped = Sam2Video(tiny_video()), Sam2Video(tiny_video(), config=Sam2VideoConfig(chunk=2))
    run(kept, 12, seeds), run(dropped, 12, seeds)
    assert not torch.equal(pointers(kept, 1)[11], pointers(dropped, 1)[11])


@pytest.mark.parametrize("objects", [1, 4])
def test_live_tensors_are_flat_over_frames(objects):
    video = Sam2Video(tiny_video())
    seeds = {0: {track: block(5 + track, 10) for track in range(objects)}}
    known, measured = [], {}
    for t in range(46):
        video.propagate(t, frame(t), known)
        if t == 0:
            for track, mask in seeds[0].items():
                video.add_object(t, frame(t), track, mask)
            known = sorted(seeds[0])
        if t in (25, 35, 45):
            measured[t] = live_bytes()
    assert measured[25] == measured[35] == measured[45]


def test_live_tensors_grow_without_pruning():
    """The meter sees what it should."""
    video = Sam2Video(tiny_video(), config=Sam2VideoConfig(chunk=10**6))
    run(video, 25, {0: {1: block(10, 5)}})
    before = live_bytes()
    for t in range(25, 40):
        video.propagate(t, frame(t), [1])
    after = live_bytes()
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_removed_and_forgotten_objects_leave_nothing():
    video = Sam2Video(tiny_video())
    run(video, 20, {0: {1: block(10, 5)}})
    alone = live_bytes()
    for track in range(2, 8):
        video.add_object(19, frame(19), track, block(5, 5))
    for t in range(20, 23):
        video.propagate(t, frame(t), [1, 2, 3, 4, 5, 6, 7])
    assert live_bytes()[1] > alone[1]
    for track in range(2, 8):
        video.remove_object(track)
    video.remove_object(99)  # unknown: nothing to do
    assert live_bytes() == alone
    with pytest.raises(KeyError):
        video.propagate(23, frame(23), [2])


def test_prompts_of_an_object_are_bounded_and_the_seed_stays():
    video = Sam2Video(tiny_video())
    run(video, 30, {t: {1: block(10, 5)} for t in range(0, 30, 3)})
    assert sorted(video._objects[1].prompted) == [0, 21, 24, 27]
    video = Sam2Video(tiny_video(), config=Sam2VideoConfig(max_prompts=2))
    run(video, 10, {t: {1: block(10, 5)} for t in range(0, 10, 3)})
    assert sorted(video._objects[1].prompted) == [0, 9]


# behaviour


def test_each_frame_is_encoded_once_and_only_the_tracks_asked_for_run(monkeypatch):
    model = tiny_video()
    encoded, ran = (
        count_calls(monkeypatch, model, "forward_image"),
        count_calls(monkeypatch, model, "_run_single_frame_inference"),
    )
    video = Sam2Video(model)
    run(video, 6, {0: {1: block(10, 5), 2: block(20, 20)}})
    assert len(encoded) == 6
    ran.clear()
    video.propagate(6, frame(6), [2])  # track 1 is dormant
    assert len(ran) == 1
    list(video.reverse(6, [frame(t) for t in range(5, -1, -1)], [2]))
    assert len(encoded) == 7  # earlier frames are still encoded
    assert video.propagate(7, frame(7), []) == {}
    assert len(encoded) == 7  # a frame without tracks costs nothing


def test_encoded_frames_bounds_what_is_kept(monkeypatch):
    model = tiny_video()
    encoded = count_calls(monkeypatch, model, "forward_image")
    video = Sam2Video(model, config=Sam2VideoConfig(encoded_frames=1))
    run(video, 6, {0: {1: block(10, 5)}})
    assert len(video._encoded) == 1
    list(video.reverse(5, [frame(t) for t in range(4, 1, -1)], [1]))
    assert len(encoded) == 9


def count_calls(monkeypatch, model, name: str) -> list:
    calls, original = [], getattr(model, name)

    def counted(*args, **named):
        calls.append(1)
        return original(*args, **named)

    monkeypatch.setattr(model, name, counted)
    return calls


def test_the_reverse_pass_leaves_forward_results_alone():
    plain, interrupted = Sam2Video(tiny_video()), Sam2Video(tiny_video())
    run(plain, 6, {3: {1: block(10, 5)}}), run(interrupted, 6, {3: {1: block(10, 5)}})
    assert len(list(interrupted.reverse(5, [frame(4), frame(3), frame(2)], [1]))) == 3
    for t in range(6, 10):
        assert_same([plain.propagate(t, frame(t), [1])], [interrupted.propagate(t, frame(t), [1])])
    assert torch.equal(pointers(plain, 1)[9], pointers(interrupted, 1)[9])


def test_the_reverse_pass_ends_at_the_first_frame():
    video = Sam2Video(tiny_video())
    video.add_object(2, frame(2), 1, block(10, 5))
    assert len(list(video.reverse(2, [frame(1), frame(0), frame(9)], [1]))) == 2


def test_objects_do_not_influence_each_other():
    alone = run(Sam2Video(tiny_video(), config=EVERYTHING), 8, {0: {1: block(10, 5)}})
    together = run(
        Sam2Video(tiny_video(), config=EVERYTHING), 8, {0: {1: block(10, 5), 2: block(8, 8)}, 3: {3: block(20, 30)}}
    )
    assert_same(alone, [{track: mask for track, mask in masks.items() if track == 1} for masks in together])


def test_an_absent_object_is_not_visible():
    model = tiny_video()
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-10.0)
    assert run(Sam2Video(model, config=EVERYTHING), 4, {0: {1: block(10, 5)}})[1:] == [{}, {}, {}]


def test_a_mask_below_the_least_area_is_not_visible():
    assert all(run(Sam2Video(tiny_video()), 4, {0: {1: block(10, 5)}})[1:])
    small = Sam2Video(tiny_video(), config=Sam2VideoConfig(min_area=1.01))
    assert run(small, 4, {0: {1: block(10, 5)}})[1:] == [{}, {}, {}]


def test_reset_forgets_a_scene():
    video, seeds = Sam2Video(tiny_video()), {0: {1: block(10, 5)}}
    first = run(video, 8, seeds)
    video.reset()
    assert_same(first, run(video, 8, seeds))


def test_memories_are_stored_in_bfloat16_and_read_in_float32_on_a_cpu():
    """Without the cast, a model whose memory has no pointers fails: mat1 and mat2 must have the same dtype."""
    model = tiny_video()
    model.use_obj_ptrs_in_encoder = False
    video = Sam2Video(model)
    run(video, 3, {0: {1: block(10, 5)}, 2: {1: block(10, 6)}})
    list(video.reverse(2, [frame(1), frame(0)], [1]))
    stored = video._objects[1].tracked
    assert stored[1]["maskmem_features"].dtype == torch.bfloat16
    assert video._readable(stored)[1]["maskmem_features"].dtype == torch.float32


def test_the_tracking_policy_runs_on_it():
    """Frames come out in order, objects keep their ids, and new ones reach back to earlier frames."""
    from pc3dcli.masks2d.mask2d import Mask2d
    from pc3dcli.papers.granularity.policy import PolicyConfig, track_masks

    class Source:
        def masks(self, view) -> list[Mask2d]:
            return [Mask2d(block(10, 5), 0.5), Mask2d(block(28, 40), 0.5)]

    config = PolicyConfig(stride_key=3, max_objects=4)
    views = ((t, frame(t, depth=2.0)) for t in range(10))
    tracked = list(track_masks(views, Source(), Sam2Video(tiny_video()), config))
    assert [one.t for one in tracked] == list(range(10))
    assert {1, 2} <= set(np.unique(tracked[0].labels)) - {0}
    assert all(one.labels.shape == (H, W) for one in tracked)


# geometry


def test_overlap_and_candidates_need_depth():
    video = Sam2Video(tiny_video())
    video.add_object(0, frame(0), 1, block(10, 5))
    assert video.overlap(0, frame(0), block(10, 5), [1]) == {}
    assert video.candidates(1, frame(1), [3, 1]) == [3, 1]


def test_overlap_and_candidates_follow_the_geometry():
    video, wall = Sam2Video(tiny_video()), frame(0, depth=2.0)
    video.add_object(0, wall, 1, block(10, 5))
    assert video.overlap(1, wall, block(10, 5), [1])[1] > 0.9
    assert video.overlap(1, wall, block(10, 40), [1]) == {1: 0.0}
    assert video.candidates(1, wall, [1, 2]) == [1]
    assert video.candidates(1, frame(1, depth=1.0), [1]) == []  # something stands before it
    video.remove_object(1)
    assert video.candidates(1, wall, [1]) == []


def test_min_points_and_voxel_are_used():
    wall = frame(0, depth=2.0)
    strict = Sam2Video(tiny_video(), config=Sam2VideoConfig(prior_min_seen=10**6))
    strict.add_object(0, wall, 1, block(10, 5))
    looking_away = frame(0, depth=2.0)
    looking_away.world_from_cam = np.eye(4)
    looking_away.world_from_cam[0, 3] = -1.75  # two thirds of the block leave the image
    assert strict.candidates(1, looking_away, [1]) == []
    plain = Sam2Video(tiny_video(), config=Sam2VideoConfig(prior_min_seen=5))
    plain.add_object(0, wall, 1, block(10, 5))
    assert plain.candidates(1, looking_away, [1]) == [1]
    coarse = Sam2Video(tiny_video(), config=Sam2VideoConfig(prior_voxel=0.5))
    coarse.add_object(0, wall, 1, block(10, 5))
    assert len(coarse._prior._voxels[1]) < len(plain._prior._voxels[1])


# loading


def test_a_checkpoint_loads_by_path(tmp_path, monkeypatch):
    import sam2.build_sam

    small = tiny_video(seed=5)
    monkeypatch.setattr(loading, "VARIANTS", {(8, 5): ("tiny", "t")})
    monkeypatch.setattr(sam2.build_sam, "build_sam2_video_predictor", lambda *args, **named: small)
    torch.save({"model": tiny_video(seed=1).state_dict()}, tmp_path / "sam2.1_hiera_tiny.pt")
    seeds = {0: {1: block(10, 5)}}
    from_file = run(Sam2Video(tmp_path / "sam2.1_hiera_tiny.pt"), 4, seeds)
    assert_same(from_file, run(Sam2Video(tiny_video(seed=1)), 4, seeds))


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        Sam2Video(tmp_path / "sam2.pt")


def test_a_missing_or_old_package_is_a_usage_error_with_the_command(tmp_path, monkeypatch):
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    model = tiny_video()
    monkeypatch.delattr(SAM2VideoPredictor, "_run_single_frame_inference")
    with pytest.raises(UsageError, match="2024-12-11 or later"):
        Sam2Video(model)
    monkeypatch.setattr(loading, "import_torchvision", lambda: None)
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(UsageError) as caught:
        Sam2Video(tmp_path / "sam2.pt")
    assert caught.value.hint == "pip install 'pc3d[sam]'"

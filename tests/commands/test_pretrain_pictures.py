# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pc3dcli.commands import pretrain_pictures
from pc3dcli.commands.pretrain_pictures import HIDDEN, SEEN, PictureMaker, Reconstruction, reconstructions, title_text
from pc3dcli.formats import overlay
from pc3dcli.papers.geomask3d.point_mae import PointMae, PointMaeConfig

TINY = dict(num_points=64, num_patches=8, patch_size=8, dim=12, depth=1, heads=2, decoder_depth=1)


@pytest.fixture
def learner():
    torch.manual_seed(0)
    base = PointMae(PointMaeConfig(**TINY))
    return SimpleNamespace(student=SimpleNamespace(base=base))


def batch(*ids: str) -> SimpleNamespace:
    points = torch.rand((len(ids), 64, 3), generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(ids=ids, plain=points)


def test_error_is_the_mean_chamfer_distance_of_the_hidden_patches(learner):
    one, two = reconstructions(learner, batch("a", "b"), seed=0)
    for found in (one, two):
        hidden, made = (points.reshape(-1, 8, 3) for points in (found.hidden, found.made))
        assert len(hidden) == len(made) == learner.student.base.num_hidden
        gaps = ((hidden[:, :, None] - made[:, None]) ** 2).sum(-1)  # (patches, 8, 8)
        expected = gaps.min(1).mean(-1) + gaps.min(2).mean(-1)
        assert found.error == pytest.approx(expected.mean(), rel=1e-4)
    assert one.error != two.error


def test_the_picture_says_what_it_shows(learner, monkeypatch):
    """Epoch, mask ratio, legend, error, and names that end with what is to be seen, however long."""
    captions, legends, headers = [], [], []
    sheet, legend, header = overlay.contact_sheet, overlay.draw_legend, overlay.draw_header
    monkeypatch.setattr(
        overlay, "contact_sheet", lambda images, texts, **more: captions.extend(texts) or sheet(images, texts, **more)
    )
    monkeypatch.setattr(
        overlay, "draw_legend", lambda image, entries: legends.extend(entries) or legend(image, entries)
    )
    monkeypatch.setattr(overlay, "draw_header", lambda image, *more: headers.append(more) or header(image, *more))
    seen = np.zeros((4, 3), np.float32)
    found = [Reconstruction(seen, seen + 0.1, seen + 0.2, error) for error in (0.01234, 5.0)]
    monkeypatch.setattr(pretrain_pictures, "reconstructions", lambda *_: found)
    maker = PictureMaker(SimpleNamespace(shapes=SimpleNamespace(up="z")), None, None, 0)
    maker._batch = batch("cup", "extra_train_chair_of_some_factory_00000")
    picture = maker.picture(learner, 3)
    assert captions[:3] == ["cup: input", "cup: visible", "cup: reconstructed"]
    assert captions[5] == "extra_tra...ory_00000: reconstructed"
    assert all(len(text) <= overlay.caption_length(pretrain_pictures.SIDE) for text in captions)
    assert [text for text, _ in legends] == ["Chamfer error 0.01234", "Chamfer error 5"]
    ((title, entries),) = headers
    assert title == title_text(learner.student.base, 3) == "epoch 3: mask ratio 0.6 (4 of 8 patches hidden)"
    assert [color for _, color in entries] == [SEEN, HIDDEN]
    for color in (SEEN, HIDDEN):
        assert (picture[:60] == color).all(-1).sum() > 100

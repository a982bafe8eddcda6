# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from pc3dcli.formats.overlay import (
    OPACITY,
    contact_sheet,
    draw_header,
    draw_legend,
    jpeg_bytes,
    label_regions,
    overlay_masks,
    png_bytes,
    shorten_middle,
)

GREY = np.full((60, 80, 3), 100, np.uint8)
RED, BLUE = np.array([200, 0, 0], np.uint8), np.array([0, 0, 200], np.uint8)


def block(rows: slice, columns: slice, shape=(60, 80)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def test_fill_is_blended_inside_and_nothing_changes_outside():
    mask = block(slice(10, 50), slice(10, 60))
    picture = overlay_masks(GREY, [mask], [""], np.array([RED]))
    inside = np.rint(100 * (1 - OPACITY) + OPACITY * RED.astype(float))
    assert (picture[20:40, 20:50] == inside).all()
    away = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0
    assert (picture[away] == 100).all()
    assert (GREY == 100).all()  # the input is not drawn into


def test_contour_has_the_colour_of_its_mask():
    picture = overlay_masks(GREY, [block(slice(10, 50), slice(10, 60))], [""], np.array([RED]))
    assert np.abs(picture[10, 15:55].astype(int) - RED).max() < 60  # its edge is smoothed


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_stay_visible_on_wholes_in_any_order(order):
    masks = [block(slice(5, 55), slice(5, 75)), block(slice(20, 40), slice(20, 40))]
    colors = np.array([RED, BLUE])
    picture = overlay_masks(GREY, [masks[i] for i in order], ["", ""], colors[list(order)])
    assert picture[30, 30, 2] > picture[30, 30, 0] and picture[30, 60, 0] > picture[30, 60, 2]


def test_empty_masks_and_no_masks_change_nothing():
    assert np.array_equal(overlay_masks(GREY, [], [], np.zeros((0, 3), np.uint8)), GREY)
    assert np.array_equal(overlay_masks(GREY, [np.zeros((60, 80), bool)], ["7"], np.array([RED])), GREY)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mask of"):
        overlay_masks(GREY, [np.ones((60, 79), bool)], [""], np.array([RED]))


def test_names_are_written_where_the_mask_is_wide_and_only_there():
    wide, narrow = block(slice(5, 55), slice(5, 75)), block(slice(5, 7), slice(5, 75))
    with_name = overlay_masks(GREY, [wide], ["12"], np.array([RED]))
    without = overlay_masks(GREY, [wide], [""], np.array([RED]))
    assert (with_name[20:40, 30:50] != without[20:40, 30:50]).any()
    assert np.array_equal(
        overlay_masks(GREY, [narrow], ["12"], np.array([RED])), overlay_masks(GREY, [narrow], [""], np.array([RED]))
    )


def test_regions_get_their_names():
    ids = np.full((60, 80), -1)
    ids[10:50, 5:40], ids[10:50, 45:78] = 4, 9
    colors = {4: RED, 9: BLUE}
    picture = label_regions(GREY, ids, {4: "4"}, colors)
    assert (picture[10:50, 5:40] == RED).all(-1).any() and (picture[10:50, 45:78] == 100).all()
    assert np.array_equal(label_regions(GREY, np.full((60, 80), -1), {}, {}), GREY)


def test_contact_sheet_holds_every_picture():
    images = [np.full((30, 40, 3), value, np.uint8) for value in (10, 60, 110, 160, 210)]
    sheet = contact_sheet(images, ["one", "zwei", "tr\u00eas", "4", "5"], cell_width=80)
    assert sheet.shape == (2 * (60 + 30) + 8, 3 * 88 + 8, 3)
    for value in (10, 60, 110, 160, 210):
        assert (sheet == value).all(-1).sum() >= 80 * 60
    assert contact_sheet(images, [""] * 5, columns=1, cell_width=40).shape[1] == 40 + 8 + 8


def test_pictures_of_several_sizes_share_a_sheet():
    sheet = contact_sheet([np.zeros((20, 40, 3), np.uint8), np.zeros((80, 40, 3), np.uint8)], ["", ""], cell_width=40)
    assert sheet.shape[0] == 80 + 30 + 8


def test_a_sheet_needs_a_picture():
    with pytest.raises(ValueError, match="needs a picture"):
        contact_sheet([], [])


def test_png_keeps_rgb_order():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    decoded = cv2.imdecode(np.frombuffer(png_bytes(image), np.uint8), cv2.IMREAD_COLOR)
    assert (decoded[..., 2] == 200).all() and (decoded[..., 0] == 0).all()


def test_legend_shows_its_colours_in_the_lower_left_and_leaves_the_rest():
    image = np.full((300, 400, 3), 100, np.uint8)
    picture = draw_legend(image, [("grey: none", (150, 150, 150)), ("red", RED)])
    changed = (picture != image).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[0] > 220 and rows[-1] == 299 and columns[0] == 0 and columns[-1] < 200
    for color in ((150, 150, 150), RED):
        assert (picture == color).all(-1).sum() > 30
    assert np.array_equal(draw_legend(image, []), image) and (image == 100).all()


def test_a_legend_line_without_a_colour_is_text_alone():
    image = np.full((300, 400, 3), 100, np.uint8)
    with_box, without = (draw_legend(image, [("10: hardest", color)]) for color in (RED, None))
    assert (with_box == RED).all(-1).any() and not (without == RED).all(-1).any()
    assert (without[:, :8][280:] > 240).all() and (without[280:, 8:30] < 100).any()  # on the plate, from its left
    wide = draw_legend(image, [("i" * 10, None), ("W" * 10, RED)])
    assert (wide != image).any(-1).any(0).sum() > 8 + (with_box != image).any(-1).any(0).sum() / 2
    np.testing.assert_array_equal(draw_legend(image, [("\u00e9", RED)]), draw_legend(image, [("?", RED)]))


def test_header_stands_above_with_its_colours():
    image = np.full((50, 400, 3), 100, np.uint8)
    picture = draw_header(image, "epoch 3", [("visible", RED), ("hidden", (0, 120, 0))])
    np.testing.assert_array_equal(picture[60:], image)
    for color in (RED, (0, 120, 0)):
        assert (picture[:60] == color).all(-1).sum() > 100
    assert (picture[:30] < 100).any()


@pytest.mark.parametrize(
    ("length", "expected"), [(24, "extra_train_chair_00000"), (16, "extra_...r_00000"), (9, "ext...000"), (1, "e...0")]
)
def test_long_names_lose_their_middle(length, expected):
    assert shorten_middle("extra_train_chair_00000", length) == expected


def test_jpeg_is_scaled_down_never_up():
    image = np.zeros((120, 300, 3), np.uint8)
    image[..., 0] = 200
    for side, shape in ((100, (40, 100)), (1000, (120, 300))):
        decoded = cv2.imdecode(np.frombuffer(jpeg_bytes(image, max_side=side), np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[:2] == shape
        assert np.abs(decoded[20, 20].astype(int) - (0, 0, 200)).max() < 6

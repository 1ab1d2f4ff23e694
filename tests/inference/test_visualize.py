import numpy as np
import pytest
from PIL import Image

from effvis.colours import COLOURS, colour, ink
from effvis.data.masks import encode
from effvis.labels import place
from effvis.visualize import GREY, Overlay, crop, draw, heat, side_by_side, sketch, strip


def _mask(rows, columns, size=(20, 30)):
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


def test_each_identity_has_its_own_colour_inside_its_mask_and_nothing_changes_outside():
    frame = Image.new("RGB", (30, 20), (100, 100, 100))
    left, right = _mask(slice(2, 10), slice(2, 10)), _mask(slice(5, 15), slice(15, 28))
    drawn = np.asarray(draw(frame, [Overlay(encode(left), 0), Overlay(encode(right), 1)]))
    assert (drawn[~(left | right)] == 100).all()
    inside = drawn[5, 5].astype(int), drawn[10, 20].astype(int)
    assert not np.array_equal(*inside)
    for pixel, identity in zip(inside, (0, 1), strict=True):
        np.testing.assert_allclose(pixel, (100 + np.array(colour(identity))) / 2, atol=1)
    assert tuple(drawn[2, 2]) == colour(0)  # the outline is opaque
    assert len({colour(i) for i in range(20)}) == 20


def test_scale_text_and_sheet():
    frame = Image.new("RGB", (30, 20))
    overlay = Overlay(encode(_mask(slice(12, 18), slice(2, 10))), 3, "dog 0.9")
    plain, labelled = draw(frame, [Overlay(overlay.rle, 3)], scale=2), draw(frame, [overlay], scale=2)
    assert plain.size == (60, 40) and np.any(np.asarray(plain) != np.asarray(labelled))
    sheet = side_by_side([[plain, labelled], [plain, plain]], ["truth", "ours"])
    assert sheet.height >= 80 and sheet.width >= 120


def test_sketch_keeps_edges_and_no_surface():
    pixels = np.full((20, 30, 3), 90, dtype=np.uint8)
    pixels[:, 15:] = 200
    drawn = np.asarray(sketch(Image.fromarray(pixels)))
    assert (drawn[:, :10] == 255).all() and (drawn[:, 20:] == 255).all()
    assert (drawn[5:15, 13:17] < 200).any()


def test_a_proposal_is_drawn_as_a_box_in_the_identitys_colour():
    frame = Image.new("RGB", (30, 20), (100, 100, 100))
    mask = encode(_mask(slice(8, 12), slice(8, 12)))
    drawn = np.asarray(draw(frame, [Overlay(mask, 2, box_4=np.array([4.0, 2.0, 20.0, 16.0]))], scale=2))
    for row, column in ((4, 20), (32, 20), (20, 8), (20, 40)):
        assert tuple(drawn[row, column]) == colour(2), "the box's four sides, at twice the size"
    assert tuple(drawn[8, 12]) == (100, 100, 100), "nothing inside it but the mask"
    assert np.array_equal(np.asarray(draw(frame, [Overlay(mask, 2)], scale=2))[4, 20], (100, 100, 100))


def test_frames_may_be_drawn_smaller():
    assert draw(Image.new("RGB", (640, 360)), [], scale=192 / 640).size == (192, 108)


def test_crop_is_what_the_box_holds_and_black_beyond_the_frame():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[5:10, 10:20] = 200
    frame = Image.fromarray(pixels)
    assert (np.asarray(crop(frame, np.array([11.0, 6.0, 19.0, 9.0]), 16)) == 200).all()
    half = np.asarray(crop(frame, np.array([15.0, 6.0, 25.0, 9.0]), 16))
    assert (half[:, :6] == 200).all() and (half[:, 10:] == 0).all()
    assert (np.asarray(crop(frame, np.array([40.0, 0.0, 50.0, 10.0]), 4)) == 0).all()


def test_heat_is_brighter_where_values_are_larger():
    brightness = np.asarray(heat(np.linspace(0, 1, 16).reshape(4, 4), 4).convert("L")).astype(int).ravel()
    assert (np.diff(brightness) > 0).all()
    assert heat(np.zeros((7, 7)), 192).size == (192, 192)


def test_strip_puts_grey_between_its_pictures():
    row = np.asarray(strip([Image.new("RGB", (30, 20), value) for value in ("white", "black", "white")], gap=2))
    assert row.shape == (20, 94, 3)
    assert (row[:, :30] == 255).all() and (row[:, 30:32] == GREY).all() and (row[:, 32:62] == 0).all()


def _luminance(rgb):
    """Relative luminance by its definition in WCAG 2."""
    parts = [value / 255 for value in rgb]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_label_contrasts_as_wcag_asks_of_text():
    for identity in range(COLOURS):
        darker, lighter = sorted((_luminance(colour(identity)), _luminance(ink(colour(identity)))))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_colours_of_neighbours_in_number_differ_clearly_and_colours_recur_only_after_dozens():
    colours = np.array([colour(identity) for identity in range(200)], dtype=float)
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 80
    assert len({colour(identity) for identity in range(COLOURS)}) == COLOURS >= 48
    near = np.linalg.norm(colours[:12, None] - colours[None, :12], axis=-1) + 999 * np.eye(12)
    assert near.min() > 50


def test_labels_stay_inside_the_picture_and_cover_each_other_only_where_there_is_no_room():
    sizes, boxes, picture = [(60, 15)] * 40, [(150.0, 100.0, 190.0, 140.0)] * 40, (300, 200)
    places = place(sizes, boxes, picture)
    taken = np.zeros((200, 300), dtype=int)
    for x, y in places:
        assert 0 <= x <= 300 - 60 and 0 <= y <= 200 - 15
        taken[y:y + 15, x:x + 60] += 1
    assert taken.max() == 1, "40 labels fit beside each other"
    assert places[0] == (150, 85), "the first one is above its object"
    distances = [abs(x - 150) + abs(y - 85) for x, y in places]
    assert distances[1] <= 60 and max(distances[:6]) < 130
    crowded = place([(60, 15)] * 200, [(150.0, 100.0, 190.0, 140.0)] * 200, picture)
    assert len(set(crowded)) > 60 and all(0 <= x <= 240 and 0 <= y <= 185 for x, y in crowded)
    assert place([(500, 15)], [(150.0, 0.0, 190.0, 140.0)], picture) == [(0, 0)], "a label wider than the picture"


def _labelled(height, width, box, text="person 0.98"):
    """(rows, columns) that a label of a mask over black changes outside that mask."""
    mask = _mask(*box, size=(height, width))
    frame = Image.new("RGB", (width, height))
    plain, labelled = (np.asarray(draw(frame, [Overlay(encode(mask), 0, words)])) for words in ("", text))
    return np.nonzero((plain != labelled).any(axis=-1))


@pytest.mark.parametrize("box", [
    (slice(0, 40), slice(0, 60)), (slice(0, 40), slice(580, 640)), (slice(440, 480), slice(0, 60)),
    (slice(440, 480), slice(600, 640)), (slice(0, 480), slice(0, 640))])
def test_a_label_is_whole_wherever_its_object_is(box):
    inner = _labelled(480, 640, (slice(200, 240), slice(300, 360)))
    found = _labelled(480, 640, box)
    for low, high in zip(map(np.ptp, inner), map(np.ptp, found), strict=True):
        assert low == high


def test_labels_grow_with_the_picture_and_shrink_where_it_is_narrow():
    heights = [np.ptp(_labelled(*size, (slice(60, 90), slice(20, 60)))[0]) for size in ((120, 160), (1080, 1920))]
    assert 10 <= heights[0] <= 20 and 25 <= heights[1] <= 50
    assert np.ptp(_labelled(100, 60, (slice(40, 60), slice(20, 30)))[1]) < 60

import numpy as np
from PIL import Image

from effvis.data.masks import encode
from effvis.visualize import Overlay, colour, draw, side_by_side, sketch


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

"""Frames with an orientation flag. EXIF 2.3, tag 0x0112, says of each flag where row 0 and column 0 of the stored image lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from effvis.data import masks
from effvis.data.clips import FrameReader, read_frame
from effvis.data.youtube_vis import annotation_entry, check_split, read_split, write_annotations
from effvis.errors import UserError
from effvis.video import open_video
from pipeline.importers.masks import import_masks
from pipeline.reporting.pictures import frame_image

HEIGHT, WIDTH = 48, 80
# Row 0 and column 0 of the stored image, as seen.
ROW_0_COLUMN_0 = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left", 5: "left top", 6: "right top",
                  7: "right bottom", 8: "left bottom"}


def upright(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth picture without symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], -1).astype(np.uint8)


def stored(seen: np.ndarray, flag: int) -> np.ndarray:
    height, width = seen.shape[:2]
    row_0, column_0 = ROW_0_COLUMN_0[flag].split()
    along = {"top": np.arange(height), "bottom": np.arange(height)[::-1], "left": np.arange(width),
             "right": np.arange(width)[::-1]}
    rows, columns = along[row_0], along[column_0]
    return seen[rows][:, columns] if row_0 in ("top", "bottom") else seen[columns][:, rows].swapaxes(0, 1)


def save(file: Path, pixels: np.ndarray, flag: int | None) -> None:
    exif = Image.Exif()
    if flag is not None:
        exif[ExifTags.Base.Orientation] = flag
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, exif=exif.tobytes() if flag is not None else b"", quality=95)


def split(folder: Path, flag: int | None, size: tuple[int, int], seen: np.ndarray, suffix: str) -> Path:
    save(folder / "JPEGImages" / "v" / f"0{suffix}", stored(seen, flag or 1), flag)
    mask_HW = np.zeros(size, bool)
    mask_HW[4:20, 8:30] = True
    height, width = size
    write_annotations(
        folder / "instances.json", description="", categories=[{"id": 1, "name": "cat"}],
        videos=[{"id": 1, "height": height, "width": width, "file_names": [f"v/0{suffix}"]}],
        annotations=[annotation_entry(track_id=1, video_id=1, category_id=1, rles=[masks.encode(mask_HW)], height=height,
                                      width=width)])
    return folder


def near(found, expected: np.ndarray) -> None:
    assert np.abs(np.asarray(found, int) - expected.astype(int)).max() < 12


def frame_of(index, size: tuple[int, int]) -> np.ndarray:
    return FrameReader(index, size).clip(0, [0])[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("flag", [5, 6, 7, 8])
def test_frames_are_turned_where_their_masks_are(tmp_path, flag, suffix):
    index = read_split(split(tmp_path, flag, (HEIGHT, WIDTH), upright(), suffix))
    near(frame_of(index, (HEIGHT, WIDTH)), upright())
    # At a half, JPEGs are decoded at this size.
    near(frame_of(index, (HEIGHT // 2, WIDTH // 2)), upright(HEIGHT // 2, WIDTH // 2))
    near(frame_image(index, 0, 0, "photograph"), upright())
    assert check_split(tmp_path)[0].errors == []


@pytest.mark.parametrize("size", [(HEIGHT // 2, WIDTH // 2), (HEIGHT // 4, WIDTH // 4)])
def test_turned_frames_are_decoded_at_a_part_of_their_size(tmp_path, size):
    """So they have the pixels of the stored frame at the same part."""
    index = read_split(split(tmp_path, 6, (HEIGHT, WIDTH), upright(), ".jpg"))
    plain = read_frame(tmp_path / "JPEGImages" / "v" / "0.jpg", size[::-1])
    np.testing.assert_array_equal(stored(frame_of(index, size), 6), plain)


@pytest.mark.parametrize("flag", [5, 6, 7, 8])
def test_frames_stay_as_they_are_stored_where_their_masks_are(tmp_path, flag):
    index = read_split(split(tmp_path, flag, (WIDTH, HEIGHT), upright(), ".jpg"))
    near(frame_of(index, (WIDTH, HEIGHT)), stored(upright(), flag))
    near(frame_image(index, 0, 0, "photograph"), stored(upright(), flag))


@pytest.mark.parametrize("flag", [None, 1, 0, 9])
def test_frames_without_a_turn(tmp_path, flag):
    folder = split(tmp_path, None, (HEIGHT, WIDTH), upright(), ".jpg")
    save(folder / "JPEGImages" / "v" / "0.jpg", upright(), flag)
    near(frame_of(read_split(folder), (HEIGHT, WIDTH)), upright())
    with pytest.raises(UserError, match="80x48, its video 48x80"):
        read_split(split(tmp_path / "other", flag if flag == 1 else None, (WIDTH, HEIGHT), upright(), ".jpg"))


@pytest.mark.parametrize(("flag", "size"), [*((flag, (HEIGHT, WIDTH)) for flag in (2, 3, 4)), (6, (64, 64)), (8, (64, 64))])
def test_a_flag_that_leaves_the_size_says_too_little(tmp_path, flag, size):
    folder = split(tmp_path, flag, size, upright(*size), ".jpg")
    with pytest.raises(UserError) as caught:
        read_split(folder)
    assert caught.value.key == "videos[0].file_names[0]" and f"orientation flag ({flag})" in caught.value.problem
    assert caught.value.where.endswith("0.jpg") and "without the flag" in caught.value.remedy


def test_a_flag_does_not_excuse_another_size(tmp_path):
    with pytest.raises(UserError, match="its video 79x48"):
        read_split(split(tmp_path, 6, (HEIGHT, WIDTH - 1), upright(), ".jpg"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_is_no_flag(tmp_path):
    folder = split(tmp_path, None, (HEIGHT, WIDTH), upright(), ".jpg")
    a_text = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02A\0\0\0"
    for content in (b"nonsense", b"II*\0\xff\xff\xff\xff", a_text):
        exif = b"Exif\0\0" + content
        Image.fromarray(upright()).save(folder / "JPEGImages" / "v" / "0.jpg", exif=exif, quality=95)
        near(frame_of(read_split(folder), (HEIGHT, WIDTH)), upright())
        near(next(open_video(folder / "JPEGImages" / "v").frames()), upright())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("flag", range(1, 9))
def test_a_folder_of_frames_is_seen_upright(tmp_path, flag, suffix):
    """As a video file is; the first frame has no flag."""
    save(tmp_path / f"0{suffix}", upright(), None)
    save(tmp_path / f"1{suffix}", stored(upright(), flag), flag)
    footage = open_video(tmp_path)
    assert (footage.height, footage.width, footage.length) == (HEIGHT, WIDTH, 2)
    for frame in footage.frames():
        near(frame, upright())


def test_frames_are_imported_as_their_masks_are(tmp_path):
    for name, flag in (("shown", 6), ("stored", 8)):
        seen = upright()
        save(tmp_path / "in" / "JPEGImages" / name / "0.jpg", stored(seen, flag), flag)
        mask_HW = np.zeros((HEIGHT, WIDTH) if name == "shown" else (WIDTH, HEIGHT), np.uint8)
        mask_HW[4:20, 8:30] = 1
        (tmp_path / "in" / "Annotations" / name).mkdir(parents=True)
        Image.fromarray(mask_HW).save(tmp_path / "in" / "Annotations" / name / "0.png")
    (tmp_path / "categories.yaml").write_text(json.dumps({"*": "cat"}))
    import_masks(tmp_path / "in", tmp_path / "categories.yaml", tmp_path / "out", fps=6)
    index = read_split(tmp_path / "out" / "train")
    near(FrameReader(index, (HEIGHT, WIDTH)).clip(0, [0])[0].permute(1, 2, 0).numpy(), upright())
    near(FrameReader(index, (WIDTH, HEIGHT)).clip(1, [0])[0].permute(1, 2, 0).numpy(), stored(upright(), 8))
    assert all(track.boxes_L4[0].tolist() == [8, 4, 30, 20] for track in index.tracks)

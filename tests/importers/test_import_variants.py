"""What other tools write: 16-bit masks, YouTube-VOS, SAM 2, parts in COCO. Masks, identities and categories are compared."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline.importers.coco import import_coco
from pipeline.importers.masks import import_masks

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
with_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases of other tools are not here: {CASES}")
HEIGHT, WIDTH = 10, 14
STEMS = ("00000", "00005", "00010")


def numbers_of(frame: int, first: int = 1, second: int = 2) -> np.ndarray:
    """Two instances; the second is absent in frame 1."""
    numbers_HW = np.zeros((HEIGHT, WIDTH), np.int32)
    numbers_HW[1 + frame:4 + frame, 2:6] = first
    if frame != 1:
        numbers_HW[6:9, 8:12] = second
    return numbers_HW


def write_frame(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (len(file.stem) * 20, 90, 30)).save(file)


def write_palette(file: Path, numbers_HW: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers_HW.astype(np.uint8))
    image.putpalette([value for number in range(256) for value in (number * 3 % 256, 255 - number, 128)])
    image.save(file)


def write_16_bit(file: Path, numbers_HW: np.ndarray) -> None:
    """A grey PNG of 16 bits, as the PNG specification says: big-endian samples, a filter byte before each row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers_HW)
    height, width = numbers_HW.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def run(folder: Path, tmp_path: Path, rules=None, **options):
    """The train split that an import writes, and its warnings."""
    file = None
    if rules is not None:
        file = tmp_path / "categories.yaml"
        file.write_text(yaml.safe_dump(rules))
    warnings = []
    import_masks(folder, file, tmp_path / "set", fps=6.0, warn=warnings.append, **options)
    return read_split(tmp_path / "set" / "train", warn=lambda warning: pytest.fail(str(warning))), warnings


def refused(folder: Path, tmp_path: Path, rules=None, **options) -> UserError:
    tmp_path.mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        run(folder, tmp_path, rules, **options)
    assert not (tmp_path / "set").exists() and len(caught.value.remedy) > 10
    return caught.value


def assert_tracks(index, video: int, expected: list[tuple[str, list[np.ndarray]]]) -> None:
    """Categories and masks of a video, in order; an empty mask is an absent instance."""
    tracks = index.tracks_of(video)
    assert [index.categories[track.label].name for track in tracks] == [name for name, _ in expected]
    for track, (_, masks_LHW) in zip(tracks, expected, strict=True):
        assert track.present_L.tolist() == [bool(mask_HW.any()) for mask_HW in masks_LHW]
        for rle, mask_HW in zip(track.rles, masks_LHW, strict=True):
            if rle is not None:
                np.testing.assert_array_equal(masks.decode(rle), mask_HW)


# 16 bits

@pytest.fixture
def deep(tmp_path) -> Path:
    for frame, stem in enumerate(STEMS):
        write_frame(tmp_path / "given" / "JPEGImages" / "s" / f"{stem}.jpg")
        write_16_bit(tmp_path / "given" / "Annotations" / "s" / f"{stem}.png", numbers_of(frame, 300, 1001))
    return tmp_path / "given"


def of_number(first: int, second: int, number: int) -> list[np.ndarray]:
    return [numbers_of(frame, first, second) == number for frame in range(3)]


def test_16_bit_masks_have_large_numbers(deep, tmp_path):
    index, warnings = run(deep, tmp_path, {"s": {300: "cat", 1001: "dog"}})
    assert warnings == []
    assert_tracks(index, 0, [("cat", of_number(300, 1001, 300)), ("dog", of_number(300, 1001, 1001))])


def test_the_bytes_of_a_number_are_not_swapped(deep, tmp_path):
    """300 is 0x012c and 11265 is 0x2c01; both may be in one mask."""
    for frame, stem in enumerate(STEMS):
        write_16_bit(deep / "Annotations" / "s" / f"{stem}.png", numbers_of(frame, 300, 11265))
    index, _ = run(deep, tmp_path, {"s": {300: "cat", 11265: "dog"}})
    assert_tracks(index, 0, [("cat", of_number(300, 11265, 300)), ("dog", of_number(300, 11265, 11265))])


def test_16_bit_masks_that_pillow_wrote(deep, tmp_path):
    for frame, stem in enumerate(STEMS):
        image = Image.fromarray(numbers_of(frame, 300, 65000).astype(np.uint16))
        assert image.mode == "I;16"
        image.save(deep / "Annotations" / "s" / f"{stem}.png")
    index, _ = run(deep, tmp_path, {"s": {300: "cat", 65000: None}})
    assert_tracks(index, 0, [("cat", of_number(300, 65000, 300))])


def test_masks_of_both_depths_in_one_sequence(deep, tmp_path):
    """Some tools write as many bits as a frame needs."""
    for frame, stem in enumerate(STEMS):
        (write_16_bit if frame != 1 else write_palette)(
            deep / "Annotations" / "s" / f"{stem}.png", numbers_of(frame, 7, 999))
    assert_tracks(run(deep, tmp_path, {"s": "cat"})[0], 0, [("cat", of_number(7, 999, 7)), ("cat", of_number(7, 999, 999))])


@pytest.mark.parametrize("number", [255, 65535])
def test_what_may_be_an_instance_or_ignored_must_be_said(deep, tmp_path, number):
    for frame, stem in enumerate(STEMS):
        write_16_bit(deep / "Annotations" / "s" / f"{stem}.png", numbers_of(frame, 300, number))
    error = refused(deep, tmp_path, {"s": "cat"})
    assert error.key == f"s.{number}" and f"{number}: null" in error.remedy and error.where.endswith("00000.png")
    assert refused(deep, tmp_path, {"s": {300: "cat"}}).key == f"s.{number}"
    index, _ = run(deep, tmp_path, {"s": {300: "cat", number: "dog"}})
    expected = {300: ("cat", of_number(300, number, 300)), number: ("dog", of_number(300, number, number))}
    assert_tracks(index, 0, [expected[one] for one in sorted(expected)])


def test_a_folder_for_each_instance_with_16_bits(deep, tmp_path):
    for file in (deep / "Annotations" / "s").iterdir():
        file.unlink()
    for frame, stem in enumerate(STEMS):
        write_16_bit(deep / "Annotations" / "s" / "rex" / f"{stem}.png", (numbers_of(frame) == 1) * 65535)
    assert_tracks(run(deep, tmp_path, {"s": {"rex": "dog"}})[0], 0, [("dog", of_number(1, 2, 1))])


def test_one_bit_masks_show_one_instance(deep, tmp_path):
    for frame, stem in enumerate(STEMS):
        Image.fromarray(numbers_of(frame) == 1).save(deep / "Annotations" / "s" / f"{stem}.png")
    assert_tracks(run(deep, tmp_path, {"s": {1: "dog"}})[0], 0, [("dog", of_number(1, 2, 1))])


# YouTube-VOS

def meta(**objects) -> dict:
    return {"videos": {"aa": {"objects": {
        "1": {"category": "penguin", "frames": list(STEMS)},
        "2": {"category": "ape", "frames": [STEMS[0], STEMS[2]]}} | objects}}}


@pytest.fixture
def vos(tmp_path) -> Path:
    """Masks of every fifth of eleven frames."""
    train = tmp_path / "vos" / "train"
    for number in range(11):
        write_frame(train / "JPEGImages" / "aa" / f"{number:05d}.jpg")
    for frame, stem in enumerate(STEMS):
        write_palette(train / "Annotations" / "aa" / f"{stem}.png", numbers_of(frame))
    (train / "meta.json").write_text(json.dumps(meta()))
    return tmp_path / "vos"


EXPECTED = [("penguin", of_number(1, 2, 1)), ("ape", of_number(1, 2, 2))]


@pytest.mark.parametrize("given", ["vos", "vos/train"])
def test_youtube_vos_brings_its_categories(vos, tmp_path, given):
    index, (warning,) = run(tmp_path / given, tmp_path)
    assert [category.name for category in index.categories] == ["ape", "penguin"]
    assert index.videos[0].file_names == tuple(f"aa/{stem}.jpg" for stem in STEMS)
    assert_tracks(index, 0, EXPECTED)
    assert warning.key == "aa/00001" and warning.problem == "a frame without a mask, left out (in 8 places)"


@pytest.mark.parametrize("change", [
    lambda frames: [f"{name}.jpg" for name in frames], lambda frames: [f"{name}.png" for name in frames],
    lambda frames: [f"aa/{name}" for name in frames], lambda frames: [f"aa\\{name}.JPG" for name in frames], lambda frames: []])
def test_names_of_frames_in_meta(vos, tmp_path, change):
    content = meta()
    for listed in content["videos"]["aa"]["objects"].values():
        listed["frames"] = change(listed["frames"])
    (vos / "train" / "meta.json").write_text(json.dumps(content))
    index, warnings = run(vos, tmp_path)
    assert_tracks(index, 0, EXPECTED)
    assert len(warnings) == 1


def test_a_meta_file_for_both_splits(vos, tmp_path):
    (vos / "train" / "meta.json").rename(vos / "meta.json")
    assert_tracks(run(vos, tmp_path)[0], 0, EXPECTED)


def test_categories_that_are_given_count(vos, tmp_path):
    assert_tracks(run(vos, tmp_path, {"aa": {1: "bird", 2: None}})[0], 0, [("bird", EXPECTED[0][1])])


def test_sequences_are_held_out(vos, tmp_path):
    for name in ("bb", "cc"):
        for frame, stem in enumerate(STEMS):
            write_frame(vos / "train" / "JPEGImages" / name / f"{stem}.jpg")
            write_palette(vos / "train" / "Annotations" / name / f"{stem}.png", numbers_of(frame))
    content = meta()
    content["videos"] |= {"bb": content["videos"]["aa"], "cc": {"objects": {}}, "gone": {"objects": {}}}
    (vos / "train" / "meta.json").write_text(json.dumps(content))
    index, warnings = run(vos, tmp_path, val=("bb",))
    assert [video.file_names[0] for video in index.videos] == ["aa/00000.jpg"]
    val = read_split(tmp_path / "set" / "val")
    assert_tracks(val, 0, EXPECTED)
    assert [category.name for category in val.categories] == ["ape", "penguin"]
    assert {(warning.key, warning.problem.split(",")[0].split(":")[0]) for warning in warnings} == {
        ("videos.gone", "a sequence that is not there"), ("aa/00001", "a frame without a mask")}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["val", "valid"])
def test_val_and_valid(vos, tmp_path, name, whole):
    """YouTube-VOS's valid/ has the masks where objects first appear alone."""
    for frame, stem in enumerate(STEMS):
        write_frame(vos / name / "JPEGImages" / "aa" / f"{stem}.jpg")
        if frame == 0 or whole:
            write_palette(vos / name / "Annotations" / "aa" / f"{stem}.png", numbers_of(frame))
    (vos / name / "meta.json").write_text(json.dumps(meta()))
    if whole:
        assert_tracks(run(vos, tmp_path)[0], 0, EXPECTED)
        assert_tracks(read_split(tmp_path / "set" / "val"), 0, EXPECTED)
        assert refused(vos, tmp_path / "a", val=("aa",)).problem == f"the folder is already split into train/ and {name}/"
    elif name == "val":
        assert "is listed, but has no mask" in refused(vos, tmp_path).problem
    else:
        index, warnings = run(vos, tmp_path)
        assert_tracks(index, 0, EXPECTED)
        assert warnings[0].key == "valid" and not (tmp_path / "set" / "val").exists()


def test_masks_count_where_meta_lists_other_frames(vos, tmp_path):
    (vos / "train" / "meta.json").write_text(json.dumps(meta(**{"2": {"category": "ape", "frames": [STEMS[0]]}})))
    index, warnings = run(vos, tmp_path)
    assert_tracks(index, 0, EXPECTED)
    assert "videos.aa.objects.2.frames" in [warning.key for warning in warnings]


@pytest.mark.parametrize(("change", "key", "problem"), [
    (lambda content: content.pop("videos"), "videos", "not a JSON object"),
    (lambda content: content["videos"].pop("aa"), "videos.aa", "no categories for this sequence"),
    (lambda content: content["videos"]["aa"].pop("objects"), "videos.aa.objects", "not a JSON object"),
    (lambda content: content["videos"]["aa"]["objects"]["1"].pop("category"), "videos.aa.objects.1.category", "not a category"),
    (lambda content: content["videos"]["aa"]["objects"]["1"].update(category=" "), "videos.aa.objects.1.category", "not a"),
    (lambda content: content["videos"]["aa"]["objects"].update({"01": {"category": "ape"}}), "videos.aa.objects.01", "same"),
    (lambda content: content["videos"]["aa"]["objects"]["1"].update(frames=[5]), "videos.aa.objects.1.frames", "not a list of"),
    (lambda content: content["videos"]["aa"]["objects"]["1"]["frames"].append("00007"), "videos.aa.objects.1.frames",
     "00007 is listed, but has no mask"),
    (lambda content: content["videos"]["aa"]["objects"].pop("2"), "aa.2", "no category for this instance"),
])
def test_wrong_meta_files(vos, tmp_path, change, key, problem):
    content = meta()
    change(content)
    (vos / "train" / "meta.json").write_text(json.dumps(content))
    error = refused(vos, tmp_path)
    assert error.key == key and problem in error.problem


def test_neither_meta_nor_categories(vos, tmp_path):
    (vos / "train" / "meta.json").unlink()
    error = refused(vos, tmp_path)
    assert error.key == "--categories" and "meta.json" in error.problem
    assert refused(vos, tmp_path, {"aa": "bird"}).problem == "a frame without a mask"


def test_the_command_needs_no_categories(vos, tmp_path):
    command = [sys.executable, "-m", "pipeline.import_masks", str(vos), "--out", str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("warning: ") == 1 and "left out (in 8 places)" in done.stderr
    assert_tracks(read_split(tmp_path / "set" / "train"), 0, EXPECTED)


# SAM 2

@pytest.mark.parametrize("per_object", [False, True])
def test_masks_of_sam_2(tmp_path, per_object):
    """As tools/vos_inference.py saves them below --output_mask_dir: palette PNGs of numbers, or with --per_obj_png_file a
    folder named by three digits for each object, with 0 and 1, and empty masks where it is not seen."""
    for frame, stem in enumerate(STEMS):
        write_frame(tmp_path / "videos" / "JPEGImages" / "clip" / f"{stem}.jpg")
        if per_object:
            for number in (1, 2):
                write_palette(tmp_path / "videos" / "Annotations" / "clip" / f"{number:03d}" / f"{stem}.png",
                              numbers_of(frame) == number)
        else:
            write_palette(tmp_path / "videos" / "Annotations" / "clip" / f"{stem}.png", numbers_of(frame))
    index, warnings = run(tmp_path / "videos", tmp_path, {"clip": {1: "dog", 2: "cat"}})
    assert warnings == []
    assert_tracks(index, 0, [("dog", of_number(1, 2, 1)), ("cat", of_number(1, 2, 2))])


# DAVIS

@pytest.fixture
def davis(tmp_path) -> Path:
    """JPEGImages/480p, Annotations/480p and ImageSets/2017, as the release has them and tools/README.md of SAM 2 names them."""
    for name in ("bear", "bus", "cows"):
        for frame, stem in enumerate(STEMS):
            write_frame(tmp_path / "DAVIS" / "JPEGImages" / "480p" / name / f"{stem}.jpg")
            write_palette(tmp_path / "DAVIS" / "Annotations" / "480p" / name / f"{stem}.png", numbers_of(frame))
    return tmp_path / "DAVIS"


def write_image_set(davis: Path, year: str, split: str, *names: str) -> None:
    (davis / "ImageSets" / year).mkdir(parents=True, exist_ok=True)
    (davis / "ImageSets" / year / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def names_in(tmp_path: Path, split: str) -> list[str]:
    return [video.file_names[0].split("/")[0] for video in read_split(tmp_path / "set" / split).videos]


NUMBERED = [("bear", of_number(1, 2, 1)), ("bear", of_number(1, 2, 2))]


def test_the_folder_of_the_resolution(davis, tmp_path):
    index, warnings = run(davis, tmp_path, {"*": "bear"}, val=("c*",))
    assert warnings == [] and (names_in(tmp_path, "train"), names_in(tmp_path, "val")) == (["bear", "bus"], ["cows"])
    assert index.videos[0].file_names == tuple(f"bear/{stem}.jpg" for stem in STEMS)
    for video in (0, 1):
        assert_tracks(index, video, NUMBERED)


def test_the_newest_lists_of_davis_are_the_splits(davis, tmp_path):
    write_image_set(davis, "2016", "train", "cows")
    write_image_set(davis, "2016", "val", "bear")
    write_image_set(davis, "2017", "train", "bear", "elephant")
    write_image_set(davis, "2017", "val", "cows")
    _, warnings = run(davis, tmp_path, {"*": "bear"})
    assert (names_in(tmp_path, "train"), names_in(tmp_path, "val")) == (["bear"], ["cows"])
    assert_tracks(read_split(tmp_path / "set" / "val"), 0, NUMBERED)
    assert {(one.key, one.problem) for one in warnings} == {
        ("elephant", "a sequence that is not there, left out"), ("bus", "in no list of ImageSets/2017, left out")}


def test_what_is_held_out_by_name_counts_more_than_the_lists(davis, tmp_path):
    write_image_set(davis, "2017", "train", "bear", "bus")
    write_image_set(davis, "2017", "val", "cows")
    run(davis, tmp_path, {"*": "bear"}, val=("bear",))
    assert (names_in(tmp_path, "train"), names_in(tmp_path, "val")) == (["bus", "cows"], ["bear"])


def test_one_of_two_resolutions_is_read(davis, tmp_path):
    for part in ("JPEGImages", "Annotations"):
        (davis / part / "480p").rename(davis / part / "Full-Resolution")
    assert len(run(davis, tmp_path, {"*": "bear"})[0].videos) == 3
    for stem in STEMS:
        write_frame(davis / "JPEGImages" / "480p" / "bear" / f"{stem}.jpg")
        write_palette(davis / "Annotations" / "480p" / "bear" / f"{stem}.png", numbers_of(1))
    (tmp_path / "set").rename(tmp_path / "first")
    index, (warning,) = run(davis, tmp_path, {"*": "bear"})
    assert_tracks(index, 0, [("bear", [numbers_of(1) == 1] * 3)])
    assert (warning.key, warning.problem) == ("Full-Resolution", "left out: 480p is read")


def test_a_sequence_may_be_called_as_a_resolution_is(deep, tmp_path):
    for part in ("JPEGImages", "Annotations"):
        (deep / part / "s").rename(deep / part / "480p")
    index, _ = run(deep, tmp_path, {"480p": {300: "cat", 1001: None}})
    assert_tracks(index, 0, [("cat", of_number(300, 1001, 300))])


def test_errors_name_the_places_below_the_resolution(davis, tmp_path):
    mask = davis / "Annotations" / "480p" / "bus" / f"{STEMS[1]}.png"
    mask.unlink()
    error = refused(davis, tmp_path, {"*": "bear"})
    assert error.where == str(davis / "JPEGImages" / "480p" / "bus" / f"{STEMS[1]}.jpg") and str(mask) in error.remedy
    (davis / "Annotations" / "480p" / "bus").rename(tmp_path / "elsewhere")
    assert refused(davis, tmp_path, {"*": "bear"}).where == str(davis / "JPEGImages" / "480p" / "bus")


# Colours

def write_colours(file: Path, numbers_HW: np.ndarray, colours: dict[int, tuple[int, ...]], mode: str = "RGB") -> None:
    """A PNG of colours; what has none of the given ones is black, and in RGBA not there."""
    pixels_HWC = np.zeros((*numbers_HW.shape, len(mode)), np.uint8)
    for number, colour in colours.items():
        pixels_HWC[numbers_HW == number] = (*colour, 255)[:len(mode)]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC, mode).save(file)


def long_id(number: int) -> tuple[int, int, int]:
    """The colour of an id as COCO's panoptic format has it, id = R + 256 G + 256^2 B."""
    return number % 256, number // 256 % 256, number // 256**2


@pytest.fixture
def coloured(deep):
    """Writes masks of the colours instead of the numbers into the sequence s."""

    def write(colours: dict[int, tuple[int, ...]], mode: str = "RGB", stems=STEMS) -> Path:
        for frame, stem in enumerate(STEMS):
            if stem in stems:
                write_colours(deep / "Annotations" / "s" / f"{stem}.png", numbers_of(frame), colours, mode)
        return deep

    return write


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(("first", "second"), [
    ((128, 0, 0), (0, 128, 0)), ((0, 0, 1), (0, 1, 0)), (long_id(300), long_id(70_001))], ids=["DAVIS", "nearly black", "DEVA"])
def test_each_colour_is_an_instance(coloured, tmp_path, first, second, mode):
    """Tracking Anything with DEVA's demos write such Annotations/<video>/<frame>.png, of long_id."""
    keys = [f"#{bytes(colour).hex()}" for colour in (first, second)]
    index, (warning,) = run(coloured({1: first, 2: second}, mode), tmp_path, {"s": {keys[0]: "cat", keys[1]: "dog"}})
    both = [("cat", of_number(1, 2, 1)), ("dog", of_number(1, 2, 2))]
    assert_tracks(index, 0, both if keys[0] < keys[1] else both[::-1])
    assert "each of which but black is an instance (in 3 places)" in warning.problem


def test_colours_of_one_category_or_left_out(coloured, tmp_path):
    folder = coloured({1: (255, 0, 0), 2: (0, 255, 0)})
    index, _ = run(folder, tmp_path, {"s": "cat"})
    assert_tracks(index, 0, [("cat", of_number(1, 2, 2)), ("cat", of_number(1, 2, 1))])
    (tmp_path / "set").rename(tmp_path / "first")
    assert_tracks(run(folder, tmp_path, {"s": {"#FF0000": "cat", "#00ff00": None}})[0], 0, [("cat", of_number(1, 2, 1))])


def test_a_colour_without_a_category(coloured, tmp_path):
    error = refused(coloured({1: (255, 0, 0), 2: (0, 255, 0)}), tmp_path, {"s": {"#ff0000": "cat"}})
    assert error.key == "s.#00ff00" and '"#00ff00"' in error.remedy


def test_white_may_be_an_instance_or_ignored(coloured, tmp_path):
    folder = coloured({1: (255, 0, 0), 2: (255, 255, 255)})
    error = refused(folder, tmp_path, {"s": "cat"})
    assert error.key == "s.#ffffff" and '"#ffffff": null' in error.remedy
    assert_tracks(run(folder, tmp_path, {"s": {"#ff0000": "cat", "#ffffff": None}})[0], 0, [("cat", of_number(1, 2, 1))])


def test_masks_of_colours_and_of_numbers_in_one_sequence(coloured, tmp_path):
    folder = coloured({1: (255, 0, 0), 2: (0, 255, 0)}, stems=STEMS[1:])
    error = refused(folder, tmp_path, {"s": "cat"})
    assert error.key == f"s/{STEMS[1]}" and "others of its sequence are of numbers" in error.problem
    write_palette(folder / "Annotations" / "s" / f"{STEMS[0]}.png", np.zeros((HEIGHT, WIDTH)))
    index, _ = run(folder, tmp_path, {"s": {"#ff0000": "cat", "#00ff00": None}})
    assert index.tracks[0].present_L.tolist() == [False, True, True]


def test_smoothed_edges_are_no_instances(coloured, tmp_path):
    folder = coloured({1: (255, 0, 0)})
    for frame, stem in enumerate(STEMS):
        shades = np.arange(1 + 100 * frame, 1 + 100 * frame + HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
        pixels_HWC = np.stack([shades % 256, shades // 256, shades * 0], axis=-1).astype(np.uint8)
        Image.fromarray(pixels_HWC).save(folder / "Annotations" / "s" / f"{stem}.png")
    error = refused(folder, tmp_path, {"s": "cat"})
    assert error.key == f"s/{STEMS[2]}" and "more than 255 colours" in error.problem


def test_half_transparent_masks(coloured, tmp_path):
    folder = coloured({1: (255, 0, 0)}, "RGBA")
    file = folder / "Annotations" / "s" / f"{STEMS[1]}.png"
    image = Image.open(file)
    image.putalpha(100)
    image.save(file)
    error = refused(folder, tmp_path, {"s": "cat"})
    assert (error.where, error.key) == (str(file), f"s/{STEMS[1]}") and "half transparent" in error.problem


def test_folders_of_instances_may_have_colours(tmp_path):
    """The folder says whose the mask is, so that its colour says nothing."""
    for frame, stem in enumerate(STEMS):
        write_frame(tmp_path / "videos" / "JPEGImages" / "s" / f"{stem}.jpg")
        for number in (1, 2):
            write_colours(tmp_path / "videos" / "Annotations" / "s" / str(number) / f"{stem}.png", numbers_of(frame),
                          {number: (255, 255, 255)})
    index, warnings = run(tmp_path / "videos", tmp_path, {"s": {1: "cat", 2: "dog"}})
    assert warnings == []
    assert_tracks(index, 0, [("cat", of_number(1, 2, 1)), ("dog", of_number(1, 2, 2))])


# COCO

def block(left: int, top: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[top:top + 3, left:left + 4] = True
    return mask_HW


def polygon(left: int, top: int) -> list[list[int]]:
    return [[left, top, left + 4, top, left + 4, top + 3, left, top + 3]]


def coco() -> dict:
    """Track 7 is in two parts in image 2, of which one is a polygon and one an RLE; track 8 overlaps it."""
    shown = [(1, 7, 1, polygon(1, 1)), (2, 7, 1, polygon(1, 1)), (2, 7, 1, masks.encode(block(8, 5))), (2, 8, 2, polygon(2, 2)),
             (3, 7, 1, polygon(3, 1))]
    return {"images": [{"id": 1 + i, "file_name": f"c/{stem}.jpg", "height": HEIGHT, "width": WIDTH}
                       for i, stem in enumerate(STEMS)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [{"id": i, "image_id": image, "category_id": category, "iscrowd": 0, "track_id": track,
                             "segmentation": mask} for i, (image, track, category, mask) in enumerate(shown)]}


PARTS = [("cat", [block(1, 1), block(1, 1) | block(8, 5), block(3, 1)]),
         ("dog", [np.zeros((HEIGHT, WIDTH), bool), block(2, 2), np.zeros((HEIGHT, WIDTH), bool)])]


def run_coco(tmp_path: Path, change=lambda content: None):
    for stem in STEMS:
        write_frame(tmp_path / "JPEGImages" / "c" / f"{stem}.jpg")
    content = coco()
    change(content)
    (tmp_path / "tracks.json").write_text(json.dumps(content))
    warnings = []
    import_coco(tmp_path / "JPEGImages", tmp_path / "tracks.json", tmp_path / "set", fps=6.0, warn=warnings.append)
    return read_split(tmp_path / "set" / "train"), warnings


def test_parts_of_a_mask(tmp_path):
    index, (warning,) = run_coco(tmp_path)
    assert_tracks(index, 0, PARTS)
    assert warning.key == "annotations[2]" and "parts of its mask" in warning.problem


def test_parts_of_other_categories_are_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        run_coco(tmp_path, lambda content: content["annotations"][2].update(category_id=2))
    assert caught.value.key == "annotations[2].category_id" and "is a dog here and a cat" in caught.value.problem


@pytest.mark.parametrize("rename", [
    lambda name: name.replace("/", "\\"), lambda name: f"JPEGImages/{name}", lambda name: f".\\JPEGImages\\{name}"])
def test_names_of_images(tmp_path, rename):
    def change(content):
        content["videos"] = None
        for image in content["images"]:
            image["file_name"] = rename(image["file_name"])

    index, warnings = run_coco(tmp_path, change)
    assert index.videos[0].file_names[0] == "c/00000.jpg" and len(warnings) == 2
    assert_tracks(index, 0, PARTS)


@pytest.mark.parametrize("name", ["\\c\\0.jpg", "c\\..\\..\\0.jpg", "JPEGImages//etc/passwd", "C:\\c\\0.jpg"])
def test_names_of_images_that_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError) as caught:
        run_coco(tmp_path, lambda content: content["images"][0].update(file_name=name))
    assert caught.value.key == "images[0].file_name" and "leaves the data set folder" in caught.value.problem


@pytest.mark.parametrize("nothing", [None, [], {}, "", [[]]], ids=repr)
@pytest.mark.parametrize("others", [{"bbox": []}, {"bbox": [0, 0, 0, 0], "area": 0}, {"bbox": None}, {"area": 0}], ids=repr)
def test_annotations_of_nothing(tmp_path, nothing, others):
    def change(content):
        content["annotations"].append(
            {"id": 90, "image_id": 1, "category_id": 2, "track_id": 8, "segmentation": nothing} | others)
        content["annotations"].append(
            {"id": 91, "image_id": 1, "category_id": 2, "track_id": 99, "segmentation": nothing} | others)

    index, warnings = run_coco(tmp_path, change)
    assert_tracks(index, 0, PARTS)
    assert [(w.key, "(in 2 places)" in w.problem) for w in warnings] == [
        ("annotations[2]", False), ("annotations[5].segmentation", True)]


@pytest.mark.parametrize("nothing", [None, [], {}, "", [[]]], ids=repr)
@pytest.mark.parametrize("others", [{}, {"bbox": [1, 1, 4, 3]}, {"area": 12}], ids=repr)
def test_boxes_alone_are_no_masks(tmp_path, nothing, others):
    with pytest.raises(UserError) as caught:
        run_coco(tmp_path, lambda content: content["annotations"][0].update(others | {"segmentation": nothing}))
    assert (caught.value.key, caught.value.problem) == ("annotations[0].segmentation", "no mask")


# The inputs of public bug reports

@with_cases
def test_case_of_16_bits(tmp_path):
    folder = CASES / "masks-16-bit"
    import_masks(folder, folder / "categories.yaml", tmp_path / "set", fps=6.0)
    index = read_split(tmp_path / "set" / "train")
    for video, name in enumerate(("s0", "s1")):
        shown = [np.asarray(Image.open(folder / "Annotations" / name / f"{stem}.png")) for stem in STEMS]
        assert_tracks(index, video, [("thing", [one == 300 for one in shown]), ("other", [one == 1001 for one in shown])])


@with_cases
@pytest.mark.parametrize("below", ["", "train"])
def test_case_of_youtube_vos(tmp_path, below):
    folder = CASES / "youtube-vos"
    index, warnings = run(folder / below, tmp_path)
    assert warnings == [] and len(index.videos) == 2
    for video, name in enumerate(("aa01", "bb02")):
        shown = [np.asarray(Image.open(folder / "train" / "Annotations" / name / f"{stem}.png")) for stem in STEMS]
        assert_tracks(index, video, [("penguin", [one == 1 for one in shown]), ("ape", [one == 2 for one in shown])])


@with_cases
def test_case_of_parts(tmp_path):
    """Blocks of 22 rows and 14 columns, as the file's boxes say; the second frame has another one 25 pixels to the right."""
    folder = CASES / "coco-parts"
    import_coco(folder / "images", folder / "tracks.json", tmp_path / "set", fps=6.0)
    index = read_split(tmp_path / "set" / "train")
    expected = np.zeros((3, 48, 64), bool)
    for frame in range(3):
        expected[frame, 8:30, 6 + frame:20 + frame] = True
    expected[1, 8:30, 32:46] = True
    (category,) = index.categories
    assert len(index.videos) == 2
    for video in range(2):
        assert_tracks(index, video, [(category.name, list(expected))])

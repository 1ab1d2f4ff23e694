"""The reader on generated annotations: those that are written read back, and anything else gives a clean error."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import annotation_entry, check_split, read_split, write_annotations
from effvis.errors import UserError
from effvis.evaluation.inputs import _loads

# Times on a busy machine say nothing about the reader.
PROPERTY = settings(deadline=None, max_examples=60,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
SIDE = st.integers(1, 24)


def bits(height: int, width: int):
    return st.integers(0, 2 ** (height * width) - 1).map(
        lambda number: np.array([number >> i & 1 for i in range(height * width)], bool).reshape(height, width))


@st.composite
def videos(draw):
    """(height, width) and, for each of up to three instances, its mask in every frame."""
    height, width, length = draw(SIDE), draw(SIDE), draw(st.integers(1, 4))
    mask = st.none() | bits(height, width)
    return (height, width), draw(st.lists(st.lists(mask, min_size=length, max_size=length), min_size=1, max_size=3))


def write_video(folder, size, tracks) -> None:
    height, width = size
    names = [f"v/{f}.png" for f in range(len(tracks[0]))]
    (folder / "JPEGImages" / "v").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (width, height)).save(folder / "JPEGImages" / name)
    write_annotations(
        folder / "instances.json", description="drawn", categories=[{"id": 4, "name": "thing"}],
        videos=[{"id": 9, "height": height, "width": width, "file_names": names}],
        annotations=[annotation_entry(track_id=i, video_id=9, category_id=4, height=height, width=width,
                                      rles=[None if mask is None else masks.encode(mask) for mask in track])
                     for i, track in enumerate(tracks)])


@PROPERTY
@given(video=videos())
def test_what_is_written_reads_back(tmp_path, video):
    size, tracks = video
    write_video(tmp_path, size, tracks)
    index = read_split(tmp_path)
    for found, track in zip(index.tracks, tracks, strict=True):
        for frame, mask_HW in enumerate(track):
            seen = mask_HW is not None and mask_HW.any()
            assert found.present_L[frame] == seen
            if seen:
                np.testing.assert_array_equal(masks.decode(found.rles[frame]), mask_HW)
                y, x = np.nonzero(mask_HW)
                assert found.boxes_L4[frame].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert found.areas_L[frame] == mask_HW.sum()
    problems, categories = check_split(tmp_path)
    assert problems.errors == problems.warnings == [] and categories == index.categories


@PROPERTY
@given(mask_HW=st.tuples(SIDE, SIDE).flatmap(lambda size: bits(*size)))
def test_run_lengths_are_those_of_the_mask(mask_HW):
    runs = masks.run_lengths(masks.encode(mask_HW)["counts"])
    values = np.arange(len(runs)) % 2
    np.testing.assert_array_equal(np.repeat(values, runs).reshape(mask_HW.shape[::-1]).T, mask_HW)


@PROPERTY
@given(given=JSON, place=st.sampled_from([
    ("videos",), ("categories",), ("annotations",), ("videos", 0), ("categories", 0), ("annotations", 0),
    *(("videos", 0, key) for key in ("id", "height", "width", "length", "fps", "file_names")),
    *(("annotations", 0, key) for key in ("id", "video_id", "category_id", "iscrowd", "segmentations", "bboxes", "areas")),
    ("annotations", 0, "segmentations", 0), ("annotations", 0, "segmentations", 0, "counts"),
    ("annotations", 0, "segmentations", 0, "size"), ("videos", 0, "file_names", 0), ("categories", 0, "name")]))
def test_any_value_anywhere_is_read_or_refused_by_name(tmp_path, given, place):
    write_video(tmp_path, (3, 4), [[np.ones((3, 4), bool), None]])
    file = tmp_path / "instances.json"
    content = json.loads(file.read_text())
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = given
    file.write_text(json.dumps(content))
    problems, _ = check_split(tmp_path)
    if problems.errors:
        with pytest.raises(UserError) as caught:
            read_split(tmp_path)
        assert caught.value.key and caught.value.remedy
    else:
        read_split(tmp_path)


@PROPERTY
@given(text=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_refused_by_name(tmp_path, text):
    write_video(tmp_path, (3, 4), [[None]])
    (tmp_path / "instances.json").write_bytes(text)
    with pytest.raises(UserError, match="instances.json"):
        read_split(tmp_path)
    assert check_split(tmp_path)[0].errors


# Between its own characters Hypothesis finds little that is nearly JSON.
NEARLY_JSON = st.text(st.sampled_from('[]{}",:0123456789.eE+-\\u dbnaltrsfINy\n\t\x00\u2028\ud800'), max_size=24).map(
    lambda text: text.encode("utf-8", "surrogatepass"))


@PROPERTY
@given(text=st.binary(max_size=40) | NEARLY_JSON | JSON.map(lambda value: json.dumps(value).encode())
       | JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")))
def test_results_are_read_as_json_reads_them(text):
    def read(loads):
        try:
            return repr(loads(text))  # NaN equals itself, and 1 is not 1.0
        except ValueError as error:
            return str(error)

    assert read(_loads) == read(json.loads)

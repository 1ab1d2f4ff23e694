"""The way from clips to the tracklets of a video."""

import dataclasses
import gc
import json
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask
from support.builders import tiny_model

from effvis.config import HandcraftConfig, InferenceConfig
from effvis.data.clips import clip_frames
from effvis.data.masks import bbox_xyxy, encode
from effvis.data.synthetic.shapes import ShapesConfig, write
from effvis.data.youtube_vis import annotation_entry, read_split, write_annotations
from effvis.inference import clip as clip_module
from effvis.inference import end_to_end, handcraft
from effvis.inference.clip import TrackletPredictions, mask_logits_in_groups, predict_alone, predict_clip
from effvis.inference.predictor import _propagate, kept_frames, predict_linked, predict_split
from effvis.inference.tracklets import VideoTracklet, best_results
from effvis.model import efficientvis
from effvis.model.efficientvis import ClipOutput
from effvis.model.paste import paste_masks
from pipeline.engine.prediction import predict, score
from pipeline.grid.rows import evaluation_spec
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings

SIZE = (32, 48)
EVERYTHING = InferenceConfig(presence_threshold=0.0)


def _clips(length: int, clip_length: int):
    """Padded clips of a random video, as the predictor makes them."""
    video = torch.randint(0, 255, (length, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for start in range(0, length, clip_length):
        yield (list(range(start, min(start + clip_length, length))), video[clip_frames(start, clip_length, length)])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11])  # 1, T-1, T, T+1, 3T+2 at T = 3
def test_every_frame_of_a_video_gets_one_prediction(length):
    model = tiny_model(3).eval()
    tracklets = end_to_end.track(model, _clips(length, 3), SIZE, EVERYTHING)
    assert len(tracklets) == 4
    for tracklet in tracklets:
        assert sorted(tracklet.rles) == list(range(length))
        assert len(tracklet.probabilities) == length
    results = best_results(tracklets, video_id=7, category_ids=[1, 2, 3], length=length, most=10)
    assert len(results) == 10 and all(len(r["segmentations"]) == length for r in results)
    assert [r["score"] for r in results] == sorted((r["score"] for r in results), reverse=True)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11])
def test_handcraft_linking_gives_every_frame_each_tracklet_once(length):
    model = tiny_model(3).eval()
    clips = [(numbers, predict_clip(model, pixels, None, SIZE, EVERYTHING)[0]) for numbers, pixels in _clips(length, 3)]
    always, never = (handcraft.link(clips, SIZE, HandcraftConfig(new_tracklet_below=below, score_threshold=0.0))
                     for below in (-100.0, 100.0))
    assert [sorted(tracklet.rles) for tracklet in always] == [list(range(length))] * 4
    assert len(never) == 4 * len(clips)
    for video in (always, never):
        assert sorted(frame for tracklet in video for frame in tracklet.rles) == sorted(list(range(length)) * 4)
        assert all(len(tracklet.probabilities) == len(tracklet.rles) == len(tracklet.boxes) for tracklet in video)


@pytest.fixture(scope="module")
def odd_videos(tmp_path_factory):
    """Five drawn videos of 1, 2, 3, 4 and 11 frames, 32x48."""
    folder = tmp_path_factory.mktemp("odd")
    write(ShapesConfig(train_videos=5, val_videos=1, frames=11, height=32, width=48, min_radius=5, max_radius=8), folder,
          workers=1)
    index = read_split(folder / "train")
    return dataclasses.replace(index, tracks=(), videos=tuple(
        dataclasses.replace(video, file_names=video.file_names[:length])
        for video, length in zip(index.videos, (1, 2, 3, 4, 11), strict=True)))


@pytest.mark.parametrize("linking", ["end-to-end", "hand-craft"])
def test_results_of_videos_of_any_length_have_one_mask_per_frame(odd_videos, linking):
    inference = InferenceConfig(
        presence_threshold=0.0, linking=linking, handcraft={"new_tracklet_below": -100, "score_threshold": 0.0})
    found = predict(tiny_model(3), "efficientvis", odd_videos, inference, SIZE, lambda done, total: None)
    for video in odd_videos.videos:
        assert found.kept[video.id] == list(range(video.length))
        own = [result["segmentations"] for result in found.results if result["video_id"] == video.id]
        assert len(own) == 10
        assert all(len(masks) == video.length and None not in masks for masks in own)


def test_the_last_clip_is_padded_by_the_last_frame(odd_videos):
    seen = []
    model = tiny_model(3)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].pyramid[0]))
    predict_split(model, odd_videos, EVERYTHING, input_size=SIZE)
    assert len(seen) == 1 + 1 + 1 + 2 + 4
    two_frames = seen[1]
    assert not torch.equal(two_frames[0], two_frames[1]) and torch.equal(two_frames[1], two_frames[2])


def test_queries_are_carried_from_clip_to_clip():
    model = tiny_model(2).eval()
    clips = list(_clips(4, 2))
    _, carried = predict_clip(model, clips[0][1], None, SIZE, EVERYTHING)
    expected, _ = predict_clip(model, clips[1][1], carried, SIZE, EVERYTHING)
    tracklets = end_to_end.track(model, clips, SIZE, EVERYTHING)
    for n, tracklet in enumerate(tracklets):
        np.testing.assert_array_equal(tracklet.boxes[2], expected.boxes_NT4[n, 0])


class _Scripted(torch.nn.Module):
    """A network whose presence follows the brightness of the clip; it counts how far each query has been carried."""

    def __init__(self):
        super().__init__()
        self.query_NTC = torch.nn.Parameter(torch.zeros(1, 1, 1))

    def initial_query(self, clips):
        return self.query_NTC.expand(clips, -1, -1, -1)

    def features(self, pixels):
        class Features:
            size_B4 = torch.tensor([[SIZE[1], SIZE[0]] * 2])
            frames = 1
            brightness = pixels.float().mean()
        return Features()

    def forward(self, features, query=None):
        query = self.initial_query(1) if query is None else query
        logit = 5.0 if features.brightness > 128 else -5.0
        return [ClipOutput(0, torch.full((1, 1, 1, 2), logit), torch.tensor([[[[0.0, 0, 48, 32]]]]), query + 1, query + 1)]

    def mask_logits(self, features, output, select):
        # The query's count decides how much of the box is mask, so that the test can read it.
        mask = torch.full((1, 1, 1, 8, 8), -9.0)
        mask[..., : int(output.query_BNTC.item())] = 9.0
        return mask


def test_a_query_that_stays_background_is_reinitialised_and_becomes_a_new_tracklet():
    seen = [True, True, False, True, False, False, True]
    clips = [([f], torch.full((1, 3, *SIZE), 255 if s else 0, dtype=torch.uint8)) for f, s in enumerate(seen)]
    tracklets = end_to_end.track(_Scripted(), clips, SIZE, InferenceConfig(reinit_after=2))
    assert [sorted(t.rles) for t in tracklets] == [[0, 1, 3], [6]]
    one, four = (sum(_area(t.rles[f]) for f in frames) for t, frames in ((tracklets[1], [6]), (tracklets[0], [3])))
    assert four > 3 * one  # frame 3's query had been carried through four clips, frame 6's starts anew


def _area(rle):
    return int(coco_mask.area(rle))


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_features_of_frames_part_by_part_are_those_of_all_at_once(backbone, monkeypatch):
    model = tiny_model(3, backbone=backbone)
    parts = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: parts.append(len(inputs[0])))
    clips = torch.randint(0, 255, (2, 3, 3, 40, 56), dtype=torch.uint8)
    whole = model.eval().features(clips)
    monkeypatch.setattr(efficientvis, "PIXELS_AT_ONCE", 4 * 40 * 56 + 1)
    in_parts = model.features(clips)
    # Batches of another size may be summed in a different order.
    for one, other in zip(whole.pyramid, in_parts.pyramid, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert one.stride() == other.stride()
    model.train().features(clips)
    assert parts == [6, 4, 2, 6]  # A gradient needs everything that the backbone holds anyway.


def _decoded(prediction: TrackletPredictions) -> np.ndarray:
    """The masks, decoded: (N, T, H, W)."""
    return np.array([[coco_mask.decode(rle) for rle in rles] for rles in prediction.rles])


@torch.inference_mode()
def test_masks_group_by_group_are_those_of_all_at_once(monkeypatch):
    model = tiny_model(3).eval()
    clip, size = torch.randint(0, 255, (3, 3, *SIZE), dtype=torch.uint8), (64, 96)
    features = model.features(clip[None])
    output = model(features)[-1]
    # An untrained network's masks are all or nothing; now they are half.
    model.mask_heads[-1].logits.bias.sub_(model.mask_logits(features, output).median())
    everything = model.mask_logits(features, output)[0]
    chosen = torch.tensor([3, 0, 1])
    monkeypatch.setattr(clip_module, "MASKS_AT_ONCE", 7)
    groups = list(mask_logits_in_groups(model, features, output, chosen))
    assert [group.tolist() for group, _ in groups] == [[3, 0], [1]]
    torch.testing.assert_close(torch.cat([logits for _, logits in groups]), everything[chosen], atol=1e-5, rtol=1e-5)

    one_by_one = np.array([[paste_masks(mask.sigmoid()[None], 2 * box[None], size)[0] >= 0.5
                            for mask, box in zip(masks, boxes, strict=True)]
                           for masks, boxes in zip(everything, output.boxes_BNT4[0], strict=True)])
    assert 0.2 < one_by_one.mean() < 0.8
    for others in (one_by_one[::-1], one_by_one[:, ::-1]):  # Tracklets and frames differ by more than is tolerated.
        assert (one_by_one != others).mean() > 0.01
    for masks, pixels in ((10**9, 10**9), (1, 10**9), (10**9, 1), (7, 4 * 64 * 96)):
        monkeypatch.setattr(clip_module, "MASKS_AT_ONCE", masks)
        monkeypatch.setattr(clip_module, "MASK_PIXELS_AT_ONCE", pixels)
        found, _ = predict_clip(model, clip, None, size, EVERYTHING)
        assert (_decoded(found) != one_by_one).mean(axis=(2, 3)).max() < 0.002


def test_a_mask_lies_in_the_box_of_its_tracklet_and_frame():
    """A mask that fills its box has the box's bounds; random box layers move the boxes of all frames apart."""
    model = tiny_model(3).eval()
    for interaction in model.interactions:
        torch.nn.init.normal_(interaction.box_deltas.weight, std=0.2)
    model.mask_heads[-1].logits.bias.data += 100
    clip, (height, width) = torch.randint(0, 255, (3, 3, *SIZE), dtype=torch.uint8), (64, 90)
    found, _ = predict_clip(model, clip, None, (height, width), EVERYTHING)
    inside = found.boxes_NT4.clip(0, [width, height, width, height])
    drawn = np.array([[bbox_xyxy(rle) for rle in rles] for rles in found.rles])
    np.testing.assert_allclose(drawn, inside, atol=0.51)
    for axis in (0, 1):  # Over tracklets, over frames.
        assert np.ptp(inside, axis=axis).max(axis=-1).min() > 2


def test_only_present_frames_have_masks_and_a_clip_may_have_none():
    model = tiny_model(3).eval()
    clip = torch.randint(0, 255, (3, 3, *SIZE), dtype=torch.uint8)
    everything, _ = predict_clip(model, clip, None, SIZE, EVERYTHING)
    best_NT = everything.probabilities_NTK.max(axis=-1)
    some, _ = predict_clip(model, clip, None, SIZE, InferenceConfig(presence_threshold=float(np.median(best_NT))))
    assert some.present_NT.any() and not some.present_NT.all()
    for n, rles in enumerate(some.rles):
        assert [rle is not None for rle in rles] == some.present_NT[n].tolist()
        assert all(rle in (None, whole) for rle, whole in zip(rles, everything.rles[n], strict=True))
    none, _ = predict_clip(model, clip, None, SIZE, InferenceConfig(presence_threshold=1.0))
    assert not none.present_NT.any() and none.rles == [[None] * 3] * 4


def _live_bytes() -> int:
    """Bytes of all tensors since gc.freeze, and of all that Python and numpy allocated since tracemalloc began."""
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in tensors) + tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("predict_all", [predict_split, partial(predict_linked, predict=predict_alone)],
                         ids=["end-to-end", "hand-craft"])
def test_a_video_leaves_neither_frames_nor_full_masks_behind(tmp_path, predict_all):
    """From clip to clip, memory grows by less than a frame; run lengths need far less."""
    height, width = 128, 192
    write(ShapesConfig(train_videos=1, val_videos=1, frames=16, height=height, width=width), tmp_path / "drawn", workers=1)
    index = read_split(tmp_path / "drawn" / "train")
    model, held = tiny_model(2), []
    model.register_forward_hook(lambda *_: held.append(_live_bytes()))
    gc.collect()
    gc.freeze()  # or each look would go through all that earlier tests left in this process
    tracemalloc.start()
    try:
        predict_all(model, index, EVERYTHING, input_size=(height, width))
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert len(held) == 8
    assert (held[-1] - held[1]) / 6 < height * width * 3


def test_paste_is_grid_sample_with_zeros_around():
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[8.0, 4.0, 24.0, 12.0], [-10.0, 20.0, 10.0, 60.0], [3.3, 2.2, 40.1, 29.7]])
    rows, columns = torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5
    y = (rows - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    x = (columns - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), dim=-1)
    expected = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    torch.testing.assert_close(paste_masks(masks, boxes, SIZE), expected, atol=1e-5, rtol=1e-5)


def test_a_full_mask_fades_at_the_edge_of_its_box():
    pasted = paste_masks(torch.ones(1, 8, 8), torch.tensor([[8.0, 4.0, 24.0, 12.0]]), SIZE)[0]
    assert pasted[4:12, 9:23].eq(1).all() and pasted[4:12, [8, 23]].eq(0.75).all()
    outside = pasted.clone()
    outside[4:12, 8:24] = 0
    assert outside.max() < 0.5


def _rle(x0, x1):
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:15, x0:x1] = True
    return encode(mask)


def _clip(places, scores):
    """A one-frame clip of tracklets at horizontal places."""
    boxes = np.array([[[x, 5, x + 10, 15]] for x in places], dtype=np.float32)
    return TrackletPredictions(np.array(scores, dtype=np.float32)[:, None], np.ones((len(places), 1), dtype=bool), boxes,
                          [[_rle(x, x + 10)] for x in places])


def test_handcraft_links_what_overlaps_and_begins_anew_where_nothing_does():
    clips = [([0], _clip([0, 30], [[0.9, 0.1], [0.1, 0.8]])),
             ([1], _clip([31, 1], [[0.1, 0.8], [0.9, 0.1]])),
             ([2], _clip([2, 16], [[0.9, 0.1], [0.01, 0.02]]))]
    video = handcraft.link(clips, SIZE, HandcraftConfig(score_threshold=0.05))
    assert [sorted(t.rles) for t in video] == [[0, 1, 2], [0, 1]]
    assert video[0].boxes[1][0] == 1 and video[1].boxes[1][0] == 31
    everything = handcraft.link(clips, SIZE, HandcraftConfig(score_threshold=0.0))
    assert [sorted(t.rles) for t in everything] == [[0, 1, 2], [0, 1], [2]]


def test_lower_frame_rates():
    class Video:
        fps, length = 6.0, 10
    assert kept_frames(Video, None) == list(range(10))
    assert kept_frames(Video, 1.5) == [0, 4, 8]
    assert kept_frames(Video, 4.0) == [0, 1, 3, 4, 6, 7, 9]
    assert kept_frames(Video, 60.0) == list(range(10))
    assert _propagate(["a", None, "c"], [0, 4, 8], 10) == ["a"] * 4 + [None] * 4 + ["c"] * 2


class _Spotter(torch.nn.Module):
    """A network that finds the bounds of the bright pixels in each frame, and takes them for an object of the first class."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.query_NTC = torch.nn.Parameter(torch.zeros(1, config.clip_length, 1))

    def initial_query(self, clips):
        return self.query_NTC.expand(clips, -1, -1, -1)

    def features(self, pixels):
        class Features:
            frames = pixels.shape[1]
            size_B4 = torch.tensor([[pixels.shape[-1], pixels.shape[-2]] * 2])
            bright_THW = pixels[0].amin(dim=1) > 128
        return Features()

    def forward(self, features, query=None):
        bounds = []
        for bright in features.bright_THW:
            rows, columns = bright.any(dim=1).nonzero(), bright.any(dim=0).nonzero()
            bounds.append([int(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)])
        logits = torch.tensor([9.0, -9.0]).expand(1, 1, features.frames, 2)
        query = self.initial_query(1)
        return [ClipOutput(0, logits, torch.tensor([[bounds]], dtype=torch.float32), query, query)]

    def mask_logits(self, features, output, select):
        return torch.full((1, 1, features.frames, 8, 8), 9.0)


def _moving_square(folder, places):
    """A split of one video: a white square, 16 pixels wide, at these columns, is its only instance."""
    frames = folder / "JPEGImages" / "0"
    frames.mkdir(parents=True)
    masks = np.zeros((len(places), 32, 96), dtype=bool)
    for number, (place, mask) in enumerate(zip(places, masks, strict=True)):
        mask[8:24, place: place + 16] = True
        Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1)).save(frames / f"{number}.jpg", quality=100)
    video = {"id": 1, "height": 32, "width": 96, "length": len(places), "fps": 6.0,
             "file_names": [f"0/{number}.jpg" for number in range(len(places))]}
    track = annotation_entry(track_id=1, video_id=1, category_id=1, rles=[encode(mask) for mask in masks], height=32, width=96)
    write_annotations(folder / "instances.json", description="", videos=[video], annotations=[track],
                      categories=[{"id": 1, "name": "square"}, {"id": 2, "name": "other"}])
    return read_split(folder), json.loads((folder / "instances.json").read_text())


def test_dropped_frames_are_scored_by_the_mask_before_them(tiny_project, tmp_path):
    """A row with -S inference.scored_frames=all gives the AP that follows from the overlap counted by hand."""
    places = [0, 2, 4, 10, 30, 34, 36, 36, 60, 64]
    index, truth = _moving_square(tmp_path / "split", places)
    params = tiny_project() / "params.yaml"
    row = RowSettings(T=3, test_fps=1.5)
    found, keys = {}, set()
    for scored in ("kept", "all"):
        spec = evaluation_spec(load_params(params, [f"inference.scored_frames={scored}"]), row, 0)
        assert (spec.inference.test_fps, spec.inference.scored_frames) == (1.5, scored)
        keys.add(spec.key)
        found[scored] = predict(
            _Spotter(spec.train.model), "efficientvis", index, spec.inference, (32, 96), lambda done, total: None)
    assert len(keys) == 2
    assert found["kept"].kept == {1: [0, 4, 8]} and found["all"].kept == {1: list(range(10))}
    assert score(truth, found["kept"]).metrics["AP"] == pytest.approx(1.0)

    shift = [abs(place - places[4 * (number // 4)]) for number, place in enumerate(places)]
    overlap = sum(max(16 - s, 0) for s in shift) / sum(16 + min(s, 16) for s in shift)
    passed = [threshold for threshold in np.arange(0.5, 1, 0.05) if overlap >= threshold]
    assert 0 < len(passed) < 10
    assert score(truth, found["all"]).metrics["AP"] == pytest.approx(len(passed) / 10)


def test_score_is_the_mean_over_present_frames():
    tracklet = VideoTracklet(probabilities=[np.array([0.2, 0.6]), np.array([0.4, 0.2])], rles={1: {}, 3: {}})
    np.testing.assert_allclose(tracklet.score_K(), [0.3, 0.4])

"""CrossVIS at inference: the rule by which its authors' tools/test_vis.py follows objects, and masks at the video's size."""

import numpy as np
import pytest
import torch
from support.crossvis import PAIRS, tiny_crossvis

from effvis.config import InferenceConfig
from effvis.crossvis.config import CrossVISInference
from effvis.crossvis.detect import detect, find_objects, masks_of
from effvis.crossvis.track import Memory, predict_clip, track
from effvis.fast.optimise import optimised
from effvis.model.resnet import FrozenBatchNorm2d


def literal_tracking(frames, threshold):
    """One object and tracklet after the other: of each frame's objects (label, box, embedding), the number of the tracklet that
    each became part of, or None."""
    def overlap(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    def likeness(one, other):
        if one[0] != other[0]:
            return -1.0
        return float(one[2] @ other[2] / np.linalg.norm(one[2]) / np.linalg.norm(other[2])) + overlap(one[1], other[1])

    last, numbers = [], []  # the last object of each tracklet
    for objects in frames:
        known, taken = list(last), {}
        numbers.append([None] * len(objects))
        for place, one in enumerate(objects):
            scores = [likeness(one, other) for other in known]
            if not scores or max(scores) < threshold:
                last.append(one)
                numbers[-1][place] = len(last) - 1
                continue
            number = scores.index(max(scores))
            if number in taken and taken[number][0] >= max(scores):
                continue
            if number in taken:
                numbers[-1][taken[number][1]] = None
            taken[number] = max(scores), place
            last[number] = one
            numbers[-1][place] = number
    return numbers


@pytest.mark.parametrize("seed", range(4))
def test_objects_are_followed_as_the_authors_do(seed):
    rng = np.random.default_rng(seed)
    looks, frames = rng.normal(size=(5, 3)), []
    corners, sizes = rng.random((5, 2)) * 30, rng.random((5, 2)) * 15 + 8
    for _ in range(6):
        corners = corners + rng.normal(size=(5, 2)) * 4
        shown = [i for i in rng.permutation(10) % 5 if rng.random() < 0.7]  # an object may be found twice
        frames.append([(int(i % 2), np.concatenate((corners[i], corners[i] + sizes[i])) + rng.normal(size=4),
                        looks[i] + rng.normal(size=3) * 0.4) for i in shown])
    frames.insert(3, [])
    memory, own = Memory(0.4), []
    for objects in frames:
        labels = torch.tensor([one[0] for one in objects], dtype=torch.long)
        boxes = torch.tensor(np.array([one[1] for one in objects]).reshape(-1, 4), dtype=torch.float32)
        own.append(memory.add(labels, boxes, torch.tensor(np.array([one[2] for one in objects]).reshape(-1, 3)).float()))
    expected = literal_tracking(frames, 0.4)
    assert own == expected
    assert any(None in numbers for numbers in expected) and max(n for numbers in expected for n in numbers if n is not None) > 2


def seen(model, pixels, config=None, size=(48, 72)):
    with torch.inference_mode():
        output = model(pixels)
        return output, find_objects(output, tuple(pixels.shape[-2:]), size, config or CrossVISInference())


def test_objects_are_above_the_threshold_inside_the_frame_and_the_best_first():
    model = tiny_crossvis().eval()
    output, found = seen(model, PAIRS[0][0][0])
    assert 3 < len(found.scores_D) <= 100 and (found.scores_D.diff() <= 0).all()
    with torch.inference_mode():
        product = output.logits_FPK[0].sigmoid() * output.centreness_FP[0].sigmoid()[:, None]
        torch.testing.assert_close(found.scores_D**2, product[found.places_D, found.labels_D])
        assert found.scores_D.min() ** 2 > 0.05
        # A box around its location, in pixels of the video, which is half as large again as the frame, cut at its sides.
        xy = output.locations.xy_P2[found.places_D]
        reach = output.reach_FP4[0, found.places_D] * output.locations.stride_P[found.places_D, None]
        expected = torch.cat((xy - reach[:, :2], xy + reach[:, 2:]), dim=1) * 1.5
    expected = expected.clamp(min=0).minimum(torch.tensor([72.0, 48, 72, 48]))
    torch.testing.assert_close(found.boxes_D4, expected)
    few = seen(model, PAIRS[0][0][0], CrossVISInference(detections=2))[1]
    torch.testing.assert_close(few.scores_D, found.scores_D[:2])
    assert len(seen(model, PAIRS[0][0][0], CrossVISInference(presence_threshold=1.0))[1].scores_D) == 0


def test_a_mask_at_the_size_of_the_video_is_upsampled_cut_and_stretched():
    """The frame of 30x44 is padded to 32x48; its masks have half the resolution."""
    model = tiny_crossvis().eval()
    pixels = PAIRS[0][0][0][..., :30, :44]
    output, found = seen(model, pixels)
    with torch.inference_mode():
        masks = torch.cat(list(masks_of(model, output, found.places_D[:3], (30, 44), (45, 66), 0.5)))
        small = model.mask_logits(output, torch.zeros(3, dtype=torch.long), output.filters_FPQ[0, found.places_D[:3]],
                                  found.places_D[:3]).sigmoid()
    assert small.shape == (3, 16, 24) and masks.shape == (3, 45, 66)
    for mask, probability in zip(masks, small.numpy(), strict=True):
        for axis, (own, wanted) in enumerate(((30, 45), (44, 66))):
            length = probability.shape[axis]
            full = np.apply_along_axis(lambda line, n=length: np.interp(np.arange(2 * n), np.arange(n) * 2 + 1, line),
                                       axis, probability).take(range(own), axis)
            probability = np.apply_along_axis(lambda line, n=own, w=wanted: np.interp(
                (np.arange(w) + 0.5) / w, (np.arange(n) + 0.5) / n, line), axis, full)
        clear = np.abs(probability - 0.5) > 1e-4
        assert (mask.numpy() == (probability > 0.5))[clear].all() and clear.mean() > 0.9


def test_tracklets_have_one_class_and_the_mean_of_their_scores():
    model, config = tiny_crossvis().eval(), CrossVISInference(detections=5)
    video = [PAIRS[0][0][0], PAIRS[0][1][0], PAIRS[0][0][0]]
    tracklets = track(model, (([n], pixels) for n, pixels in enumerate(video)), (48, 72), config)
    memory, kept = Memory(0.4), {}
    for n, pixels in enumerate(video):
        _, found = seen(model, pixels, config)
        for d, number in enumerate(memory.add(found.labels_D, found.boxes_D4, found.embedding_DE)):
            if number is not None:
                kept.setdefault(number, []).append((n, found.labels_D[d].item(), found.scores_D[d].item()))
    assert len(tracklets) == len(kept) > 0
    for number, tracklet in enumerate(tracklets):
        label, score = tracklet.best_class(config.category)
        assert {label} == {label for _, label, _ in kept[number]}
        assert score == pytest.approx(np.mean([score for _, _, score in kept[number]]))
        assert list(tracklet.rles) == [n for n, _, _ in kept[number]] == list(tracklet.boxes)
    alone = predict_clip(model, video[0], (48, 72), config)
    assert alone.present_NT.shape == (5, 1) and all(rles[0] is not None for rles in alone.rles)


def test_a_single_frame_is_detected_at_the_authors_thresholds():
    model = tiny_crossvis().eval()
    found = detect(model, PAIRS[0][0][0][0], (48, 72))
    expected = seen(model, PAIRS[0][0][0])[1]
    np.testing.assert_allclose(found.scores, expected.scores_D, rtol=1e-6)
    assert found.masks.shape == (len(found.scores), 48, 72) and found.masks.dtype == bool
    with torch.inference_mode():
        model.head.class_logits.bias.fill_(-100)
    assert detect(model, PAIRS[0][0][0][0], (48, 72)).masks.shape == (0, 48, 72)


def test_the_settings_of_inference_are_those_of_every_method_and_its_own():
    assert issubclass(CrossVISInference, InferenceConfig)
    own = CrossVISInference()
    assert (own.presence_threshold, own.suppression_iou, own.candidates, own.detections, own.new_tracklet_below) == (
        0.05, 0.6, 1000, 100, 0.4)


def test_the_fast_network_finds_the_same_and_half_precision_comes_near():
    model = tiny_crossvis(backbone="resnet18", norm="batch").eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fast, half = optimised(model, (64, 96)), optimised(model, (64, 96), precision="bf16")
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in fast.modules())
    with torch.inference_mode():
        expected, found, near = model(pixels), fast(pixels), half(pixels)
    for name in ("logits_FPK", "reach_FP4", "centreness_FP", "filters_FPQ", "embedding_FPE", "mask_features_FMHW"):
        values = getattr(expected, name)
        assert (getattr(found, name) - values).abs().max() < 1e-3 * values.abs().max()
        assert (getattr(near, name).float() - values).abs().max() < 0.1 * values.abs().max()
    assert all(rles[0] is not None for rles in predict_clip(half, pixels, (64, 96), CrossVISInference()).rles)

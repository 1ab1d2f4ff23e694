"""MaskTrack R-CNN's network, losses, detections and tracklets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.builders import pair_batch
from support.masktrack import small_masktrack

from effvis.data import masks
from effvis.data.targets import ClipPairBatch, ClipTargets
from effvis.masktrack_rcnn.anchors import IGNORED
from effvis.masktrack_rcnn.config import MaskTrackInference, MaskTrackLossWeights, MaskTrackTrainConfig
from effvis.masktrack_rcnn.detect import detect, find, predict_clip
from effvis.masktrack_rcnn.losses import Objects, Sampled, box_losses, pair_losses, sample_regions
from effvis.masktrack_rcnn.model import Proposals
from effvis.masktrack_rcnn.track import track

# All anchors and regions are sampled, so that nothing is random.
EVERYTHING = MaskTrackTrainConfig(epochs=1, lr_drop_epoch=0.5, anchor_samples=100_000, region_samples=1_000)
ALL_SEEN = MaskTrackInference(presence_threshold=0.0)
STEPS = 140


def batch(*pairs, seed=0):
    return pair_batch(list(pairs), 1, seed=seed)


def part(whole, places):
    return ClipPairBatch(tuple(frames[places] for frames in whole.frames),
                         tuple([clips[place] for place in places] for clips in whole.targets), places)


def padded(whole, height, width):
    """The same frames, at the top left of larger ones."""
    below, right = height - whole.frames[0].shape[-2], width - whole.frames[0].shape[-1]
    return ClipPairBatch(tuple(F.pad(frames, (0, right, 0, below)) for frames in whole.frames), whole.targets, whole.videos)


@pytest.fixture(scope="module")
def model():
    return small_masktrack().eval()


@torch.no_grad()
def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.item() == pytest.approx(float(theirs[name]), rel=2e-4, abs=1e-6), name


def test_a_batch_s_losses_are_the_means_of_its_pairs(model):
    whole = batch(([0, 1], [1, 2]), ([3], [3, 4]), ([5, 6, 7], [5]))
    together = pair_losses(model, whole, EVERYTHING)
    alone = [pair_losses(model, part(whole, [place]), EVERYTHING) for place in range(3)]
    close(together, {name: sum(losses[name] for losses in alone) / 3 for name in together})
    # Of a part, as workers and accumulation compute it.
    parts = [pair_losses(model, part(whole, places), EVERYTHING, counts=whole.counts()) for places in ([0, 2], [1])]
    close(together, {name: parts[0][name] + parts[1][name] for name in together})


def test_padding_to_other_frames_of_the_batch_changes_nothing(model):
    whole = batch(([0, 1], [1, 2]))
    close(pair_losses(model, padded(whole, 50, 70), EVERYTHING), pair_losses(model, whole, EVERYTHING))


def test_the_order_of_instances_changes_nothing(model):
    whole = batch(([0, 1, 2], [2, 0, 5]))

    def turned(clip):
        order = torch.arange(len(clip) - 1, -1, -1)
        return ClipTargets(clip.track_ids_K[order], clip.labels_K[order], clip.present_KT[order], clip.boxes_KT4[order],
                           clip.masks_KTHW[order])

    other = ClipPairBatch(whole.frames, tuple([turned(clip) for clip in clips] for clips in whole.targets), whole.videos)
    close(pair_losses(model, other, EVERYTHING), pair_losses(model, whole, EVERYTHING))


def test_only_the_tracking_loss_sees_the_second_frame_and_its_identities(model):
    pair, other = batch(([0, 1], [1, 2])), batch(([0, 1], [4, 5, 6]))
    before = pair_losses(model, pair, EVERYTHING)
    after = pair_losses(model, ClipPairBatch((pair.frames[0], other.frames[1]), (pair.targets[0], other.targets[1]), [0]),
                        EVERYTHING)
    assert {name for name in before if before[name] != after[name]} == {"tracking"}


def test_a_still_picture_is_learned_as_by_mask_rcnn():
    """The authors' start is a Mask R-CNN of COCO's images: the losses of a key frame, and no tracking."""
    model, pair = small_masktrack(), batch(([0, 1], [1, 2]), ([2], [2]))
    picture = ClipPairBatch(pair.frames[:1], pair.targets[:1], pair.videos)
    alone, with_reference = (pair_losses(model, one, EVERYTHING) for one in (picture, pair))
    assert with_reference["tracking"] > 0 == alone["tracking"] and alone.keys() == with_reference.keys()
    close({name: value for name, value in alone.items() if name != "tracking"},
          {name: value for name, value in with_reference.items() if name != "tracking"})
    sum(alone.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(parameter.grad.any() for parameter in model.tracking_head.parameters())


@pytest.mark.parametrize("pair", [([], []), ([0], []), ([], [0])])
def test_without_objects_losses_are_finite_and_reach_every_parameter(pair):
    model = small_masktrack()
    losses = pair_losses(model, batch(pair), EVERYTHING)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())
    if not pair[0]:
        assert [losses[name].item() for name in ("proposal_box", "box", "mask", "tracking")] == [0.0] * 4


def test_weights_of_the_losses(model):
    whole = batch(([0, 1], [1]))
    weights = MaskTrackLossWeights(objectness=2, proposal_box=3, category=4, box=5, mask=6, tracking=7)
    plain = pair_losses(model, whole, EVERYTHING)
    weighted = pair_losses(model, whole, EVERYTHING.model_copy(update={"loss": weights}))
    close(weighted, {name: getattr(weights, name) * value for name, value in plain.items()})


def objects_at(boxes, labels):
    count = len(boxes)
    return Objects(torch.arange(count), torch.tensor(labels), torch.tensor(boxes), torch.zeros(count, 8, 8, dtype=torch.bool))


def test_objects_themselves_are_regions_and_missing_ones_are_ignored():
    objects = [objects_at([[0.0, 0.0, 10.0, 10.0]], [1]), objects_at([[5.0, 5.0, 20.0, 20.0], [0.0, 0.0, 4.0, 4.0]], [0, 2])]
    boxes = [[[0.0, 0.0, 9.0, 10.0], [20.0, 20.0, 30.0, 30.0]], [[5.0, 5.0, 19.0, 20.0], [0.0, 0.0, 0.0, 0.0]]]
    proposals = Proposals(torch.tensor(boxes), torch.tensor([[True, True], [True, False]]))
    found = sample_regions(proposals, objects, 100)
    assert found.objects_FN.tolist() == [[0, 0, -1], [0, 1, 0]]
    assert found.boxes_FN4[0].tolist() == [[0, 0, 10, 10], [0, 0, 9, 10], [20, 20, 30, 30]]
    fewer = sample_regions(Proposals(proposals.boxes_FP4, torch.tensor([[True, True], [False, False]])), objects[:1] * 2, 100)
    assert fewer.objects_FN.tolist() == [[0, 0, -1], [0, IGNORED, IGNORED]]


def test_box_losses_by_hand():
    """Mask R-CNN: cross-entropy of all regions; smooth L1 of the deltas of the true class, of positive regions alone."""
    objects = [objects_at([[0.0, 0.0, 20.0, 20.0]], [1])]
    regions = [[0.0, 0.0, 10.0, 20.0], [30.0, 0.0, 40.0, 20.0], [0.0] * 4]
    sampled = Sampled(torch.tensor([regions]), torch.tensor([[0, -1, IGNORED]]))
    logits = torch.tensor([[[1.0, 2.0, 0.0], [0.5, 0.0, 1.0], [9.0, 9.0, 9.0]]])  # classes 0 and 1, background
    deltas = torch.zeros(1, 3, 2, 4)
    deltas[0, 0, 1] = torch.tensor([4.5, 0.25, 0.0, 0.0])
    deltas[0, 0, 0] = 100.0  # another class's
    found = box_losses(logits, deltas, sampled, objects)
    entropy = -(logits[0, 0].log_softmax(0)[1] + logits[0, 1].log_softmax(0)[2]) / 2
    # Wanted: the centre half a width to the right, twice as wide: (5, 0, 5 ln 2, 0).
    distances = [abs(5 - 4.5), 0.25, abs(5 * np.log(2)), 0.0]
    smooth = sum(d * d / 2 if d < 1 else d - 0.5 for d in distances) / 2
    assert found["category"].item() == pytest.approx(entropy.item()) and found["box"].item() == pytest.approx(smooth, rel=1e-5)


def test_detections_are_the_best_pairs_without_doubles(model):
    frame = batch(([0, 1], [0])).frames[0][0, 0]
    found = find(model, frame, (32, 48), ALL_SEEN.model_copy(update={"detections": 7}))
    scores = found.objects.scores_N
    assert len(scores) == 7 and (scores[:-1] >= scores[1:]).all()
    with torch.inference_mode():
        proposals, logits, _ = model(model.features(frame[None]))
    probabilities = logits[0].softmax(-1)
    pairs = probabilities[found.proposals_D, found.objects.labels_N]
    assert torch.allclose(scores, pairs, atol=1e-6) and scores.max() == probabilities[proposals.real_FP[0], :-1].max()


def test_boxes_and_masks_are_in_pixels_of_the_video(model):
    frame = batch(([0, 1], [0])).frames[0][0, 0]
    small, large = detect(model, frame, (32, 48)), detect(model, frame, (64, 144))
    assert np.allclose(small.boxes * [3, 2, 3, 2], large.boxes, atol=1e-3)
    assert small.masks.shape[1:] == (32, 48) and large.masks.shape[1:] == (64, 144)
    assert (small.scores == large.scores).all() and (small.labels == large.labels).all()


def test_a_frame_without_detections(model):
    frame = batch(([0], [0])).frames[0][0]
    nothing = MaskTrackInference(presence_threshold=1.0)
    assert predict_clip(model, frame, (32, 48), nothing).rles == []
    assert track(model, [([0], frame), ([1], frame)], (32, 48), nothing) == []


def test_a_larger_network_starts_from_one_of_other_classes(model):
    other = small_masktrack(seed=1, num_classes=5)
    own = {name: value.clone() for name, value in other.state_dict().items()}
    stay = other.load_initial(model.state_dict())
    assert sorted(stay) == [f"{layer}.{part}" for layer in ("box_head.class_logits", "box_head.deltas", "mask_head.mask_logits")
                            for part in ("bias", "weight")]
    for name, value in other.state_dict().items():
        assert torch.equal(value, own[name] if name in stay else model.state_dict()[name]), name
    with pytest.raises(ValueError, match="not in both"):
        other.load_initial({})
    with pytest.raises(ValueError, match="shape"):
        small_masktrack(box_dim=8).load_initial(model.state_dict())


@pytest.fixture(scope="module")
def learned():
    """A network that has seen two pairs of frames again and again, in both orders; the pairs, and the losses of all steps."""
    model = small_masktrack().train()
    whole = batch(([0, 1], [1, 0]), ([2], [2]))
    config = MaskTrackTrainConfig(epochs=1, lr_drop_epoch=0.5, region_samples=32)
    turned = ClipPairBatch(whole.frames[::-1], whole.targets[::-1], whole.videos)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0)
    history = []
    for step in range(STEPS):
        torch.manual_seed(step)
        losses = pair_losses(model, (whole, turned)[step % 2], config)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return model.eval(), whole, history


def test_it_learns_two_pairs_of_frames_by_heart(learned):
    _, _, history = learned
    total = [sum(step.values()) for step in history]
    assert sum(total[-5:]) / 5 < total[0] / 4
    for name in ("objectness", "category", "mask"):
        assert sum(step[name] for step in history[-5:]) / 5 < 0.5 * max(step[name] for step in history[:10]), name


@pytest.mark.parametrize(("video", "identities"), [(0, (0, 1)), (1, (2,))])
def test_what_it_learned_is_found_segmented_and_followed(learned, video, identities):
    """Each object has a tracklet of its own, with its class, whose masks have an IoU above 0.8 with its own in both frames."""
    model, whole, _ = learned
    frames = [([number], clips[video]) for number, clips in enumerate(whole.frames)]
    found = track(model, frames, (32, 48), MaskTrackInference(presence_threshold=0.3))
    owners = []
    for identity in identities:
        seen = [(clips[video], clips[video].track_ids_K.tolist().index(identity)) for clips in whole.targets]
        truth = [masks.encode(clip.masks_KTHW[place, 0].numpy()) for clip, place in seen]
        overlaps = [np.mean([iou(tracklet.rles.get(number), true) for number, true in enumerate(truth)]) for tracklet in found]
        owners.append(int(np.argmax(overlaps)))
        assert max(overlaps) > 0.8 and found[owners[-1]].vote()[0] == identity % 3, overlaps
    assert len(set(owners)) == len(identities)


def iou(rle, true):
    if rle is None:
        return 0.0
    ours, theirs = masks.decode(rle), masks.decode(true)
    return (ours & theirs).sum() / (ours | theirs).sum()

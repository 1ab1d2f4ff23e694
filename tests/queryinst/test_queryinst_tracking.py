"""QueryInst with a tracking head: what the head reads and how it learns, written out one object at a time, and what it follows.

Sources: Yang, Fan, Xu (ICCV 2019, Sec. 4.2 and 4.3) for the head, and what QueryInst's authors say of theirs
(hustvl/QueryInst, issues 26 and 34): regions filtered by a dynamic convolution of the object's query; in the reference frame
true boxes, Hungarian matching and no gradient of the predictions; losses of detection in the key frame alone.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import equations
from support.builders import pair_batch
from support.models import noise, put
from support.queryinst import SIZES, tiny_queryinst
from torch.nn.functional import layer_norm

import effvis
from effvis.data.targets import Counts, stack_targets
from effvis.methods import build_model
from effvis.model.efficientvis import EfficientVIS
from effvis.queryinst.config import QueryInstConfig, QueryInstInference, QueryInstTrainConfig
from effvis.queryinst.follow import detections
from effvis.queryinst.losses import pair_losses
from effvis.queryinst.model import QueryInst, embeddings
from effvis.tracking.memory import Memory
from effvis.training import correspondence
from effvis.training.matching import mask_ious, matching_cost

HEAD = dict(tracking="head", tracking_dim=6)
TRAIN = QueryInstTrainConfig(reference=True, tracking_loss=0.5)
# The second pair has objects that are new, one that is gone, and one more than there are queries.
PAIRS = [([1, 2], [2, 1]), ([3, 4, 5, 6, 7], [4, 8]), ([9], [])]


def tracking_model(**changes):
    model = tiny_queryinst(**(HEAD | changes))
    torch.manual_seed(1)
    for layer in (model.tracking.head.first, model.tracking.head.second):
        torch.nn.init.normal_(layer.weight, std=0.5)
        torch.nn.init.normal_(layer.bias)
    return model


def embedding_of(model, query_C, region_PC):
    """The mask head's dynamic convolution, C -> D -> C at each location, then two layers with a ReLU between them."""
    conv, head, (C, D) = model.tracking.dynamic_conv, model.tracking.head, (len(query_C), model.config.dynamic_dim)
    parameters = conv.filters.weight @ query_C + conv.filters.bias
    first_CD, second_DC = parameters[: C * D].reshape(C, D), parameters[C * D:].reshape(D, C)
    filtered = []
    for at_C in region_PC:
        inner = torch.relu(layer_norm(at_C @ first_CD, (D,), conv.norm1.weight, conv.norm1.bias))
        filtered.append(torch.relu(layer_norm(inner @ second_DC, (C,), conv.norm2.weight, conv.norm2.bias)))
    hidden = torch.relu(head.first.weight @ torch.cat(filtered) + head.first.bias)
    return head.second.weight @ hidden + head.second.bias


def test_the_head_reads_the_region_of_the_box_filtered_by_the_query():
    model = tracking_model()
    features = model.features(pair_batch(PAIRS, 1).frames[0])
    boxes = torch.rand(3, 2, 1, 4) * 10 + torch.tensor([0, 0, 20, 15.0])
    query = torch.randn(3, 2, 1, 16)
    regions = model.regions(features, boxes, model.config.roi_size)
    found = embeddings(model, features, boxes, query)
    assert found.shape == (3, 2, 6)
    for b, n in ((0, 0), (1, 1), (2, 0)):
        assert torch.allclose(found[b, n], embedding_of(model, query[b, n, 0], regions[b, n, 0]), atol=1e-5)


def matched(model, frames_1CHW, targets):
    """The last interaction's output for one frame, its features, and the proposal of each instance, by the assignment of least
    total cost."""
    features = model.features(frames_1CHW[None])
    output = model(features)[-1]
    stacked = stack_targets([targets])
    ious = mask_ious(model, features, output, stacked)
    cost = matching_cost(
        output.logits_BNTK, output.boxes_BNT4, stacked, features.size_B4, TRAIN.matching, ious)[0, :, : len(targets)].numpy()
    return features, output, equations.assignment(cost) if len(targets) else []


def expected_tracking(model, batch):
    """The mean over pairs of the mean over the key frame's objects of -log p(its entry); 0 is new."""
    of_pairs = []
    for frames, other_frames, key, reference in zip(*batch.frames, *batch.targets, strict=True):
        features, output, proposal_K = matched(model, frames, key)
        seen = [(int(track), embeddings(model, features, output.boxes_BNT4[:, [n]], output.mask_query_BNTC[:, [n]])[0, 0])
                for track, n in zip(key.track_ids_K, proposal_K, strict=True) if n is not None]
        features, output, proposal_K = matched(model, other_frames, reference)
        known = {int(track): embeddings(model, features, box_T4[None, None], output.mask_query_BNTC[:, [n]])[0, 0]
                 for track, box_T4, n in zip(reference.track_ids_K, reference.boxes_KT4, proposal_K, strict=True)
                 if n is not None}
        terms = []
        for track, embedding in seen:
            powers = {other: math.exp(float(embedding @ theirs)) for other, theirs in known.items()}
            terms.append(-math.log(powers.get(track, 1) / (1 + sum(powers.values()))))
        of_pairs.append(sum(terms) / max(len(terms), 1))
    return sum(of_pairs) / len(of_pairs)


def test_the_loss_is_that_of_knowing_the_key_frame_s_objects_again_in_the_other_frame():
    model, batch = tracking_model(), pair_batch(PAIRS, 1)
    found = pair_losses(model, batch, TRAIN)
    assert found["tracking"].item() == pytest.approx(0.5 * expected_tracking(model, batch), rel=1e-4)


def test_detection_is_learned_in_the_key_frame_alone():
    """Its losses are those of single frames, over half of the 8 + 4 instances of both instead of the 8 of the key frames."""
    model, batch = tracking_model(), pair_batch(PAIRS, 1)
    alone = replace(batch, frames=batch.frames[:1], targets=batch.targets[:1])
    single = correspondence.pair_losses(model, alone, TRAIN.loss, False, TRAIN.matching)
    found = pair_losses(model, batch, TRAIN)
    assert set(found) == {*single, "tracking"}
    for name, value in single.items():
        assert found[name].item() == pytest.approx(value.item() * 8 / ((8 + 4) / 2), rel=1e-5)


def test_parts_of_a_batch_sum_to_its_losses():
    model, batch = tracking_model(), pair_batch(PAIRS, 1)
    parts = [replace(batch, frames=tuple(frames[part] for frames in batch.frames),
                     targets=tuple(targets[part] for targets in batch.targets), videos=batch.videos[part])
             for part in (slice(0, 1), slice(1, 3))]
    counts = Counts.total(part.counts() for part in parts)
    of_parts = [pair_losses(model, part, TRAIN, counts=counts) for part in parts]
    for name, value in pair_losses(model, batch, TRAIN).items():
        assert sum(part[name] for part in of_parts).item() == pytest.approx(value.item(), rel=1e-4)


def test_the_gradient_reaches_the_head_and_through_it_the_network_that_looks_at_the_key_frame():
    model = tracking_model().train().requires_grad_(True)
    losses = pair_losses(model, pair_batch(PAIRS, 1), TRAIN)
    losses["tracking"].backward(retain_graph=True)
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {name for name, _ in model.named_parameters() if name.startswith("tracking.")} <= reached
    assert "query_NTC" in reached and any(name.startswith("backbone.") for name in reached)
    assert not any(name.startswith("mask_heads.") for name in reached)
    sum(losses.values()).backward()
    assert all(weight.grad is not None for weight in model.parameters()), "workers exchange all gradients"


def test_a_batch_without_an_object_reaches_every_weight_too():
    model = tracking_model().train().requires_grad_(True)
    losses = pair_losses(model, pair_batch([([], []), ([], [1])], 1), TRAIN)
    sum(losses.values()).backward()
    assert losses["tracking"].item() == 0 and all(weight.grad is not None for weight in model.parameters())


def test_objects_are_known_again_more_and_more_while_everything_is_learned():
    """Measured: the tracking loss falls from 0.64 to 0.20 in 34 steps, and all losses from 27 to 7."""
    model = tiny_queryinst(tracking="head", tracking_dim=16)
    torch.manual_seed(1)
    for layer in (model.tracking.head.first, model.tracking.head.second):
        torch.nn.init.normal_(layer.weight, std=0.1)
    model.train().requires_grad_(True)
    batch = pair_batch([([1, 2, 3], [3, 1, 2]), ([4, 5], [5, 7])], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    of_steps = []
    for _ in range(35):
        losses = pair_losses(model, batch, TRAIN)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        of_steps.append((losses["tracking"].item(), total.item()))
    (tracking, everything), best = of_steps[0], np.min(of_steps, axis=0)
    assert best[0] < 0.4 * tracking and best[1] < 0.5 * everything, of_steps


def test_without_the_head_network_and_configurations_are_as_before():
    config = QueryInstConfig(num_classes=3, **SIZES)
    torch.manual_seed(0)
    plain = EfficientVIS(config).state_dict()
    torch.manual_seed(0)
    built = build_model(config)
    assert type(built) is EfficientVIS
    assert all(torch.equal(value, plain[name]) for name, value in built.state_dict().items())
    torch.manual_seed(0)
    with_head = build_model(config.model_copy(update=HEAD))
    assert type(with_head) is QueryInst and all(torch.equal(with_head.state_dict()[name], plain[name]) for name in plain)
    written = config.model_dump() | QueryInstTrainConfig().model_dump() | QueryInstInference().model_dump()
    assert not {"tracking", "tracking_dim", "reference", "tracking_loss", "cues"} & set(written)
    assert QueryInstConfig(num_classes=3, **SIZES, **HEAD).at_one_frame() == config


def test_weights_of_single_frames_leave_the_head_as_initialised():
    start, model = tiny_queryinst(seed=1), tracking_model()
    before = model.tracking.head.first.weight.clone()
    left = model.load_initial(start.state_dict())
    assert left == [name for name in model.state_dict() if name.startswith("tracking.")]
    assert torch.equal(model.query_NTC, start.query_NTC) and torch.equal(model.tracking.head.first.weight, before)
    again = tracking_model(seed=2)
    assert again.load_initial(model.state_dict()) == [] and torch.equal(again.tracking.head.first.weight, before)
    assert set(start.load_initial(model.state_dict())) == set(left)


def follow(folder, frames, fast=False, **inference):
    """For each tracklet of a small model the frames in which it is."""
    put(folder, tracking_model(), inference={"presence_threshold": 0.0} | inference)
    found = effvis.load(folder, fast=fast).track(frames, minimum_score=0).tracklets
    return sorted(sorted(tracklet.rles) for tracklet in found)


def test_what_stays_is_followed_and_no_detection_is_twice(tmp_path):
    frames = [noise(1)[0]] * 3
    cues = {"cues": {"iou": 1000.0, "score": 1.0, "category": 10.0}}
    assert follow(tmp_path / "model", frames, **cues) == [[0, 1, 2]] * 4
    assert follow(tmp_path / "model", frames, fast=True, **cues) == [[0, 1, 2]] * 4


def test_frames_without_objects_are_followed_too(tmp_path):
    assert follow(tmp_path / "model", noise(2), presence_threshold=1.0) == []


def test_a_video_is_followed_by_the_memory_of_its_detections(tmp_path):
    model, frames = tracking_model(), noise(5)
    config = QueryInstInference(presence_threshold=0.05)
    memory, expected = Memory(config.cues), {}
    for number, frame in enumerate(frames):
        prediction, objects = detections(model, torch.from_numpy(frame).permute(2, 0, 1)[None], (32, 48), config)
        scores = prediction.probabilities_NTK[:, 0].max(axis=-1)
        assert (scores >= 0.05).all() and (scores[:-1] >= scores[1:]).all() and np.allclose(objects.scores_N, scores)
        for one in memory.add(objects):
            if one >= 0:
                expected.setdefault(one, []).append(number)
    assert follow(tmp_path / "model", frames, presence_threshold=0.05) == sorted(expected.values())


def test_a_frame_s_detections_are_those_that_single_frames_have(tmp_path):
    """Boxes, classes and masks are ``effvis.inference.clip.predict_clip``'s, whether the objects are linked or followed."""
    from effvis.inference.clip import predict_clip

    model, config = tracking_model(), QueryInstInference(presence_threshold=0.05)
    frame = torch.from_numpy(noise(1)[0]).permute(2, 0, 1)[None]
    every, _ = predict_clip(model, frame, None, (64, 96), config)
    found, objects = detections(model, frame, (64, 96), config)
    order = sorted(np.flatnonzero(every.present_NT[:, 0]), key=lambda n: -every.probabilities_NTK[n, 0].max())
    assert len(objects) == len(order) > 0 and found.rles == [every.rles[n] for n in order]
    assert np.allclose(found.boxes_NT4, every.boxes_NT4[order]) and np.allclose(objects.boxes_N4, found.boxes_NT4[:, 0])
    assert np.allclose(found.probabilities_NTK, every.probabilities_NTK[order]) and found.present_NT.all()
    assert objects.labels_N.tolist() == every.probabilities_NTK[order, 0].argmax(axis=-1).tolist()

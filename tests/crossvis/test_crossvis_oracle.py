"""CrossVIS equals its authors' code in numbers: oracle_data/README.md says which code, and how it was run."""

import numpy as np
import pytest
import torch
from support.made_crossvis import (
    CLASSES,
    FRAMES,
    IDENTITIES,
    LEVELS,
    MASK_WIDTH,
    SIZE,
    STRIDES,
    VIDEO,
    VIDEO_SIZE,
    WIDTH,
    masks,
    pyramid,
    seen,
    weight,
    weight_shapes,
)
from support.made_numbers import made, made_whole
from support.oracle import near, numbers

from effvis.crossvis import losses
from effvis.crossvis.config import CrossVISConfig, CrossVISInference
from effvis.crossvis.convert import CROSSVIS
from effvis.crossvis.detect import find_objects, masks_of
from effvis.crossvis.dynamic_masks import mask_logits
from effvis.crossvis.locations import locations_of, reach_to
from effvis.crossvis.model import CrossVIS
from effvis.crossvis.sampling import aligned_weights, resampled
from effvis.crossvis.track import Memory
from effvis.crossvis.truth import frame_truth
from effvis.data.targets import ClipTargets
from effvis.inference.tracklets import VideoTracklet

HEAD = "proposal_generator.fcos_head."


class GivenPyramid(torch.nn.Module):
    """In place of a backbone: the made levels of the first frames."""

    strides, padded_to = STRIDES, 32

    def forward(self, frames_FCHW):
        return [torch.from_numpy(np.stack(level)) for level in zip(*map(pyramid, range(len(frames_FCHW))), strict=True)]


def as_ours(theirs):
    """Tensors by AdelaiDet's names under ours. The levels' factors are one tensor here; the embeddings' convolution has no
    bias, and the mean of the BatchNorm after it takes it over."""
    theirs = dict(theirs)
    scales = [theirs.pop(f"{HEAD}scales.{level}.scale") for level in range(len(LEVELS))]
    bias = theirs.pop(f"{HEAD}reid_pred.bias")
    mean = f"{HEAD}reid_pred_bn.running_mean"
    if mean in theirs:
        theirs[mean] = theirs[mean] - bias
    return {CROSSVIS.place(name): value for name, value in theirs.items()} | {"head.scale_L": np.concatenate(scales)}


@pytest.fixture(scope="module")
def theirs():
    return numbers(__file__, "crossvis")


@pytest.fixture(scope="module")
def model():
    model = CrossVIS(CrossVISConfig(
        num_classes=CLASSES, backbone="tiny", hidden_dim=WIDTH, tower_convs=1, mask_branch_dim=MASK_WIDTH,
        mask_branch_convs=1, identities=IDENTITIES))
    model.backbone = GivenPyramid()
    weights = as_ours({name: weight(name, shape) for name, shape in weight_shapes().items()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


@pytest.fixture
def output(model):
    return model(torch.zeros(2, 3, *SIZE))


def targets():
    """The two frames' truth, as a pair's."""
    found = []
    for number, frame in enumerate(FRAMES):
        columns = torch.tensor(frame)
        present = torch.ones(len(frame), 1, dtype=torch.bool)
        found.append([ClipTargets(columns[:, 0], columns[:, 1], present, columns[:, None, 2:].float(),
                                  torch.from_numpy(masks(number))[:, None])])
    return tuple(found)


def test_the_heads_give_the_same(theirs, output):
    near(output.logits_FPK[0, ::17], theirs["outputs/logits"])
    near(output.reach_FP4[0, ::17], theirs["outputs/reaches"])
    near(output.centreness_FP[0, ::17, None], theirs["outputs/centreness"])
    near(output.filters_FPQ[0, ::53, ::7], theirs["outputs/filters"])
    near(output.embedding_FPE[0, ::53, ::13], theirs["outputs/embeddings"])
    near(output.mask_features_FMHW[0, :, ::3, ::3], theirs["outputs/mask_features"])


@pytest.mark.parametrize("frame", [0, 1])
def test_locations_predict_the_same_instances(theirs, frame):
    locations = locations_of(LEVELS, STRIDES, "cpu")
    truth = frame_truth(targets(), locations, size=(192, 320), mask_stride=4, size_per_stride=8.0, identities=IDENTITIES)
    instance_P = truth.instance_FP[frame]
    (places,) = np.nonzero(instance_P.numpy() >= 0)
    objects = instance_P[places] - frame * len(FRAMES[0])
    case = {name: theirs[f"frame{frame}/{name}"] for name in (
        "places", "objects", "locations", "levels", "labels", "reaches", "centreness")}
    assert places.tolist() == case["places"].tolist() and objects.tolist() == case["objects"].tolist()
    assert locations.xy_P2[places].tolist() == case["locations"].tolist()
    assert locations.level_P[places].tolist() == case["levels"].tolist()
    assert truth.labels_I[instance_P[places]].tolist() == case["labels"].tolist()
    reach = reach_to(locations.xy_P2[places], truth.boxes_I4[instance_P[places]]) / locations.stride_P[places, None]
    near(reach, case["reaches"])
    near(losses.centreness_of(reach), case["centreness"])


# Of the locations that predict an instance in the other frame the authors draw one; their numbers are of the first, and of the
# last one.
@pytest.mark.parametrize(("which", "share"), [("first", 0.0), ("last", 0.999)])
def test_losses_of_a_pair(theirs, model, monkeypatch, which, share):
    monkeypatch.setattr(losses, "_random", lambda source_R, frames, seeds: torch.full((len(source_R),), share))
    with torch.no_grad():
        found = losses.frame_losses(model, torch.zeros(2, 3, *SIZE), targets())
    for ours, name in (("category", "loss_fcos_cls"), ("box", "loss_fcos_loc"), ("centreness", "loss_fcos_ctr"),
                       ("mask", "loss_mask")):
        near(found[ours], np.stack([theirs[f"frame{frame}/{name}"] for frame in range(2)]))
        near(found[ours].mean(), theirs[f"pair/{which}/{name}"])
    near(found["crossover"].mean(), theirs[f"pair/{which}/loss_cross_over"])
    near(found["embedding"].mean(), theirs[f"pair/{which}/loss_reid"])
    assert theirs["pair/first/loss_cross_over"] != theirs["pair/last/loss_cross_over"]


def test_gradients_of_a_pairs_losses(theirs, model, monkeypatch):
    monkeypatch.setattr(losses, "_random", lambda source_R, frames, seeds: torch.zeros(len(source_R)))
    model.zero_grad()
    sum(loss.mean() for loss in losses.frame_losses(model, torch.zeros(2, 3, *SIZE), targets()).values()).backward()
    wanted = as_ours({name: theirs[f"gradients/{name}"] for name in weight_shapes() if f"gradients/{name}" in theirs})
    for name, value in model.named_parameters():
        own = value.grad.flatten()
        near(own[:: max(1, len(own) // 16)], wanted[name], limit=2e-4)
    model.zero_grad()


def test_objects_of_a_frame_and_their_masks(theirs, model):
    with torch.no_grad():
        output = model(torch.zeros(1, 3, *SIZE))
        found = find_objects(output, SIZE, VIDEO_SIZE, CrossVISInference(candidates=30, detections=50))
        shown = torch.cat(list(masks_of(model, output, found.places_D, SIZE, VIDEO_SIZE, 0.5)))
        filters = output.filters_FPQ[0, found.places_D[:12]]
        probabilities = model.mask_logits(output, torch.zeros(12, dtype=torch.long), filters, found.places_D[:12]).sigmoid()
    case = {name.removeprefix("found/"): value for name, value in theirs.items() if name.startswith("found/")}
    near(found.scores_D, case["scores"])
    assert found.labels_D.tolist() == case["classes"].tolist()
    assert output.locations.xy_P2[found.places_D].tolist() == case["locations"].tolist()
    assert output.locations.level_P[found.places_D].tolist() == case["levels"].tolist()
    near(found.boxes_D4, case["boxes"])
    near(found.embedding_DE[:, ::32], case["embeddings"])
    near(probabilities[:, ::4, ::4], case["probabilities"])
    wanted = np.unpackbits(case["masks"]).astype(bool).reshape(-1, *VIDEO_SIZE)
    # A value at the threshold may fall on either side of it.
    assert (shown[: len(wanted)].numpy() != wanted).sum() <= 8
    assert np.abs(shown.flatten(1).sum(dim=1).numpy() - case["areas"]).max() <= 4


def test_the_dynamic_mask_head_by_itself(theirs):
    levels = made_whole("mask head, levels", (8,), 0, 5)
    own = mask_logits(
        torch.from_numpy(made("mask head, features", (2, 8, 6, 9)))[made_whole("mask head, frames", (8,), 0, 2)],
        torch.from_numpy(made("mask head, filters", (8, 169), -0.5, 0.5)),
        torch.from_numpy(made_whole("mask head, locations", (8, 2), 0, 60)).float(),
        torch.tensor([64.0, 128.0, 256.0, 512.0, 1024.0])[levels], stride=8)
    near(own, theirs["mask_head/logits"])
    truth = torch.from_numpy(made_whole("mask head, truth", (8, 1, 12, 18), 0, 2))[:, 0]
    near(losses.dice_loss(own, truth.float()), theirs["mask_head/dice"])


def test_upsampling(theirs):
    maps = torch.from_numpy(made("maps", (1, 1, 3, 5)))[0]
    near(resampled(maps, aligned_weights(3, 4, maps), aligned_weights(5, 4, maps))[0], theirs["aligned/4"])


def test_the_memory_numbers_the_objects_of_a_video_as_the_authors_script():
    video, memory = numbers(__file__, "video"), Memory(CrossVISInference().new_tracklet_below)
    tracklets = {}
    for frame in range(len(VIDEO)):
        shown = {name: torch.from_numpy(value) for name, value in seen(frame).items()}
        found = memory.add(shown["labels"], shown["boxes"], shown["embeddings"])
        assert [-1 if number is None else number for number in found] == video[f"frame{frame}/numbers"].tolist(), frame
        for d, number in enumerate(found):
            if number is not None:
                best = int(shown["labels"][d]), (16 * frame + d + 1) / 1000
                tracklets.setdefault(number, VideoTracklet()).best.append(best)
    votes = [tracklets[number].vote() for number in range(len(tracklets))]
    assert [label + 1 for label, _ in votes] == video["categories"].tolist()
    near([score for _, score in votes], video["scores"])

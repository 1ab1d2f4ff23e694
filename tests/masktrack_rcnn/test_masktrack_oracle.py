"""Mask R-CNN's parts equal the code of mmdetection, and of MaskTrack R-CNN's authors, in numbers: oracle_data/README.md says
which code, and how it was run."""

import numpy as np
import pytest
import torch
from support.made_masktrack import (
    CLASSES,
    DIM,
    LABELS,
    MASK_ROI,
    OBJECTS,
    ROI,
    SIZE,
    STRIDES,
    WIDTH,
    boxes,
    detector_weight,
    proposals,
    pyramid,
)
from support.made_masktrack import (
    near as near_boxes,
)
from support.made_numbers import made
from support.oracle import near, numbers

from effvis.masktrack_rcnn import losses
from effvis.masktrack_rcnn.anchors import BACKGROUND, assign
from effvis.masktrack_rcnn.boxes import BOX_WEIGHTS, PROPOSAL_WEIGHTS, decode, encode
from effvis.masktrack_rcnn.config import MaskTrackConfig, MaskTrackInference
from effvis.masktrack_rcnn.convert import MASKTRACK
from effvis.masktrack_rcnn.detect import _best
from effvis.masktrack_rcnn.model import FrameFeatures, MaskTrackRCNN, Proposals
from effvis.model.boxes import iou
from effvis.model.paste import paste_masks

# More than there are anchors and regions: all are taken, and nothing is drawn.
ALL = 100_000
EVERY = 37


@pytest.fixture(scope="module")
def theirs():
    return numbers(__file__, "mask_rcnn")


@pytest.fixture(scope="module")
def model():
    """With made weights in all heads but the tracking head."""
    model = MaskTrackRCNN(MaskTrackConfig(
        num_classes=CLASSES, backbone="resnet18", hidden_dim=DIM, roi_size=ROI, box_dim=WIDTH, mask_roi_size=MASK_ROI,
        mask_convs=2, track_dim=8))
    for name, own in named(model):
        own.data = torch.from_numpy(detector_weight(name, tuple(own.shape)))
    return model


def named(model):
    """The parameters of the three heads, by mmdetection's names."""
    kinds = {
        "rpn_head": ("rpn_conv", "rpn_cls", "rpn_reg"),
        "roi_head.bbox_head": ("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg"),
        "roi_head.mask_head": ("convs.0.conv", "convs.1.conv", "upsample", "conv_logits")}
    for head, layers in kinds.items():
        for layer in layers:
            for kind in ("weight", "bias"):
                name = f"{head}.{layer}.{kind}"
                yield name, model.get_parameter(MASKTRACK.place(name))


def same_gradients(model, theirs, kind, found):
    """Asserts that the losses of a head have the same gradients."""
    model.zero_grad()
    sum(found.values()).backward()
    wanted = {name.removeprefix(f"{kind}/gradients/"): value for name, value in theirs.items()
              if name.startswith(f"{kind}/gradients/")}
    own = dict(named(model))
    for name, value in wanted.items():
        gradient = own[name].grad.flatten()
        near(gradient[:: max(1, len(gradient) // 16)], value, limit=1e-4)
    assert wanted


def anchored(model):
    return model.anchored(FrameFeatures([torch.from_numpy(level)[None] for level in pyramid()[:-1]], SIZE))


def objects():
    count = len(OBJECTS)
    return losses.Objects(torch.arange(count), torch.from_numpy(LABELS), torch.from_numpy(OBJECTS).float(),
                          torch.zeros(count, *SIZE, dtype=torch.bool))


def test_anchors_and_what_the_proposal_head_says_of_them(theirs, model):
    found = anchored(model)
    assert found.levels == theirs["rpn/anchors_of_level"].tolist() and model.strides == STRIDES
    sampled = torch.cat([torch.arange(0, count, EVERY) + first
                         for count, first in zip(found.levels, np.cumsum([0, *found.levels[:-1]]).tolist(), strict=True)])
    near(found.anchors_A4[sampled], theirs["rpn/anchors"])
    near(found.objectness_FA[0, sampled], theirs["rpn/logits"])
    near(found.deltas_FA4[0, sampled], theirs["rpn/deltas"])


def test_anchors_learn_the_same_objects(theirs, model):
    with torch.no_grad():
        assigned = assign(anchored(model).anchors_A4, objects().boxes_K4, **losses.ANCHOR_IOU).numpy()
    (positive,), (ignored,) = np.nonzero(assigned >= 0), np.nonzero(assigned < BACKGROUND)
    assert positive.tolist() == theirs["rpn/assigned_positive"].tolist()
    assert assigned[positive].tolist() == theirs["rpn/assigned_objects"].tolist()
    assert ignored.tolist() == theirs["rpn/assigned_ignored"].tolist()


def test_losses_of_proposals_and_their_gradients(theirs, model):
    found = losses.proposal_losses(anchored(model), [objects()], ALL)
    near(found["objectness"], theirs["rpn/objectness"])
    near(found["proposal_box"], theirs["rpn/box"])
    same_gradients(model, theirs, "rpn", found)


def test_proposals(theirs, model):
    with torch.no_grad():
        found = model.propose(anchored(model), SIZE)
    real = found.real_FP[0]
    assert real.sum() == len(theirs["rpn/proposals"])
    near(found.boxes_FP4[0, real], theirs["rpn/proposals"])


def test_regions_and_losses_of_the_box_head_with_gradients(theirs, model):
    boxes_FP4 = torch.from_numpy(proposals()).float()[None]
    sampled = losses.sample_regions(Proposals(boxes_FP4, torch.ones(boxes_FP4.shape[:2], dtype=torch.bool)), [objects()], ALL)
    near(sampled.boxes_FN4[0], theirs["box/regions"])
    positive = int(theirs["box/positive"])
    assert sampled.objects_FN[0, :positive].tolist() == theirs["box/objects"].tolist()
    assert set(sampled.objects_FN[0, positive:].tolist()) == {BACKGROUND}
    count = sampled.boxes_FN4.shape[1]
    logits_FNK, deltas_FNK4 = model.box_head(torch.from_numpy(made("regions of the box head", (1, count, DIM, ROI, ROI))))
    near(logits_FNK[0], theirs["box/logits"])
    near(deltas_FNK4[0].flatten(1), theirs["box/deltas"])
    found = losses.box_losses(logits_FNK, deltas_FNK4, sampled, [objects()])
    near(found["category"], theirs["box/category"])
    near(found["box"], theirs["box/box"])
    same_gradients(model, theirs, "box", found)


@torch.no_grad()
def test_detections_from_what_the_box_head_says(theirs):
    regions_P4 = torch.from_numpy(theirs["box/regions"])
    scores_PK = torch.from_numpy(theirs["box/logits"]).softmax(dim=1)[:, :-1]
    deltas_PK4 = torch.from_numpy(theirs["box/deltas"]).unflatten(1, (CLASSES, 4))
    boxes_PK4 = decode(regions_P4[:, None], deltas_PK4, BOX_WEIGHTS, SIZE)
    regions_D, labels_D = _best(scores_PK, boxes_PK4, MaskTrackInference(presence_threshold=0.05))
    assert labels_D.tolist() == theirs["box/detected_labels"].tolist()
    near(scores_PK[regions_D, labels_D], theirs["box/detected_scores"])
    near(boxes_PK4[regions_D, labels_D], theirs["box/detected_boxes"])


@torch.no_grad()
def test_masks(theirs, model):
    regions = torch.from_numpy(made("regions of the mask head", (6, DIM, MASK_ROI, MASK_ROI)))
    for label in range(CLASSES):
        near(model.mask_head(regions, torch.full((6,), label)), theirs["mask/logits"][:, label])


def test_pasted_masks(theirs):
    masks = torch.from_numpy(made("masks", (4, 1, 28, 28), 0, 1))[:, 0]
    places = torch.from_numpy(OBJECTS + made("edges", (4, 4), -0.5, 0.5)).float()
    near(paste_masks(masks, places, SIZE)[:, ::3, ::3], theirs["paste/masks"])


# What follows is of the authors' own code, which counts a box's last pixel as a part of it. Boxes that end at the same pixels
# have the same overlaps and deltas.
@pytest.fixture(scope="module")
def authors():
    return numbers(__file__, "authors_boxes")


def assigned_boxes():
    of = boxes("objects", 6)
    others = near_boxes("near", of, 60, 8), boxes("far", 40, 120), of[:2], of[:2], near_boxes("once", of, 6, 30)
    return of, np.concatenate(others)


@pytest.mark.parametrize(("kind", "limits"), [("anchors", losses.ANCHOR_IOU), ("regions", losses.REGION_IOU)])
def test_boxes_learn_objects_as_in_the_authors_code(authors, kind, limits):
    of, others = (torch.from_numpy(some).float() for some in assigned_boxes())
    near(iou(of[:, None], others[None, :20])[0], authors["overlaps"])
    # There 0 is background and -1 is ignored.
    found = assign(others, of, **limits)
    assert torch.where(found < 0, -1 - found, found + 1).where(found != -2, -1).tolist() == authors[f"assigned/{kind}"].tolist()


@pytest.mark.parametrize(("kind", "weights"), [("proposals", PROPOSAL_WEIGHTS), ("detections", BOX_WEIGHTS)])
def test_deltas_as_in_the_authors_code(authors, kind, weights):
    own, wanted = (torch.from_numpy(boxes(name, 24)).float() for name in ("boxes", "wanted"))
    near(encode(own, wanted, weights), authors[f"deltas/{kind}/encoded"])
    deltas = torch.from_numpy(made("deltas", (24, 4), -1.5, 1.5)) * torch.tensor(weights)
    deltas[::4] *= 4
    pixels = decode(own, deltas, weights, (90, 120)) - torch.tensor([0, 0, 1, 1])
    # A box beyond the frame keeps the pixels at its edge there, and nothing here.
    near(torch.minimum(pixels.clamp(min=0), torch.tensor([119, 89, 119, 89])), authors[f"deltas/{kind}/decoded"])

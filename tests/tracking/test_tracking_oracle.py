"""The tracking head and its memory equal their authors' code in numbers: oracle_data/README.md says which code, and how it was
run."""

import numpy as np
import pytest
import torch
from support.made_masktrack import CHANNELS, ROI, VIDEO, WIDTH, boxes, detections, head_weights, regions
from support.made_numbers import made, made_whole
from support.oracle import near, numbers

from effvis.masktrack_rcnn.convert import MASKTRACK
from effvis.tracking.config import CueWeights
from effvis.tracking.head import TrackingHead, identity_logits, tracking_loss
from effvis.tracking.memory import Memory, Objects, match_scores


@pytest.fixture
def head():
    return with_weights(TrackingHead(CHANNELS * ROI**2, WIDTH))


def with_weights(head):
    head.load_state_dict({place(name): torch.from_numpy(value) for name, value in head_weights().items()})
    return head


def place(name):
    return MASKTRACK.place(f"track_head.embed_head.{name}").removeprefix("tracking_head.")


def test_logits_loss_and_gradients_of_the_authors_head(head):
    """Two images of a batch, with 5 and 4 regions and 3 and 2 known objects; the last region of each has no true object."""
    theirs = numbers(__file__, "track_head")
    key, known = (head(torch.from_numpy(regions(name, count))) for name, count in (("key", 9), ("reference", 5)))
    images = identity_logits(key[:5], known[:3]), identity_logits(key[5:], known[3:])
    for image, logits in enumerate(images):
        near(logits, theirs[f"head/logits{image}"])
    loss = torch.stack([tracking_loss(logits[: len(entries)], torch.tensor(entries))
                        for logits, entries in zip(images, ([2, 0, 3, 1], [1, 1, 0]), strict=True)]).mean()
    near(loss[None], theirs["head/loss"])
    loss.backward()
    for name in head_weights():
        gradient = head.get_parameter(place(name)).grad.flatten()
        near(gradient[:: max(1, len(gradient) // 32)], theirs[f"head/gradients/{name}"], limit=1e-4)


@pytest.mark.parametrize(("kind", "cues"), [("video", CueWeights()), ("loose", CueWeights(category=0.5))])
@torch.no_grad()
def test_the_memory_numbers_the_objects_of_a_video_as_the_authors_loop(head, kind, cues):
    """Boxes are compared here as areas, there as pixels from the first to the last one; the video's are the same ones."""
    theirs = numbers(__file__, "track_head")
    memory = Memory(cues)
    for frame in range(len(VIDEO)):
        shown = {name: torch.from_numpy(value) for name, value in detections(frame).items()}
        seen = Objects(head(shown["regions"]), shown["boxes"].float(), shown["scores"], shown["labels"])
        if f"{kind}/{frame}/scores" in theirs:
            near(match_scores(seen, memory._known, cues), theirs[f"{kind}/{frame}/scores"])
        assert memory.add(seen) == theirs[f"{kind}/{frame}/numbers"].tolist(), frame
    assert memory._known.labels_N.tolist() == theirs[f"{kind}/labels"].tolist()
    near(memory._known.boxes_N4 - torch.tensor([0, 0, 1, 1]), theirs[f"{kind}/boxes"])
    assert {-1, 0} < set(np.concatenate([theirs[f"{kind}/{frame}/numbers"] for frame in range(len(VIDEO))]).tolist())


@torch.no_grad()
def test_logits_and_scores_of_mmdetections_head():
    """The form of mmtracking's weights, with a ReLU at the end."""
    theirs = numbers(__file__, "embed_head")
    head = with_weights(TrackingHead(CHANNELS * ROI**2, WIDTH, rectified=True))

    def objects(name, of, count, scores):
        return Objects(head(torch.from_numpy(regions(of, count))), torch.from_numpy(boxes(name, count)).float(), scores,
                       torch.from_numpy(made_whole(f"{name}, labels", (count,), 0, 3)))

    seen = objects("seen", "key", 5, torch.from_numpy(made("seen, scores", (5,), 0.1, 1)))
    known = objects("known", "reference", 3, torch.ones(3))
    near(identity_logits(seen.embedding_ND, known.embedding_ND), theirs["embed/logits"])
    near(match_scores(seen, known, CueWeights()), theirs["embed/scores"])

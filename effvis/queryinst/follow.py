"""Frames become tracklets by a tracking head: what a frame shows is matched with the video's memory, as by MaskTrack R-CNN.

Dimensions in names: N proposals, X of them that are there, K classes, D values of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from effvis.inference.clip import TrackletPredictions, encode_pasted, mask_logits_in_groups
from effvis.inference.tracklets import VideoTracklet
from effvis.model.efficientvis import BaseFeatures, ClipOutput
from effvis.queryinst.config import QueryInstInference
from effvis.queryinst.model import QueryInst, embeddings
from effvis.tracking import follow as tracking
from effvis.tracking.memory import Objects


def follow(
    model: QueryInst, frames: Iterable[tuple[list[int], Tensor]], video_size: tuple[int, int], config: QueryInstInference
) -> list[VideoTracklet]:
    """Follows the objects of a video, frame by frame. A detection whose object another one has is dropped.

    Args:
        frames: (the frame's number in a list, the frame (1, 3, H, W)) in order.
        video_size: (height, width), in whose pixels masks and boxes are returned.

    Returns:
        The tracklets in the order of appearance.
    """
    return tracking.follow(lambda frame_1CHW: detections(model, frame_1CHW, video_size, config), frames, config.cues)


@torch.inference_mode()
def detections(
    model: QueryInst, frame_1CHW: Tensor, video_size: tuple[int, int], config: QueryInstInference
) -> tuple[TrackletPredictions, Objects]:
    """The proposals of a frame whose best class reaches ``config.presence_threshold``, best first, with their masks; and the
    same as the memory compares them."""
    features = model.features(frame_1CHW[None].to(model.query_NTC.device))
    output = model(features)[-1]
    probabilities_NK = output.logits_BNTK[0, :, 0].float().sigmoid()
    score_N, label_N = probabilities_NK.max(dim=1)
    order_N = score_N.argsort(descending=True, stable=True)
    found_X = order_N[score_N[order_N] >= config.presence_threshold]
    scale = output.boxes_BNT4.new_tensor([video_size[1], video_size[0]] * 2) / features.size_B4[0]
    boxes_X4 = (output.boxes_BNT4[0, found_X, 0] * scale).float()
    embedding_XD = embeddings(model, features, output.boxes_BNT4[:, found_X], output.mask_query_BNTC[:, found_X])[0].float()
    rles: list[list[dict | None]] = [[rle] for rle in _masks(model, features, output, found_X, boxes_X4, video_size, config)]
    prediction = TrackletPredictions(
        probabilities_NK[found_X, None].cpu().numpy(), torch.ones(len(found_X), 1, dtype=torch.bool).numpy(),
        boxes_X4[:, None].cpu().numpy(), rles)
    return prediction, Objects(embedding_XD, boxes_X4, score_N[found_X], label_N[found_X])


def _masks(
    model: QueryInst, features: BaseFeatures, output: ClipOutput, found_X: Tensor, boxes_X4: Tensor,
    video_size: tuple[int, int], config: QueryInstInference,
) -> Iterator[dict]:
    """The mask of each proposal's best class as RLE, in the video's pixels."""
    done = 0
    for group, logits_GTSS in mask_logits_in_groups(model, features, output, found_X):
        boxes_G4 = boxes_X4[done: done + len(group)]
        done += len(group)
        yield from encode_pasted(logits_GTSS[:, 0].sigmoid(), boxes_G4, video_size, config.mask_threshold)

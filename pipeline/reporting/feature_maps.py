"""Figure 4: a target's region before and after its tracklet's filter, also with proposals that have drifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from effvis.data.clips import clip_frames
from effvis.data.masks import decode
from effvis.model.boxes import iou
from effvis.tracklet_features import filtered_region, mean_feature, separation
from effvis.visualize import crop

if TYPE_CHECKING:
    import numpy as np

    from effvis.data.clips import FrameReader
    from effvis.data.dataset import DatasetIndex, Track
    from effvis.model.efficientvis import EfficientVIS
    from effvis.tracklet_features import FilteredRegion

DRIFT = 0.5  # as a part of the box's width
_MASK_DETAIL = 8  # pixels in each direction over which a location of a region averages its share of the mask


@dataclass(frozen=True)
class Seen:
    """A tracklet's regions in a clip, which part of them is the target, and how similar to the target their features are.

    Attributes:
        boxes_T4: proposals, xyxy in pixels of the video.
        likeness: before and after the filter, (T, S, S) each: cosine with the mean feature of the target in the regions that
            the tracklet's own proposals crop.
        separation: before and after the filter: the share of the features' variance that lies between target and rest.
    """

    boxes_T4: np.ndarray
    likeness: tuple[np.ndarray, np.ndarray]
    separation: tuple[float, float]


@dataclass(frozen=True)
class Target:
    """A video's first clip as seen by the tracklet whose proposals fit an instance best.

    Attributes:
        frames: the video's frame for each of the T frames of the clip.
        own, drifted: the regions of the tracklet's own proposals, and of the proposals moved by half their width.
    """

    v: int
    frames: tuple[int, ...]
    own: Seen
    drifted: Seen


def target(model: EfficientVIS, reader: FrameReader, v: int) -> Target | None:
    """The target of a video; None where the first clip shows no instance in all of its frames."""
    index = reader.index
    frames = clip_frames(0, model.config.clip_length, index.videos[v].length)
    tracks = [track for track in index.tracks_of(v) if not track.iscrowd and track.present_L[frames].all()]
    if not tracks:
        return None
    with torch.inference_mode():
        features = model.features(reader.clip(v, frames).unsqueeze(0))
        output = model(features)[-1]
    scale_4 = _to_video(index, v, reader.size(v))
    boxes_NT4 = output.boxes_BNT4[0] * torch.as_tensor(scale_4, dtype=torch.float32)
    fits = torch.stack([iou(boxes_NT4, torch.as_tensor(track.boxes_L4[frames]))[0].mean(dim=1) for track in tracks])
    g, n = divmod(int(fits.argmax()), fits.shape[1])
    left, _, right, _ = output.boxes_BNT4[0, n, 0].tolist()
    drift = DRIFT if left + right < features.size_B4[0, 0] else -DRIFT  # towards the side with more room
    regions = [filtered_region(model, features, output, n, (shift, 0.0)) for shift in (0.0, drift)]
    return Target(v, tuple(frames), *_seen(regions, tracks[g], frames, scale_4))


def _to_video(index: DatasetIndex, v: int, size: tuple[int, int]) -> np.ndarray:
    """The factors that convert a box (4,) from input pixels to pixels of the video."""
    video = index.videos[v]
    return np.array([video.width / size[1], video.height / size[0]] * 2)


def _seen(regions: Sequence[FilteredRegion], track: Track, frames: Sequence[int], scale_4: np.ndarray) -> list[Seen]:
    boxes = [region.boxes_T4 * scale_4 for region in regions]
    inside = [_inside(track, frames, boxes_T4, region.before_TSSC.shape[1])
              for boxes_T4, region in zip(boxes, regions, strict=True)]
    own = regions[0]
    like = [mean_feature(features, inside[0]) for features in (own.before_TSSC, own.after_TSSC)]
    return [
        Seen(boxes_T4, (region.before_TSSC @ like[0], region.after_TSSC @ like[1]),
             (separation(region.before_TSSC, inside_TSS), separation(region.after_TSSC, inside_TSS)))
        for region, boxes_T4, inside_TSS in zip(regions, boxes, inside, strict=True)
    ]


def _inside(track: Track, frames: Sequence[int], boxes_T4: np.ndarray, side: int) -> np.ndarray:
    """The share of the instance in each location of the regions: (T, S, S)."""
    shares = []
    for frame, box_4 in zip(frames, boxes_T4, strict=True):
        mask = Image.fromarray(decode(track.rles[frame]).astype(np.uint8) * 255)
        fine = np.asarray(crop(mask, box_4, side * _MASK_DETAIL).convert("L")) / 255
        shares.append(fine.reshape(side, _MASK_DETAIL, side, _MASK_DETAIL).mean(axis=(1, 3)))
    return np.stack(shares)

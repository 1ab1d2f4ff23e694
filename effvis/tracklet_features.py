"""What a tracklet's own filter makes of the regions that its proposal crops (Fig. 4 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from effvis.model.efficientvis import BaseFeatures, ClipOutput, EfficientVIS


@dataclass(frozen=True)
class FilteredRegion:
    """A tracklet's regions in the T frames of a clip, before and after its dynamic filter.

    Attributes:
        boxes_T4: the boxes that crop the regions, xyxy in input pixels.
        before_TSSC: features at S x S locations of each region; of length 1.
        after_TSSC: what the filter makes of them and of the neighbour frames' (Eq. 3); of length 1.
    """

    boxes_T4: np.ndarray
    before_TSSC: np.ndarray
    after_TSSC: np.ndarray


@torch.inference_mode()
def filtered_region(
    model: EfficientVIS, features: BaseFeatures, output: ClipOutput, tracklet: int, shift: tuple[float, float] = (0.0, 0.0)
) -> FilteredRegion:
    """Looks into the mask branch of an output: its filter comes from the query, and its result is still a map.

    Features are scaled to length 1, because their length says nothing: the filter ends in a layer norm.

    Args:
        features: base features of one clip.
        output: the network's output for that clip.
        tracklet: index of the tracklet among the N queries.
        shift: shares of its width and height by which each box is moved before it crops, as if the proposal had drifted.
    """
    boxes_11T4 = output.boxes_BNT4[:, tracklet, None]
    size_11T2 = boxes_11T4[..., 2:] - boxes_11T4[..., :2]
    moved = boxes_11T4 + (size_11T2 * size_11T2.new_tensor(shift)).repeat(1, 1, 1, 2)
    alone = replace(output, boxes_BNT4=moved, logits_BNTK=output.logits_BNTK[:, tracklet, None],
                    mask_query_BNTC=output.mask_query_BNTC[:, tracklet, None])
    seen = []
    hook = model.mask_heads[output.stage].dynamic_conv.register_forward_hook(
        lambda _, inputs, filtered: seen.extend((_of_own_frame(inputs[1]), filtered[0, 0])))
    try:
        model.mask_logits(features, alone)
    finally:
        hook.remove()
    side = model.config.mask_roi_size
    before, after = (
        torch.nn.functional.normalize(x_TPC, dim=-1).unflatten(1, (side, side)).cpu().numpy() for x_TPC in seen)
    return FilteredRegion(moved[0, 0].cpu().numpy(), before, after)


def _of_own_frame(regions_11TPC: torch.Tensor) -> torch.Tensor:
    """The regions (T, P, C) of the frames themselves, where a tracklet's boxes may crop neighbour frames as well."""
    return regions_11TPC[0, 0] if regions_11TPC.dim() == 5 else regions_11TPC[0, 0, :, 1]


def mean_feature(features_TSSC: np.ndarray, inside_TSS: np.ndarray) -> np.ndarray:
    """Direction (C,) of the mean over the locations that are inside; ``inside_TSS`` is a share from 0 to 1."""
    total_C = (features_TSSC * inside_TSS[..., None]).sum(axis=(0, 1, 2))
    return total_C / max(float(np.linalg.norm(total_C)), 1e-12)


def separation(features_TSSC: np.ndarray, inside_TSS: np.ndarray) -> float:
    """Share of the features' variance that lies between the inside and the outside: from 0 (none) to 1 (all).

    Args:
        inside_TSS: share of each location that is inside, from 0 to 1.
    """
    x_XC, inside_X = features_TSSC.reshape(-1, features_TSSC.shape[-1]), inside_TSS.ravel()
    mean_C = x_XC.mean(axis=0)
    total = ((x_XC - mean_C) ** 2).sum()
    between = 0.0
    for weight_X in (inside_X, 1 - inside_X):
        weight = weight_X.sum()
        if weight > 0:
            between += weight * ((weight_X @ x_XC / weight - mean_C) ** 2).sum()
    return float(between / total) if total > 0 else 0.0

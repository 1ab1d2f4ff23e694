"""What a tracklet's own filter leaves of the regions that its proposal crops (Fig. 4 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from effvis.model.efficientvis import BaseFeatures, ClipOutput, EfficientVIS


@dataclass(frozen=True)
class FilteredRegion:
    """A tracklet's regions in the T frames of a clip, before and after its dynamic filter.

    Attributes:
        boxes_T4: what they are cropped by, xyxy in input pixels.
        before_TSS: norm of the features at S x S locations of each region, with what Eq. 3 takes from neighbour frames.
        after_TSS: norm of what the filter makes of them.
    """

    boxes_T4: np.ndarray
    before_TSS: np.ndarray
    after_TSS: np.ndarray


@torch.inference_mode()
def filtered_region(
    model: EfficientVIS, features: BaseFeatures, output: ClipOutput, tracklet: int, shift: tuple[float, float] = (0.0, 0.0)
) -> FilteredRegion:
    """Looks into the mask branch of an output: its filter comes from the query, and what it leaves is still a map.

    Args:
        features: of one clip.
        output: what the network says of it.
        tracklet: which of the N queries.
        shift: by how much of its width and height each box is moved before it crops, as if the proposal had drifted.
    """
    boxes_11T4 = output.boxes_BNT4[:, tracklet, None]
    size_11T2 = boxes_11T4[..., 2:] - boxes_11T4[..., :2]
    moved = boxes_11T4 + (size_11T2 * size_11T2.new_tensor(shift)).repeat(1, 1, 1, 2)
    alone = replace(output, boxes_BNT4=moved, query_BNTC=output.query_BNTC[:, tracklet, None])
    seen = []
    hook = model.mask_heads[output.stage].dynamic_conv.register_forward_hook(
        lambda _, inputs, filtered_TPC: seen.extend((inputs[1], filtered_TPC)))
    try:
        model.mask_logits(features, alone)
    finally:
        hook.remove()
    side = model.config.mask_roi_size
    before, after = (regions_TPC.norm(dim=-1).unflatten(1, (side, side)).cpu().numpy() for regions_TPC in seen)
    return FilteredRegion(moved[0, 0].cpu().numpy(), before, after)

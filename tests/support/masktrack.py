"""Small networks of MaskTrack R-CNN, and the published names of their weights."""

import torch
from support.published_weights import published_weights

from effvis.masktrack_rcnn.config import MaskTrackConfig
from effvis.masktrack_rcnn.model import MaskTrackRCNN

SMALL = dict(hidden_dim=16, anchor_scales=(3, 4), proposals=20, roi_size=4, mask_roi_size=4, box_dim=32, mask_convs=1,
             track_dim=16)
# Of mmdetection's Mask R-CNN: name and shape of each tensor but the backbone's, for a width of 16, 4x4 regions, two scales and
# three ratios of anchors, inner layers of 32, and K classes.
MASK_RCNN = {
    **{f"neck.lateral_convs.{level}.conv": (16, channels, 1, 1) for level, channels in enumerate((64, 128, 256, 512))},
    **{f"neck.fpn_convs.{level}.conv": (16, 16, 3, 3) for level in range(4)},
    "rpn_head.rpn_conv": (16, 16, 3, 3), "rpn_head.rpn_cls": (6, 16, 1, 1), "rpn_head.rpn_reg": (24, 16, 1, 1),
    "roi_head.bbox_head.shared_fcs.0": (32, 16 * 4 * 4), "roi_head.bbox_head.shared_fcs.1": (32, 32),
    "roi_head.bbox_head.fc_cls": ("K + 1", 32), "roi_head.bbox_head.fc_reg": ("4 K", 32),
    "roi_head.mask_head.convs.0.conv": (16, 16, 3, 3), "roi_head.mask_head.upsample": (16, 16, 2, 2),
    "roi_head.mask_head.conv_logits": ("K", 16, 1, 1),
}
TRACK_HEAD = {"track_head.embed_head.fcs.0": (16, 16 * 4 * 4), "track_head.embed_head.fcs.1": (16, 16)}


def small_masktrack(seed=0, **changes):
    torch.manual_seed(seed)
    return MaskTrackRCNN(MaskTrackConfig(**({"num_classes": 3, "backbone": "tiny"} | SMALL | changes)))


def published_masktrack(classes=3, whole=True):
    """Random weights on ResNet-18 under the names of mmtracking's MaskTrack R-CNN; if not whole, mmdetection's Mask R-CNN."""
    generator = torch.Generator().manual_seed(2)
    weights = {f"backbone.{name}": value for name, value in published_weights("resnet18").items() if not name.startswith("fc.")}
    rows = {"K": classes, "K + 1": classes + 1, "4 K": 4 * classes}

    def draw(layers):
        for name, shape in layers.items():
            shape = [rows.get(side, side) for side in shape]
            weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 4

    draw(MASK_RCNN)
    if not whole:
        return weights
    weights = {f"detector.{name}": value for name, value in weights.items()}
    draw(TRACK_HEAD)
    return weights

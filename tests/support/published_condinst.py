"""CondInst and CrossVIS under the names that AdelaiDet and mmdetection publish, written from their sources as modules of small
width, and computing what those sources compute."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, MASKS, EMBEDDING, IDENTITIES, LEVELS = 8, 4, 6, 5, 5


def conv(inner, outer, kernel=3, stride=1, bias=True):
    return nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=bias)


def holder(**children):
    """A module that only gives names."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name.removesuffix("_"), child)
    return module


def tower(convs=4):
    """Convolution, GroupNorm and ReLU in turn (adet/modeling/fcos/fcos.py)."""
    return nn.Sequential(*(layer for _ in range(convs) for layer in (conv(WIDTH, WIDTH), nn.GroupNorm(4, WIDTH), nn.ReLU())))


def block(inner, outer):
    return nn.Sequential(conv(inner, outer, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


def scales():
    return nn.ModuleList(nn.ParameterDict({"scale": nn.Parameter(torch.rand(1) + 0.5)}) for _ in range(LEVELS))


def randomise(module, seed):
    """Random weights and statistics, of a size that keeps values near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            size = max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else 1
            value.copy_(torch.randn(value.shape, generator=generator) / size)
            if name.endswith("running_var") or value.ndim == 1 and name.endswith("weight"):
                value.abs_().add_(0.5)
    return module.eval()


class Bottleneck(nn.Module):
    """A bottleneck of detectron2's ResNet, whose BatchNorms are called norm inside the convolutions; with the stride first."""

    def __init__(self, inner, width, stride):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (self._with_norm(conv(*shape, bias=False)) for shape in (
            (inner, width, 1, stride), (width, width, 3), (width, 4 * width, 1)))
        if inner != 4 * width:
            self.shortcut = self._with_norm(conv(inner, 4 * width, 1, stride, bias=False))

    @staticmethod
    def _with_norm(layer):
        layer.norm = nn.BatchNorm2d(layer.out_channels)
        return layer

    def forward(self, x):
        y = F.relu(self.conv1.norm(self.conv1(x)))
        y = F.relu(self.conv2.norm(self.conv2(y)))
        shortcut = self.shortcut.norm(self.shortcut(x)) if hasattr(self, "shortcut") else x
        return F.relu(self.conv3.norm(self.conv3(y)) + shortcut)


class AdelaiDet(nn.Module):
    """CrossVIS on ResNet-50 (adet/modeling/condinst/crossvis.py), or CondInst without embeddings."""

    def __init__(self, classes, embeddings=True, semantic=False):
        super().__init__()
        stem = Bottleneck._with_norm(nn.Conv2d(3, 64, 7, 2, 3, bias=False))
        inner, stages = 64, {}
        for number, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 2):
            blocks = []
            for n in range(depth):
                blocks.append(Bottleneck(inner, width, 2 if n == 0 and number > 2 else 1))
                inner = 4 * width
            stages[f"res{number}"] = nn.Sequential(*blocks)
        self.backbone = holder(
            bottom_up=holder(stem=holder(conv1=stem), **stages),
            **{f"fpn_lateral{level}": conv(2 ** (level + 6), WIDTH, 1) for level in (3, 4, 5)},
            **{f"fpn_output{level}": conv(WIDTH, WIDTH) for level in (3, 4, 5)},
            top_block=holder(p6=conv(WIDTH, WIDTH, 3, 2), p7=conv(WIDTH, WIDTH, 3, 2)))
        head = holder(cls_tower=tower(), bbox_tower=tower(), share_tower=nn.Sequential(), cls_logits=conv(WIDTH, classes),
                      bbox_pred=conv(WIDTH, 4), ctrness=conv(WIDTH, 1), scales=scales())
        if embeddings:
            head.reid_tower, head.reid_pred, head.reid_pred_bn = tower(), conv(WIDTH, EMBEDDING, 1), nn.BatchNorm2d(EMBEDDING)
            self.cls = nn.Linear(EMBEDDING, IDENTITIES)
        self.proposal_generator = holder(fcos_head=head)
        self.controller = conv(WIDTH, 169)
        self.mask_branch = holder(
            refine=nn.ModuleList(block(WIDTH, MASKS) for _ in range(3)),
            tower=nn.Sequential(*(block(MASKS, MASKS) for _ in range(4)), conv(MASKS, 8, 1)))
        if semantic:
            self.mask_branch.seg_head, self.mask_branch.logits = nn.Sequential(block(WIDTH, MASKS)), conv(MASKS, classes, 1)
        self.mask_head = nn.Module()
        self.mask_head.register_buffer("sizes_of_interest", torch.tensor([64, 128, 256, 512, 1024]))
        self.mask_head.register_buffer("_iter", torch.zeros(1))

    def forward(self, frames_rgb):
        """Each level's class logits, reaches, centreness, filters and embeddings, and the mask features."""
        backbone, head = self.backbone, self.proposal_generator.fcos_head
        bgr = frames_rgb.flip(1).float() - torch.tensor([103.530, 116.280, 123.675]).view(3, 1, 1)
        stem = backbone.bottom_up.stem.conv1
        x, levels = F.max_pool2d(F.relu(stem.norm(stem(bgr))), 3, 2, 1), []
        for number in range(2, 6):
            x = getattr(backbone.bottom_up, f"res{number}")(x)
            levels.append(x)
        top, pyramid = None, []
        for level, features in zip((5, 4, 3), levels[:0:-1], strict=True):
            lateral = getattr(backbone, f"fpn_lateral{level}")(features)
            top = lateral if top is None else lateral + F.interpolate(top, scale_factor=2.0, mode="nearest")
            pyramid.insert(0, getattr(backbone, f"fpn_output{level}")(top))
        pyramid.append(backbone.top_block.p6(pyramid[2]))
        pyramid.append(backbone.top_block.p7(F.relu(pyramid[3])))
        found = []
        for level, features in enumerate(pyramid):
            box = head.bbox_tower(features)
            found.append([head.cls_logits(head.cls_tower(features)),
                          F.relu(head.scales[level]["scale"] * head.bbox_pred(box)), head.ctrness(box), self.controller(box)])
            if hasattr(self, "cls"):
                found[-1].append(head.reid_pred_bn(head.reid_pred(head.reid_tower(features))))
        masks = sum(aligned(self.mask_branch.refine[n](pyramid[n]), 2**n) for n in range(3))
        return found, self.mask_branch.tower(masks)


def aligned(maps, factor):
    """Values of a level at the finest one's locations: location i of the coarse level lies at i * factor + factor // 2."""
    if factor == 1:
        return maps
    for axis in (2, 3):
        length = maps.shape[axis]
        places = ((torch.arange(length * factor) - factor // 2) / factor).clamp(0, length - 1)
        low, high = maps.index_select(axis, places.floor().long()), maps.index_select(axis, places.ceil().long())
        share = (places % 1).view(-1, *[1] * (3 - axis))
        maps = low + (high - low) * share
    return maps


MMDETECTION = {
    r"proposal_generator.fcos_head.cls_logits.": "bbox_head.conv_cls.",
    r"proposal_generator.fcos_head.bbox_pred.": "bbox_head.conv_reg.",
    r"proposal_generator.fcos_head.ctrness.": "bbox_head.conv_centerness.",
    r"proposal_generator.fcos_head.scales.": "bbox_head.scales.",
    r"controller.": "bbox_head.controller.",
}


def as_mmdetection(weights):
    """A CondInst of ``AdelaiDet`` under mmdetection's names (mmdet/models/dense_heads/condinst_head.py, necks/fpn.py,
    backbones/resnet.py)."""
    renamed = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[0] == "mask_head" or parts[1] in ("seg_head", "logits"):
            continue
        if parts[0] == "backbone" and parts[1] == "bottom_up":
            if parts[2] == "stem":
                new = "backbone.conv1.weight" if parts[4] == "weight" else f"backbone.bn1.{parts[-1]}"
            else:
                at = f"backbone.layer{int(parts[2][3]) - 1}.{parts[3]}"
                layer, norm = parts[4], parts[5] == "norm"
                if layer == "shortcut":
                    new = f"{at}.downsample.{int(norm)}.{parts[-1]}"
                else:
                    new = f"{at}.{'bn' if norm else 'conv'}{layer[-1]}.{parts[-1]}"
        elif parts[0] == "backbone":
            if parts[1] == "top_block":
                new = f"neck.fpn_convs.{int(parts[2][1]) - 3}.conv.{parts[-1]}"
            else:
                kind = "lateral_convs" if "lateral" in parts[1] else "fpn_convs"
                new = f"neck.{kind}.{int(parts[1][-1]) - 3}.conv.{parts[-1]}"
        elif "_tower" in name and parts[0] == "proposal_generator":
            kind, index = {"cls_tower": "cls_convs", "bbox_tower": "reg_convs"}[parts[2]], int(parts[3])
            new = f"bbox_head.{kind}.{index // 3}.{'gn' if index % 3 else 'conv'}.{parts[-1]}"
        elif parts[0] == "mask_branch":
            masks = "mask_head.mask_feature_head"
            if parts[1] == "refine":
                new = f"{masks}.convs_all_levels.{parts[2]}.conv{parts[2]}.{'bn' if parts[3] == '1' else 'conv'}.{parts[-1]}"
            elif len(parts) == 5:
                new = f"{masks}.conv_branch.{parts[2]}.{'bn' if parts[3] == '1' else 'conv'}.{parts[-1]}"
            else:
                new = f"{masks}.conv_pred.{parts[-1]}"
        else:
            old, new = next((old, new) for old, new in MMDETECTION.items() if name.startswith(old))
            new = new + name.removeprefix(old)
            value = value.reshape(()) if new.endswith(".scale") else value
        renamed[new] = value
    return renamed

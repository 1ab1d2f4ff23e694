"""CrossVIS (Yang et al., ICCV 2021): classes, boxes, filters of masks and embeddings at every location of a frame.

Reading order: ``CrossVIS.forward`` here, then locations.py (where objects are predicted), dynamic_masks.py (a location's
filters make a mask), losses.py (crossover), track.py (frames become tracklets). docs/methods.md says what differs from the
original.

Dimensions in names: F frames, C channels, P locations of all levels, K classes, M mask features, Q weights of a mask head,
E channels of an embedding, R rows, each an instance at a location. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.crossvis.config import CrossVISConfig
from effvis.crossvis.dynamic_masks import mask_logits, number_of_weights
from effvis.crossvis.locations import Locations, locations_of
from effvis.crossvis.sampling import aligned_weights, resampled
from effvis.model.backbone import IMAGENET_MEAN, IMAGENET_STD, build_body
from effvis.model.boxes import at_least_fp32
from effvis.model.class_rows import fitted, is_class_layer
from effvis.model.fpn import FPN
from effvis.model.recompute import Recomputing
from effvis.model.resnet import FrozenBatchNorm2d

# The probability that a fresh network gives each class at each location, so that the many locations without an object do not
# drown the others.
PRIOR = 0.01


@dataclass(frozen=True)
class FrameOutput:
    """What the network says about F frames.

    Attributes:
        logits_FPK: class logits; all low where nothing is.
        reach_FP4: distances from the location to the four sides of its object's box (left, top, right, bottom), in strides.
        centreness_FP: logits of how near the location is to the middle of that box.
        filters_FPQ: the weights of the mask head of that object.
        embedding_FPE: what the object looks like, for knowing it again.
        mask_features_FMHW: what mask heads read, at the stride of the finest level.
        locations: where the P locations lie.
    """

    logits_FPK: Tensor
    reach_FP4: Tensor
    centreness_FP: Tensor
    filters_FPQ: Tensor
    embedding_FPE: Tensor
    mask_features_FMHW: Tensor
    locations: Locations

    def boxes_FP4(self) -> Tensor:
        """The boxes of all locations."""
        reach = at_least_fp32(self.reach_FP4) * self.locations.stride_P[:, None]
        return torch.cat((self.locations.xy_P2 - reach[..., :2], self.locations.xy_P2 + reach[..., 2:]), dim=-1)


class Pyramid(nn.Module):
    """The last three stages of a body with FPN, and coarser levels above them: P3 to P7."""

    def __init__(self, config: CrossVISConfig):
        super().__init__()
        self.body = build_body(config.backbone)
        if config.stride_in_1x1:
            _put_stride_first(self.body)
        self.fpn = FPN(self.body.channels[1:], config.hidden_dim)
        self.coarser = nn.ModuleList(
            nn.Conv2d(config.hidden_dim, config.hidden_dim, 3, 2, 1) for _ in range(config.coarser_levels))
        for conv in self.coarser:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)
        coarsest = self.body.strides[-1]
        self.strides = (*self.body.strides[1:], *(coarsest * 2**(n + 1) for n in range(config.coarser_levels)))

    @property
    def padded_to(self) -> int:
        """What the sides of frames must be multiples of: the levels of FPN are then exactly twice as large as the next."""
        return self.body.strides[-1]

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        """From normalised, padded frames (F, 3, H, W) to levels (F, C, ⌈H/s⌉, ⌈W/s⌉) for s in ``strides``."""
        levels = self.fpn(self.body(frames_FCHW)[1:])
        for number, conv in enumerate(self.coarser):
            levels.append(conv(F.relu(levels[-1]) if number else levels[-1]))
        return levels


class Head(Recomputing):
    """FCOS's head, the same on every level, with filters for masks (CondInst) and embeddings (CrossVIS)."""

    def __init__(self, config: CrossVISConfig, levels: int):
        super().__init__()
        width = config.hidden_dim
        self.class_tower, self.box_tower, self.embedding_tower = (
            _tower(width, config.tower_convs, config.norm_groups) for _ in range(3))
        self.class_logits = nn.Conv2d(width, config.num_classes, 3, 1, 1)
        self.reach = nn.Conv2d(width, 4, 3, 1, 1)
        self.centreness = nn.Conv2d(width, 1, 3, 1, 1)
        self.filters = nn.Conv2d(width, number_of_weights(config.mask_channels), 3, 1, 1)
        self.embedding = nn.Sequential(
            nn.Conv2d(width, config.embedding_dim, 1, bias=False), _norm(config, config.embedding_dim))
        self.scale_L = nn.Parameter(torch.ones(levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_logits.bias, _logit(PRIOR))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        """From levels (F, C, H_l, W_l) to class logits (F, P, K), reaches (F, P, 4), centreness (F, P, 1), filters (F, P, Q)
        and embeddings (F, P, E)."""
        parts = [self.held(self._of_level, level, scale) for level, scale in zip(levels, self.scale_L, strict=True)]
        return tuple(torch.cat([values.flatten(2).transpose(1, 2) for values in kind], dim=1)
                     for kind in zip(*parts, strict=True))

    def _of_level(self, level_FCHW: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        box = self.box_tower(level_FCHW)
        return (self.class_logits(self.class_tower(level_FCHW)), F.relu(self.reach(box) * scale), self.centreness(box),
                self.filters(box), self.embedding(self.embedding_tower(level_FCHW)))


class MaskBranch(nn.Module):
    """The levels of FPN, added up at the finest one's resolution, become the features that all masks of a frame share."""

    def __init__(self, config: CrossVISConfig, levels: int):
        super().__init__()
        inner, width = config.hidden_dim, config.mask_branch_dim
        self.refine = nn.ModuleList(_convolution(config, inner, width) for _ in range(levels))
        self.tower = nn.Sequential(*(_convolution(config, width, width) for _ in range(config.mask_branch_convs)))
        self.features = nn.Conv2d(width, config.mask_channels, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """From the levels of FPN, finest first, each twice as large as the next, to (F, M, H_0, W_0)."""
        total = self.refine[0](levels[0])
        for number, (refine, level) in enumerate(zip(self.refine[1:], levels[1:], strict=True), 1):
            height, width = level.shape[-2:]
            refined = refine(level)
            total = total + resampled(refined, aligned_weights(height, 2**number, refined),
                                      aligned_weights(width, 2**number, refined))
        return self.features(self.tower(total))


class CrossVIS(nn.Module):
    """Predicts the objects of single frames, each at the locations near its centre."""

    def __init__(self, config: CrossVISConfig):
        super().__init__()
        self.config = config
        self.backbone = Pyramid(config)
        self.head = Head(config, len(self.backbone.strides))
        self.mask_branch = MaskBranch(config, len(self.backbone.fpn.lateral))
        # Only the training reads it: the identity of an instance among those of the whole training split.
        self.identity = nn.Linear(config.embedding_dim, config.identities)
        nn.init.normal_(self.identity.weight, std=0.01)
        nn.init.constant_(self.identity.bias, _logit(PRIOR))
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def mask_stride(self) -> int:
        """The stride of the mask features; masks have half of it."""
        return self.backbone.strides[0]

    def forward(self, frames_FCHW: Tensor) -> FrameOutput:
        """What frames (F, 3, H, W) of one size show: RGB in 0..255, uint8 or float.

        After normalisation they are padded with zeros at the right and at the bottom to a multiple of the coarsest stride of
        FPN; the locations also cover the padding.
        """
        pixels = (frames_FCHW.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        height, width = pixels.shape[-2:]
        multiple = self.backbone.padded_to
        levels = self.backbone(F.pad(pixels, (0, -width % multiple, 0, -height % multiple)))
        logits, reach, centreness, filters, embedding = self.head(levels)
        locations = locations_of([tuple(level.shape[-2:]) for level in levels], self.backbone.strides, self.device)
        return FrameOutput(logits, reach, centreness.squeeze(-1), filters, embedding,
                           self.mask_branch(levels[: len(self.mask_branch.refine)]), locations)

    def mask_logits(self, output: FrameOutput, frame_R: Tensor, filters_RQ: Tensor, place_R: Tensor) -> Tensor:
        """The masks (R, H, W) at half the stride of the mask features, over the padded frame.

        Args:
            frame_R: in which frame each mask is.
            filters_RQ: the weights of each mask's head, from whatever frame.
            place_R: the location in ``frame_R``'s frame that coordinates are relative to.
        """
        locations = output.locations
        scale_R = locations.stride_P[place_R] * self.config.size_per_stride
        return mask_logits(output.mask_features_FMHW[frame_R], filters_RQ, locations.xy_P2[place_R], scale_R, self.mask_stride)

    def load_initial(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Starts from the weights of the same network, with other classes or another training split.

        Layers with a row per class or per identity stay as initialised where their numbers differ.

        Returns:
            The names of its own parameters that stay as initialised.

        Raises:
            ValueError: a weight is missing, unknown or has another shape, so that it is not the same network.
        """
        adapted, stay = fitted(
            weights, self.state_dict(), lambda name: is_class_layer(name) or name.startswith("identity."))
        self.load_state_dict(adapted)
        return stay


def _tower(width: int, convs: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(groups, width), nn.ReLU()]
    return nn.Sequential(*layers)


def _convolution(config: CrossVISConfig, inner: int, outer: int) -> nn.Sequential:
    conv = nn.Conv2d(inner, outer, 3, 1, 1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, _norm(config, outer), nn.ReLU())


def _norm(config: CrossVISConfig, channels: int) -> nn.Module:
    return FrozenBatchNorm2d(channels) if config.norm == "batch" else nn.GroupNorm(config.norm_groups, channels)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _put_stride_first(body: nn.Module) -> None:
    """Moves the stride of each bottleneck from its 3x3 convolution to the 1x1 one before it."""
    for block in body.modules():
        if hasattr(block, "conv3"):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)

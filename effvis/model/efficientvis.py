"""EfficientVIS (Sec. 3): tracklet queries and proposals that interact M times with a clip.

Reading order: ``EfficientVIS.forward`` here, then heads.py (one interaction), attention.py (Eq. 1-2), dynamic_conv.py
(Eq. 3), roi_align.py, backbone.py.

Dimensions in names: B clips, N tracklet queries, T frames of a clip, C channels, K classes, P locations of a region,
S side of a mask. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.config import ModelConfig
from effvis.model.backbone import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from effvis.model.boxes import apply_deltas, cxcywh_to_xyxy
from effvis.model.class_rows import is_class_layer
from effvis.model.dynamic_conv import boxes_of_neighbours, looked_at
from effvis.model.heads import MASK_LOGITS, Interaction, MaskHead, gather_tracklets
from effvis.model.recompute import Recomputing
from effvis.model.roi_align import multilevel_roi_align

# The maps inside the backbone are several times as large as its output. Where no gradient needs them, this many pixels go
# through at once: four frames of 360x640, which is also faster than a whole clip.
PIXELS_AT_ONCE = 2**20
# Frames are padded to a multiple of this, the stride of the coarsest pyramid level, as those of the COCO weights were.
PADDED_TO = 32


@dataclass(frozen=True)
class BaseFeatures:
    """The backbone's features of B clips of T frames of one size: per level (B*T, C, H_l, W_l).

    ``size_B4`` is (width, height, width, height) of each clip's own frames; the levels also cover the padding.
    """

    pyramid: list[Tensor]
    clips: int
    frames: int
    size_B4: Tensor

    def select(self, clips: slice) -> BaseFeatures:
        """The features of some of the clips."""
        chosen = range(self.clips)[clips]
        rows = slice(chosen.start * self.frames, chosen.stop * self.frames)
        return BaseFeatures([level[rows] for level in self.pyramid], len(chosen), self.frames, self.size_B4[clips])


@dataclass(frozen=True)
class MixedFeatures:
    """Base features of B clips whose frames differ in size: those of each size by themselves.

    Each clip's features, and what is made of them, are therefore the same in any batch.

    Attributes:
        parts: the features of the clips of each size.
        places: the clips' indices in the batch (B_part,), ascending, of each part.
        size_B4: as in ``BaseFeatures``, in the order of the batch.
    """

    parts: list[BaseFeatures]
    places: list[Tensor]
    size_B4: Tensor

    @property
    def clips(self) -> int:
        return len(self.size_B4)

    @property
    def frames(self) -> int:
        return self.parts[0].frames

    def select(self, clips: slice) -> MixedFeatures:
        """The features of some of the clips."""
        chosen = range(self.clips)[clips]
        parts, places = [], []
        for part, place in zip(self.parts, self.places, strict=True):
            first, last = ((place < end).sum().item() for end in (chosen.start, chosen.stop))
            if first < last:
                parts.append(part.select(slice(first, last)))
                places.append(place[first:last] - chosen.start)
        return MixedFeatures(parts, places, self.size_B4[clips])


Features = BaseFeatures | MixedFeatures


@dataclass(frozen=True)
class ClipOutput:
    """Predictions after one of the M interactions.

    Attributes:
        stage: which interaction, from 0.
        logits_BNTK: class logits of every tracklet in every frame; all low means background (absent).
        boxes_BNT4: refined tracklet proposals.
        query_BNTC: refined tracklet queries.
        mask_query_BNTC: the queries whose filters the mask head applies (``ModelConfig.mask_query``).
    """

    stage: int
    logits_BNTK: Tensor
    boxes_BNT4: Tensor
    query_BNTC: Tensor
    mask_query_BNTC: Tensor

    def select(self, clips: slice) -> ClipOutput:
        """The predictions for some of the clips."""
        return ClipOutput(self.stage, self.logits_BNTK[clips], self.boxes_BNT4[clips], self.query_BNTC[clips],
                          self.mask_query_BNTC[clips])

    def best_classes(self) -> Tensor:
        """The class of each tracklet with the highest mean probability over the clip: (B, N)."""
        return self.logits_BNTK.sigmoid().mean(dim=2).argmax(dim=-1)


def join_outputs(parts: Sequence[ClipOutput]) -> ClipOutput:
    """The outputs of one interaction on each part of the clips, joined over all clips."""
    return ClipOutput(parts[0].stage, *(
        torch.cat([getattr(part, name) for part in parts])
        for name in ("logits_BNTK", "boxes_BNT4", "query_BNTC", "mask_query_BNTC")))


def _joined(parts: Iterable[list[Tensor]], frames: int) -> list[Tensor]:
    """The levels of all frames, joined from parts that hold some frames each.

    Each part is copied as it comes: parts that waited for the last one would be held twice.
    """
    whole: list[Tensor] = []
    done = 0
    for levels in parts:
        if not whole:
            # Channels last, as the parts are.
            whole = [level.new_empty(frames, *level.shape[2:], level.shape[1]).permute(0, 3, 1, 2) for level in levels]
        for level, part in zip(whole, levels, strict=True):
            level[done: done + len(part)] = part
        done += len(levels[0])
    return whole


class EfficientVIS(Recomputing):
    """Segments, classifies and tracks the objects of a clip.

    The clips of a video are given one after the other, each with the output queries of the one before (Sec. 3.3).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.hidden_dim)
        # One embedding and one proposal per tracklet, repeated T times for a clip (footnote 1): weights fit any clip length.
        self.query_NTC = nn.Parameter(torch.randn(config.queries, 1, config.hidden_dim))
        # Centre and size as shares of the frame; every first proposal is the whole frame.
        self.proposal_NT4 = nn.Parameter(torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(config.queries, 1, 1))
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.iterations))
        self.mask_heads = nn.ModuleList(MaskHead(config) for _ in range(config.iterations))
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)

    def features(
        self, frames_BTCHW: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> Features:
        """Base features of clips (B, T, 3, H, W) of RGB frames in 0..255, uint8 or float.

        Normalised frames get zeros at the right and at the bottom, up to a multiple of ``PADDED_TO``. Proposals and boxes
        know nothing of it: they are relative to the frame as it was.

        Args:
            sizes: (height, width) of each clip's own frames, which lie at the top left. What is beyond is not looked at. By
                default the frames are whole.
        """
        whole = tuple(frames_BTCHW.shape[-2:])
        places: dict[tuple[int, int], list[int]] = {}
        for clip, size in enumerate(sizes or [whole] * len(frames_BTCHW)):
            places.setdefault(size, []).append(clip)
        if list(places) == [whole]:
            return self._features_of_one_size(frames_BTCHW)
        device = frames_BTCHW.device
        places_of_parts = [torch.tensor(clips, device=device) for clips in places.values()]
        parts = [self._features_of_one_size(frames_BTCHW[clips, ..., :height, :width])
                 for (height, width), clips in zip(places, places_of_parts, strict=True)]
        order = torch.cat(places_of_parts).argsort()
        return MixedFeatures(parts, places_of_parts, torch.cat([part.size_B4 for part in parts])[order])

    def _features_of_one_size(self, frames_BTCHW: Tensor) -> BaseFeatures:
        clips, frames, _, height, width = frames_BTCHW.shape
        frames_FCHW = frames_BTCHW.flatten(0, 1)
        at_once = max(1, PIXELS_AT_ONCE // (height * width))
        if self.training or at_once >= len(frames_FCHW):
            pyramid = self._levels(frames_FCHW)
        else:
            pyramid = _joined((self._levels(part) for part in frames_FCHW.split(at_once)), len(frames_FCHW))
        return BaseFeatures(pyramid, clips, frames, self._sizes(clips, height, width))

    def _sizes(self, clips: int, height: int, width: int) -> Tensor:
        return self.pixel_mean.new_tensor([width, height] * 2).expand(clips, -1)

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        pixels = (frames_FCHW.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % PADDED_TO, 0, -height % PADDED_TO))
        return self.backbone(pixels.contiguous(memory_format=torch.channels_last))

    def initial_query(self, clips: int) -> Tensor:
        """The learned tracklet queries, for each of B clips: (B, N, 1, C)."""
        return self.query_NTC.expand(clips, -1, -1, -1)

    def forward(self, features: Features, query_BNTC: Tensor | None = None) -> list[ClipOutput]:
        """M query-video interactions.

        Args:
            features: base features of the clips.
            query_BNTC: the output queries of the clips before, of any length; each tracklet's T embeddings start from their
                average over time (Sec. 3.3). By default the learned initial queries.

        Returns:
            The predictions of every interaction, the last one best.
        """
        query = self.initial_query(features.clips) if query_BNTC is None else query_BNTC.mean(dim=2, keepdim=True)
        query = query.expand(-1, -1, features.frames, -1)
        boxes_BN14 = cxcywh_to_xyxy(self.proposal_NT4) * features.size_B4[:, None, None]
        boxes = boxes_BN14.expand(-1, -1, features.frames, -1)
        outputs = []
        for stage, interaction in enumerate(self.interactions):
            refined, logits, deltas, attended = self.held(self._interact, interaction, features, boxes, query)
            query = self._shared(refined)
            # Boxes are detached between interactions, queries are not (Sparse R-CNN).
            boxes = apply_deltas(boxes.detach() if stage else boxes, deltas)
            # Where queries are time-shared, so are attended ones: equal embeddings attend alike.
            mask_query = attended if self.config.mask_query == "attended" else query
            outputs.append(ClipOutput(stage, logits, boxes, query, mask_query))
        return outputs

    def _interact(self, interaction: Interaction, features: Features, boxes: Tensor, query: Tensor) -> tuple:
        return interaction(query, self.regions(features, boxes, self.config.roi_size))

    def _shared(self, query_BNTC: Tensor) -> Tensor:
        """Where queries are time-shared, the mean over the T embeddings of a tracklet in place of each of them.

        An interaction predicts a frame from the embedding that this frame has refined, because one embedding cannot encode
        T boxes. What it passes on is shared: to the next interaction, to the masks, to the next clip.
        """
        if self.config.query != "time-shared":
            return query_BNTC
        return query_BNTC.mean(dim=2, keepdim=True).expand_as(query_BNTC)

    def mask_logits(
        self, features: Features, output: ClipOutput, select_BK: Tensor | None = None, label_BK: Tensor | None = None
    ) -> Tensor:
        """Mask logits inside the boxes of an output: (B, N, T, S, S), or of K selected tracklets per clip (B, K, T, S, S).

        Args:
            label_BK: the class of each mask, where masks are class-specific; by default each tracklet's best class.
        """
        boxes, query, label = output.boxes_BNT4.detach(), output.mask_query_BNTC, output.best_classes()
        if select_BK is not None:
            boxes, query, label = (gather_tracklets(values, select_BK) for values in (boxes, query, label))
        label = (label if label_BK is None else label_BK)[..., None].expand(query.shape[:-1])
        return self.held(self._masks_inside, self.mask_heads[output.stage], features, boxes, query, label)

    def _masks_inside(
        self, head: MaskHead, features: Features, boxes: Tensor, query: Tensor, label: Tensor
    ) -> Tensor:
        return head(query, self.regions(features, boxes, self.config.mask_roi_size), label)

    def load_initial(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Starts from the weights of the same network at another T, with other classes, or without its variations.

        Class layers of another number of classes stay as initialised. Class-agnostic masks start
        from the mean of class-specific ones, and these from the agnostic one. A network with spatial or
        temporal attention alone takes that block of FTSA; joint attention starts from the spatial block, to which it is
        equal at T=1. Weights of images have no temporal block: FTSA's stays as initialised, that is, without effect, and
        temporal attention alone starts from the spatial block, of which each embedding then sees only its own tracklet.

        Returns:
            The names of its own parameters that stay as initialised, and of the given weights that found no place
            (such as the blocks of FTSA that the network lacks).

        Raises:
            ValueError: a weight is missing or has another shape, so that it is not the same network.
        """
        own = self.state_dict()
        dropped = []
        adapted = {}
        taken = set()
        for name, value in own.items():
            source, given = self._start_of(name, value, weights)
            taken.add(source)
            if source is None:
                dropped.append(name)
            if MASK_LOGITS.fullmatch(name) and 1 in (len(given), len(value)):
                given = given.mean(dim=0, keepdim=True).expand_as(value)
            if is_class_layer(name) and given.shape[0] != value.shape[0]:
                dropped.append(name)
                given = value
            if given.shape != value.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)}, this network's is {tuple(value.shape)}")
            adapted[name] = given
        self.load_state_dict(adapted)
        return dropped + [name for name in weights if name not in taken]

    def _start_of(self, name: str, own: Tensor, weights: Mapping[str, Tensor]) -> tuple[str | None, Tensor]:
        """What a parameter starts from, and its name there; its own value and None if it stays as initialised."""
        if name in weights:
            return name, weights[name]
        scheme = self.config.attention
        spatial = name.replace(f".attention.{scheme}.", ".attention.spatial.")
        if scheme in ("joint", "temporal") and spatial in weights:
            return spatial, weights[spatial]
        if scheme == "temporal" and name.endswith(".gate"):
            return None, torch.ones_like(own)  # open: the spatial block's weights have been learned without a gate
        if scheme in ("ftsa", "ftsa-st") and ".attention.temporal." in name:
            return None, own
        raise ValueError(f"{name} is not among the weights")

    def regions(self, features: Features, boxes_BNT4: Tensor, size: int) -> Tensor:
        """Base features inside boxes (B, N, T, P, C), as the dynamic convolution takes them.

        Where b^t crops the neighbours of frame t as well, they are (B, N, T, 3, P, C).
        """
        if self.config.neighbour_crop == "own" or self.config.dynamic_conv == "still" or features.frames == 1:
            return self._crop(features, boxes_BNT4, size)
        boxes = boxes_of_neighbours(boxes_BNT4)
        # Three boxes per tracklet and frame are three tracklets to the pooling.
        regions = self._crop(features, boxes.transpose(0, 1).flatten(1, 2), size)
        return looked_at(regions.unflatten(1, (3, -1)).transpose(0, 1))

    def _crop(self, features: Features, boxes_BNT4: Tensor, size: int) -> Tensor:
        """Base features inside boxes: (B, N, T, P, C)."""
        if isinstance(features, MixedFeatures):
            of_parts = [self._crop(part, boxes_BNT4[place], size)
                        for part, place in zip(features.parts, features.places, strict=True)]
            return torch.cat(of_parts)[torch.cat(features.places).argsort()]
        clips, queries, frames = boxes_BNT4.shape[:3]
        by_frame = boxes_BNT4.transpose(1, 2).reshape(clips * frames, queries, 4)
        pooled = multilevel_roi_align(features.pyramid, self.backbone.strides, by_frame, size)
        return pooled.view(clips, frames, queries, size * size, -1).transpose(1, 2)

"""Clips and clip pairs for training: which frames, at which size, with which targets."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effvis.data import orientation
from effvis.data.augment import crop, draw_factors, draw_window, mirror, recolour
from effvis.data.dataset import DatasetIndex, Track
from effvis.data.index import ClipIndex
from effvis.data.mask_parts import MASK_CACHE_BYTES, MaskReader
from effvis.data.sizes import InputSize, frame_size, scaled
from effvis.data.targets import ClipPairBatch, ClipTargets, largest
from effvis.errors import UserError

# Decoded frames are kept in memory up to this many bytes.
FRAME_CACHE_BYTES = 2**30


def read_frame(path: Path | str, size: tuple[int, int], own: tuple[int, int] | None = None) -> np.ndarray:
    """A frame as RGB uint8 (H, W, 3) of the given (height, width).

    A larger or smaller frame is resized bilinearly. A JPEG of at least twice the size is decoded at a half, a quarter or
    an eighth of its own size (the smallest that is not below the requested size) and resized from there.

    Args:
        own: (height, width) of its video, if known: a frame that is stored with these exchanged is turned by its flag.

    Raises:
        UserError: the file is missing or not a whole image.
    """
    height, width = size
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        with Image.open(io.BytesIO(content)) as stored:
            lies = stored.size == own and own[0] != own[1]  # Pillow's sizes are (width, height)
            wanted = size if lies else (width, height)
            if stored.size != wanted:
                stored.draft("RGB", wanted)
            image = orientation.turned(stored) if lies else stored
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            if rgb.size != (width, height):
                rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(rgb)
    except OSError as error:
        raise UserError(path, "frame", f"cannot be read ({error})", "Restore the file and run pipeline.index again") from error


class FrameReader:
    """Frames of a split at one input size; the first ones read stay decoded in memory, up to ``cache_bytes``."""

    def __init__(self, index: DatasetIndex, input_size: InputSize, cache_bytes: int = FRAME_CACHE_BYTES):
        self.index, self.input_size = index, input_size
        self._cache: dict[tuple[int, int], np.ndarray] = {}
        self._room = cache_bytes
        self._images = f"{index.images}{os.sep}"

    def size(self, video_index: int) -> tuple[int, int]:
        """(height, width) of a video's frames at this input size."""
        video = self.index.videos[video_index]
        return frame_size(self.input_size, video.height, video.width)

    def clip(self, video_index: int, frames: list[int]) -> Tensor:
        """The frames of a clip, (T, 3, H, W) uint8."""
        stacked = np.stack([self._frame(video_index, frame) for frame in frames])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def _frame(self, video_index: int, frame: int) -> np.ndarray:
        key = (video_index, frame)
        if key not in self._cache:
            video = self.index.videos[video_index]
            pixels = read_frame(self._images + video.file_names[frame], self.size(video_index), (video.height, video.width))
            if pixels.nbytes > self._room:
                return pixels
            self._room -= pixels.nbytes
            self._cache[key] = pixels
        return self._cache[key]


def clip_frames(start: int, clip_length: int, video_length: int) -> list[int]:
    """Frame numbers of a clip; where the video ends inside the clip, its last frame is repeated."""
    return [min(start + t, video_length - 1) for t in range(clip_length)]


class ClipPairs:
    """Batches of clip pairs (Sec. 3.3), each a pure function of the seed and the step's number.

    An epoch is one pass over the videos in a random order, with one random pair of clips from each; the last videos,
    where they do not fill a batch, are left out of that epoch.

    Args:
        input_size: of the frames; clips of other ratios may have other sizes, and are padded to the largest of their step.
        batch_size: pairs per step, over all workers.
        clips_per_video: 2 for pairs; 1 for only the first clip of each pair, where the second teaches nothing.
        flip: mirror both clips of a pair with probability one half.
        augmentation: as in ``TrainConfig``. ``multi-scale`` draws one scale for all pairs of a step, so that they need
            little padding; ``random-crop`` draws one window for both clips of a pair.
        scales: factors on the input size, for ``multi-scale``.
        crop_share: least and largest share of each side, for ``random-crop``.
        colour: as in ``TrainConfig``; one draw for all frames of both clips of a pair.
        frame_cache_bytes: bytes of memory for decoded frames; ``mask_cache_bytes`` likewise for masks.
    """

    def __init__(
        self, index: DatasetIndex, clips: ClipIndex, *, input_size: InputSize, batch_size: int, seed: int,
        flip: bool = False, augmentation: str = "none", scales: Sequence[float] = (1.0,),
        crop_share: tuple[float, float] = (1.0, 1.0), clips_per_video: int = 2, colour: float = 0.0,
        frame_cache_bytes: int = FRAME_CACHE_BYTES, mask_cache_bytes: int = MASK_CACHE_BYTES,
    ):
        self.index, self.clips = index, clips
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.augmentation, self.crop_share, self.colour = augmentation, crop_share, colour
        self.clips_per_video = clips_per_video
        # For another size frames are read again, not resized twice; all sizes share the memory.
        self._sizes = [scaled(input_size, scale) for scale in scales] if augmentation == "multi-scale" else [input_size]
        self._readers = {size: FrameReader(index, size, frame_cache_bytes // len(self._sizes)) for size in self._sizes}
        self._masks = {size: MaskReader(mask_cache_bytes // len(self._sizes)) for size in self._sizes}
        self.frames = self._readers[self._sizes[0]]
        # Pairs grouped by video, so that every video is as likely as every other, whatever its length.
        video_P = clips.clip_video_K[clips.pair_first_P]
        self._pairs_by_video = np.argsort(video_P, kind="stable")
        self._first_of_video = np.searchsorted(video_P[self._pairs_by_video], np.arange(len(index.videos) + 1))
        self._instances = [_Instances.of(index, v) for v in range(len(index.videos))]

    def __len__(self) -> int:
        """Number of steps per epoch."""
        return max(1, len(self.index.videos) // self.batch_size)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> ClipPairBatch:
        """The pairs of a step, or one of the parts that they are divided into; steps count from 0 over all epochs.

        Every pair is in exactly one part; the sizes of the parts differ by one pair at most.
        """
        epoch, position = divmod(step, len(self))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.index.videos))
        chosen = np.resize(order[position * self.batch_size: (position + 1) * self.batch_size], self.batch_size)
        # The slot after the last pair's belongs to the step itself.
        size = self._sizes[0]
        if len(self._sizes) > 1:
            step_rng = np.random.default_rng((self.seed, epoch, position, self.batch_size))
            size = self._sizes[step_rng.integers(len(self._sizes))]
        slots = range(part, self.batch_size, parts)
        pairs = [self._pair(int(chosen[slot]), size, np.random.default_rng((self.seed, epoch, position, slot)))
                 for slot in slots]
        by_place = list(zip(*pairs, strict=True))
        return ClipPairBatch(
            frames=tuple(_stacked([frames for frames, _ in clips]) for clips in by_place),
            targets=tuple([targets for _, targets in clips] for clips in by_place),
            videos=[int(chosen[slot]) for slot in slots])

    def _pair(self, video: int, size: InputSize, rng: np.random.Generator) -> list[tuple[Tensor, ClipTargets]]:
        pair = self._pairs_by_video[rng.integers(self._first_of_video[video], self._first_of_video[video + 1])]
        starts = self.clips.clip_start_K[[self.clips.pair_first_P[pair], self.clips.pair_second_P[pair]]]
        # Sec. 3.3: in random order, so that correspondence does not depend on the direction of time.
        starts = (starts[::-1] if rng.random() < 0.5 else starts)[: self.clips_per_video]
        mirrored = self.flip and rng.random() < 0.5
        clips = [self._clip(video, int(start), size) for start in starts]
        if mirrored:
            clips = [mirror(*clip) for clip in clips]
        if self.augmentation == "random-crop":
            window = draw_window(rng, clips[0][1].size, self.crop_share)
            clips = [crop(*clip, window, size) for clip in clips]
        if self.colour:
            factors = draw_factors(rng, self.colour)
            clips = [(recolour(frames, factors), targets) for frames, targets in clips]
        return clips

    def _clip(self, video: int, start: int, size: InputSize) -> tuple[Tensor, ClipTargets]:
        frames = clip_frames(start, self.clips.clip_length, self.index.videos[video].length)
        targets = self._targets(video, frames, size)
        real = torch.arange(start, start + self.clips.clip_length) < self.index.videos[video].length
        return self._readers[size].clip(video, frames), replace(targets, real_T=real)

    def _targets(self, video: int, frames: list[int], size: InputSize) -> ClipTargets:
        entry, instances = self.index.videos[video], self._instances[video]
        height, width = self._readers[size].size(video)
        seen = np.flatnonzero(instances.present_KL[:, frames].any(axis=1))
        present_KT = instances.present_KL[seen[:, None], frames]
        scale = np.array([width / entry.width, height / entry.height] * 2, dtype=np.float32)
        boxes_KT4 = instances.boxes_KL4[seen[:, None], frames] * scale
        boxes_KT4[~present_KT] = 0
        masks_KTHW = np.zeros((*present_KT.shape, height, width), dtype=bool)
        for k, t in np.argwhere(present_KT).tolist():
            self._masks[size].draw(instances.tracks[seen[k]], frames[t], masks_KTHW[k, t])
        return ClipTargets(*map(torch.from_numpy, (
            instances.ids_K[seen], instances.labels_K[seen], present_KT, boxes_KT4, masks_KTHW)))


def _stacked(clips_TCHW: list[Tensor]) -> Tensor:
    """Clips as (B, T, 3, H, W), each at the top left, in memory as decoded: separating the three values of a pixel takes three
    times as long."""
    if len(clips_TCHW) == 1:
        return clips_TCHW[0][None]
    height, width = largest([frames.shape[-2:] for frames in clips_TCHW])
    batch_BTHWC = torch.zeros(len(clips_TCHW), len(clips_TCHW[0]), height, width, 3, dtype=torch.uint8)
    for batch_THWC, frames in zip(batch_BTHWC, clips_TCHW, strict=True):
        batch_THWC[:, : frames.shape[-2], : frames.shape[-1]] = frames.permute(0, 2, 3, 1)
    return batch_BTHWC.permute(0, 1, 4, 2, 3)


class _Instances(NamedTuple):
    """The K instances to be learned in a video of L frames: all but crowds. See ``Track``."""

    tracks: list[Track]
    ids_K: np.ndarray
    labels_K: np.ndarray
    present_KL: np.ndarray
    boxes_KL4: np.ndarray

    @classmethod
    def of(cls, index: DatasetIndex, video: int) -> _Instances:
        tracks = [track for track in index.tracks_of(video) if not track.iscrowd]
        length = index.videos[video].length
        return cls(
            tracks, np.array([t.id for t in tracks], np.int64), np.array([t.label for t in tracks], np.int64),
            np.array([t.present_L for t in tracks], bool).reshape(-1, length),
            np.array([t.boxes_L4 for t in tracks], np.float32).reshape(-1, length, 4))

"""Frames with tracklets drawn over them, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from effvis.data.synthetic.shapes import present_masks
from effvis.visualize import Overlay, draw, side_by_side
from pipeline.indexing.read import load_index
from pipeline.reporting.pictures import frames_with
from pipeline.reporting.tracklets import evenly, from_results, scored_frames, stored_results, truth

if TYPE_CHECKING:
    from PIL.Image import Image

    from effvis.data.synthetic.shapes import DrawnVideo, ShapesConfig
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params


def overlay_pictures(
    params: Params, spec: EvalSpec, out: Path, *, videos: int, frames: int, scale: int, minimum_score: float, as_sketch: bool,
) -> list[Path]:
    """Writes ``<out>/<video id>.png`` for evenly spaced videos of the split that was evaluated.

    Args:
        videos, frames: how many videos and frames to draw, evenly spaced over the split and over each video.
        scale: enlargement: pixels of the picture per pixel of the frame.
        minimum_score: predictions below this score are not drawn.
        as_sketch: whether to draw over the edges of frames, not over photographs, for data that may not be redistributed.

    Raises:
        UserError: the run is not evaluated.
    """
    params = params.of_dataset(spec.train.dataset_name)
    results = stored_results(params, spec)
    index = load_index(params, spec.split)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for v in evenly(len(index.videos), videos):
        scored = scored_frames(spec, index, v)
        shown = [scored[i] for i in evenly(len(scored), frames)]
        groups = (truth(index, v), from_results(results, spec, index, v, minimum_score))
        path = out / f"{index.videos[v].id}.png"
        backdrop = "sketch" if as_sketch else "photograph"
        rows = [frames_with(index, v, shown, drawn, range(len(drawn)), scale=scale, backdrop=backdrop, texts=True)
                for drawn in groups]
        picture = side_by_side(rows, ["truth", "ours"])
        # Sketches have lines and few colours: a palette stores them in a third of the bytes.
        (picture.quantize(32) if as_sketch else picture).save(path, optimize=True)
        written.append(path)
    return written


def sample_strip(video: DrawnVideo, config: ShapesConfig, *, scale: int) -> Image:
    """All frames of a video side by side, with the instances below each frame: one colour per identity, and a name in the
    first frame that shows it.

    Args:
        scale: enlargement: pixels of the picture per pixel of the frame.
    """
    frames = [Image.fromarray(frame_HW3) for frame_HW3 in video.frames_LHW3]
    overlays: list[list[Overlay]] = [[] for _ in frames]
    for identity, track in enumerate(video.tracks):
        name = config.categories[track.label]
        for rle, of_frame in zip(present_masks(track.visible_LHW), overlays, strict=True):
            if rle is not None:
                of_frame.append(Overlay(rle, identity, name))
                name = ""
    rows = [[draw(frame, [], scale=scale) for frame in frames],
            [draw(frame, shown, scale=scale) for frame, shown in zip(frames, overlays, strict=True)]]
    return side_by_side(rows, ["frames", "truth"])

"""Ground truth and results for the evaluator, and the literal evaluator to compare it with."""

import importlib.util
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

SIDE = 270  # frames of 270x270 hold masks beyond 256^2 pixels, so that all area ranges occur


def load_reference():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "references" / "reference_video_ap.py"
    spec = importlib.util.spec_from_file_location("reference_video_ap", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_reference()


def box(y0, x0, y1, x1, height=SIDE, width=SIDE):
    """A filled rectangle as compressed RLE, with its counts as text."""
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[y0:y1, x0:x1] = 1
    return text_rle(pixels)


def text_rle(pixels):
    rle = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def plain_counts(rle):
    """Uncompressed counts, read from the pixels."""
    pixels = coco_mask.decode(rle).flatten(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": rle["size"], "counts": np.diff([0, *edges, pixels.size]).tolist()}


def problem(annotations, results, videos=1, categories=1, frames=2):
    """A ground truth and results from short forms: (video, category, masks, changes) and (video, category, score, masks)."""

    def areas(masks):
        return [int(coco_mask.area(mask)) if mask else None for mask in masks]

    truth = {
        "videos": [{"id": v, "height": SIDE, "width": SIDE, "length": frames, "file_names": [f"{v}/{f}" for f in range(frames)]}
                   for v in range(1, videos + 1)],
        "categories": [{"id": c, "name": f"category {c}"} for c in range(1, categories + 1)],
        "annotations": [{"id": number, "video_id": v, "category_id": c, "iscrowd": 0, "segmentations": masks,
                         **(changes if "areas" in changes else changes | {"areas": areas(masks)})}
                        for number, (v, c, masks, changes) in enumerate(annotations, start=1)],
    }
    return truth, [{"video_id": v, "category_id": c, "score": score, "segmentations": masks} for v, c, score, masks in results]

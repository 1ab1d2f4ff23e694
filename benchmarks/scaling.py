"""How the time of one clip grows with the number of queries N and the clip length T: ``python -m benchmarks.scaling``.

The time is from frames to the masks of all tracklets, as inference computes them (in groups that stay in the caches) and, for
comparison, all masks at once. The sizes and both ways alternate within each round, so that a busy machine slows all of them;
the least processor time of each and its ratio to that of half the size are printed. There is no loop over instances, frames or
regions, so doubling N or T should at most double the time.
"""

from __future__ import annotations

import argparse
import time

import torch

from effvis.config import ModelConfig
from effvis.inference.clip import mask_logits_in_groups
from effvis.model.efficientvis import EfficientVIS

HEIGHT, WIDTH = 64, 96
LAPTOP = dict(num_classes=5, iterations=3, hidden_dim=48, attention_heads=4, ffn_dim=192, dynamic_dim=16, roi_size=8,
              mask_roi_size=8, mask_convs=2, similarity_temperature=0.1)
WAYS = ("in groups", "all at once")


@torch.inference_mode()
def seconds(model: EfficientVIS, frames_BTCHW: torch.Tensor, way: str) -> float:
    """Processor time of one clip, from frames to the masks of all tracklets."""
    began = time.thread_time()
    features = model.features(frames_BTCHW)
    output = model(features)[-1]
    if way == "in groups":
        for _ in mask_logits_in_groups(model, features, output, torch.arange(model.config.queries)):
            pass
    else:
        model.mask_logits(features, output)
    return time.thread_time() - began


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (default: 15)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    sizes = {"N": [(n, 6) for n in (5, 10, 20, 40)], "T": [(10, t) for t in (3, 6, 12, 24)]}
    cases = {size: (EfficientVIS(ModelConfig(**LAPTOP, queries=size[0], clip_length=size[1])).eval(),
                    torch.randint(0, 255, (1, size[1], 3, HEIGHT, WIDTH), dtype=torch.uint8))
             for group in sizes.values() for size in group}
    best = {(size, way): float("inf") for size in cases for way in WAYS}
    for _ in range(rounds):
        for size, way in best:
            best[size, way] = min(best[size, way], seconds(*cases[size], way))

    table = Table("N", "T", title=f"milliseconds of one clip of {HEIGHT}x{WIDTH}, laptop network, one thread")
    for way in WAYS:
        table.add_column(f"masks {way}", justify="right")
        table.add_column("ratio to half the size", justify="right")
    for group in sizes.values():
        for before, size in zip([None, *group], group, strict=False):
            cells = []
            for way in WAYS:
                cells += [f"{1000 * best[size, way]:.1f}", f"{best[size, way] / best[before, way]:.2f}" if before else ""]
            table.add_row(*map(str, size), *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

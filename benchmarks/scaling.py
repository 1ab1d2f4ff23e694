"""How the time of one clip grows with the number of queries N and the clip length T: ``python -m benchmarks.scaling``.

Alternates the sizes within each round, so that a busy machine slows all of them, and prints the best time of each and its
ratio to half the size. No loop over instances, frames or regions: doubling N or T should at most double the time.
"""

from __future__ import annotations

import argparse
import time

import torch

from effvis.config import ModelConfig
from effvis.model.efficientvis import EfficientVIS

HEIGHT, WIDTH = 64, 96
LAPTOP = dict(num_classes=5, iterations=3, hidden_dim=48, attention_heads=4, ffn_dim=192, dynamic_dim=16, roi_size=8,
              mask_roi_size=8, mask_convs=2, similarity_temperature=0.1)


@torch.inference_mode()
def seconds(model: EfficientVIS, frames_BTCHW: torch.Tensor) -> float:
    """One clip, from frames to the masks of all tracklets."""
    began = time.perf_counter()
    features = model.features(frames_BTCHW)
    model.mask_logits(features, model(features)[-1])
    return time.perf_counter() - began


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="(default: 15)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    sizes = {"N": [(n, 6) for n in (5, 10, 20, 40)], "T": [(10, t) for t in (3, 6, 12, 24)]}
    cases = {size: (EfficientVIS(ModelConfig(**LAPTOP, queries=size[0], clip_length=size[1])).eval(),
                    torch.randint(0, 255, (1, size[1], 3, HEIGHT, WIDTH), dtype=torch.uint8))
             for group in sizes.values() for size in group}
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for size, case in cases.items():
            best[size] = min(best[size], seconds(*case))

    table = Table("N", "T", "ms", "ratio to half the size", title=f"one clip of {HEIGHT}x{WIDTH}, laptop network, one thread")
    for group in sizes.values():
        for before, size in zip([None, *group], group, strict=False):
            ratio = f"{best[size] / best[before]:.2f}" if before else ""
            table.add_row(*map(str, size), f"{1000 * best[size]:.1f}", ratio)
    Console(width=80).print(table)


if __name__ == "__main__":
    main()

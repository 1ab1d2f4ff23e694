"""Losses of five training steps of every variant on one fixed clip pair, as they were when last looked at.

A change that is meant to change them writes them anew: ``python tests/test_golden.py``; the difference is then part of the
change that is reviewed.
"""

import json
from pathlib import Path

import pytest
import torch
from builders import pair_batch, tiny_model

from effvis.config import LossWeights
from effvis.training.correspondence import pair_losses

GOLDEN = Path(__file__).with_name("golden_losses.json")
VARIANTS = {
    "default": {},
    **{f"attention={scheme}": {"attention": scheme} for scheme in ("ftsa-st", "spatial", "temporal", "joint")},
    "dynamic_conv=still": {"dynamic_conv": "still"},
    "neighbour_crop=here": {"neighbour_crop": "here"},
    "query=time-shared": {"query": "time-shared"},
    "backbone=resnet18": {"backbone": "resnet18"},
    "without CL": {},
}


def five_losses(name: str) -> list[float]:
    """Total losses of five AdamW steps from seed 0."""
    model = tiny_model(3, seed=0, **VARIANTS[name])
    batch = pair_batch([([0, 1], [1, 2]), ([3], [3])], 3, seed=0, absent=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(5):
        total = sum(pair_losses(model, batch, LossWeights(), correspondence=name != "without CL").values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals.append(round(total.item(), 6))
    return totals


@pytest.mark.parametrize("name", VARIANTS)
def test_five_steps_lose_what_they_did(name):
    assert five_losses(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4)


def test_variants_differ():
    losses = json.loads(GOLDEN.read_text())
    assert losses.keys() == VARIANTS.keys() and len({tuple(totals) for totals in losses.values()}) == len(losses)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: five_losses(name) for name in VARIANTS}, indent=1) + "\n")

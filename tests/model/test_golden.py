"""Losses of the first training steps of every variant and of VisTR on fixed clip pairs, as they were at the last review.

If a change is meant to change them, write them anew with ``PYTHONPATH=tests python tests/model/test_golden.py``; the difference
is then part of the reviewed change.

Everything is computed in double precision, so that the numbers are the same on every processor. Processors sum in different
orders, so the last bits of a gradient differ, and AdamW divides a gradient by its own size: a gradient of some 1e-9, which in
single precision is mostly rounding, still moves its weight by a good part of the learning rate. Five such steps turned a
difference of one bit into 4e-4.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from support.builders import pair_batch, small_vistr, tiny_model

from effvis.config import LossWeights
from effvis.training import correspondence
from effvis.vistr import losses as vistr_losses

GOLDEN = Path(__file__).with_name("golden_losses.json")
VARIANTS = {
    "default": {},
    **{f"attention={scheme}": {"attention": scheme} for scheme in ("ftsa-st", "spatial", "temporal", "joint")},
    "dynamic_conv=still": {"dynamic_conv": "still"},
    "neighbour_crop=here": {"neighbour_crop": "here"},
    "query=time-shared": {"query": "time-shared"},
    **{f"backbone={name}": {"backbone": name} for name in ("resnet18", "resnet50", "resnet101", "efficientnet-lite0")},
    "without CL": {},
}
NAMES = [*VARIANTS, "VisTR"]


@contextmanager
def double_precision() -> Iterator[None]:
    """Makes new tensors double, and also those for which the code asks for at least single precision."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@double_precision()
def first_losses(name: str) -> list[float]:
    """Total losses of AdamW steps from seed 0: five, or two where a ResNet takes most of the time."""
    batch = pair_batch([([0, 1], [1, 2]), ([3], [3])], 3, seed=0, absent=True)
    if name == "VisTR":
        model = small_vistr(3, seed=0)
        losses = partial(vistr_losses.pair_losses, model, batch, vistr_losses.VisTRLossWeights())
    else:
        model = tiny_model(3, seed=0, **VARIANTS[name])
        losses = partial(correspondence.pair_losses, model, batch, LossWeights(), name != "without CL")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(2 if name.startswith("backbone=") else 5):
        total = sum(losses().values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals.append(round(total.item(), 10))
    return totals


@pytest.mark.parametrize("name", NAMES)
def test_first_steps_lose_what_they_did(name):
    assert first_losses(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-8)


def test_variants_differ():
    losses = json.loads(GOLDEN.read_text())
    assert list(losses) == NAMES and len({tuple(totals) for totals in losses.values()}) == len(losses)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: first_losses(name) for name in NAMES}, indent=1) + "\n")

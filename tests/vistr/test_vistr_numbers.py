"""A few of the numbers that the authors' code gives for VisTR, so that the definitions hold without the stored outputs."""

import pytest
import torch

from effvis.data.targets import StackedTargets
from effvis.vistr.losses import matching_costs

# Tracklet 0 of the last layer (centre and size as shares of 96x160 pixels, six frames) and an instance that is absent in some.
OWN = [
    [0.569581392, 0.403826511, 0.678577822, 0.55920522],
    [0.536805743, 0.493690329, 0.651865197, 0.408185701],
    [0.560292394, 0.570309368, 0.609170986, 0.361033111],
    [0.520989995, 0.522070094, 0.670230133, 0.436386052],
    [0.519080184, 0.518848641, 0.698710328, 0.464909922],
    [0.555054295, 0.500184694, 0.699805135, 0.433242577],
]
TRUE = [
    [0, 0, 0, 0],
    [0, 0, 0, 0],
    [37, 15, 72, 54],
    [48, 18, 83, 57],
    [59, 21, 94, 60],
    [70, 24, 105, 63],
]
PRESENT = [False, False, True, True, True, True]


def test_costs_of_an_instance_with_absences():
    size = torch.tensor([160.0, 96, 160, 96], dtype=torch.float64)
    own = torch.tensor(OWN, dtype=torch.float64)
    corners = torch.cat((own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2), dim=-1) * size
    true = torch.tensor(TRUE, dtype=torch.float64)
    targets = StackedTargets(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[PRESENT]]), true[None, None],
                             torch.zeros(1, 1, 6, 1, 1, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool))
    logits = torch.zeros(1, 1, 6, 42, dtype=torch.float64)
    category, l1, iou = matching_costs(logits, corners[None, None], targets, size, absent_row=True)
    assert category.item() == pytest.approx(-1 / 42)
    assert l1.item() == pytest.approx(0.2971870666, abs=1e-8)
    assert iou.item() == pytest.approx(-0.1336662630, abs=1e-8)

from pathlib import Path

import numpy as np
import pytest
import torch

from effvis.model.roi_align import multilevel_roi_align, roi_align

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracle" / "roialign_cases.npz"


def _cases():
    if not ORACLE.exists():
        return []
    return sorted({int(name[4:].split("_")[0]) for name in np.load(ORACLE).files if name.startswith("case")})


@pytest.mark.skipif(not ORACLE.exists(), reason="../shared/oracle/roialign_cases.npz is absent")
@pytest.mark.parametrize("case", _cases())
def test_equals_torchvision(case):
    oracle = np.load(ORACLE)
    size, scale, ratio, aligned = oracle[f"case{case}_params"]
    feature = torch.tensor(oracle[f"case{case}_feat"], requires_grad=True)
    rois = torch.tensor(oracle[f"case{case}_rois"])
    pooled = roi_align(feature, rois, int(size), float(scale), int(ratio), bool(aligned))
    keep = np.arange(len(rois)) != int(oracle["inverted_roi_index"])
    expected = oracle[f"case{case}_out"]
    assert pooled.shape == expected.shape
    np.testing.assert_allclose(pooled.detach().numpy()[keep], expected[keep], atol=1e-5, rtol=0)

    if f"case{case}_gradout" in oracle.files:
        gradient_out = torch.tensor(oracle[f"case{case}_gradout"])
        pooled.backward(gradient_out)
        gradient = feature.grad.double().numpy()
        expected_gradient = oracle[f"case{case}_gradfeat"]
        assert np.abs(gradient - expected_gradient).max() <= 1e-5 * np.abs(expected_gradient).max()


def test_list_of_boxes_equals_rows_with_image_index():
    features = torch.randn(3, 2, 9, 11)
    boxes = [torch.rand(n, 4) * 20 + torch.tensor([0, 0, 20, 20]) for n in (2, 0, 3)]
    rows = torch.cat([torch.cat((torch.full((len(b), 1), float(f)), b), 1) for f, b in enumerate(boxes)])
    assert torch.equal(roi_align(features, boxes, (3, 5), 0.25), roi_align(features, rows, (3, 5), 0.25))
    assert roi_align(features, [torch.zeros(0, 4)] * 3, 7).shape == (0, 2, 7, 7)


def test_multilevel_takes_each_box_from_the_level_of_its_size():
    pyramid = [torch.randn(2, 3, 64 // s, 96 // s) for s in (4, 8, 16)]
    boxes = torch.tensor([[0.0, 0, 30, 30], [10, 10, 80, 50], [0, 0, 96, 64]]).repeat(2, 1, 1)
    canonical = {"canonical_size": 48.0, "canonical_level": 3}
    pooled = multilevel_roi_align(pyramid, (4, 8, 16), boxes, 7, **canonical)
    for box, level in ((0, 0), (1, 1), (2, 1)):  # sides 30, 53, 78 against 24-48, 48-96
        for frame in range(2):
            row = torch.cat((torch.tensor([float(frame)]), boxes[frame, box]))[None]
            alone = roi_align(pyramid[level], row, 7, 1 / (4, 8, 16)[level], 2)
            torch.testing.assert_close(pooled[frame, box].permute(2, 0, 1), alone[0])

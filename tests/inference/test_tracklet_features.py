"""The filtered regions of a tracklet are those that the mask branch computes, and looking at them changes nothing."""

import numpy as np
import pytest
import torch
from support.builders import tiny_model

from effvis.tracklet_features import filtered_region, mean_feature, separation


@pytest.fixture(scope="module")
def seen():
    model = tiny_model(clip_length=3, mask_roi_size=6).eval()
    frames = torch.randint(0, 256, (1, 3, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model.features(frames)
        return model, features, model(features)[-1]


def test_it_is_what_the_mask_branch_computes(seen):
    model, features, output = seen
    calls = []
    branch = model.mask_heads[output.stage].dynamic_conv
    hook = branch.register_forward_hook(lambda _, inputs, out: calls.append((inputs[1], out)))
    with torch.inference_mode():
        masks = model.mask_logits(features, output)
    hook.remove()
    for tracklet in (0, 3):
        region = filtered_region(model, features, output, tracklet)
        np.testing.assert_allclose(region.boxes_T4, output.boxes_BNT4[0, tracklet].numpy())
        for features_TSSC, x in zip((region.before_TSSC, region.after_TSSC), calls[0], strict=True):
            x_TPC = x[0, tracklet]
            expected = (x_TPC / x_TPC.norm(dim=-1, keepdim=True)).view(3, 6, 6, 16)
            torch.testing.assert_close(torch.from_numpy(features_TSSC), expected)
    assert not branch._forward_hooks, "the network is left as it was"
    with torch.inference_mode():
        assert torch.equal(model.mask_logits(features, output), masks)


def test_a_drifted_proposal_crops_elsewhere_and_is_filtered_by_the_same_query(seen):
    model, features, output = seen
    still, drifted = (filtered_region(model, features, output, 1, (share, 0.0)) for share in (0.0, 0.5))
    width_T = still.boxes_T4[:, 2] - still.boxes_T4[:, 0]
    np.testing.assert_allclose(drifted.boxes_T4 - still.boxes_T4, width_T[:, None] * [0.5, 0, 0.5, 0], atol=1e-4)
    assert not np.allclose(drifted.before_TSSC, still.before_TSSC)
    assert not np.allclose(drifted.after_TSSC, still.after_TSSC)


def test_separation_is_the_share_of_variance_between_inside_and_outside():
    inside_TSS = np.zeros((1, 2, 2))
    inside_TSS[0, 0] = 1
    ones, twos = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    apart_TSSC = np.array([[[ones, ones], [twos, twos]]])
    assert separation(apart_TSSC, inside_TSS) == pytest.approx(1)
    assert separation(np.array([[[ones, twos], [ones, twos]]]), inside_TSS) == pytest.approx(0)
    # Means 0.75 and 0.25 about 0.5 in both channels: a quarter of the variance.
    mixed_TSSC = np.array([[[ones, ones], [twos, twos]], [[ones, twos], [twos, ones]]])
    assert separation(mixed_TSSC, np.repeat(inside_TSS, 2, axis=0)) == pytest.approx(0.25)
    assert separation(apart_TSSC, np.ones((1, 2, 2))) == separation(np.zeros((1, 2, 2, 2)), inside_TSS) == 0


def test_mean_feature_is_the_direction_of_what_is_inside():
    features_TSSC = np.array([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [-1.0, 0.0]]]])
    np.testing.assert_allclose(mean_feature(features_TSSC, np.array([[[1, 1], [0, 0]]])), [2**-0.5, 2**-0.5])
    np.testing.assert_allclose(mean_feature(features_TSSC, np.zeros((1, 2, 2))), [0, 0])

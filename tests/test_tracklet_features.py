"""What a tracklet's filter leaves of its regions is what the mask branch computes, and looking changes nothing."""

import numpy as np
import pytest
import torch
from builders import tiny_model

from effvis.tracklet_features import filtered_region


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
        # The branch takes all regions as one list, tracklet after tracklet, frame after frame.
        for norms_TSS, x in zip((region.before_TSS, region.after_TSS), calls[0], strict=True):
            expected = x.unflatten(0, (4, 3))[tracklet].norm(dim=-1).view(3, 6, 6)
            torch.testing.assert_close(torch.from_numpy(norms_TSS), expected)
    assert not branch._forward_hooks, "the network is left as it was"
    with torch.inference_mode():
        assert torch.equal(model.mask_logits(features, output), masks)


def test_a_drifted_proposal_crops_elsewhere_and_is_filtered_by_the_same_query(seen):
    model, features, output = seen
    still, drifted = (filtered_region(model, features, output, 1, (share, 0.0)) for share in (0.0, 0.5))
    width_T = still.boxes_T4[:, 2] - still.boxes_T4[:, 0]
    np.testing.assert_allclose(drifted.boxes_T4 - still.boxes_T4, width_T[:, None] * [0.5, 0, 0.5, 0], atol=1e-4)
    assert not np.allclose(drifted.before_TSS, still.before_TSS)
    assert not np.allclose(drifted.after_TSS, still.after_TSS)

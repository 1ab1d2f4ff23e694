"""CrossVIS in tests: small networks, and pairs of frames."""

import torch

from effvis.crossvis.config import CrossVISConfig
from effvis.crossvis.model import CrossVIS
from effvis.data.targets import ClipPairBatch, ClipTargets

SIZES = dict(num_classes=3, backbone="tiny", hidden_dim=16, coarser_levels=1, tower_convs=1, norm_groups=4, size_per_stride=4,
             mask_branch_dim=8, mask_branch_convs=1, mask_channels=8, embedding_dim=8, identities=20, norm="group")


def tiny_crossvis(seed=0, **changes):
    """A network from random numbers whose locations differ: layers that are nearly zero in a fresh one are not."""
    torch.manual_seed(seed)
    model = CrossVIS(CrossVISConfig(**(SIZES | changes)))
    for layer in (model.head.class_logits, model.head.reach, model.head.centreness, model.head.filters):
        torch.nn.init.normal_(layer.weight, std=0.1)
    torch.nn.init.constant_(model.head.class_logits.bias, -1.0)
    torch.nn.init.normal_(model.identity.weight, std=0.1)
    return model


def frame(instances, size=(32, 48)):
    """A frame (1, 3, H, W) of bright boxes, and its targets.

    Args:
        instances: (id, label, x0, y0, x1, y1) of each.
    """
    pixels = torch.zeros(1, 3, *size, dtype=torch.uint8)
    masks = torch.zeros(len(instances), 1, *size, dtype=torch.bool)
    for k, (number, label, x0, y0, x1, y1) in enumerate(instances):
        masks[k, 0, y0:y1, x0:x1] = True
        pixels[0, :, y0:y1, x0:x1] = torch.tensor([40 + 30 * number % 200, 80 + 50 * label, 200])[:, None, None]
    columns = torch.tensor([list(instance) for instance in instances], dtype=torch.float32).view(-1, 6)
    return pixels, ClipTargets(columns[:, 0].long(), columns[:, 1].long(), torch.ones(len(instances), 1, dtype=torch.bool),
                               columns[:, None, 2:], masks)


def pairs_of(*pairs):
    """A batch of pairs of ``frame``s."""
    frames = tuple(torch.stack([pair[place][0] for pair in pairs]) for place in range(2))
    return ClipPairBatch(frames, tuple([pair[place][1] for pair in pairs] for place in range(2)), list(range(len(pairs))))


# Instance 2 is gone in the second frame, and 3 is new; 4 and 5 are in both frames of another video.
PAIRS = (
    (frame([(1, 0, 4, 4, 16, 14), (2, 1, 20, 8, 44, 28)]), frame([(3, 2, 2, 18, 12, 30), (1, 0, 24, 6, 36, 16)])),
    (frame([(4, 2, 8, 2, 40, 30), (5, 0, 18, 10, 28, 20)]), frame([(4, 2, 2, 2, 34, 30), (5, 0, 12, 10, 22, 20)])),
)

"""QueryInst's network: EfficientVIS's at T=1 and, where it is to know objects again, a tracking head beside it.

Dimensions in names: B frames, N objects of each, T=1, P locations of a region, C channels, D values of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from effvis.model.dynamic_conv import DynamicConv
from effvis.model.efficientvis import EfficientVIS, Features
from effvis.queryinst.config import QueryInstConfig
from effvis.tracking.head import TrackingHead


class QueryTracking(nn.Module):
    """Embeddings of objects from their regions, each filtered by the object's query, for the head of MaskTrack R-CNN.

    The filter is a dynamic convolution like the mask head's, with weights of its own, so that embeddings are the queries' as
    classes, boxes and masks are.
    """

    def __init__(self, config: QueryInstConfig):
        super().__init__()
        self.dynamic_conv = DynamicConv(config.hidden_dim, config.dynamic_dim)
        self.head = TrackingHead(config.roi_size**2 * config.hidden_dim, config.tracking_dim)

    def forward(self, query_BNTC: Tensor, regions_BNTPC: Tensor) -> Tensor:
        """The embeddings (B, N, D)."""
        return self.head(self.dynamic_conv(query_BNTC, regions_BNTPC).flatten(0, 2)).unflatten(0, query_BNTC.shape[:2])


class QueryInst(EfficientVIS):
    """A QueryInst with a tracking head."""

    def __init__(self, config: QueryInstConfig):
        super().__init__(config)
        self.tracking = QueryTracking(config)

    def load_initial(self, weights: Mapping[str, Tensor]) -> list[str]:
        """As ``EfficientVIS.load_initial``; a tracking head that is not among the weights stays as initialised."""
        fresh = {name: value for name, value in self.state_dict().items()
                 if name.startswith("tracking.") and name not in weights}
        return super().load_initial({**weights, **fresh}) + list(fresh)


def build(config: QueryInstConfig) -> EfficientVIS:
    """A fresh network; without a tracking head it is EfficientVIS's."""
    return EfficientVIS(config) if config.tracking == "none" else QueryInst(config)


def embeddings(model: EfficientVIS, features: Features, boxes_BNT4: Tensor, query_BNTC: Tensor) -> Tensor:
    """The embeddings (B, N, D) of objects in these boxes; no gradient reaches the boxes, as with masks.

    Args:
        model: with a tracking head.
        query_BNTC: the objects' attended queries (``ClipOutput.mask_query_BNTC``).
    """
    if not boxes_BNT4.shape[1]:
        return query_BNTC.new_zeros(len(query_BNTC), 0, model.config.tracking_dim)
    return model.tracking(query_BNTC, model.regions(features, boxes_BNT4.detach(), model.config.roi_size))

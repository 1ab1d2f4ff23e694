"""QueryInst in tests: small ones, and the reference numbers of ../shared/oracle/queryinst with their made-up weights."""

import importlib.util

import pytest
import torch
from support.project import CHECKOUT

from effvis.queryinst.config import QueryInstConfig
from effvis.queryinst.model import build

ORACLE = CHECKOUT.parent / "shared" / "oracle" / "queryinst"
needs_oracle = pytest.mark.skipif(not (ORACLE / "cases.npz").is_file(), reason="there is no ../shared/oracle/queryinst")
PICTURES = ("320x480", "360x640")
SIZES = dict(queries=4, iterations=2, hidden_dim=16, attention_heads=2, ffn_dim=32, dynamic_dim=8, roi_size=4, mask_roi_size=4,
             mask_convs=1, backbone="tiny")


def oracle_weights():
    """The module that makes the weights and pictures."""
    spec = importlib.util.spec_from_file_location("queryinst_weights", ORACLE / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_queryinst(seed=0, **changes):
    """A network from random numbers whose proposals differ."""
    torch.manual_seed(seed)
    model = build(QueryInstConfig(**({"num_classes": 3} | SIZES | changes))).eval().requires_grad_(False)
    model.proposal_NT4.copy_(torch.rand_like(model.proposal_NT4) * 0.5 + 0.25)
    for interaction in model.interactions:
        torch.nn.init.normal_(interaction.class_logits.weight)
    return model

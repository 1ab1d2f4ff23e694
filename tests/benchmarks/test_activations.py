"""The benchmark that counts the memory of a training step: what it counts, and that the paper's profile fits into 24 GB."""

import contextlib
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_map_only

from effvis.methods import build_model
from pipeline.settings.loading import load_params

pytestmark = pytest.mark.slow
PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
SMALL = ["model.backbone=resnet18", "scale.backbone.R50=resnet18", "train.frozen_stages=1", "model.iterations=1"]


@pytest.fixture(scope="module")
def benchmark():
    return importlib.import_module("benchmarks.activations")


def measured(benchmark, *overrides, **case):
    params = load_params(PARAMS, [*SMALL, *overrides])
    return benchmark.measure(params, benchmark.Case("small", "R50", frames=9, **case)), params


@pytest.fixture(scope="module")
def plain(benchmark):
    return measured(benchmark)


def test_weights_gradients_and_optimizer_are_those_of_the_network(benchmark, plain):
    found, params = plain
    model = build_model(params.model.resolve(benchmark.CATEGORIES, 3))
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    stem = ("backbone.body.conv1.", "backbone.body.layer1.")
    learning = sum(weight.nbytes for name, weight in model.named_parameters() if not name.startswith(stem))
    assert found["weights"] == pytest.approx(held, rel=1e-3)
    assert found["gradients"] == pytest.approx(learning, rel=1e-3)
    assert found["optimizer"] == pytest.approx(2 * learning, rel=1e-3)
    assert found["peak"] >= found["weights"] + found["optimizer"] + found["kept for the backward pass"]


def test_living_storages_are_counted_until_they_are_freed(benchmark):
    with benchmark.FakeTensorMode(), benchmark.Living() as living:
        first = torch.zeros(1000)
        second = first + 1
        assert (living.now, living.peak) == (8000, 8000)
        first.add_(second)
        view = second[:10]
        del second
        assert living.now == 8000, "a view keeps its storage"
        del view
        assert (living.now, living.peak) == (4000, 8000)


def test_a_step_with_values_holds_the_same(benchmark, monkeypatch):
    """On a processor in fp32, what is counted without values is what really lives."""
    overrides = ["train.activation_checkpointing=true"]
    counted = measured(benchmark, *overrides)[0]

    class OfReal(benchmark.Living):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            tree_map_only(torch.Tensor, self._count, result)
            return result

    monkeypatch.setattr(benchmark, "Living", OfReal)
    monkeypatch.setattr(benchmark, "FakeTensorMode", lambda **options: contextlib.nullcontext())
    real = measured(benchmark, *overrides)[0]
    for name in ("kept for the backward pass", "forward", "backward", "step", "peak"):
        assert counted[name] == pytest.approx(real[name], rel=0.02), name


def test_recomputing_keeps_less_and_a_pair_more(benchmark, plain):
    name = "kept for the backward pass"
    kept = plain[0][name]
    assert measured(benchmark, "train.activation_checkpointing=true")[0][name] < kept / 2
    assert measured(benchmark, clips=2)[0][name] > 1.5 * kept


def test_the_paper_s_profile_fits_into_its_gpus(benchmark, tmp_path, capsys):
    """At most 9 GiB for ResNet-50 at T=36, at most 18 GiB for the worst row of any table."""
    file = tmp_path / "found.json"
    assert benchmark.main(["--params", str(PARAMS), "--json", str(file)]) == 0
    one, worst = json.loads(file.read_text()).values()
    assert one["peak"] <= 9 * 2**30 and worst["peak"] <= 18 * 2**30
    assert capsys.readouterr().out.count("reached") == 2

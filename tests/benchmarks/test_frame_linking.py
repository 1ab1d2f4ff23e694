"""The benchmark of the cues that link frames: what it tries, on which videos, and what it prints."""

import importlib

import pytest

from pipeline.indexing.read import load_index
from pipeline.search.handcraft import with_holdout
from pipeline.settings.loading import load_params


@pytest.fixture
def benchmark():
    return importlib.import_module("benchmarks.frame_linking")


def test_it_tries_every_combination_of_cues_but_none_at_all(benchmark):
    found = benchmark.grid((0.0, 1.0))
    assert len(found) == 15 and {tuple(cues) for cues in found} == {("query", "box_iou", "mask_iou", "category")}
    assert len({tuple(cues.values()) for cues in found}) == 15 and all(any(cues.values()) for cues in found)


@pytest.mark.slow
@pytest.mark.parametrize("tracking", ["none", "head"])
def test_it_links_what_the_network_sees_once_on_videos_that_it_was_not_trained_on(
    benchmark, tiny_project, monkeypatch, capsys, tracking
):
    file = tiny_project() / "params.yaml"
    watched = []
    train, observe = benchmark.train_with_bars, benchmark.observe_split

    def trained(params, spec):
        watched.append(spec)
        return train(params, spec)

    def observed(model, index, *given, **named):
        watched.append(index)
        return observe(model, index, *given, **named)

    monkeypatch.setattr(benchmark, "train_with_bars", trained)
    monkeypatch.setattr(benchmark, "observe_split", observed)
    assert benchmark.main(["--params", str(file), "--epochs", "1", "--tracking", tracking, "--hold-out", "0.4", "--weights",
                           "0", "2", "--thresholds", "0.2", "0.6"]) == 0
    spec, seen = watched
    assert spec.train.epochs == 1 and spec.model.tracking == tracking and seen.digest == load_index(
        with_holdout(load_params(file), 0.4, 0), "val").digest
    title, *lines = capsys.readouterr().out.splitlines()
    if tracking == "head":
        ap, _, by = lines.pop(0).strip().partition("  ")
        assert by == "by the tracking head" and 0 <= float(ap) <= 100
    columns, *lines = lines
    assert title == f"run {spec.key}, {len(seen.videos)} videos held out"
    assert columns.split() == ["AP", "query", "box_iou", "mask_iou", "category", "threshold"]
    of_cues, best = lines[: lines.index("")], lines[lines.index("the best of all") + 1:]
    tried = [tuple(map(float, line.split())) for line in of_cues]
    assert len(tried) == 15 == len({line[1:5] for line in tried})
    assert [ap for ap, *_ in tried] == sorted((ap for ap, *_ in tried), reverse=True)
    assert len(best) == benchmark.SHOWN and {float(line.split()[-1]) for line in best} <= {0.2, 0.6}

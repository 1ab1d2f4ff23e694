"""The benchmark of the paper's training step, at a size that a processor can handle."""

import importlib
import json
import math

import pytest

pytestmark = pytest.mark.slow


def test_it_measures_steps_of_each_batch_size(tmp_path, capsys):
    benchmark = importlib.import_module("benchmarks.paper_training")
    file = tmp_path / "steps.json"
    arguments = "--device cpu --size 32 64 --frames 2 --steps 1 --warm-up 0 --precision fp32 --batch-size 1 --batch-size 2"
    assert benchmark.main([*arguments.split(), "--json", str(file)]) == 0
    measured = json.loads(file.read_text())
    assert (measured["precision"], measured["frames"], measured["size"]) == ("fp32", 2, [32, 64])
    for size, one in zip((1, 2), measured["steps"], strict=True):
        assert one["batch_size"] == size and one["peak_gib"] > 0
        assert math.isclose(sum(one["shares"].values()), 1.0) and one["shares"].keys() == set(benchmark.PARTS)
        assert math.isclose(one["clips_per_second"], size / one["seconds"])
        assert math.isclose(one["hours"], benchmark.VIDEOS * benchmark.EPOCHS / one["clips_per_second"] / 3600)
    assert capsys.readouterr().out.count("clips/s") == 2


def test_a_gpu_that_is_not_there_is_said(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    benchmark = importlib.import_module("benchmarks.paper_training")
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cuda"])
    assert "PyTorch sees no GPU" in capsys.readouterr().err

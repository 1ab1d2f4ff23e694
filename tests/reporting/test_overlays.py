"""Pictures of a run's tracklets, from a run that was really trained and evaluated."""

import numpy as np
import pytest
from PIL import Image

from effvis.errors import UserError
from pipeline.grid.rows import headline_spec
from pipeline.overlays import main
from pipeline.reporting.tracklets import evenly
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params


def test_evenly():
    assert evenly(10, 3) == [0, 4, 9] and evenly(2, 5) == [0, 1] and evenly(7, 1) == [0]


def test_a_run_that_is_not_evaluated_is_named(tiny_project, tmp_path):
    project = tiny_project(pretrain={"source": "none"})
    with pytest.raises(UserError, match="not evaluated"):
        main(["--params", str(project / "params.yaml"), "--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_pictures_show_truth_and_predictions_of_the_scored_frames(tiny_project, tmp_path):
    from pipeline.engine.run import evaluate_run, train_run

    project = tiny_project(pretrain={"source": "none"}, inference={"presence_threshold": 0.0, "test_fps": 1.5})
    params = load_params(project / "params.yaml")
    spec = headline_spec(params)
    train_run(params, spec.train)
    evaluate_run(params, spec)
    arguments = ["--params", str(project / "params.yaml"), "--videos", "2", "--frames", "4", "--score", "0", "--scale", "3"]
    assert main([*arguments, "--out", str(tmp_path / "photo")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "sketch"), "--sketch"]) == 0
    assert main(arguments) == 0
    kept = RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key) / "pictures"
    assert sorted(path.name for path in kept.iterdir()) == ["1.png", "3.png"], "where MLflow's sync finds them"
    photos = sorted((tmp_path / "photo").glob("*.png"))
    assert [path.stem for path in photos] == ["1", "3"]
    # Of eight frames at 6 per second, 1.5 per second are kept: two frames of 48x32, enlarged three times, in two rows.
    photo, sketch = (np.asarray(Image.open(tmp_path / kind / "1.png").convert("RGB")) for kind in ("photo", "sketch"))
    assert photo.shape[0] >= 2 * 32 * 3 and 2 * 48 * 3 <= photo.shape[1] < 3 * 48 * 3 + 100
    assert (sketch == 255).all(axis=-1).mean() > (photo == 255).all(axis=-1).mean()
    truth, ours = photo[: photo.shape[0] // 2], photo[photo.shape[0] // 2:]
    assert np.any(truth[: ours.shape[0]] != ours[: truth.shape[0]])

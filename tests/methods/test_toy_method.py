"""A method that somebody adds as a folder and a file on Python's path, without editing a file of the project."""

import json
import os
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
import yaml
from support.project import CHECKOUT

from pipeline import methods

FILES = {
    "effvis/toy/__init__.py": "",
    "effvis/toy/network.py": '''
        from typing import ClassVar

        from torch import nn

        from effvis.config import Backbone, Config, OptimisationConfig


        class ToyConfig(Config):
            method: ClassVar[str] = "toy"
            num_classes: int = 1
            clip_length: int = 1
            backbone: Backbone = "tiny"
            width: int = 3

            def resolve(self, num_classes, clip_length):
                return self.model_copy(update={"num_classes": num_classes, "clip_length": clip_length})

            def at_one_frame(self):
                return self.model_copy(update={"clip_length": 1})


        class ToyTrainConfig(OptimisationConfig):
            target: float = 0.5


        class Toy(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.config = config
                self.brightness = nn.Linear(3, config.width)
    ''',
    "effvis/toy/losses.py": '''
        from effvis.toy.network import Toy


        def brightness_loss(model: Toy, batch, target, counts=None):
            pixels = batch.frames[0].float().mean(dim=(-1, -2)) / 255
            return {"brightness": (model.brightness(pixels) - target).square().mean()}
    ''',
    "effvis/toy/method.py": '''
        from effvis.methods import Method
        from effvis.toy.network import Toy, ToyConfig

        METHOD = Method(config=ToyConfig, build=Toy, predict_clip=None)
    ''',
    "pipeline/methods/toy.py": '''
        from functools import partial

        from effvis.config import Config
        from effvis.data.masks import encode
        from effvis.toy.network import ToyConfig, ToyTrainConfig
        from pipeline.methods.base import Method, PretrainSettings


        class ToyPretrainSettings(PretrainSettings):
            train: ToyTrainConfig = ToyTrainConfig()


        class ToySettings(Config):
            model: ToyConfig = ToyConfig()
            pretrain: ToyPretrainSettings = ToyPretrainSettings(source="none")
            train: ToyTrainConfig = ToyTrainConfig(epochs=1, lr_drop_epoch=0.5, batch_size=2)


        def train_config(settings, correspondence):
            return settings.train


        def pretrain_config(settings, correspondence):
            return settings.pretrain.train


        def clips_per_video(train, clip_length, longest_video):
            return 1


        def losses(model, train):
            from effvis.toy.losses import brightness_loss

            return partial(brightness_loss, model, target=train.target)


        def predict(model, index, inference, input_size, progress):
            """Everything is one object of the first class."""
            import numpy as np
            from effvis.inference.predictor import Predictions, kept_frames

            kept = {video.id: kept_frames(video, inference.test_fps) for video in index.videos}
            results = [
                {"video_id": video.id, "category_id": index.categories[0].id, "score": 0.5,
                 "segmentations": [encode(np.ones((video.height, video.width), bool))] * video.length}
                for video in index.videos]
            progress(len(index.videos), len(index.videos))
            return Predictions(results, kept)


        METHOD = Method(name="toy", title="Toy", section="toy", settings=ToySettings, train_config=train_config,
                        pretrain_config=pretrain_config, clips_per_video=clips_per_video, losses=losses, predict=predict,
                        training_code=("effvis.toy.losses",))
    ''',
}
TABLE = {
    "title": "A toy", "rows": [
        {"name": "toy", "set": {"T": 9, "method": "toy"}},
        {"name": "wide toy", "set": {"T": 9, "method": "toy", "params": {"toy.model.width": 5}}},
    ],
}


END = "\n--- end of a command ---\n"
ONE_AFTER_THE_OTHER = f"""
import contextlib, importlib, shlex, sys
from pipeline.system.cli import run

def main(argv=None):
    for line in sys.argv[1:]:
        command, *words = shlex.split(line)
        with contextlib.suppress(SystemExit) if words == ["--help"] else contextlib.nullcontext():
            assert importlib.import_module("pipeline." + command).main(words) == 0
        print(end={END!r})
    return 0

run(main)
"""


@pytest.fixture
def toy(tmp_path, tiny_project, empty_mlflow):
    """Runs a command with the toy method on the path, in a separate project that has a table of it."""
    for name, text in FILES.items():
        (tmp_path / "added" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "added" / name).write_text(dedent(text))
    # One run at a time: a second worker would spend as long on its imports as both trainings take.
    project = tiny_project(seeds=1, resources={"slots": 1})
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    (project / "experiments" / "tabletoy.yaml").write_text(yaml.safe_dump(TABLE))

    def run(*lines):
        """What each of the command lines says; one process runs them all, as its start is most of their work."""
        path = os.pathsep.join((str(CHECKOUT), str(tmp_path / "added")))
        ended = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_THE_OTHER, *lines], cwd=project, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout.split(END)[:-1]

    run.folder, run.project = tmp_path / "added", project
    return run


@pytest.mark.slow
def test_it_is_trained_evaluated_and_in_the_table(toy):
    grid = "ablate --grid tabletoy --methods toy"
    before, _, after = toy("keys", grid, f"{grid} --dry-run")
    rows = json.loads((toy.project / "results" / "tabletoy.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["toy", "wide toy"]
    assert all(row["measured"]["AP"]["mean"] is not None for row in rows)
    configs = [yaml.safe_load(file.read_text()) for file in (toy.project / "runs").glob("*/config.yaml")]
    assert sorted(config["model"]["width"] for config in configs) == [3, 5]
    assert {config["method"] for config in configs} == {"toy"}
    assert after.count("1 of 1 evaluations done") == 2
    losses = toy.folder / "effvis" / "toy" / "losses.py"
    losses.write_text(losses.read_text().replace("square()", "abs()"))
    keys, plan = toy("keys", f"{grid} --dry-run")
    changed = {line.split()[1] for old, line in zip(before.splitlines(), keys.splitlines(), strict=True) if old != line}
    assert changed == {"toy"}, "the code of the toy is in its own key and in no other"
    assert plan.count("0 of 1 evaluations done") == 2


def test_what_it_says_of_itself_is_asked_for(toy):
    names = ",".join((methods.DEFAULT, *sorted({*methods.names(), "toy"} - {methods.DEFAULT})))
    for said in toy("ablate --help", "import_weights --help"):
        assert names in said.replace("\n", "").replace(" ", "")
    with pytest.raises(AssertionError, match="Toy has no attention"):
        (toy.project / "experiments" / "tabletoy.yaml").write_text(yaml.safe_dump(
            {"title": "A toy", "rows": [{"name": "toy", "set": {"method": "toy", "attention": "joint"}}]}))
        toy("ablate --grid tabletoy --dry-run")
    with pytest.raises(AssertionError, match="toy.model.clip_length.*cannot be set"):
        toy("ablate --grid tabletoy --dry-run -S toy.model.clip_length=2")

"""The stages that a change reruns: dvc repro in a project where everything was run before."""

import json
import shutil

import pytest
import yaml
from support.dvc_project import contents, dvc, jobs_run, stages_run
from support.project import write_params

from pipeline.grid.rows import headline_spec, load_table
from pipeline.indexing import build
from pipeline.planning.plan import plan_rows
from pipeline.runs import cells
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params

pytestmark = pytest.mark.slow

FRAME = "train/JPEGImages/00001/00003.jpg"
SHOW_NUMBERS = {"claims", "report"}  # they run if numbers changed; such a small network may score the same again
ALL_NUMBERS = ("ablate@table1e", "ablate@table1h", "train", "evaluate")


def make_numbers(project):
    """Runs every stage but those that only show numbers, which must be the only ones left; returns the output."""
    output = dvc(project, "repro", *ALL_NUMBERS)
    assert stale(project) <= SHOW_NUMBERS
    return output


def stale(project):
    """The stages that dvc repro would run."""
    return json.loads(dvc(project, "status", "--json")).keys()


def test_what_nothing_depends_on_reruns_nothing(dvc_project):
    """Neither a second repro, nor a comment in the model, nor the number of processors that train reruns anything."""
    before = contents(dvc_project / "runs") | contents(dvc_project / "results", "*.*")
    assert stages_run(dvc(dvc_project, "repro")) == []
    with (dvc_project / "effvis" / "model" / "efficientvis.py").open("a") as module:
        module.write("\n# Nothing but a remark.\n")
    write_params(dvc_project, resources={"slots": 2})
    assert stages_run(dvc(dvc_project, "repro")) == ["plan"]
    assert contents(dvc_project / "runs") | contents(dvc_project / "results", "*.*") == before


def test_a_changed_row_runs_only_what_that_row_misses(dvc_project):
    """Another clip length needs its own training, which starts from the existing pretraining."""
    def done():
        return contents(dvc_project / "runs", "*/weights.safetensors"), contents(dvc_project / "results" / "cells")

    trainings, cells = done()
    file = dvc_project / "experiments" / "table1e.yaml"
    table = yaml.safe_load(file.read_text())
    table["rows"][0]["set"]["T"] = 18
    file.write_text(yaml.safe_dump(table))
    output = make_numbers(dvc_project)
    assert stages_run(output) == ["plan", "ablate@table1e"]
    assert jobs_run(output) == ["evaluate", "train"]
    for before, now in zip((trainings, cells), done(), strict=True):
        assert before.items() <= now.items() and len(now) == len(before) + 1


def test_another_evaluator_evaluates_everything_again_and_trains_nothing(dvc_project):
    trained = contents(dvc_project / "runs", "*/weights.safetensors")
    with (dvc_project / "effvis" / "evaluation" / "video_ap.py").open("a") as module:
        module.write("\nCHANGED = True\n")
    output = make_numbers(dvc_project)
    assert stages_run(output) == ["plan", "ablate@table1e", "ablate@table1h", "evaluate"]
    assert jobs_run(output) == ["evaluate"] * 4, "each table has two rows"
    assert contents(dvc_project / "runs", "*/weights.safetensors") == trained
    assert len(list((dvc_project / "runs").glob("*/eval/*/metrics.json"))) == 4 + 4, "the headline's is a row of table 1e"


def test_another_setting_of_inference_makes_every_evaluation_stale_and_no_training(dvc_project):
    """It is asked what would be run; that it is then run is shown above. Without table 1e, the headline is in no table."""
    write_params(dvc_project, inference={"presence_threshold": 0.2}, tables=["table1h"])
    assert stages_run(dvc(dvc_project, "repro", "plan")) == ["plan"]
    assert stale(dvc_project) - SHOW_NUMBERS == {"ablate@table1h", "evaluate"}
    params = load_params(dvc_project / "params.yaml")
    rows = load_table(params, "table1h").rows
    headline = headline_spec(params)
    assert plan_rows(params, rows).missing == {row.evaluations[0].key for row in rows} and len(rows) == 2
    assert cells.find_cell(params, headline) is None and RunStore(params.runs_dir).is_done(headline.train.key)


def test_a_damaged_drawn_frame_is_put_back(dvc_project):
    frame = dvc_project / "data" / "shapes-vis" / FRAME
    whole = frame.read_bytes()
    frame.write_bytes(whole[:300])
    assert stages_run(dvc(dvc_project, "repro")) == []
    assert frame.read_bytes() == whole


def test_a_folder_of_the_users_is_watched(dvc_project, tmp_path):
    """The folder is outside the project, and leaves the drawn data set as it is."""
    own = tmp_path / "own"
    shutil.copytree(dvc_project / "data" / "shapes-vis", own)
    drawn = contents(dvc_project / "data")
    write_params(dvc_project, dataset=str(own))
    assert stages_run(dvc(dvc_project, "repro", "plan")) == ["index", "plan"]
    assert stages_run(dvc(dvc_project, "repro", "plan")) == []
    keys = contents(dvc_project / "results" / "plan")
    (own / FRAME).write_bytes((own / FRAME).with_name("00004.jpg").read_bytes())
    assert stages_run(dvc(dvc_project, "repro", "plan")) == ["index", "plan"]
    assert all(content != keys[name] for name, content in contents(dvc_project / "results" / "plan").items())
    assert drawn.items() <= contents(dvc_project / "data").items()
    write_params(dvc_project, dataset="data/shapes-vis")
    assert stages_run(dvc(dvc_project, "repro")) == ["plan"]


def test_commands_by_hand_on_another_data_set_make_nothing_stale(dvc_project, tmp_path):
    own = tmp_path / "shapes-vis"
    shutil.copytree(dvc_project / "data" / "shapes-vis", own)
    build.build(load_params(dvc_project / "params.yaml", [f"dataset={own}"]))
    assert "up to date" in dvc(dvc_project, "repro")

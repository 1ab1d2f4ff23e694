"""The machine's clock is changed while a grid runs: forward by days, and back to a time before the grid began."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.project import CHECKOUT
from support.stored import steps_done
from support.tracking import runs_of, steps_of

from pipeline.engine.run import evaluate_run, train_run
from pipeline.grid.rows import load_table
from pipeline.settings.loading import load_params
from pipeline.tables.write import write_tables

pytestmark = pytest.mark.slow
STEPS = 45
DAY = 86400
JUMPS = (3 * DAY, -3 * DAY, 3600, -3600)  # seconds from the true time


@pytest.fixture(scope="module")
def shifted_clock(tmp_path_factory) -> Path:
    """A library that shifts the time of day for every process that preloads it."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler: apt-get install gcc")
    library = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    source = Path(__file__).resolve().parents[1] / "support" / "shifted_clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def all_steps_done(folder: Path) -> int:
    return sum(steps_done(file.parent) for file in folder.glob("runs/*/history.jsonl"))


def test_a_clock_that_is_set_changes_nothing_but_the_times_that_are_noted(tiny_project, shifted_clock, empty_mlflow):
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, train={"epochs": STEPS // 3},
                          resources={"checkpoint_seconds": 1, "slots": 1})
    calm = folder.with_name("calm")
    shutil.copytree(folder, calm)
    undisturbed = load_params(calm / "params.yaml")
    table = load_table(undisturbed, "table1e")
    for row in table.rows:
        (spec,) = row.evaluations
        train_run(undisturbed, spec.train)
        evaluate_run(undisturbed, spec)
    write_tables(undisturbed, [table])

    shutil.copy(empty_mlflow, folder / "mlflow.db")
    offset = folder / "offset"
    offset.write_text("0")
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "pipeline.ablate", "--grid", "table1e"]
    disturbed = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True,
                                 env=environment | {"LD_PRELOAD": str(shifted_clock), "CLOCK_OFFSET": str(offset)})
    seen, jumps = 0, itertools.cycle(JUMPS)
    while disturbed.poll() is None:
        now = all_steps_done(folder)
        if now >= seen + 10:  # a jump every ten steps of both trainings together
            offset.write_text(str(next(jumps)))
            seen = now
        time.sleep(0.05)
    assert disturbed.returncode == 0, disturbed.stderr.read()

    client, runs = runs_of(f"sqlite:///{folder / 'mlflow.db'}")
    done = sorted(folder.glob("runs/*/done.json"))
    assert len(done) == 2
    noted = []
    for file in done:
        facts = json.loads(file.read_text())
        same = json.loads((calm / file.relative_to(folder)).read_text())
        assert facts["sha256"] == same["sha256"], "the weights"
        assert 0 < facts["seconds"] < DAY
        history = [json.loads(line) for line in file.with_name("history.jsonl").read_text().splitlines()]
        assert [line["step"] for line in history] == list(range(1, STEPS + 1))
        noted += [line["time"] for line in history]
        run = runs[file.parent.name]
        assert steps_of(client, run) == list(range(1, STEPS + 1))
        assert run.info.status == "FINISHED" and run.info.end_time >= run.info.start_time
    assert max(noted) - min(noted) > 3 * DAY, "the clock never jumped"
    assert (folder / "results" / "table1e.csv").read_text() == (calm / "results" / "table1e.csv").read_text()

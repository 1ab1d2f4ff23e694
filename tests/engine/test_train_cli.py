"""Training as a command: deterministic, and the same whether or not it was killed. Real processes, a tiny dataset."""

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from support.project import TINY, merged
from support.stored import saved_at, steps_done

from effvis.errors import UserError
from pipeline.datasets import place
from pipeline.engine.run import evaluate_run, train_run
from pipeline.engine.ship import ship
from pipeline.grid import starts
from pipeline.grid.rows import headline_spec, pretrain_spec
from pipeline.indexing import build
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings

PROJECT = Path(__file__).resolve().parents[2]
# Enough steps to be killed in the middle of, and checkpoints between them.
LONGER = {
    "shapes": {"val_videos": 2},
    "pretrain": {"train": {"epochs": 4, "batch_size": 2, "lr_drop_epoch": 3}},
    "train": {"epochs": 6, "batch_size": 1, "lr_drop_epoch": 5},
    "resources": {"checkpoint_seconds": 0.2},
}
STEPS = 36


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "experiments", folder / "experiments")
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(merged(values, merged(TINY, LONGER))))
    params = load_params(folder / "params.yaml")
    place.put_in_place(params)
    build.build(params)
    return folder


def command(project, module, *arguments):
    return [sys.executable, "-m", f"pipeline.{module}", "--params", str(project / "params.yaml"), *arguments]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def run_command(project, module, *arguments):
    return subprocess.run(command(project, module, *arguments), env=environment(), capture_output=True, text=True)


def run_here(project, module, *arguments):
    """The command in this process, which has loaded PyTorch already."""
    return importlib.import_module(f"pipeline.{module}").main(command(project, module, *arguments)[3:])


def weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(project):
    """The headline run of the project, trained without interruption in this process; (params, spec, folder)."""
    params = load_params(project / "params.yaml")
    spec = headline_spec(params).train
    return params, spec, train_run(params, spec)


def interrupt_when_at_step(project, step, number, *arguments):
    """Starts training and sends it a signal once its history has this many steps; returns its exit code and errors."""
    params = load_params(project / "params.yaml", [argument for argument in arguments if argument != "-S"])
    history = RunStore(params.runs_dir).folder(headline_spec(params).train.key) / "history.jsonl"
    process = subprocess.Popen(command(project, "train", *arguments), env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if history.exists() and steps_done(history.parent) >= step:
            process.send_signal(number)
            break
        time.sleep(0.005)
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


@pytest.mark.slow
def test_training_leaves_a_whole_run(trained):
    params, spec, folder = trained
    store = RunStore(params.runs_dir)
    done = store.done(spec.key)
    assert done["steps"] == STEPS and steps(folder) == list(range(1, STEPS + 1))
    assert yaml.safe_load((folder / "config.yaml").read_text()) == spec.describe()
    assert store.is_done(spec.parent.key) and not (folder / "checkpoint").exists()
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    parts = [name for name in rows[0] if name.startswith("loss_")]
    assert sum(rows[0][name] for name in parts) == pytest.approx(rows[0]["loss"], rel=1e-5)
    assert rows[-1]["lr"] == pytest.approx(params.train.lr / 10)


@pytest.mark.slow
def test_a_done_run_is_not_trained_again(trained):
    params, spec, folder = trained
    before = (folder / "done.json").stat().st_mtime_ns, (folder / "history.jsonl").stat().st_mtime_ns
    reports = []
    assert train_run(params, spec, report=reports.append) == folder
    assert ((folder / "done.json").stat().st_mtime_ns, (folder / "history.jsonl").stat().st_mtime_ns) == before
    assert reports == []


@pytest.mark.slow
def test_the_same_training_in_another_process_gives_the_same_bits(project, trained, tmp_path):
    """This holds with and without batches prepared beside the step; one process does both, as its start is most of the work."""
    _, spec, folder = trained
    lines = [command(project, "train", "-S", f"runs_dir={tmp_path / prefetch}", "-S",
                     f"results_dir={tmp_path / prefetch / 'results'}", "-S", f"resources.prefetch={prefetch}")[3:]
             for prefetch in ("false", "true")]
    program = f"from pipeline.train import main\nfor arguments in {lines}:\n    assert main(arguments) == 0"
    result = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for runs in (tmp_path / "false", tmp_path / "true"):
        assert weights(runs / spec.key) == weights(folder)
        assert weights(runs / spec.parent.key) == weights(folder.parent / spec.parent.key)
        assert json.loads((runs / "results/train.json").read_text())["run"] == spec.key


@pytest.mark.slow
def test_another_seed_gives_other_weights(trained):
    params, spec, folder = trained
    other = headline_spec(params, seed=1).train
    assert other.key != spec.key and weights(train_run(params, other)) != weights(folder)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bits(project, trained, tmp_path):
    """This holds with and without batches prepared beside the step; ``benchmarks.torture.kills`` repeats each twenty times."""
    _, spec, folder = trained
    arguments = ("-S", f"runs_dir={tmp_path}", "-S", f"results_dir={tmp_path / 'results'}")
    moment, late = random.randint(2, STEPS - 8), STEPS - 8  # later, it might be done before the signal comes
    print(f"killing at steps {moment} and {late}")
    for step, prefetch in ((moment, "false"), (late, "true")):
        code, _ = interrupt_when_at_step(project, step, signal.SIGKILL, *arguments, "-S", f"resources.prefetch={prefetch}")
        assert code == -signal.SIGKILL
        assert not RunStore(tmp_path).is_done(spec.key)
    killed, kept = (tmp_path / spec.key / "history.jsonl").read_text().splitlines(), saved_at(tmp_path / spec.key)[0]
    assert run_here(project, "train", *arguments) == 0
    assert weights(tmp_path / spec.key) == weights(folder)
    assert steps(tmp_path / spec.key) == list(range(1, STEPS + 1))
    # It did go on: the first lines, which hold the time of day, are those of the earlier attempt.
    assert (tmp_path / spec.key / "history.jsonl").read_text().splitlines()[:kept] == killed[:kept]


@pytest.mark.slow
def test_asked_to_stop_it_saves_where_it_is(project, trained, tmp_path):
    _, spec, folder = trained
    arguments = ("-S", f"runs_dir={tmp_path}", "-S", f"results_dir={tmp_path / 'results'}",
                 "-S", "resources.checkpoint_seconds=1000")
    stopped = []
    for step, number, code in ((5, signal.SIGTERM, 143), (15, signal.SIGINT, 130)):
        got, errors = interrupt_when_at_step(project, step, number, *arguments)
        assert got == code and "Traceback" not in errors
        stopped.append(steps(tmp_path / spec.key)[-1])
        assert saved_at(tmp_path / spec.key) == stopped
    assert run_here(project, "train", *arguments) == 0
    assert weights(tmp_path / spec.key) == weights(folder)


@pytest.mark.slow
def test_a_half_written_run_is_redone(project, trained, tmp_path):
    params, spec, folder = trained
    shutil.copytree(params.runs_dir, tmp_path / "runs")
    broken = tmp_path / "runs" / spec.key
    expected = weights(broken)
    (broken / "weights.safetensors").write_bytes(expected[: len(expected) // 2])
    again = train_run(load_params(project / "params.yaml", [f"runs_dir={tmp_path / 'runs'}"]), spec)
    assert again == broken and weights(broken) == expected and steps(broken) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_reports_say_how_far_it_is(project, tmp_path):
    params = load_params(project / "params.yaml", [f"runs_dir={tmp_path}"])
    reports = []
    train_run(params, pretrain_spec(params, RowSettings(cl=False)), report=reports.append)
    assert reports[0]["step"] == 1 and reports[-1]["step"] == reports[-1]["total"] == 12
    assert {"step", "total", "loss", "lr", "eta"} == set(reports[0]) and reports[-1]["eta"] == 0


@pytest.mark.slow
def test_a_loss_that_explodes_is_a_user_error(project, tmp_path):
    params = load_params(project / "params.yaml", [f"runs_dir={tmp_path}", "pretrain.train.lr=1e30"])
    with pytest.raises(UserError, match="train.lr"):
        train_run(params, pretrain_spec(params, RowSettings(cl=True)))


@pytest.mark.slow
@pytest.mark.parametrize("linking", ["end-to-end", "hand-craft"])
def test_an_evaluation_is_written_once_and_scored_on_the_kept_frames(project, trained, linking):
    params, spec, folder = trained
    changed = load_params(project / "params.yaml", [
        f"inference.linking={linking}", "inference.test_fps=3", "inference.presence_threshold=0",
        "inference.handcraft.score_threshold=0"])
    evaluation = headline_spec(changed)
    found = evaluate_run(changed, evaluation)
    assert found["run"] == spec.key and found["evaluation"] == evaluation.key
    assert 0 <= found["metrics"]["AP"] <= 1 and set(found["per_category"])
    assert found["frames"] == 8  # every other one of 2 videos of 8 frames
    stored = folder / "eval" / evaluation.key
    results = json.loads((stored / "results.json").read_text())
    assert results and all(len(result["segmentations"]) == 4 for result in results)
    before = (stored / "metrics.json").stat().st_mtime_ns
    assert evaluate_run(changed, evaluation) == found and (stored / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_pretraining_is_shipped_with_what_it_was_made_of(trained, tmp_path):
    params, spec, folder = trained
    facts = ship(params, spec.parent, "tiny", "python -m pipeline.pretrain --ship tiny", folder=tmp_path)
    described = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    assert described == facts | {"sha256": hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()}
    assert described["steps"] == 12 and described["model"]["clip_length"] == 1 and described["correspondence"] is True
    init = starts.find_shipped(spec.parent.model, True, folder=tmp_path)
    loaded, own = starts.load(init, folder=tmp_path).weights, RunStore(params.runs_dir).load_weights(spec.parent.key)
    assert loaded.keys() == own.keys() and all(torch.equal(loaded[name], own[name].half()) for name in own)


@pytest.mark.slow
def test_evaluating_what_is_not_trained_is_a_user_error(project, tmp_path):
    result = run_command(project, "evaluate", "-S", f"runs_dir={tmp_path}")
    assert result.returncode == 2 and "pipeline.train" in result.stderr and "Traceback" not in result.stderr


COMMANDS = [file.stem for file in sorted((PROJECT / "pipeline").glob("*.py")) if "\ndef main(" in file.read_text()]


@pytest.mark.slow
def test_commands_answer_for_help_at_once_and_name_mistakes(tmp_path):
    for module in COMMANDS:
        result = subprocess.run([sys.executable, "-X", "importtime", "-m", f"pipeline.{module}", "--help"],
                                capture_output=True, text=True, cwd=PROJECT)
        assert result.returncode == 0 and "usage" in result.stdout
        # The list of slow imports says more than a clock on a busy machine.
        heavy = {"torch", "ray", "mlflow", "pandas", "matplotlib", "pydantic", "scipy", "pyarrow"}
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
        assert not heavy & imported, module
    result = run_command(tmp_path, "train")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "params.yaml" in result.stderr

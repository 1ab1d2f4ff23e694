"""The pool with real Ray: order, failures, deaths of workers and of the driver, two pools at once."""

import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from effvis.errors import UserError
from pipeline.scheduling.board import Board
from pipeline.scheduling.pool import Job, Status, run_pool
from pipeline.scheduling.ray_session import _start_ray, ray_running

JOBS = '''
import json, os, signal, time
from pathlib import Path
from effvis.errors import UserError

def note(folder, name, report, until=None):
    """Records its start and end in two lines, so that overlaps can be seen. It goes on ``until`` that file exists."""
    report({"step": 1, "total": 2, "loss": 0.5, "eta": 1.0})
    with open(folder / "events.txt", "a") as events:
        events.write(json.dumps([name, "start", time.time()]) + "\\n")
    deadline = time.monotonic() + 600
    while until is not None and not until.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with open(folder / "events.txt", "a") as events:
        events.write(json.dumps([name, "end", time.time()]) + "\\n")
    print("note of", name)

def fail(report):
    raise ValueError("the loss is not finite")

def user_error(report):
    raise UserError("params.yaml", "train.lr", "too large", "Lower it")

def die_once(folder, report):
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "survived").touch()

def endless(folder, report):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
'''


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A module that Ray's workers import as they import the pipeline's: from the folder the driver runs in."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "small_jobs.py").write_text(JOBS)
    with pytest.MonkeyPatch.context() as changes:
        changes.chdir(folder)
        changes.syspath_prepend(str(folder))
        changes.delenv("RAY_ADDRESS", raising=False)
        yield importlib.import_module("small_jobs")
    sys.modules.pop("small_jobs")


@pytest.fixture(scope="module")
def ray(jobs, tmp_path_factory):
    """Ray as a pool starts it; two pools that do not test Ray itself may share it."""
    with ray_running(2, tmp_path_factory.mktemp("runs")) as ray:
        yield ray


def pool(jobs, folder, **options):
    options = {"slots": 2, "threads": 1, "progress_folder": folder / "progress"} | options
    return {status.job.key: status for status in run_pool(jobs, **options)}


def job(folder, key, kind, work, **options):
    return Job(key, kind, f"job {key}", work, folder / key / "log.txt", **options)


def test_nothing_to_do_starts_no_ray(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.scheduling.pool.ray_running", lambda *_, **__: pytest.fail("it was started"))
    assert run_pool([], slots=2, threads=1, progress_folder=tmp_path / "progress") == []
    assert not list(tmp_path.iterdir())


def test_jobs_in_a_circle_are_refused_before_ray_starts(tmp_path):
    circle = [
        job(tmp_path, "a", "train", print, needs=("b",)),
        job(tmp_path, "b", "train", print, needs=("a",)),
        job(tmp_path, "c", "train", print),
    ]
    with pytest.raises(UserError, match="a, b"):
        pool(circle, tmp_path)
    with pytest.raises(UserError, match="one key"):
        pool([circle[2], circle[2]], tmp_path)


@pytest.mark.slow
def test_order_failures_and_a_dying_worker(tmp_path, jobs, ray):
    """Pretraining comes first, then the longest training, then at once its evaluation; a failure stops only jobs that need
    the failed one."""
    note = partial(partial, jobs.note, tmp_path)
    todo = [
        job(tmp_path, "eval-short", "evaluate", note("eval-short"), needs=("short",)),
        job(tmp_path, "eval-long", "evaluate", note("eval-long"), needs=("long", "not-in-this-pool")),
        job(tmp_path, "short", "train", note("short"), needs=("pre",), cost=1),
        job(tmp_path, "long", "train", note("long"), needs=("pre",), cost=2),
        job(tmp_path, "pre", "pretrain", note("pre")),
        job(tmp_path, "bad", "train", jobs.fail, cost=9),
        job(tmp_path, "eval-bad", "evaluate", note("eval-bad"), needs=("bad",)),
        job(tmp_path, "report-bad", "evaluate", note("report-bad"), needs=("eval-bad",)),
        job(tmp_path, "wrong", "train", jobs.user_error, cost=8),
        job(tmp_path, "mortal", "train", partial(jobs.die_once, tmp_path), cost=0),
    ]
    told = []
    ended = pool(todo, tmp_path, slots=1, on_done=lambda job: told.append(job.key))

    events = [json.loads(line) for line in (tmp_path / "events.txt").read_text().splitlines()]
    order = [name for name, what, _ in events if what == "start"]
    assert order == ["pre", "long", "eval-long", "short", "eval-short"]
    assert {key: status.state for key, status in ended.items()} == {
        **dict.fromkeys(["pre", "long", "short", "eval-long", "eval-short", "mortal"], "done"),
        "bad": "failed",
        "wrong": "failed",
        "eval-bad": "skipped",
        "report-bad": "skipped",
    }
    assert sorted(told) == sorted(key for key, status in ended.items() if status.state == "done")
    assert ended["bad"].message == "ValueError: the loss is not finite"
    assert "Traceback" in (tmp_path / "bad" / "log.txt").read_text()
    assert ended["wrong"].message == "params.yaml: train.lr: too large. Lower it"
    assert "Traceback" not in (tmp_path / "wrong" / "log.txt").read_text()
    assert (tmp_path / "long" / "log.txt").read_text() == "note of long\n"
    assert (tmp_path / "survived").exists(), "a job whose worker died is started again"
    assert not list((tmp_path / "progress").glob("*")), "reports of jobs that ended are gone"


@pytest.mark.slow
def test_slots_run_side_by_side_and_report(tmp_path, jobs, ray):
    both = tmp_path / "both-were-seen"
    todo = [job(tmp_path, f"j{i}", "train", partial(jobs.note, tmp_path, f"j{i}", until=both)) for i in range(3)]
    seen = []

    def watch(statuses):
        running = [status for status in statuses if status.state == "running"]
        seen.append((len(running), [status.progress for status in running if status.progress]))
        if sum("step" in progress for progress in seen[-1][1]) == 2:
            both.touch()

    pool(todo, tmp_path, on_change=watch)
    events = [json.loads(line) for line in (tmp_path / "events.txt").read_text().splitlines()]
    when = {(name, what): time for name, what, time in events}
    assert max(when["j0", "start"], when["j1", "start"]) < min(when["j0", "end"], when["j1", "end"])
    assert when["j2", "start"] > min(when["j0", "end"], when["j1", "end"])
    assert max(count for count, _ in seen) == 2
    reports = [report for _, reports in seen for report in reports if "step" in report]
    assert reports and all(report.pop("device") == f"{platform.node()} CPU" for report in reports)
    assert {"step": 1, "total": 2, "loss": 0.5, "eta": 1.0} in reports


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_driver_that_is_killed_leaves_no_worker_behind(tmp_path, jobs, how):
    driver = (
        "from functools import partial; from pathlib import Path; import small_jobs\n"
        "from pipeline.system.cli import run; from pipeline.scheduling.pool import Job, run_pool\n"
        "here = Path.cwd()\n"
        "def main(argv=None):\n"
        "    work = partial(small_jobs.endless, here)\n"
        "    job = Job('k', 'train', 'k', work, here / 'log.txt')\n"
        "    run_pool([job], slots=1, threads=1, progress_folder=here / 'p')\n"
        "run(main)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{Path(jobs.__file__).parent}{os.pathsep}{Path(__file__).resolve().parents[2]}"}
    # As from a terminal: if the tests themselves run in the background, Ctrl-C is ignored, and children inherit that.
    process = subprocess.Popen([sys.executable, "-c", driver], cwd=tmp_path, env=environment,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        worker = int(_wait_for(lambda: (tmp_path / "pid").read_text(), seconds=900))
        process.send_signal(how)
        assert process.wait(600) != 0
        _wait_for(lambda: not _alive(worker), seconds=600)
    finally:
        process.kill()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition, *, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"nothing within {seconds} s")


def test_off_a_terminal_each_change_is_one_line(tmp_path, capsys):
    board = Board()
    running = Status(job(tmp_path, "k1", "train", print), progress_file=tmp_path / "k1.json")
    failed = Status(job(tmp_path, "k2", "evaluate", print))
    board.update([running, failed])
    (tmp_path / "k1.json").write_text('{"device": "here GPU 1", "step": 30, "total": 200, "loss": 1.25, "eta": 75}')
    running.state, failed.state, failed.message, failed.seconds = "running", "failed", "ValueError: no", 3.2
    board.update([running, failed])
    board.update([running, failed])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "[1/2] train job k1 (k1)  running  here GPU 1  30/200  loss 1.250  1:15 left",
        "[1/2] evaluate job k2 (k2)  failed  0:03  ValueError: no",
    ]


def test_a_job_that_does_not_say_how_long_is_reckoned_with(tmp_path, capsys):
    running = Status(job(tmp_path, "k1", "evaluate", print), "running", progress_file=tmp_path / "k1.json")
    running.started = time.monotonic() - 30
    (tmp_path / "k1.json").write_text('{"step": 20, "total": 80}')
    Board().update([running])
    assert capsys.readouterr().err == "[0/1] evaluate job k1 (k1)  running  20/80  1:30 left\n"



class _BusyMachine:
    """Ray on a machine where its processes are late ``delays`` times: a test cannot make the real Ray late."""

    def __init__(self, delays, message="The current node timed out during startup. This could happen because …"):
        self.delays, self.message, self.calls, self.processes = delays, message, [], []

    def init(self, **options):
        self.calls.append(options)
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        if len(self.processes) <= self.delays:
            raise Exception(self.message)

    def shutdown(self):
        self.calls.append("shutdown")


def test_a_busy_machine_gets_more_time_to_start_ray():
    busy = _BusyMachine(1)
    _start_ray(busy, num_cpus=2)
    assert busy.calls == [{"address": "local", "num_cpus": 2}, "shutdown", {"address": "local", "num_cpus": 2}]
    assert [process.poll() is None for process in busy.processes] == [False, True], "nothing is left of the attempt in vain"
    never, refused = _BusyMachine(1000), _BusyMachine(1, "no such option")
    with pytest.raises(UserError, match="did not appear"):
        _start_ray(never, num_cpus=2)
    assert len(never.processes) == 4 and all(process.poll() is not None for process in never.processes)
    with pytest.raises(Exception, match="no such option"):
        _start_ray(refused, num_cpus=2)
    for process in (*busy.processes[1:], *refused.processes):
        process.kill()

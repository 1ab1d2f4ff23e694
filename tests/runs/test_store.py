"""The run store trusts only whole files."""

import io
import json
import multiprocessing
import os
import shutil
import sys

import pytest
import torch

from effvis.errors import UserError
from pipeline.runs.log import RunLog
from pipeline.runs.store import RunStore
from pipeline.system.files import write_atomically

KEY = "0123456789abcdef"
WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


def finished(root):
    store = RunStore(root)
    store.begin(KEY, {"seed": 0})
    store.finish(KEY, WEIGHTS, {"steps": 3})
    return store


def test_a_finished_run_is_done_and_gives_its_weights_back(tmp_path):
    store = finished(tmp_path)
    assert store.is_done(KEY)
    assert store.done(KEY)["steps"] == 3
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in store.load_weights(KEY).items())
    assert not any(path.name.startswith(".") for path in store.folder(KEY).rglob("*"))


def _no_done(folder):
    (folder / "done.json").unlink()


def _no_weights(folder):
    (folder / "weights.safetensors").unlink()


def _flipped_weights(folder):
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def _truncated_done(folder):
    (folder / "done.json").write_text((folder / "done.json").read_text()[:20])


@pytest.mark.parametrize("damage", [_no_done, _no_weights, _flipped_weights, _truncated_done])
def test_a_half_written_run_is_not_believed(tmp_path, damage):
    store = finished(tmp_path)
    damage(store.folder(KEY))
    assert not store.is_done(KEY)
    with pytest.raises(UserError, match="not finished"):
        store.load_weights(KEY)
    store.begin(KEY, {"seed": 0})
    assert not (store.folder(KEY) / "done.json").exists()
    store.finish(KEY, WEIGHTS, {})
    assert store.is_done(KEY)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    store = RunStore(tmp_path)
    (store.folder(KEY) / "checkpoint").mkdir(parents=True)
    (store.folder(KEY) / ".weights.safetensors.4711").write_text("half")
    (store.folder(KEY) / "checkpoint" / ".step_00000003.pt.4711").write_text("half")
    store.begin(KEY, {})
    assert sorted(path.name for path in store.folder(KEY).rglob("*")) == ["checkpoint", "config.yaml"]


def logged(folder, steps, checkpoints):
    log = RunLog(folder)
    assert log.resume() is None
    for step in range(1, steps + 1):
        log.append({"step": step, "loss": 1.0 / step})
        if step in checkpoints:
            log.checkpoint({"step": step, "model": {"w": torch.full((3,), float(step))}}, step)
    log.close()


def history_steps(folder):
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def test_resume_takes_the_newest_checkpoint_and_cuts_the_history_to_it(tmp_path):
    logged(tmp_path, steps=9, checkpoints=(2, 4, 7))
    assert sorted(path.name for path in (tmp_path / "checkpoint").glob("*.pt")) == ["step_00000004.pt", "step_00000007.pt"]
    log = RunLog(tmp_path)
    state = log.resume()
    assert state["step"] == 7 and torch.equal(state["model"]["w"], torch.full((3,), 7.0))
    assert history_steps(tmp_path) == list(range(1, 8))
    log.append({"step": 8, "loss": 0.0})
    log.close()
    assert history_steps(tmp_path) == list(range(1, 9))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _no_checksum(path):
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [_flip, _truncate, _no_checksum])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, capsys):
    logged(tmp_path, steps=9, checkpoints=(4, 7))
    damage(tmp_path / "checkpoint" / "step_00000007.pt")
    assert RunLog(tmp_path).resume()["step"] == 4
    assert history_steps(tmp_path) == [1, 2, 3, 4]
    assert "step_00000007.pt" in capsys.readouterr().err


def test_without_a_whole_checkpoint_it_starts_anew(tmp_path):
    logged(tmp_path, steps=5, checkpoints=(4,))
    _flip(tmp_path / "checkpoint" / "step_00000004.pt")
    assert RunLog(tmp_path).resume() is None
    assert history_steps(tmp_path) == []


def test_a_checkpoint_whose_steps_the_history_lacks_is_not_used(tmp_path):
    logged(tmp_path, steps=9, checkpoints=(4, 7))
    history = tmp_path / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:5]) + lines[5][:7])  # the sixth line is incomplete
    assert RunLog(tmp_path).resume()["step"] == 4


REPORT = {"metrics": {"AP": 0.5}, "per_category": {"star": {"AP": 0.5, "AR1": 0.25}, "ring": {"AP": 0.1, "AR1": 0.2}}}
RESULTS = [{"video_id": 1, "category_id": 2, "score": 0.5, "segmentations": [None]}]


def test_an_evaluation_is_there_as_a_whole_or_not_at_all(tmp_path):
    store = finished(tmp_path)
    assert store.evaluation(KEY, "e1") is None
    written = store.write_evaluation(KEY, "e1", RESULTS, REPORT)
    assert store.evaluation(KEY, "e1") == written and written["metrics"] == {"AP": 0.5}
    folder = store.evaluation_folder(KEY, "e1")
    assert (folder / "per_category.csv").read_text() == "category,AP,AR1\nstar,0.5,0.25\nring,0.1,0.2\n"
    assert json.loads((folder / "results.json").read_text()) == RESULTS
    (folder / "results.json").write_text("[]")
    assert store.evaluation(KEY, "e1") is None
    store.write_evaluation(KEY, "e1", RESULTS, REPORT)
    assert store.evaluation(KEY, "e1") == written
    shutil.rmtree(folder)
    assert [path.name for path in folder.parent.iterdir()] == []


def test_an_evaluation_that_fails_while_writing_leaves_nothing(tmp_path):
    store = finished(tmp_path)
    with pytest.raises(TypeError):
        store.write_evaluation(KEY, "e1", RESULTS, {**REPORT, "odd": object()})
    assert list((store.folder(KEY) / "eval").iterdir()) == []


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes")
    assert target.read_bytes() == b"old"


def _hold(root, entered, leave):
    with RunStore(root).lock(KEY):
        entered.set()
        assert leave.wait(600)
        (root / "left").touch()


def test_two_processes_do_not_work_on_one_key_at_once(tmp_path, monkeypatch):
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()

    class Said(io.StringIO):
        """Ends the other process once a message says that this one waits for it."""

        def write(self, text):
            leave.set()
            return super().write(text)

    said = Said()
    monkeypatch.setattr(sys, "stderr", said)
    holder = context.Process(target=_hold, args=(tmp_path, entered, leave))
    holder.start()
    assert entered.wait(600)
    with RunStore(tmp_path).lock("another key"):
        pass
    assert "waiting" not in said.getvalue()
    with RunStore(tmp_path).lock(KEY):
        assert (tmp_path / "left").exists()
        assert RunStore(tmp_path).locked() == {KEY}
    holder.join(600)
    assert holder.exitcode == 0
    assert KEY in said.getvalue()
    assert RunStore(tmp_path).locked() == set()

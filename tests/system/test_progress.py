"""Messages between a running job and its driver."""

import threading
import time

import pytest

from pipeline.scheduling import progress
from pipeline.scheduling.progress import Stop, read_progress, write_progress


def test_a_report_is_read_whole_and_no_report_is_empty(tmp_path):
    file = tmp_path / "k.json"
    assert read_progress(file) == {}
    write_progress(file, {"step": 1, "total": 2})
    assert read_progress(file) == {"step": 1, "total": 2}
    file.write_text('{"step": ')
    assert read_progress(file) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["k.json"]


def interrupted(stop, files, how=KeyboardInterrupt):
    """The seconds that it took to pass an interruption."""
    began = time.monotonic()
    with pytest.raises(how), stop.when_interrupted(lambda: files):
        raise how
    return time.monotonic() - began


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_an_interruption_waits_for_trainings_and_for_nothing_else(tmp_path, how):
    stop, training, evaluation = Stop(tmp_path), tmp_path / "training.json", tmp_path / "evaluation.json"
    write_progress(training, {"step": 3, "total": 9, "loss": 0.5})
    write_progress(evaluation, {"step": 3, "total": 9})
    heard = []

    def train():
        while not stop.asked():
            time.sleep(0.01)
        heard.append(how)
        training.unlink()

    thread = threading.Thread(target=train)
    thread.start()
    assert interrupted(stop, [training, evaluation], how) < progress.SAVING_SECONDS / 2
    thread.join()
    assert heard == [how] and not stop.asked() and not list(tmp_path.glob("*.stop"))


def test_an_interruption_waits_no_longer_than_what_ends_us_would(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SAVING_SECONDS", 0.3)
    training = tmp_path / "training.json"
    write_progress(training, {"step": 3, "total": 9, "loss": 0.5})
    assert interrupted(Stop(tmp_path), [training]) >= 0.3


def test_drivers_of_the_same_jobs_do_not_stop_each_other(tmp_path):
    one, other = Stop(tmp_path), Stop(tmp_path)
    one.file.touch()
    assert one.asked() and not other.asked()


def test_where_the_folder_is_gone_an_interruption_passes_at_once(tmp_path):
    assert interrupted(Stop(tmp_path / "gone"), [tmp_path / "k.json"]) < progress.SAVING_SECONDS / 2


def test_another_failure_asks_nobody_to_stop(tmp_path):
    stop = Stop(tmp_path)
    with pytest.raises(ValueError, match="other"), stop.when_interrupted(lambda: [tmp_path / "k.json"]):
        raise ValueError("other")
    assert not list(tmp_path.iterdir())

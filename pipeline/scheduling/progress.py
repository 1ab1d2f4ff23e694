"""Messages between a running job and its driver, on any machine, as small files in the run store."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effvis.files import write_file

# Takes ``step`` and ``total`` and, from a training, ``loss``, ``lr`` and ``eta`` (seconds). True asks the training to stop.
Report = Callable[[Mapping[str, Any]], bool | None]

# Time to finish the current step and its checkpoint. Slurm and Kubernetes kill a process half a minute after their signal.
SAVING_SECONDS = 25.0
_POLL_SECONDS = 0.1


def read_progress(progress_file: Path) -> dict[str, Any]:
    """A job's latest report; empty before the first and after the end."""
    try:
        return json.loads(progress_file.read_text())
    except (OSError, ValueError):
        return {}


def write_progress(progress_file: Path, progress: Mapping[str, Any]) -> None:
    """Writes a job's latest report, whole or not at all, where ``read_progress`` finds it."""
    with contextlib.suppress(OSError):  # on a full disk the board shows less, but the job goes on
        write_file(progress_file, json.dumps(dict(progress)).encode(), durable=False)


class Stop:
    """A signal by which one driver asks the trainings that it started to save their state and end.

    It is a file, because the trainings may be on other machines. Each driver has its own, because another driver may have
    jobs with the same keys.

    Args:
        folder: an existing folder that both sides see.
    """

    def __init__(self, folder: Path):
        self.file = folder / f"{uuid.uuid4().hex}.stop"

    def asked(self) -> bool:
        return self.file.exists()

    def reporting(self, progress_file: Path, always: Mapping[str, Any] | None = None) -> Report:
        """A job's report function: it writes each report, with the facts of ``always``, and returns ``asked()``."""
        def report(progress: Mapping[str, Any]) -> bool:
            write_progress(progress_file, {**(always or {}), **progress})
            return self.asked()

        return report

    @contextlib.contextmanager
    def when_interrupted(self, progress_files: Callable[[], Iterable[Path]]) -> Iterator[None]:
        """Lets Ctrl-C and SIGTERM pass once all trainings have saved their state, or had the time to.

        Args:
            progress_files: files of the running jobs; trainings report a loss, and remove their file when they end.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(OSError):  # the disk is full or gone: trainings cannot save either
                self.file.touch()
                until = time.monotonic() + SAVING_SECONDS
                while time.monotonic() < until and any("loss" in read_progress(file) for file in progress_files()):
                    time.sleep(_POLL_SECONDS)
            raise
        finally:
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)

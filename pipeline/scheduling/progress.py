"""What a job and its driver tell each other while the job runs, wherever that is: through small files in the run store."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effvis.files import write_file

# Takes ``step`` and ``total``, and of a training ``loss``, ``lr`` and ``eta`` (seconds). True: the training is asked to stop.
Report = Callable[[Mapping[str, Any]], bool | None]

# For the step that is being made and its checkpoint. Slurm and Kubernetes kill half a minute after they ask.
SAVING_SECONDS = 25.0
_POLL_SECONDS = 0.1


def read_progress(progress_file: Path) -> dict[str, Any]:
    """The latest report; empty before the first and after the end."""
    try:
        return json.loads(progress_file.read_text())
    except (OSError, ValueError):
        return {}


def write_progress(progress_file: Path, progress: Mapping[str, Any]) -> None:
    """Puts a job's latest report where ``read_progress`` finds it, whole."""
    with contextlib.suppress(OSError):  # on a full disk the board shows less; a job is not stopped for that
        write_file(progress_file, json.dumps(dict(progress)).encode(), durable=False)


class Stop:
    """Through which one driver asks the trainings that it started to save where they are and end.

    A file, because the trainings may be on other machines; of the driver's own, because another driver may have jobs of
    the same keys.

    Args:
        folder: that both sides see; it has to exist.
    """

    def __init__(self, folder: Path):
        self.file = folder / f"{uuid.uuid4().hex}.stop"

    def asked(self) -> bool:
        return self.file.exists()

    def reporting(self, progress_file: Path, always: Mapping[str, Any] | None = None) -> Report:
        """What a job reports with: each report is written, with what is said ``always``, and answered by ``asked``."""
        def report(progress: Mapping[str, Any]) -> bool:
            write_progress(progress_file, {**(always or {}), **progress})
            return self.asked()

        return report

    @contextlib.contextmanager
    def when_interrupted(self, progress_files: Callable[[], Iterable[Path]]) -> Iterator[None]:
        """Lets Ctrl-C and SIGTERM pass when all trainings have saved where they are, or had the time to.

        Args:
            progress_files: of the jobs that run; those that train report a loss, and remove the file when they end.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(OSError):  # full or gone: then there is nowhere to save either
                self.file.touch()
                until = time.monotonic() + SAVING_SECONDS
                while time.monotonic() < until and any("loss" in read_progress(file) for file in progress_files()):
                    time.sleep(_POLL_SECONDS)
            raise
        finally:
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)

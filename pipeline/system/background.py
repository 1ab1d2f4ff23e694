"""Work beside the runs that must not stop them: a thread repeats it, and reports a failure only once."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from pipeline.system.masking import masked

_ASK_SECONDS = 0.5


class Background(ABC):
    """A context manager whose thread calls ``catch_up`` every few seconds, and once more at the end for a bounded time.

    Args:
        every: seconds between two calls.
        first: seconds before the first call, unless it may come earlier.
        last: seconds that the call at the end may take.

    Attributes:
        trouble: the text before the first error, e.g. "MLflow cannot be used now, the runs go on".
        incomplete: the text at the end if the last call failed or took too long.
    """

    trouble: str
    incomplete: str

    def __init__(self, *, every: float, first: float, last: float):
        self._every, self._first, self._last = every, first, last
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._mentioned = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name=type(self).__name__, daemon=True)

    @abstractmethod
    def catch_up(self, late: Callable[[], bool]) -> None:
        """Does the work that is due now. In the last call, ``late`` says when there is no more time. It may raise anything."""

    def may_begin(self) -> bool:
        """Whether the first call need not wait any longer; checked twice a second."""
        return False

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._deadline = time.monotonic() + self._last
        self._stop.set()
        self._thread.join(self._last)
        if not self._complete:
            print(self.incomplete, file=sys.stderr)

    def _work(self) -> None:
        begin = time.monotonic() + self._first
        while not self._stop.is_set() and time.monotonic() < begin and not self.may_begin():
            self._stop.wait(min(_ASK_SECONDS, begin - time.monotonic()))
        while not self._stop.is_set():
            self._try()
            self._stop.wait(self._every)
        self._complete = self._try()

    def _try(self) -> bool:
        try:
            self.catch_up(lambda: time.monotonic() > self._deadline)
        except Exception as error:  # whatever happens to a server, the runs go on
            if not self._mentioned:
                print(f"{self.trouble}: {in_a_line(error)}", file=sys.stderr)
                self._mentioned = True
            return False
        return time.monotonic() <= self._deadline


def in_a_line(error: Exception) -> str:
    """An error's kind and the first line of its message, without secrets."""
    return masked(f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}")

"""Code that all commands share: their ends, their parameter arguments and their progress displays."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from effvis.errors import UserError
from pipeline.system.arguments import natural_int, positive_number
from pipeline.system.disk import explained
from pipeline.system.masking import masked

DEFAULT_PARAMS = "params.yaml"
EXIT_USER_ERROR = 2
EXIT_INCOMPLETE = 3  # the work was done on what could be read, which is not all that was given
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
# Where nobody watches a bar (a log, a stage of a pipeline), a line at this interval shows that all is well.
PLAIN_LINE_SECONDS = 15.0


def run(main: Callable[[], int | None]) -> None:
    """Runs a command's ``main`` and ends the process.

    A user's mistake, or a full disk, gives one line on stderr and exit code 2; Ctrl-C ends with 130, SIGTERM with 143.
    Any other error is a defect of this program and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with explained():
            code = main() or 0
    except UserError as error:
        print(masked(line("error", error)), file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _terminate(_signal, _frame) -> None:
    raise SystemExit(EXIT_TERMINATED)


class StopRequest:
    """A request to stop that arrived while this process was in the middle of something."""

    def __init__(self):
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def ask(self) -> None:
        """Makes the request, as Ctrl-C does, on behalf of somebody who cannot send a signal."""
        self._signal = signal.SIGINT

    def raise_if_set(self) -> None:
        """Ends the process as the signal would have ended it on arrival, now that everything is in order."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal == signal.SIGTERM:
            raise SystemExit(EXIT_TERMINATED)

    def _set(self, number, _frame) -> None:
        self._signal = number


@contextlib.contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Inside the block, SIGTERM and Ctrl-C only set the request; a loop checks it after each step and first tidies up.

    Outside the main thread Python allows no signal handlers: the request then stays unset.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, request._set) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    request.raise_if_set()


def parser(doc: str | None, prog: str) -> argparse.ArgumentParser:
    """An argument parser with the module's docstring as its help and the parameter arguments of every command."""
    result = argparse.ArgumentParser(prog=f"python -m {prog}", description=doc, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_params_arguments(result)
    return result


def add_params_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--params FILE`` and ``-S key=value``; read them with ``load_params(args.params, args.set)``."""
    parser.add_argument("--params", default=DEFAULT_PARAMS, metavar="FILE",
                        help=f"the parameters; its folder is the project's root (default: {DEFAULT_PARAMS})")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE",
                        help="override one parameter, e.g. -S train.epochs=2 (the value is YAML; may be repeated)")


def add_split_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--split val|test``, which is short for ``-S split=…``."""
    parser.add_argument("--split", dest="set", action="append", default=[], type=_split, metavar="val|test",
                        help="the videos that numbers are of, as -S split=… (default: test where the data set has a test split "
                        "with instances, otherwise val)")


def _split(text: str) -> str:
    if text not in ("val", "test"):
        raise argparse.ArgumentTypeError(f"{text} is neither val nor test")
    return f"split={text}"


def add_import_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the arguments of every importer, which calls a video ``what``."""
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="the folder to write; must not exist")
    parser.add_argument("--fps", type=positive_number, default=6.0, help="frames per second of the frames given (default: 6)")
    parser.add_argument("--val", action="append", default=[], metavar="PATTERN",
                        help=f"a {what}, or a pattern, to validate on (may be repeated)")


def line(severity: str, error: UserError) -> str:
    """An error or a warning as one line."""
    return f"{severity}: " + " ".join(str(error).split())


def tell_warnings(warnings: Iterable[UserError]) -> None:
    """Prints what was understood although it bends a format, a line for each kind."""
    for warning in warnings:
        print(line("warning", warning), file=sys.stderr)


def tell_imported(out: Path, written: Mapping[str, int], what: str) -> None:
    """Prints how many videos an importer wrote per split, and what is still missing."""
    print(f"{out}: {written['train']} {what}s to train on, {written['val']} to validate on", file=sys.stderr)
    if not written["val"]:
        print("The pipeline needs some to validate on: name them with --val", file=sys.stderr)


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --row and --seed, which choose a command's evaluation for ``pipeline.grid.rows.find_evaluation``."""
    parser.add_argument("--row", metavar="TABLE:NAME", help="a table's row, e.g. 'table1e:w/ CL' (default: the headline run)")
    parser.add_argument("--seed", type=natural_int, default=0, help="(default: 0)")


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[..., None]]:
    """Shows progress and the remaining time on stderr.

    It yields ``update(done, total, note="")``, which may be called as often as you like. Progress is a bar on a terminal, and
    a plain line every quarter of a minute elsewhere.
    """
    if not sys.stderr.isatty():
        yield _PlainProgress(label)
        return

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task(label, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bars.update(bar, completed=done, total=total, note=note)

        yield update


class _PlainProgress:
    """Progress for a log: when the last line is old enough, a new one gives the state and the remaining time."""

    def __init__(self, label: str):
        self._label = label
        self._start = self._said = time.monotonic()
        self._first_done: int | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._first_done is None:
            # Steps that were done before a run resumed took none of this process's time, so they must not enter the pace.
            self._start, self._first_done = now, done
        if now - self._said < PLAIN_LINE_SECONDS:
            return
        self._said = now
        fresh = done - self._first_done
        left = f", {seconds_text((now - self._start) * (total - done) / fresh)} left" if fresh > 0 else ""
        print(f"{self._label}: {done}/{total} {note}{left}".replace(" ,", ","), file=sys.stderr, flush=True)


def seconds_text(seconds: float) -> str:
    """A duration as text, e.g. ``2:05`` or ``1:00:09``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

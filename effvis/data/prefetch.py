"""Batches prepared while the network computes. No number changes: the seed and the step's number alone decide a batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from effvis.data.clips import ClipPairs
from effvis.data.targets import ClipPairBatch


class Prefetched:
    """Clip pairs whose next batch is prepared in a thread, since decoding releases the interpreter lock. Use in ``with``.

    An error in the thread is raised by the call of ``batch`` that it belongs to.
    """

    def __init__(self, pairs: ClipPairs):
        self.seed, self.batch_size, self.clips_per_video = pairs.seed, pairs.batch_size, pairs.clips_per_video
        self._pairs = pairs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clips")  # one: the caches of the pairs have no lock
        self._ahead: dict[tuple[int, int, int], Future[ClipPairBatch]] = {}

    def __len__(self) -> int:
        """Number of steps per epoch."""
        return len(self._pairs)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> ClipPairBatch:
        """Like ``ClipPairs.batch``; it also starts to prepare the same part of the next step."""
        wanted = self._ahead.pop((step, part, parts), None) or self._thread.submit(self._pairs.batch, step, part, parts)
        batch = wanted.result()
        following = step + 1, part, parts
        self._ahead[following] = self._thread.submit(self._pairs.batch, *following)
        return batch

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

"""The form of results/<table>.json: published and measured numbers, in percent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from effvis.config import Config

Covers = Literal["seeds and videos", "videos", "seeds"]


def videos(split: str) -> str:
    """The videos of a split, or of several, for people: ``test videos``, ``validation and test videos``."""
    return f"{split.replace('val', 'validation').replace(', ', ' and ')} videos"


def videos_of(dataset: str, split: str) -> str:
    """What numbers are measured on, for people: the data set's name means its validation videos."""
    return dataset if split == "val" else f"the {videos(split)} of {dataset}"


class Measured(Config):
    """A number measured over seeds.

    Attributes:
        std: the deviation between seeds; None of a single one.
        error: of AP, the standard error of the mean (``pipeline.tables.certainty``); None where nothing is known of it.
        covers: what the error covers.
    """

    mean: float
    std: float | None
    n: int
    error: float | None = Field(None, exclude_if=lambda error: error is None)
    covers: Covers | None = Field(None, exclude_if=lambda covers: covers is None)


class CurvePoint(Measured):
    """AP during a training, or at its end."""

    videos_seen: int


class Converges(Config):
    """One of the two rows whose convergence is compared.

    Attributes:
        ap, videos_seen: AP and the number of videos seen at the end of its training.
        reaches_other_after: videos seen at the first point of its curve that reaches the AP with which the other row ends;
            None if no point does.
    """

    row: str
    ap: float
    videos_seen: int
    reaches_other_after: int | None


class Convergence(Config):
    slower: Converges
    faster: Converges


class Speed(Config):
    """Frames per second of a row's network.

    Attributes:
        model: in the network alone.
        end_to_end: from JPEG files to tracklets with run-length masks.
        stale: it was measured of another network, or with other code, than the row has now.
    """

    model: float
    end_to_end: float
    stale: bool


class SpeedConditions(Config):
    """What the speeds of all rows were measured under, in one run.

    Attributes:
        device: the processor's or the GPU's name.
        network: as evaluation has it, or as ``effvis.fast.optimise`` makes it.
        frames, video_size: of the video; (height, width) in pixels.
        classes: of every network that is not described with given weights.
        objects: how many objects a frame is made to have.
        rounds: how often each network took the video; the numbers are medians.
    """

    device: str
    threads: int
    torch: str
    precision: Literal["fp32", "bf16"]
    network: Literal["plain", "fast"]
    frames: int
    video_size: tuple[int, int]
    classes: int
    objects: int
    rounds: int


class RowSummary(Config):
    """A row of a table.

    Attributes:
        columns: what the paper's table shows before its numbers.
        measured: the measured numbers, by metric; empty if nothing was measured.
        server: the numbers from a competition's server, in the same form; None if it scored nothing.
        runs, evaluations: keys; of given weights, theirs is in the place of the run's.
        not_run: why we have no number, or None.
        curve: AP by videos seen, with the end of the training last; None in a table without learning curves.
        speed: frames per second, if they were measured.
        before_clips: AP with categories ignored of what its trainings start from, linked in its best way; None until it is
            measured.
        no_start: why there is none; empty if there will be one.
    """

    name: str
    columns: dict[str, str]
    set: dict[str, Any]
    published: dict[str, float]
    measured: dict[str, Measured]
    server: dict[str, Measured] | None = Field(None, exclude_if=lambda server: server is None)
    runs: tuple[str, ...]
    evaluations: tuple[str, ...]
    not_run: str | None
    curve: tuple[CurvePoint, ...] | None = Field(None, exclude_if=lambda curve: curve is None)
    speed: Speed | None = Field(None, exclude_if=lambda speed: speed is None)
    before_clips: Measured | None = Field(None, exclude_if=lambda measured: measured is None)
    no_start: str = Field("", exclude_if=lambda reason: not reason)

    @property
    def given(self) -> bool:
        """Whether its weights were given: there is one evaluation, no seed and no deviation."""
        return "weights" in self.set


class TableSummary(Config):
    """A table; the same cells give the same table, so that it can be committed.

    Attributes:
        split: of the data set, or sets, that its rows are measured on, as val or test.
        convergence: the comparison of how two rows converge, if the table has one and both rows are measured.
        speed_conditions: of the rows' speeds; None if no row has one.
    """

    table: str
    title: str
    caption: str
    dataset: str
    split: str = Field("val", exclude_if=lambda split: split == "val")
    profile: str
    convergence: Convergence | None = Field(None, exclude_if=lambda convergence: convergence is None)
    speed_conditions: SpeedConditions | None = Field(None, exclude_if=lambda conditions: conditions is None)
    rows: tuple[RowSummary, ...] = Field(min_length=1)

    @property
    def measured_on(self) -> str:
        return videos_of(self.dataset, self.split)

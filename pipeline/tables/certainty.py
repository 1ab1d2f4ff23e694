"""How far a mean over seeds may be from the truth: the seeds of the trainings and the videos of the split, together.

docs/claims.md says what each part covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.runs.cells import Cell
from pipeline.tables.form import Covers

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in percent AP, with its standard error and its interval.

    Attributes:
        covers: what error and interval cover; None where there is neither.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    covers: Covers | None = None


def estimate(values: Sequence[float], resampled_SR: np.ndarray | None = None, *, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of one value per seed, with what is known of its uncertainty.

    The squared standard error is the variance between seeds over their number, plus the variance of the mean from resample to
    resample. The interval is Student's, with the degrees of freedom of Welch and Satterthwaite; a part that is not known is
    left out.

    Args:
        resampled_SR: the same values on resamples of the videos, in the same order of seeds; a resample on which one is NaN is
            left out.
    """
    n, mean = len(values), float(np.mean(values))
    parts: dict[Covers, tuple[float, int]] = {}  # variance of the mean, and its degrees of freedom
    if n > 1:
        parts["seeds"] = float(np.var(values, ddof=1)) / n, n - 1
    if resampled_SR is not None:
        mean_R = resampled_SR.mean(axis=0)
        mean_R = mean_R[~np.isnan(mean_R)]
        if mean_R.size > 1:
            parts["videos"] = float(np.var(mean_R, ddof=1)), mean_R.size - 1
    if not parts:
        return Estimate(mean, None, None, None, n)
    variance = sum(part for part, _ in parts.values())
    degrees = variance**2 / sum(part**2 / own for part, own in parts.values()) if variance else 1
    from scipy.special import stdtrit  # scipy.stats, whose t.ppf is this, takes a second to import

    error = math.sqrt(variance)
    reach = float(stdtrit(degrees, (1 + confidence) / 2)) * error
    covers = "seeds and videos" if len(parts) == 2 else next(iter(parts))
    return Estimate(mean, error, mean - reach, mean + reach, n, covers)


def resampled_percent(cells: Sequence[Cell]) -> np.ndarray | None:
    """AP in percent of each cell on each resample, [cells, resamples]; NaN where it is undefined.

    None if there is no cell, one has no resamples, or they were made in another number.
    """
    found = [cell.resampled_percent for cell in cells]
    if not found or any(one is None or len(one) != len(found[0]) for one in found):
        return None
    resampled = np.array(found, float)
    return np.where(resampled < 0, np.nan, resampled)

"""How many times as many videos one row of a table needs to reach another row's AP, from their learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.grid.table_file import Compared
from pipeline.tables.form import Convergence, Converges, CurvePoint, RowSummary


def convergence(compared: Compared, rows: Sequence[RowSummary]) -> Convergence | None:
    """The comparison of the two rows' curves; None until both are measured."""
    curves = {row.name: row.curve for row in rows}
    slower, faster = curves[compared.slower], curves[compared.faster]
    if not slower or not faster:
        return None

    def of(row: str, own: Sequence[CurvePoint], other: Sequence[CurvePoint]) -> Converges:
        reached = next((point.videos_seen for point in own if point.mean >= other[-1].mean), None)
        return Converges(row=row, ap=own[-1].mean, videos_seen=own[-1].videos_seen, reaches_other_after=reached)

    return Convergence(slower=of(compared.slower, slower, faster), faster=of(compared.faster, faster, slower))


def text(found: Convergence) -> str:
    """A paragraph on what ``convergence`` found."""
    slower, faster = found.slower, found.faster
    goal = f"the AP with which {faster.row} ends ({faster.ap:.1f} after {faster.videos_seen:,} videos)"
    if (after := slower.reaches_other_after) is not None:
        sentences = [f"{slower.row} reaches {goal} after {after:,} videos or fewer, "
                     f"{_times(after, faster.videos_seen)} times as many."]
    else:
        sentences = [f"In {_times(slower.videos_seen, faster.videos_seen)} times as many videos {slower.row} does not "
                     f"reach {goal}; it has {slower.ap:.1f}."]
    if (after := faster.reaches_other_after) is not None:
        sentences.append(f"{faster.row} has that of {slower.row} after {after:,} videos or fewer, "
                         f"1/{_times(slower.videos_seen, after)} of its {slower.videos_seen:,}.")
    return " ".join(["Convergence:", *sentences])


def _times(videos: int, others: int) -> str:
    return f"{videos / others:.3g}"

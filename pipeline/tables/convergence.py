"""How many times as many videos one row of a table needs to reach another row's AP, from their learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.grid.table_file import Compared


def convergence(compared: Compared, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The comparison of the two rows' curves; None until both are measured.

    Args:
        rows: the rows as in ``pipeline.tables.summary.summary``.

    Returns:
        For ``slower`` and ``faster``: ``row``, ``ap`` (at the end of its training, in percent), ``videos_seen`` (at the end)
        and ``reaches_other_after`` (videos seen at the first point of its curve that reaches the AP with which the other row
        ends; None if no point does).
    """
    by_name = {row["name"]: row for row in rows}
    curves = {role: by_name[name]["curve"] for role, name in compared.model_dump().items()}
    if not all(curves.values()):
        return None
    ends = {role: curve[-1] for role, curve in curves.items()}
    return {
        role: {
            "row": getattr(compared, role),
            "ap": ends[role]["mean"],
            "videos_seen": ends[role]["videos_seen"],
            "reaches_other_after": next((p["videos_seen"] for p in curves[role] if p["mean"] >= ends[other]["mean"]), None),
        }
        for role, other in (("slower", "faster"), ("faster", "slower"))
    }


def text(found: Mapping[str, Any]) -> str:
    """A paragraph on what ``convergence`` found."""
    slower, faster = found["slower"], found["faster"]
    goal = f"the AP with which {faster['row']} ends ({faster['ap']:.1f} after {faster['videos_seen']:,} videos)"
    if (after := slower["reaches_other_after"]) is not None:
        sentences = [f"{slower['row']} reaches {goal} after {after:,} videos or fewer, "
                     f"{_times(after, faster['videos_seen'])} times as many."]
    else:
        sentences = [f"In {_times(slower['videos_seen'], faster['videos_seen'])} times as many videos {slower['row']} does not "
                     f"reach {goal}; it has {slower['ap']:.1f}."]
    if (after := faster["reaches_other_after"]) is not None:
        sentences.append(f"{faster['row']} has that of {slower['row']} after {after:,} videos or fewer, "
                         f"1/{_times(slower['videos_seen'], after)} of its {slower['videos_seen']:,}.")
    return " ".join(["Convergence:", *sentences])


def _times(videos: int, others: int) -> str:
    return f"{videos / others:.3g}"

"""The paper's claims, settled by the measured cells of the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from pipeline.runs import cells
from pipeline.runs.cells import Cell
from pipeline.system.files import json_bytes, write_atomically
from pipeline.tables.certainty import Estimate, estimate, resampled_percent
from pipeline.tables.claims_file import Claim, Holds, Ledger
from pipeline.tables.form import videos_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

Verdict = Literal["reproduced", "contradicted", "inconclusive", "not measured"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "inconclusive", "not measured")
HOW_TO_READ = (
    "A margin is a difference of AP in percent, paired over seeds and videos: mean ± standard error, measured on {dataset} "
    "with the {profile} profile. Error and interval cover the seeds of the trainings and the videos of the split together, "
    "unless a note says otherwise (docs/claims.md). One rule gives every verdict: *reproduced* where the whole {confidence} "
    "interval lies where the claim holds, *contradicted* where all of it lies beyond a bound, *inconclusive* otherwise, with "
    "fewer than two seeds, and where both rows stay below {least_ap:g} AP."
)


@dataclass(frozen=True)
class Entry:
    """A claim with its verdict.

    Attributes:
        row_ap, than_ap: means over ``seeds`` in percent; None if there is no seed.
        margin: ``row_ap`` minus ``than_ap``.
        tested: what the verdict follows from: the margin, unless the claim is about a collapse.
        reason: why there is no verdict, or empty.
    """

    claim: Claim
    verdict: Verdict
    reason: str = ""
    seeds: tuple[int, ...] = ()
    row_ap: float | None = None
    than_ap: float | None = None
    margin: Estimate | None = None
    tested: Estimate | None = None


def settle(params: Params, ledger: Ledger) -> list[Entry]:
    """Every claim with the verdict that the present cells give."""
    return [_settle(params, ledger, claim) for claim in ledger.claims]


def _settle(params: Params, ledger: Ledger, claim: Claim) -> Entry:
    for name in (claim.row, claim.than):
        if obstacle := ledger.obstacles.get(name.partition(":")[0]):
            return Entry(claim, "not measured", obstacle)
    row, than = (_cells_by_seed(params, ledger.evaluations[name]) for name in (claim.row, claim.than))
    if not row or not than:
        return Entry(claim, "not measured", "a row has no results yet")
    seeds = tuple(sorted(row.keys() & than.keys()))
    if not seeds:
        return Entry(claim, "inconclusive", "the rows have no seed in common")
    of_row, of_than = ([found[seed] for seed in seeds] for found in (row, than))
    row_ap, than_ap = (mean(map(_ap, found)) for found in (of_row, of_than))
    margin = _margin(of_row, of_than, 1.0, ledger.confidence)
    tested = _margin(of_row, of_than, claim.holds.share, ledger.confidence)
    decided, reason = verdict(tested, claim.holds), ""
    if len(seeds) == 1:
        decided, reason = "inconclusive", "one seed says nothing of other seeds"
    elif max(row_ap, than_ap) < ledger.least_ap:
        decided, reason = "inconclusive", f"both rows stay below {ledger.least_ap:g} AP"
    return Entry(claim, decided, reason, seeds, row_ap, than_ap, margin, tested)


def _cells_by_seed(params: Params, evaluations: Sequence[EvalSpec]) -> dict[int, Cell]:
    """The cells of the seeds that have one with a defined AP."""
    found = [cell for spec in evaluations if (cell := cells.find_cell(params, spec)) is not None]
    return {cell.seed: cell for cell in found if cell.metrics["AP"] >= 0}


def _ap(cell: Cell) -> float:
    """AP in percent."""
    return 100 * cell.metrics["AP"]


def _margin(row: Sequence[Cell], than: Sequence[Cell], share: float, confidence: float) -> Estimate:
    """``share`` of the one row's AP minus the other's, paired over seeds and over resamples of the videos."""
    values = [share * _ap(one) - _ap(other) for one, other in zip(row, than, strict=True)]
    return estimate(values, _difference(share, *map(resampled_percent, (row, than))), confidence=confidence)


def _difference(share: float, row_SR: np.ndarray | None, than_SR: np.ndarray | None) -> np.ndarray | None:
    if row_SR is None or than_SR is None or row_SR.shape != than_SR.shape:
        return None
    return share * row_SR - than_SR


def verdict(tested: Estimate, holds: Holds) -> Verdict:
    """The rule's verdict: the interval is all inside the range, all beyond one of its ends, or neither."""
    if tested.low is None:
        return "inconclusive"
    above, below = holds.range
    if above < tested.low and tested.high < below:
        return "reproduced"
    return "contradicted" if tested.high < above or tested.low > below else "inconclusive"


def write_ledger(params: Params, ledger: Ledger) -> Path:
    """Writes claims.json and claims.md to the results; returns the latter."""
    entries = settle(params, ledger)
    facts = {
        "dataset": videos_of(params.dataset_name, _splits(ledger)),
        "profile": params.profile,
        "confidence": ledger.confidence,
        "least_ap": ledger.least_ap,
        "counts": {name: sum(entry.verdict == name for entry in entries) for name in VERDICTS},
        "claims": [_plain(entry) for entry in entries],
    }
    params.results_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(params.results_dir / "claims.json", json_bytes(facts))
    file = params.results_dir / "claims.md"
    write_atomically(file, markdown(facts).encode())
    return file


def _splits(ledger: Ledger) -> str:
    """The splits that the claims' rows are measured on."""
    return ", ".join(dict.fromkeys(spec.split for specs in ledger.evaluations.values() for spec in specs)) or "val"


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        **entry.claim.model_dump(mode="json"),
        "holds": entry.claim.holds.text(),
        "verdict": entry.verdict,
        "reason": entry.reason,
        "seeds": list(entry.seeds),
        "row_ap": _rounded(entry.row_ap),
        "than_ap": _rounded(entry.than_ap),
        "margin": entry.margin and _plain_estimate(entry.margin),
        "tested": entry.tested and _plain_estimate(entry.tested),
    }


def _plain_estimate(found: Estimate) -> dict[str, Any]:
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in asdict(found).items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def markdown(facts: Mapping[str, Any]) -> str:
    """The content of claims.json as markdown, for people."""
    confidence = f"{facts['confidence']:.0%}"
    lines = [f"| table | claim | holds | published | ours | {confidence} interval | seeds | verdict |",
             "| :-- | :-- | :-- | --: | --: | --: | --: | :-- |"]
    tests, parts, reasons = [], defaultdict(list), defaultdict(list)
    for claim in facts["claims"]:
        says, margin, tested = claim["says"], claim["margin"], claim["tested"]
        published = "–" if claim["published"] is None else f"{claim['published']:+.1f}"
        cells = [claim["row"].partition(":")[0], says, claim["holds"], published, _mean(margin), _interval(margin),
                 str(len(claim["seeds"]) or "–"), claim["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
        if tested != margin:
            tests.append(f"- {says}: tested is {_mean(tested)}, interval {_interval(tested)}.")
        if margin is not None and margin.get("covers") in ("seeds", "videos"):
            parts[margin["covers"]].append(says)
        if claim["reason"]:
            reasons[claim["reason"]].append(says)
    notes = [*tests, *(f"- interval of the {covers} alone: {'; '.join(claims)}." for covers, claims in parts.items())]
    notes += [*(f"- {'; '.join(claims)}: {reason}." for reason, claims in reasons.items())]
    intro = HOW_TO_READ.format(dataset=facts["dataset"], profile=facts["profile"], confidence=confidence,
                               least_ap=facts["least_ap"])
    counts = ", ".join(f"{count} {name}" for name, count in facts["counts"].items() if count)
    texts = ["# Claims", intro, f"{counts}.", "\n".join(lines), "\n".join(notes)]
    return "\n\n".join(text for text in texts if text) + "\n"


def _mean(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    error = "" if value["standard_error"] is None else f" ± {value['standard_error']:.1f}"
    return f"{value['mean']:+.1f}{error}"


def _interval(value: Mapping[str, Any] | None) -> str:
    return "–" if value is None or value["low"] is None else f"{value['low']:+.1f} to {value['high']:+.1f}"

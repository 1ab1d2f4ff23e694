"""The paper's claims, settled by the measured cells of the tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from pipeline.runs import cells
from pipeline.system.files import json_bytes, write_atomically
from pipeline.tables.claims_file import Claim, Holds, Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

Verdict = Literal["reproduced", "contradicted", "inconclusive", "not measured"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "inconclusive", "not measured")
HOW_TO_READ = (
    "A margin is a difference of AP in percent, paired over seeds: mean ± standard error, measured on {dataset} with the "
    "{profile} profile. One rule gives every verdict: *reproduced* where the whole {confidence} interval lies where the claim "
    "holds, *contradicted* where all of it lies beyond a bound, *inconclusive* otherwise, with fewer than two seeds, and where "
    "both rows stay below {least_ap:g} AP."
)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its t-interval, in percent AP; a single seed gives neither error nor interval."""

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int


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
    row, than = (_ap_by_seed(params, ledger.evaluations[name]) for name in (claim.row, claim.than))
    if not row or not than:
        return Entry(claim, "not measured", "a row has no results yet")
    seeds = tuple(sorted(row.keys() & than.keys()))
    if not seeds:
        return Entry(claim, "inconclusive", "the rows have no seed in common")
    row_ap, than_ap = (mean(found[seed] for seed in seeds) for found in (row, than))
    margin = estimate([row[seed] - than[seed] for seed in seeds], ledger.confidence)
    tested = estimate([claim.holds.share * row[seed] - than[seed] for seed in seeds], ledger.confidence)
    decided, reason = verdict(tested, claim.holds), ""
    if len(seeds) == 1:
        reason = "one seed gives no interval"
    elif max(row_ap, than_ap) < ledger.least_ap:
        decided, reason = "inconclusive", f"both rows stay below {ledger.least_ap:g} AP"
    return Entry(claim, decided, reason, seeds, row_ap, than_ap, margin, tested)


def _ap_by_seed(params: Params, evaluations: Sequence[EvalSpec]) -> dict[int, float]:
    """AP in percent of the seeds that have a cell and a defined AP."""
    found = [cell for spec in evaluations if (cell := cells.find_cell(params, spec)) is not None]
    return {cell.seed: 100 * cell.metrics["AP"] for cell in found if cell.metrics["AP"] >= 0}


def estimate(values: Sequence[float], confidence: float) -> Estimate:
    """Mean, standard error and t-interval of independent values, such as one per seed."""
    n = len(values)
    if n < 2:
        return Estimate(mean(values), None, None, None, n)
    from scipy.special import stdtrit  # scipy.stats, whose t.ppf is this, takes a second to import

    error = stdev(values) / math.sqrt(n)
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return Estimate(mean(values), error, mean(values) - reach, mean(values) + reach, n)


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
        "dataset": params.dataset_name,
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


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        **entry.claim.model_dump(mode="json"),
        "holds": entry.claim.holds.text(),
        "verdict": entry.verdict,
        "reason": entry.reason,
        "seeds": list(entry.seeds),
        "row_ap": _rounded(entry.row_ap),
        "than_ap": _rounded(entry.than_ap),
        "margin": entry.margin and {name: _rounded(value) for name, value in asdict(entry.margin).items()},
        "tested": entry.tested and {name: _rounded(value) for name, value in asdict(entry.tested).items()},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def markdown(facts: Mapping[str, Any]) -> str:
    """The content of claims.json as markdown, for people."""
    confidence = f"{facts['confidence']:.0%}"
    lines = [f"| table | claim | holds | published | ours | {confidence} interval | seeds | verdict |",
             "| :-- | :-- | :-- | --: | --: | --: | --: | :-- |"]
    tests, reasons = [], defaultdict(list)
    for claim in facts["claims"]:
        says, margin, tested = claim["says"], claim["margin"], claim["tested"]
        published = "–" if claim["published"] is None else f"{claim['published']:+.1f}"
        cells = [claim["row"].partition(":")[0], says, claim["holds"], published, _mean(margin), _interval(margin),
                 str(len(claim["seeds"]) or "–"), claim["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
        if tested != margin:
            tests.append(f"- {says}: tested is {_mean(tested)}, interval {_interval(tested)}.")
        if claim["reason"]:
            reasons[claim["reason"]].append(says)
    notes = [*tests, *(f"- {'; '.join(claims)}: {reason}." for reason, claims in reasons.items())]
    intro = HOW_TO_READ.format(dataset=facts["dataset"], profile=facts["profile"], confidence=confidence,
                               least_ap=facts["least_ap"])
    counts = ", ".join(f"{count} {name}" for name, count in facts["counts"].items() if count)
    parts = ["# Claims", intro, f"{counts}.", "\n".join(lines), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _mean(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    error = "" if value["standard_error"] is None else f" ± {value['standard_error']:.1f}"
    return f"{value['mean']:+.1f}{error}"


def _interval(value: Mapping[str, Any] | None) -> str:
    return "–" if value is None or value["low"] is None else f"{value['low']:+.1f} to {value['high']:+.1f}"

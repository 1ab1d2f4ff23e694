"""Verdicts from cells: every verdict, the rule's edges, and the pairing of seeds."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from scipy import stats
from support.project import CHECKOUT, put_evaluation

from effvis.errors import UserError
from pipeline.grid.rows import load_table
from pipeline.settings.loading import load_params
from pipeline.tables.certainty import Estimate, estimate
from pipeline.tables.claims import settle, verdict, write_ledger
from pipeline.tables.claims_file import Holds, load_ledger

ABOVE_0, NO_LOSS, NEUTRAL = Holds(above=0), Holds(above=-2), Holds(above=-2, below=2)


def project(tiny_project, seeds=3, **changes):
    return load_params(tiny_project(seeds=seeds, **changes) / "params.yaml")


def put(params, **aps):
    """Writes cells for the rows of table 1e, with AP in percent by seed; None leaves a seed out."""
    rows = {"without": "w/o CL", "with_cl": "w/ CL"}
    evaluations = {row.name: row.evaluations for row in load_table(params, "table1e").rows}
    for name, values in aps.items():
        for spec, ap in zip(evaluations[rows[name]], values, strict=True):
            if ap is not None:
                put_evaluation(params, spec, ap / 100)


def change_claims(params, change):
    """Rewrites experiments/claims.yaml with one claim, on table 1e."""
    path = params.root / "experiments" / "claims.yaml"
    claim = {"id": "one", "says": "one thing", "row": "table1e:w/ CL", "than": "table1e:w/o CL", "holds": {"above": 0}}
    path.write_text(yaml.safe_dump({"claims": [claim | change]}))
    return path


def settled(params, **change):
    change_claims(params, change)
    (entry,) = settle(params, load_ledger(params))
    return entry


@pytest.mark.parametrize("holds, low, high, expected", [
    (ABOVE_0, 0.1, 9, "reproduced"),
    (ABOVE_0, -9, -0.1, "contradicted"),
    (ABOVE_0, -0.1, 9, "inconclusive"),
    (ABOVE_0, 0, 9, "inconclusive"),
    (ABOVE_0, -9, 0, "inconclusive"),
    (NEUTRAL, -1.9, 1.9, "reproduced"),
    (NEUTRAL, 0.5, 1.9, "reproduced"),
    (NEUTRAL, -1.9, 2.1, "inconclusive"),
    (NEUTRAL, -9, 9, "inconclusive"),
    (NEUTRAL, 2.1, 9, "contradicted"),
    (NEUTRAL, -9, -2.1, "contradicted"),
    (NO_LOSS, -1.9, 9, "reproduced"),
    (NO_LOSS, -2.1, 9, "inconclusive"),
    (NO_LOSS, -9, -2.1, "contradicted"),
    (Holds(keeps_below=0.5), 0.1, 9, "reproduced"),
    (Holds(keeps_below=0.5), -9, -0.1, "contradicted"),
])
def test_the_interval_s_place_decides(holds, low, high, expected):
    assert verdict(Estimate((low + high) / 2, 1.0, low, high, 3), holds) == expected


def test_without_an_interval_nothing_is_concluded():
    assert verdict(estimate([50.0]), ABOVE_0) == "inconclusive"


def test_mean_error_and_interval_are_those_of_the_paired_t_test():
    first, second = [30.1, 33.4, 28.7, 36.0], [28.0, 30.2, 27.9, 31.5]
    found = estimate([a - b for a, b in zip(first, second, strict=True)], confidence=0.95)
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high)) and found.n == 4
    assert found.mean / found.standard_error == pytest.approx(expected.statistic)
    wider = estimate([a - b for a, b in zip(first, second, strict=True)], confidence=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_what_all_rows_of_a_seed_share_cancels(tiny_project):
    """The rows differ by about 2 AP in each seed; seeds differ by 30. Paired, the difference is plain."""
    params = project(tiny_project)
    with_cl, without = (22.0, 37.1, 51.9), (20.0, 35.0, 50.0)
    put(params, with_cl=with_cl, without=without)
    entry = settled(params)
    assert entry.verdict == "reproduced" and entry.seeds == (0, 1, 2)
    assert entry.margin.mean == pytest.approx(2.0) and entry.margin.standard_error < 0.1
    assert stats.ttest_ind(with_cl, without).pvalue > 0.8, "as two groups they could not be told apart"


@pytest.mark.parametrize("with_cl, without, holds, expected", [
    ((52, 51, 53), (50, 49.5, 50.5), {"above": 0}, "reproduced"),
    ((50, 49.5, 50.5), (52, 51, 53), {"above": 0}, "contradicted"),
    ((52, 51, 53), (50, 52, 51), {"above": 0}, "inconclusive"),
    ((50.1, 50.0, 49.9), (50, 50.2, 50.1), {"above": -2, "below": 2}, "reproduced"),
    ((60, 61, 62), (50, 50.2, 50.1), {"above": -2, "below": 2}, "contradicted"),
    ((55, 50, 45), (50, 50, 50), {"above": -2, "below": 2}, "inconclusive"),
    ((49, 49.1, 48.9), (50, 50, 50), {"above": -2}, "reproduced"),
    ((44, 44.1, 43.9), (50, 50, 50), {"above": -2}, "contradicted"),
    ((64, 65, 66), (7, 7.5, 6.5), {"keeps_below": 0.5}, "reproduced"),
    ((64, 65, 66), (40, 41, 42), {"keeps_below": 0.5}, "contradicted"),
    ((64, 65, 66), (20, 30, 40), {"keeps_below": 0.5}, "inconclusive"),
])
def test_every_kind_of_claim_can_come_out_either_way(tiny_project, with_cl, without, holds, expected):
    params = project(tiny_project)
    put(params, with_cl=with_cl, without=without)
    entry = settled(params, holds=holds)
    assert (entry.verdict, entry.reason) == (expected, "")
    assert entry.margin.mean == pytest.approx(sum(with_cl) / 3 - sum(without) / 3), "the margin is in AP, whatever is tested"


def test_too_few_seeds_say_so(tiny_project):
    params = project(tiny_project)
    entry = settled(params)
    assert (entry.verdict, entry.reason, entry.margin) == ("not measured", "a row has no results yet", None)
    put(params, with_cl=(60, None, None))
    assert settled(params).verdict == "not measured"
    put(params, without=(None, 5, None))
    entry = settled(params)
    assert (entry.verdict, entry.reason) == ("inconclusive", "the rows have no seed in common")
    put(params, with_cl=(None, 61, None))
    entry = settled(params)
    assert (entry.verdict, entry.reason, entry.seeds) == ("inconclusive", "one seed says nothing of other seeds", (1,))
    assert entry.margin == Estimate(pytest.approx(56.0), None, None, None, 1)
    put(params, without=(4, None, None))
    assert settled(params).seeds == (0, 1), "only seeds that both rows have"


def test_networks_that_learned_nothing_show_nothing(tiny_project):
    params = project(tiny_project)
    path = change_claims(params, {"holds": {"above": -2, "below": 2}})
    path.write_text(path.read_text() + "least_ap: 5\n")
    put(params, with_cl=(0, 0, 0), without=(0, 0, 0.1))
    (entry,) = settle(params, load_ledger(params))
    assert (entry.verdict, entry.reason) == ("inconclusive", "both rows stay below 5 AP")
    path.write_text(path.read_text().replace("least_ap: 5", "least_ap: 0"))
    assert settle(params, load_ledger(params))[0].verdict == "reproduced"


def test_the_ledger_is_written_for_people_and_programs(tiny_project):
    params = project(tiny_project)
    put(params, with_cl=(64, 65, 66.5), without=(7, 7.5, 6.5))
    ledger = load_ledger(params)
    write_ledger(params, ledger)
    written = json.loads((params.results_dir / "claims.json").read_text())
    assert written["counts"] == {"reproduced": 1, "contradicted": 0, "inconclusive": 0, "not measured": 13}
    entry = next(claim for claim in written["claims"] if claim["id"] == "cl-is-key")
    assert (entry["published"], entry["verdict"], entry["seeds"]) == (27.9, "reproduced", [0, 1, 2])
    assert entry["margin"]["mean"] == pytest.approx(58.1667, abs=1e-4) and entry["margin"]["n"] == 3
    assert entry["tested"]["mean"] == pytest.approx(65.1667 / 2 - 7, abs=1e-3)
    markdown = (params.results_dir / "claims.md").read_text()
    assert "1 reproduced, 13 not measured." in markdown and "whole 95% interval" in markdown
    assert "| keeps below 0.5 | +27.9 | +58.2 ± 0.9 | +54.2 to +62.2 | 3 | reproduced |" in markdown
    assert "- without correspondence learning end-to-end linking collapses: tested is +25.6 ± 0.6, interval" in markdown
    assert "; 1.5 FPS video costs no AP: a row has no results yet." in markdown
    before = {file.name: file.read_bytes() for file in params.results_dir.glob("claims.*")}
    write_ledger(params, ledger)
    assert {file.name: file.read_bytes() for file in params.results_dir.glob("claims.*")} == before, "no times, no dates"


def test_the_command_counts_the_seeds_that_it_is_given(tiny_project):
    params = project(tiny_project)
    put(params, with_cl=(64, 65, 66.5), without=(7, 7.5, 6.5))
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "pipeline.claims", "--seeds", "2"]
    ended = subprocess.run(command, cwd=params.root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    claims = json.loads((params.results_dir / "claims.json").read_text())["claims"]
    assert [claim["seeds"] for claim in claims if claim["id"] == "cl-is-key"] == [[0, 1]]
    assert (params.results_dir / "claims.md").read_text() in ended.stdout


def test_where_no_shipped_weights_fit_a_claim_is_not_measured_and_says_why(tiny_project):
    params = project(tiny_project, pretrain={"source": "shipped"})
    entry = settled(params)
    assert entry.verdict == "not measured" and "no shipped weights fit" in entry.reason and "scratch" in entry.reason


@pytest.mark.parametrize("change, key, problem", [
    ({"row": "table1e:with CL"}, "claims.0.row", "there is no row 'table1e:with CL' to run"),
    ({"than": "table2:SipMask"}, "claims.0.than", "there is no row 'table2:SipMask' to run"),
    ({"holds": {}}, "claims.0.holds", "give above, below or both, or else keeps_below"),
    ({"holds": {"above": 0, "keeps_below": 0.5}}, "claims.0.holds", "or else keeps_below"),
    ({"holds": {"above": 2, "below": -2}}, "claims.0.holds", "is not less than"),
    ({"holds": {"beyond": 2}}, "claims.0.holds.beyond", "unknown key"),
    ({"published": "much"}, "claims.0.published", "valid number"),
])
def test_a_wrong_claim_names_its_file_and_key(tiny_project, change, key, problem):
    params = project(tiny_project)
    path = change_claims(params, change)
    with pytest.raises(UserError, match=problem) as caught:
        load_ledger(params)
    assert (caught.value.where, caught.value.key) == (str(path), key)


def test_a_claim_on_a_table_that_is_not_there_lists_those_there_are(tiny_project):
    params = project(tiny_project)
    change_claims(params, {"row": "table9z:w/ CL"})
    with pytest.raises(UserError, match="table9z: there is no such table.*table1e"):
        load_ledger(params)


def test_the_fourteen_claims_have_the_margins_of_the_tables(tiny_project):
    params = project(tiny_project, seeds=1)
    claims = load_ledger(params).claims
    assert len(claims) == 14
    published = {}
    for table in {name.partition(":")[0] for claim in claims for name in (claim.row, claim.than)}:
        published |= {f"{table}:{row.name}": row.published for row in load_table(params, table).rows}
    for claim in claims:
        row, than = published[claim.row], published[claim.than]
        expected = pytest.approx(row["AP"] - than["AP"]) if row and than else None
        assert claim.published == expected, claim.id


def test_the_claims_are_those_that_were_transcribed(tiny_project):
    transcribed = CHECKOUT.parent / "shared" / "paper" / "tables.yaml"
    if not transcribed.is_file():
        pytest.skip(f"{transcribed}: the transcribed tables are not there")
    paper = yaml.safe_load(transcribed.read_text(encoding="utf-8"))["claims"]
    claims = load_ledger(project(tiny_project, seeds=1)).claims
    assert [(claim.id, claim.says, claim.published) for claim in claims] == [
        (claim["id"], claim["says"], claim.get("margin_ap")) for claim in paper]

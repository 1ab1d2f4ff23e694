"""Errors and intervals of seeds and videos together, on made cells and on experiments whose truth is known."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats
from support.project import put_evaluation

from effvis.evaluation.resampling import draws
from pipeline.grid.rows import load_table
from pipeline.runs import cells
from pipeline.settings.loading import load_params
from pipeline.tables.certainty import estimate
from pipeline.tables.claims import settle, write_ledger
from pipeline.tables.claims_file import load_ledger
from pipeline.tables.write import write_tables

RESAMPLES = 200
EXPERIMENTS = 1500


def normal(mean, deviation, seed=0):
    """Numbers of exactly this mean and deviation."""
    values = np.random.default_rng(seed).normal(size=RESAMPLES)
    return mean + deviation * (values - values.mean()) / values.std(ddof=1)


def test_variances_of_seeds_and_videos_add_up():
    found = estimate([10.0, 12.0, 14.0], np.stack([normal(mean, 1.5) for mean in (10, 12, 14)]))
    seeds, videos = 4 / 3, 1.5**2
    assert found.standard_error == pytest.approx((seeds + videos) ** 0.5) and found.covers == "seeds and videos"
    degrees = (seeds + videos) ** 2 / (seeds**2 / 2 + videos**2 / (RESAMPLES - 1))
    low, high = stats.t.interval(0.95, degrees, loc=12.0, scale=found.standard_error)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_noise_of_single_seeds_averages_out_and_common_noise_does_not():
    together = np.stack([normal(10, 2)] * 4)
    apart = np.stack([normal(10, 2, seed) for seed in range(4)])
    assert estimate([10.0] * 4, together).standard_error == pytest.approx(2)
    assert estimate([10.0] * 4, apart).standard_error == pytest.approx(1, rel=0.15)


def test_without_resamples_it_is_the_t_test_and_with_one_seed_the_videos_alone():
    values = [1.5, 2.5, 1.0]
    found = estimate(values)
    assert (found.low, found.high) == tuple(map(pytest.approx, stats.ttest_1samp(values, 0).confidence_interval(0.95)))
    assert found.covers == "seeds"
    one = estimate([10.0], normal(10, 1.5)[None])
    assert (one.standard_error, one.covers) == (pytest.approx(1.5), "videos") and one.low < 10 < one.high
    assert estimate([10.0]).covers is None


def test_seeds_that_do_not_differ_leave_the_videos_part():
    found = estimate([10.0, 10.0], np.stack([normal(10, 1)] * 2))
    assert found.high - 10 == pytest.approx(stats.t.ppf(0.975, RESAMPLES - 1))
    nothing = estimate([10.0, 10.0], np.full((2, RESAMPLES), 10.0))
    assert (nothing.standard_error, nothing.low, nothing.high) == (0, 10, 10)


def test_an_undefined_resample_is_left_out():
    resampled = normal(10, 1)[None]
    with_holes = np.insert(resampled, [0, 50, 200], np.nan, axis=1)
    assert estimate([10.0], with_holes) == estimate([10.0], resampled)
    assert estimate([10.0], np.full((1, 5), np.nan)).covers is None


@pytest.mark.parametrize("seeds, videos, both, n", [
    (1, 0.2, 0, 3), (0.5, 5, 0, 2), (0.5, 5, 0, 3), (0.02, 5, 0, 3), (0.5, 4, 4, 3)])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, videos, both, n):
    """Experiments whose margin is a mean over 60 videos: noise of a seed, of a video, and of a video with a seed."""
    rng, V, experiments = np.random.default_rng(0), 60, EXPERIMENTS
    truth, copies_RV = 3.0, draws(60, RESAMPLES)
    values = (truth + seeds * rng.normal(size=(experiments, n, 1)) + videos * rng.normal(size=(experiments, 1, V))
              + both * rng.normal(size=(experiments, n, V)))
    resampled = values @ copies_RV.T / V
    found = [estimate(one.mean(axis=1), again) for one, again in zip(values, resampled, strict=True)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.925 <= covered <= 0.985
    if videos > seeds:
        alone = [estimate(one.mean(axis=1)) for one in values]
        assert np.mean([one.low <= truth <= one.high for one in alone]) < covered, "seeds alone promise too much"


@pytest.fixture
def put(tiny_project):
    """Writes cells of table 1e: AP in percent by seed for each row and, by a function of AP and the row, on resamples."""
    params = load_params(tiny_project(seeds=3) / "params.yaml")
    table = load_table(params, "table1e")

    def write(with_cl, without, resampled=None):
        for row, aps in zip(table.rows, (without, with_cl), strict=True):
            for spec, ap in zip(row.evaluations, aps, strict=False):
                put_evaluation(params, spec, ap / 100, resampled=resampled and resampled(ap, row.name) / 100)
        write_tables(params, [table])
        return params

    return write


WITH_CL, WITHOUT = (64.0, 65.0, 66.5), (20.0, 20.5, 19.5)
SEEDS_ERROR = np.std(np.subtract(WITH_CL, WITHOUT), ddof=1) / 3**0.5


def for_both_rows(ap, row):
    return ap + normal(0, 3)


def for_each_row(ap, row):
    return ap + normal(0, 3, seed=len(row))


def ledger_entry(params):
    return next(one for one in settle(params, load_ledger(params)) if one.claim.id == "cl-is-key")


def test_what_the_videos_do_to_both_rows_cancels(put):
    entry = ledger_entry(put(WITH_CL, WITHOUT, for_both_rows))
    assert entry.margin.covers == "seeds and videos"
    assert entry.margin.standard_error == pytest.approx(SEEDS_ERROR, abs=0.01)
    assert entry.tested.standard_error > 1.5, "of half of one AP less the other, half of the videos' part remains"


def test_what_they_do_to_one_row_widens_the_interval(put):
    margin = ledger_entry(put(WITH_CL, WITHOUT, for_each_row)).margin
    videos = np.std(normal(0, 3, seed=len("w/ CL")) - normal(0, 3, seed=len("w/o CL")), ddof=1)
    assert margin.standard_error == pytest.approx(np.hypot(SEEDS_ERROR, videos), rel=0.01)


def test_one_seed_shows_the_videos_part_and_decides_nothing(put):
    params = put(WITH_CL[:1], WITHOUT[:1], for_each_row)
    entry = ledger_entry(params)
    assert entry.verdict == "inconclusive" and entry.margin.covers == "videos" and 0 < entry.margin.low < 44
    text = write_ledger(params, load_ledger(params)).read_text()
    assert "- interval of the videos alone: without correspondence learning" in text
    assert "one seed says nothing of other seeds" in text
    assert "| w/ CL | 35.3 | 64.0 ± 3.0 (videos) | +28.7 |" in (params.results_dir / "table1e.md").read_text()


def test_cells_without_resamples_give_the_seeds_part_and_say_so(put):
    params = put(WITH_CL, WITHOUT)
    assert ledger_entry(params).margin.covers == "seeds"
    text = write_ledger(params, load_ledger(params)).read_text()
    assert "- interval of the seeds alone: without correspondence learning" in text
    assert "or of what stands beside it alone (seeds)" in (params.results_dir / "table1e.md").read_text()


def test_tables_show_the_error_of_both(put):
    params = put(WITH_CL, WITHOUT, for_both_rows)
    error = np.hypot(np.std(WITH_CL, ddof=1) / 3**0.5, 3)
    measured = json.loads((params.results_dir / "table1e.json").read_text())["rows"][1]["measured"]
    assert measured["AP"]["error"] == pytest.approx(error, abs=0.01) and measured["AP"]["covers"] == "seeds and videos"
    assert set(measured["AP50"]) == {"mean", "std", "n"}
    markdown = (params.results_dir / "table1e.md").read_text()
    assert f"| w/ CL | 35.3 | 65.2 ± {error:.1f} | +29.9 | 57.6 / 65.2 |" in markdown
    assert "of the trainings' seeds and of the split's videos together (docs/claims.md)." in markdown


def test_a_cell_keeps_its_resamples_in_one_short_line(put):
    params = put(WITH_CL, WITHOUT, for_each_row)
    spec = load_table(params, "table1e").rows[1].evaluations[0]
    file = params.results_dir / "cells" / f"{spec.key}.json"
    cell = cells.find_cell(params, spec)
    assert cell.resampled_percent == pytest.approx(for_each_row(64.0, "w/ CL").tolist(), abs=0.0051)
    (line,) = (line for line in file.read_text().splitlines() if cells.RESAMPLED in line)
    assert len(line) < 1100
    file.write_text(file.read_text().replace(cell.AP_resampled[:9], "6.4 6500,"))
    shutil.rmtree(params.runs_dir)
    assert cells.find_cell(params, spec) is None, "a broken line breaks the cell, which is made again"

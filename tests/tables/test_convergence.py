"""How much sooner one method reaches the AP of another."""

import pytest
import yaml

from effvis.errors import UserError
from pipeline.grid.rows import load_table
from pipeline.grid.table_file import Compared
from pipeline.settings.loading import load_params
from pipeline.tables.convergence import convergence, text
from pipeline.tables.form import RowSummary
from pipeline.tables.markdown import convergence_text, markdown
from pipeline.tables.summary import summary

BOTH = Compared(slower="VisTR", faster="EfficientVIS")


def row(name, *points):
    curve = [{"videos_seen": seen, "mean": ap, "std": None, "n": 1} for seen, ap in points]
    return RowSummary(name=name, columns={}, set={}, published={}, measured={}, runs=[], evaluations=[], not_run=None,
                      curve=curve)


def test_a_row_that_never_comes_there_and_the_point_where_the_other_was_already():
    rows = [row("VisTR", (300, 2.0), (1500, 5.0)), row("EfficientVIS", (25, 4.9), (50, 5.0), (100, 30.0))]
    found = convergence(BOTH, rows)
    assert found.slower.model_dump() == {"row": "VisTR", "ap": 5.0, "videos_seen": 1500, "reaches_other_after": None}
    assert found.faster.model_dump() == {"row": "EfficientVIS", "ap": 30.0, "videos_seen": 100, "reaches_other_after": 50}
    assert text(found) == (
        "Convergence: In 15 times as many videos VisTR does not reach the AP with which EfficientVIS ends (30.0 after 100 "
        "videos); it has 5.0. EfficientVIS has that of VisTR after 50 videos or fewer, 1/30 of its 1,500.")


def test_a_row_that_comes_there_late():
    rows = [row("VisTR", (300, 2.0), (750, 30.0), (1500, 33.0)), row("EfficientVIS", (50, 5.0), (100, 30.0))]
    assert text(convergence(BOTH, rows)) == (
        "Convergence: VisTR reaches the AP with which EfficientVIS ends (30.0 after 100 videos) after 750 videos or fewer, "
        "7.5 times as many.")


def test_nothing_is_said_before_both_are_measured(tiny_project):
    assert convergence(BOTH, [row("VisTR"), row("EfficientVIS", (100, 30.0))]) is None
    params = load_params(tiny_project(seeds=1) / "params.yaml")
    table = summary(params, load_table(params, "table1g"))
    assert "convergence" not in table.model_dump() and not convergence_text(table)
    curves = {one.name: one.curve for one in (row("VisTR", (1500, 4.0)), row("EfficientVIS", (100, 30.0)))}
    rows = tuple(one.model_copy(update={"curve": curves.get(one.name, one.curve)}) for one in table.rows)
    assert "does not reach" in markdown(table.model_copy(update={"convergence": convergence(BOTH, rows)}))


@pytest.mark.parametrize(("change", "problem"), [
    ({"convergence": {"slower": "VisTR", "faster": "Nobody"}}, "no row 'Nobody'"),
    ({"curves": False}, "set curves: true"),
])
def test_a_comparison_that_cannot_be_made_is_refused(tiny_project, change, problem):
    folder = tiny_project(seeds=1)
    file = folder / "experiments" / "table1g.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    with pytest.raises(UserError, match=problem) as error:
        load_table(load_params(folder / "params.yaml"), "table1g")
    assert error.value.where == str(file)

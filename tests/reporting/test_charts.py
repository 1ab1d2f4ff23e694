"""The chart of learning curves."""

import re
from xml.etree import ElementTree

from pipeline.reporting.charts import learning_curves
from pipeline.tables.form import RowSummary, TableSummary


def curve(name, points):
    curve = [{"videos_seen": seen, "mean": ap, "std": None, "n": 1, "error": error} for seen, ap, error in points]
    return RowSummary(name=name, columns={}, set={}, published={}, measured={}, runs=[], evaluations=[], not_run=None,
                      curve=curve)


def table(*rows):
    return TableSummary(table="t", title="", caption="", dataset="", profile="", rows=rows)


def test_rows_with_points_are_drawn_and_the_same_numbers_give_the_same_bytes():
    rows = [curve("VisTR", [(100, 1.0, 0.5), (1600, 20.0, 3.0)]), curve("EfficientVIS", [(25, 5.0, None), (100, 30.0, None)]),
            curve("EfficientVIS, multi-scale", [])]
    drawing = learning_curves(table(*rows))
    ElementTree.fromstring(drawing)
    text = drawing.decode()
    assert ">VisTR<" in text and ">EfficientVIS<" in text and "multi-scale" not in text, "nothing is drawn of no points"
    assert {"100", "1,000"} <= set(re.findall(r">([\d,]+)<", text)), "ticks are numbers, not powers"
    assert learning_curves(table(*rows)) == drawing and "<dc:date>" not in text
    rows[0] = curve("VisTR", [(100, 1.0, 0.5), (1600, 20.0, 6.0)])
    assert learning_curves(table(*rows)) != drawing

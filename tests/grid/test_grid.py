"""The tables of the paper: the trainings that their rows share, and the published numbers, which agree with the paper."""

from pathlib import Path

import pytest
import yaml

from pipeline.grid.rows import known_tables, load_table
from pipeline.planning.plan import plan_rows
from pipeline.settings.loading import load_params

PAPER = Path(__file__).resolve().parents[3] / "shared" / "paper" / "tables.yaml"
METRICS = ("AP", "AP50", "AP75", "AR1", "AR10")

# The training of each row that is run, in the rows' order; the same word means the same training.
TABLE_1 = {
    "table1a": ["attn-spatial", "attn-temporal", "attn-joint", "base"],
    "table1b": ["dynconv-still", "base"],
    "table1c": ["t9", "t18", "base"],
    "table1d": ["t9", "t9", "vistr-t18", "t18", "t18"],
    "table1e": ["t9-nocl", "t9"],
    "table1f": ["query-shared", "base"],
    "table1g": ["vistr-t36", "base", "multiscale"],
    "table1h": ["t9", "t9"],
}
TABLES = TABLE_1 | {
    "table2": ["masktrack", "queryinst", "crossvis", "base", "vistr-t36", "queryinst-multiscale", "crossvis-multiscale",
               "multiscale", "masktrack-r101", "crossvis-r101", "r101", "vistr-r101", "r101-multiscale"],
    "table3": ["masktrack-2021", "crossvis-2021", "base-2021"],
}
TEXT = {"text31": ["base", "attn-order"]}


@pytest.fixture
def params(tiny_project):
    return load_params(tiny_project(seeds=1) / "params.yaml")


@pytest.mark.parametrize("grid, trainings, evaluations", [(TABLE_1, 12, 16), (TABLES, 25, 29), (TABLES | TEXT, 26, 30)])
def test_rows_share_their_trainings(params, grid, trainings, evaluations):
    keys: dict[str, set[str]] = {}
    rows = []
    for name, words in grid.items():
        run = [row for row in load_table(params, name).rows if row.not_run is None]
        for row, word in zip(run, words, strict=True):
            keys.setdefault(word, set()).update(spec.train.key for spec in row.evaluations)
        rows += run
    assert {word: len(found) for word, found in keys.items()} == dict.fromkeys(keys, 1), "one word, one training"
    plan = plan_rows(params, rows)
    unique = [spec.key for spec in plan.trainings if spec.kind == "train"]
    assert sorted(unique) == sorted(key for found in keys.values() for key in found), "and another word, another training"
    ends = [spec for spec in plan.evaluations if not spec.halvings]
    assert (len(unique), len(ends)) == (trainings, evaluations)
    assert len(plan.evaluations) - len(ends) == 3 * params.resources.snapshots, "the learning curves of table 1g"
    assert len(plan.trainings) - len(unique) < len(unique), "trainings share what they start from"


def test_seeds_multiply_the_trainings_and_what_they_start_from(params):
    counts = []
    for seeds in (1, 3):
        rows = [row for name in TABLE_1 for row in load_table(params.model_copy(update={"seeds": seeds}), name).rows]
        kinds = [spec.kind for spec in plan_rows(params, rows).trainings]
        counts.append((kinds.count("train"), kinds.count("pretrain")))
    assert counts[1] == (3 * counts[0][0], 3 * counts[0][1]) and counts[0][0] == 12


def test_every_table_of_the_paper_is_there(params):
    assert known_tables(params) == sorted(TABLES | TEXT)
    assert sum(len(load_table(params, name).rows) for name in TABLE_1) == 23


def test_published_numbers_and_columns_are_the_paper_s(params):
    if not PAPER.is_file():
        pytest.skip(f"{PAPER}: the transcribed tables are not there")
    transcribed = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    for name, words in TABLES.items():
        rows, published = load_table(params, name).rows, transcribed[name]
        trained = [row["trains"] for row in published if "trains" in row]  # the transcription names no peer but VisTR
        assert [word for word in words if word in trained] == trained
        for row, paper in zip(rows, published, strict=True):
            assert dict(row.published) == dict(zip(METRICS, paper["metrics"], strict=True)), (name, row.name)
            assert row.not_run is None or "trains" not in paper, (name, row.name)
            columns = {column: str(paper[column]) for column in ("pub", "augmentation", "epochs", "backbone", "fps")
                       if column in paper}
            assert list(row.columns.values()) == list(columns.values()), (name, row.name)
            assert row.name.startswith(paper.get("method", paper.get("name"))), (name, row.name)
            assert paper.get("set", {}).items() <= row.set.items(), (name, row.name)

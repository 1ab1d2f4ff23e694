"""The scoring command, in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path):
    """One video, one object of one category, one perfect result."""
    truth = {
        "videos": [{"id": 1, "height": 4, "width": 5, "length": 1, "file_names": ["a.jpg"]}],
        "categories": [{"id": 1, "name": "cat [1]"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "areas": [4],
                         "segmentations": [{"size": [4, 5], "counts": [1, 4, 15]}]}],
    }
    results = [{"video_id": 1, "category_id": 1, "score": 0.5, "segmentations": [{"size": [4, 5], "counts": "14?"}]},
               {"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": [None]}]
    paths = tmp_path / "gt.json", tmp_path / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def score(*arguments):
    return subprocess.run([sys.executable, "-m", "pipeline.score", *map(str, arguments)], cwd=CHECKOUT, capture_output=True,
                          text=True, timeout=600)


def test_prints_tables_and_writes_json(files, tmp_path):
    run = score(*files, "--json", tmp_path / "out.json")
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines() if line.strip()]
    assert ["AP", "100.00"] in rows and ["APl", "–"] in rows
    assert ["cat", "[1]", *["100.00"] * 6] in rows and ["dog", *["–"] * 6] in rows
    assert "category 3 is not listed" in run.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written) == {"metrics", "per_category", "warnings"}
    assert written["metrics"]["AP"] == pytest.approx(1) and written["metrics"]["APl"] == -1
    assert written["per_category"]["dog"]["AP"] == -1
    assert len(written["warnings"]) == 1


def test_bad_input_is_one_line_and_exit_code_2(files, tmp_path):
    files[1].write_text("[]")
    run = score(*files)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert str(files[1]) in run.stderr
    assert score(tmp_path / "absent.json", files[1]).returncode == 2


def test_an_output_that_cannot_be_written(files, tmp_path):
    run = score(*files, "--json", tmp_path / "absent" / "out.json")
    assert run.returncode == 2
    assert "--json" in run.stderr and "Traceback" not in run.stderr

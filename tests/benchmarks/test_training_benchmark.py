"""benchmarks.training takes its steps, alone and beside another checkout's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_steps_are_taken_beside_another_checkout():
    """The other checkout is this one again, so the losses are the same."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "--case", "T=3", "--rounds", "1", "--against", str(CHECKOUT)],
        cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (row,) = (line.split() for line in ended.stdout.splitlines() if "T=3" in line)
    pairs_a_second, milliseconds, *shares = map(float, row[1:7])
    assert pairs_a_second > 0 and milliseconds > 0 and sum(shares) == pytest.approx(100, abs=0.3)
    assert row[-1] == "0.0e+00"

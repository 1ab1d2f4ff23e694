import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from effvis.errors import UserError
from pipeline.scheduling import machine
from pipeline.settings.params import ResourceSettings


def test_slots_are_what_is_set_or_what_the_machine_holds(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.setattr(machine.cgroup, "processors", lambda: math.inf)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 20 * 2**30)
    assert machine.side_by_side(ResourceSettings(slots=7, threads=4)) == 7
    assert machine.side_by_side(ResourceSettings(threads=4, memory_gib=1)) == 3, "processors"
    assert machine.side_by_side(ResourceSettings(threads=1, memory_gib=4)) == 5, "memory"
    assert machine.side_by_side(ResourceSettings(threads=100)) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine.side_by_side(ResourceSettings(threads=1, memory_gib=1, gpus_per_worker=1)) == 2, "GPUs"


@pytest.mark.parametrize("allowed, usable", [(0.5, 1), (2.9, 2), (64.0, 12), (math.inf, 12)])
def test_processors_are_no_more_than_a_container_gets(monkeypatch, allowed, usable):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.setattr(machine.cgroup, "processors", lambda: allowed)
    assert machine.processors() == usable


def test_memory_is_no_more_than_a_container_gets(monkeypatch):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(10**6)), raising=False)
    monkeypatch.setattr(machine.cgroup, "processors", lambda: math.inf)
    for allowed, runs in ((math.inf, whole // 2**20), (2.0**63, whole // 2**20), (10 * 2**20, 10), (1000, 1)):
        monkeypatch.setattr(machine.cgroup, "memory_bytes", lambda allowed=allowed: allowed)
        assert machine.side_by_side(ResourceSettings(memory_gib=2**-10)) == runs


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    assert machine.device(ResourceSettings()).type == "cpu"
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(UserError, match="resources.gpus_per_worker.*sees none") as error:
        machine.device(ResourceSettings(gpus_per_worker=1))
    assert "Set it to 0" in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_run_that_asks_for_a_gpu_gets_it():
    assert machine.device(ResourceSettings(gpus_per_worker=1)).type == "cuda"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_peak_memory_is_that_since_the_reset():
    # This needs its own process: the memory that this one has held before is unknown.
    code = ("from pipeline.scheduling.machine import peak_memory_mib, reset_peak_memory\n"
            "held = bytearray(300 * 2**20); before = peak_memory_mib(); del held\n"
            "reset_peak_memory(); print(before, peak_memory_mib())\n")
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, after = map(int, output.split())
    assert before >= 300 and after < before - 250

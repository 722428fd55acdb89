"""What `bench` says of ratios, of the machine, of energy and of a GPU's memory; on made-up machines."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokexport.exporter.speed import busy, gauges
from tokexport.exporter.speed.intervals import percentiles, ratio
from tokexport.exporter.timing import turns


def test_percentiles_lie_between_samples() -> None:
    found = percentiles([float(n) for n in range(101)])
    assert found == {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "samples": 101}


@pytest.mark.parametrize(
    # Tables of the sign test: of n pairs the interval is from the r-th to the r-th from the end.
    ("count", "rank"),
    [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (50, 18), (100, 40)],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(count: int, rank: int) -> None:
    pairs = [float(n) for n in range(1, count + 1)]
    found = ratio([10 * pair for pair in pairs], [10.0] * count)
    assert (found["low"], found["high"]) == (pairs[rank - 1], pairs[-rank])
    assert ratio(pairs[:5], [1.0] * 5) == {"median": 3.0, "low": None, "high": None}


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        both = rng.lognormal(0, 1, (2, 20))
        found = ratio((1.2 * both[0]).tolist(), both[1].tolist())
        held += found["low"] <= 1.2 <= found["high"]
    assert held >= 0.95 * 400 - 15


def test_a_task_comes_after_all_others() -> None:
    order: list[str] = []

    def told(name: str) -> str:
        order.append(name)
        return name

    taken = turns({name: lambda name=name: told(name) for name in "ab"}, rounds=2, warmup=1)
    assert order == [*"ab", *"abab"] and taken == {"a": ["a", "a"], "b": ["b", "b"]}


def proc(root: Path, user: float, steal: float, load: float) -> busy.Moment:
    (root / "proc").mkdir(exist_ok=True)
    second = os.sysconf("SC_CLK_TCK")
    (root / "proc/stat").write_text(f"cpu  {int(user * second)} 0 0 900 0 0 0 {int(steal * second)} 0 0\ncpu0 1\n")
    (root / "proc/loadavg").write_text(f"{load} 1.0 1.0 1/9 9\n")
    return busy.now(root)


def test_what_other_processes_and_the_host_took_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    start, end = proc(tmp_path, 10, 1, 3.0), proc(tmp_path, 25, 2, 9.0)
    end = busy.Moment(start.wall + 10, end.busy, end.steal, end.load)
    told = busy.between(start, end, own=5)
    assert told == {"cores": 4, "load_at_start": 3.0, "others_cores": pytest.approx(1), "steal": pytest.approx(0.025)}
    (note,) = busy.notes(told)
    assert "other processes used 1.0 of 4 cores" in note and "the host took 2% of the cores" in note
    assert "load average was 3.0 on 4 cores" in note and "the machine was busy" in note
    quiet = busy.between(start, busy.Moment(start.wall + 10, 15.0, 1.0, 0.0), own=5)
    assert busy.notes({**quiet, "load_at_start": 0.4}) == []
    assert "not known" in busy.notes(busy.between(busy.now(tmp_path / "x"), busy.now(tmp_path / "x"), 0))[0]


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")


def test_where_nothing_counts_energy_or_memory_it_is_said(nothing: None, tmp_path: Path) -> None:
    with gauges.energy(tmp_path) as (counters, why):
        assert counters == [] and why.startswith("not known: no NVIDIA GPU")
    assert gauges.gpu_memory(1) is None and "pip install nvidia-ml-py" in gauges.why_no_gpu_memory()


def test_rapl_is_read_where_it_may_and_begins_again(nothing: None, tmp_path: Path) -> None:
    package = tmp_path / "sys/class/powercap/intel-rapl:0"
    package.mkdir(parents=True)
    (package / "max_energy_range_uj").write_text("10000000")
    (package / "energy_uj").write_text("9000000")
    with gauges.energy(tmp_path) as (counters, why):
        (counter,) = counters
        assert counter.name == "RAPL, CPU 0" and why == ""
        start = counter.joules()
        (package / "energy_uj").write_text("1500000")
        assert counter.joules() - start == pytest.approx(2.5)


@pytest.mark.parametrize(("labels", "watts"), [(("VDD_IN", "VDD_CPU"), 5.0), (("VDD_GPU", "VDD_CPU"), 7.0)])
def test_the_sensors_of_a_jetson_are_added_up(
    nothing: None, tmp_path: Path, labels: tuple[str, str], watts: float
) -> None:
    sensor = tmp_path / "sys/class/hwmon/hwmon3"
    sensor.mkdir(parents=True)
    (sensor / "name").write_text("ina3221\n")
    for channel, (label, milliamperes) in enumerate(zip(labels, (1000, 400)), 1):
        (sensor / f"in{channel}_label").write_text(label)
        (sensor / f"in{channel}_input").write_text("5000")
        (sensor / f"curr{channel}_input").write_text(str(milliamperes))
    with gauges.energy(tmp_path) as (counters, _):
        (counter,) = counters
        start, before = counter.joules(), time.perf_counter()
        time.sleep(0.3)
        took = time.perf_counter() - before
        assert counter.joules() - start == pytest.approx(watts * took, rel=0.5)
    assert counter.name == ("INA, VDD_IN" if "VDD_IN" in labels else "INA, VDD_GPU + VDD_CPU")


def test_nvml_counts_energy_and_the_memory_of_our_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    millijoules = iter(range(1000, 9000, 500))
    process = SimpleNamespace(pid=7, usedGpuMemory=3 << 20)
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [process, SimpleNamespace(pid=8, usedGpuMemory=None)],
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    with gauges.energy(tmp_path) as (counters, _):
        (counter,) = counters
        assert counter.name == "NVML, GPU 0" and -counter.joules() + counter.joules() == pytest.approx(0.5)
    assert gauges.gpu_memory(7) == 3 << 20
    assert gauges.gpu_memory(8) is None and gauges.gpu_memory(9) is None
    assert "container" in gauges.why_no_gpu_memory()


def test_nvidia_smi_tells_the_memory_where_nvml_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '7, 120'\necho '8, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gauges.gpu_memory(7) == 120 << 20 and gauges.gpu_memory(8) is None
    with gauges.energy(tmp_path) as (_, why):
        assert "pip install nvidia-ml-py" in why

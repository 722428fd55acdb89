"""A record that somebody sends of their GPU: whole, of one run, with nothing changed in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench_gpu
import gpu_record

BENCHMARKS = Path(gpu_record.__file__).parent


def record() -> dict:
    """What bench_gpu.py writes, with figures that no GPU gave."""
    rows = []
    for row in bench_gpu.ROWS:
        times = {"ours": {"us": 40.0}, "eager": {"us": 900.0}, "compiled": {"reason": "torch.compile: no triton"}}
        times |= {"floor": {"us": 12.5}, "tower": {"us": 5000.0}}
        facts = {**vars(row), "dtype": "float16", "buffer_sets": 9, "pick_us": 1.5, "proved": True, "times": times}
        rows.append(facts | bench_gpu.judge(row, times))
    device = {"name": "A Card 1", "compute_capability": "8.7", "multiprocessors": 16, "l2_bytes": 4 << 20}
    device |= {"memory_bytes": 8 << 30, "driver": "580.1", "cuda_of_driver": 13000, "cuda_of_torch": "13.0"}
    results = {"device": device, "empty_launch_us": 2.0, "memory_bytes_per_us": 9e4, "goals": bench_gpu.GOALS}
    machine = {"cpu": "ARMv8", "cores": 6, "python": "3.11.7"}
    whole = {"command": "make bench-gpu", "date": "2026-01-02", "machine": machine, "versions": {"torch": "2.13.0"}}
    return whole | {"results": results | {"rows": rows}}


def told(folder: Path, held: dict, name: str = "gpu_a_card_1.json") -> str:
    (folder / name).write_text(json.dumps(held))
    with pytest.raises(gpu_record.RecordError) as error:
        gpu_record.read(folder / name)
    return str(error.value)


def test_a_record_is_a_row_of_the_table(tmp_path):
    (tmp_path / "gpu_a_card_1.json").write_text(json.dumps(record()))
    (found,) = gpu_record.records(tmp_path)
    assert gpu_record.cells(found) == [
        "A Card 1", "2026-01-02", "40.0 us", "22.5x", "", "3.2x", "0.80%", "3 of 4",
    ]  # fmt: skip


def test_a_ratio_that_was_changed(tmp_path):
    held = record()
    held["results"]["rows"][0]["ratios"]["eager"] = 99.0
    assert "are not those of its times" in told(tmp_path, held)


def test_a_kernel_that_is_wrong(tmp_path):
    held = record()
    held["results"]["rows"][1] |= {"proved": False, "not_proved": "it differs"}
    assert "is not proved: it differs" in told(tmp_path, held)


def test_a_run_that_was_interrupted(tmp_path):
    held = record()
    del held["results"]["rows"][3:]
    assert "has 3 of 12 rows: the run was interrupted" in told(tmp_path, held)


def test_a_name_that_does_not_belong_there(tmp_path):
    held = record()
    held["user"] = "somebody"
    assert "user" in told(tmp_path, held)


def test_the_file_of_another_device(tmp_path):
    assert "call it gpu_a_card_1.json" in told(tmp_path, record(), "gpu_my_card.json")


def test_the_command_that_docs_name(tmp_path):
    (tmp_path / "gpu_a_card_1.json").write_text(json.dumps(record()))
    (tmp_path / "gpu_other.json").write_text("{}")
    command = [sys.executable, str(BENCHMARKS / "gpu_record.py")]
    right = subprocess.run([*command, str(tmp_path / "gpu_a_card_1.json")], capture_output=True, text=True)
    assert right.returncode == 0 and "| A Card 1 | 2026-01-02 | 40.0 us |" in right.stdout
    wrong = subprocess.run([*command, str(tmp_path / "gpu_other.json")], capture_output=True, text=True)
    assert wrong.returncode == 1 and "results Field required" in wrong.stderr


def test_every_record_that_was_sent_is_right():
    gpu_record.records(BENCHMARKS / "results")

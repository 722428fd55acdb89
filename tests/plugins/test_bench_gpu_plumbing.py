"""bench_gpu.py from end to end on the CPU: emulated kernels, wall time, tiny shapes. No figure here means anything."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench_gpu
import gpu_needs
import gpu_released
import gpu_rivals
import report
from gpu_clock import EventClock, WallClock, slug
from gpu_floor import Floor, Traffic, traffic
from gpu_tower import tower
from tokexport.graph_passes.compressors import Case, make

ROWS = [
    bench_gpu.Row("apet", 24, 16, 9, 3),
    bench_gpu.Row("kcenter_merge", 24, 16, 9),
    bench_gpu.Row("divprune", 24, 16, 9),
    bench_gpu.Row("cdpruner", 24, 16, 9),
]


@pytest.fixture
def tokens():
    return torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))


def test_a_run_writes_every_row_with_times_ratios_and_reasons(library, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(bench_gpu, "ROWS", ROWS)
    monkeypatch.setattr(gpu_rivals.importlib.util, "find_spec", lambda name: None)  # neither triton nor any peer
    bench = bench_gpu.Bench(WallClock(), library, ROWS[:1], tower("cpu", layers=1, tokens=4))
    bench.floor = Floor(bench.clock, 1.0, None)
    bench_gpu.run(bench, ROWS, "test", bench_gpu.Console(width=120))

    results = json.loads((tmp_path / "gpu_cpu_emulation.json").read_text())["results"]
    assert [row["method"] for row in results["rows"]] == ["apet", "kcenter_merge", "divprune", "cdpruner"]
    for row in results["rows"]:
        assert row["proved"], row
        assert row["buffer_sets"] == 12  # two caches of 4 KiB in sets of 768 bytes, and one more
        assert row["times"]["ours"]["us"] > 0 and row["times"]["eager"]["us"] > 0
        assert isinstance(row["pick_us"], float)
        assert row["ratios"]["compiled"] is None and row["ratios"]["floor"] is None
    assert results["rows"][0]["goals"].keys() == {"eager", "compiled", "floor", "tower"}
    assert results["rows"][0]["goals"]["compiled"] is None
    shown = capsys.readouterr().out
    assert "apet 24 x 16 to 9: no time of compiled: torch.compile: there is no triton" in shown
    assert "divprune 24 x 16 to 9: no time of torch_quickfps: torch_quickfps is not installed" in shown
    assert "goal of apet 24 x 16 to 9: floor <= 4: None, not measured" in shown


def test_the_time_of_a_pick_is_what_more_of_them_add():
    assert [(row.picks, row.with_half_the_picks().picks) for row in ROWS] == [(3, 1), (9, 4), (9, 4), (9, 4)]


def test_goals_are_judged_by_the_faster_of_two_compiled_forms():
    times = {
        "ours": 10,
        "eager": 199,
        "compiled": 90,
        "compiled, captured": 49,
        "floor": 2.5,
        "tower": 1e3,
        "torch_fps": 30,
    }
    verdict = bench_gpu.judge(bench_gpu.ROWS[0], {name: {"us": us} for name, us in times.items()})
    assert verdict["ratios"] == {"eager": 19.9, "compiled": 4.9, "floor": 4.0, "tower": 0.01, "torch_fps": 3.0}
    assert verdict["goals"] == {"eager": False, "compiled": False, "floor": True, "tower": True}


def test_a_kernel_that_is_wrong_is_not_proved(library, monkeypatch):
    tokens = torch.randn(1, 24, 16).half()
    bench = object.__new__(bench_gpu.Bench)
    bench.library = library
    assert bench._prove(ROWS[2], tokens) is None
    run = library.run

    def wrong(*arguments, **more):
        got = run(*arguments, **more)
        got.tokens[:] = 0
        return got

    monkeypatch.setattr(library, "run", wrong, raising=False)
    assert all(bench._prove(row, tokens) for row in ROWS)


def test_released_operations_and_their_static_forms_agree_with_the_references(tokens):
    first = torch.zeros(len(tokens), dtype=torch.long)
    farthest, max_min = gpu_released.farthest_step, gpu_released.max_min_step
    expected = make("apet", {"basis": 4}).reference(Case(40, 16, 11), tokens).tokens
    torch.testing.assert_close(gpu_released.apet(tokens, 11, 4, first), expected)
    torch.testing.assert_close(gpu_released.apet_static(tokens, 11, farthest, 4), expected)
    expected = make("kcenter_merge").reference(Case(40, 16, 11), tokens).tokens
    torch.testing.assert_close(gpu_released.kcenter_merge(tokens, 11, first), expected)
    torch.testing.assert_close(gpu_released.kcenter_merge_static(tokens, 11, farthest), expected)
    torch.testing.assert_close(gpu_released.divprune_static(tokens, 11, max_min), gpu_released.divprune(tokens, 11))
    text = tokens[:, :3].flip(2)
    expected = make("cdpruner", {"text_length": 3}).reference(Case(40, 16, 11), tokens, text).tokens
    torch.testing.assert_close(gpu_released.cdpruner(tokens, 11, text), expected)
    torch.testing.assert_close(gpu_released.cdpruner_static(tokens, 11, gpu_released.determinant_step, text), expected)


def test_divprune_of_the_kernels_is_the_released_one(library, tokens):
    got = library.run("divprune", 11, None, tokens)
    torch.testing.assert_close(torch.from_numpy(got.tokens), gpu_released.divprune(tokens, 11))


def test_a_rival_that_fails_is_named_and_does_not_end_the_run():
    def fails():
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    reason = {"reason": "RuntimeError: operation not permitted when stream is capturing"}
    assert gpu_rivals.attempt(fails) == reason


def test_the_floor_counts_passes_over_the_tokens():
    read, out = 576 * 1024 * 2, 86 * (2048 + 12) + 576 * 8
    assert traffic("apet", 576, 1024, 86, 2, 10) == Traffic(read + out, 10 * read)
    assert traffic("kcenter_merge", 576, 1024, 86, 2, 10) == Traffic(read + out, 86 * read)
    # 576 x 576 cosines and 63 rows of them are less than 63 passes.
    assert traffic("divprune", 576, 1024, 64, 2, 10).again == 4 * 576 * (576 + 63)
    # And 1 + 2 + ... + 63 rows of the factor.
    assert traffic("cdpruner", 576, 1024, 64, 2, 10).again == 4 * 576 * (576 + 63) + 4 * 576 * 63 * 32


def test_bandwidths_come_from_how_time_grows_with_size():
    class Fake(WallClock):
        def microseconds(self, calls, *, captured):
            x = calls[0].__defaults__[1]
            return 2.0 + x.numel() * 4 / 1000  # a launch of 2 us, then 1000 bytes a us

    floor = Floor(Fake(), 1.0, 500.0)
    # The copy moves twice its size in that time; what is read once goes by the memory's 500.
    assert floor.microseconds(Traffic(5000, 8000), 1 << 16) == pytest.approx(5000 / 500 + 8000 / 2000 + 1.0)


def test_without_a_gpu_it_says_what_is_missing_and_exits_with_3(monkeypatch, capsys):
    monkeypatch.setattr(bench_gpu, "missing", lambda: ["nvcc: install it", "cmake: install it too"])
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main()
    assert ended.value.code == 3
    assert capsys.readouterr().err == (
        "error: bench_gpu.py cannot run: this machine lacks nvcc: install it; and cmake: install it too.\n"
    )


def test_what_this_machine_lacks_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(gpu_needs, "nvcc", lambda: None)
    monkeypatch.setattr(gpu_needs.shutil, "which", lambda name: None)
    assert [lack.split(":")[0].split(" (")[0] for lack in gpu_needs.missing()] == [
        "a torch built for CUDA", "nvcc", "cmake",
    ]  # fmt: skip


def test_the_device_clock_captures_once_and_times_replays(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return 0.5  # ms

    class Graph:
        def replay(self):
            log.append("replay")

    @contextmanager
    def capture(graph, stream):
        log.append("capture")
        yield
        log.append("captured")

    fakes = {"Event": Event, "CUDAGraph": Graph, "Stream": object, "stream": nullcontext, "graph": capture}
    for name, fake in {**fakes, "synchronize": lambda: None}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    calls = [lambda: log.append("a"), lambda: log.append("b")]
    clock = EventClock(rounds=2, warm_s=0)
    assert clock.microseconds(calls, captured=True) == 250.0
    timed = ["record", "replay", "record"]
    assert log == ["a", "b"] * 2 + ["capture", "a", "b", "captured"] + 2 * timed
    log.clear()
    assert clock.microseconds(calls, captured=False) == 250.0
    assert log == ["a", "b"] + 2 * ["record", "a", "b", "record"]


def test_a_device_is_part_of_a_file_name():
    assert slug("NVIDIA GeForce RTX 4090") == "nvidia_geforce_rtx_4090"

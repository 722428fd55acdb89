"""Every kernel on a GPU against its reference: shapes of real encoders, kinds of tokens, ties, CUDA graphs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_abi import params_of
from kernel_checks import (
    BY_COSINE,
    DTYPES,
    GRIDS,
    KINDS,
    METHODS,
    agrees,
    draw,
    is_equal,
    pointers,
    signals_of,
)
from paper_checks import check_tome
from tokexport.graph_passes.compressors import Case, make
from tokexport.plugins.structs import KcenterMerge

METHOD_IDS = ["-".join([method, *map(str, params.values())]) for method, params in METHODS]
SMALL = [(1, 13, 5, 6), (2, 33, 8, 9), (1, 40, 36, 33), (3, 9, 16, 9), (4, 144, 96, 21)]
REAL = [(1, 576, 1024, 86), (2, 2304, 1280, 346), (1, 1024, 4096, 154), (3, 577, 1001, 65), (1, 9000, 64, 700)]


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_shapes(library, method, params, dtype):
    for seed, (b, n, d, k) in enumerate(SMALL):
        agrees(library, method, params, k, draw("normal", (b, n, d), seed).to(DTYPES[dtype]))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("shape", REAL, ids=str)
def test_real_shapes(library, method, params, shape):
    b, n, d, k = shape
    agrees(library, method, params, k, draw("normal", (b, n, d)).half())


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tokens(library, method, params, kind):
    agrees(library, method, params, 24, draw(kind, (2, 160, 40)))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
def test_ties_break_as_in_the_reference(library, method, params):
    for seed in range(8):
        is_equal(library, method, params, 7, draw("axis" if method in BY_COSINE else "integer", (2, 32, 8), seed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "protect"), [(13, 8, 1), (12, 6, 0), (40, 25, 2), (577, 561, 1)])
def test_tome(library, dtype, n, k, protect):
    tokens, metric = (draw("normal", (2, n, 64), n + i).to(DTYPES[dtype]) for i in range(2))
    check_tome(library, k, protect, tokens, metric, torch.arange(1, 2 * n + 1).view(2, n).float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [5, 1024])
def test_grids(library, dtype, dim):
    for method, params, n, k in GRIDS:
        is_equal(library, method, params, k, draw("normal", (2, n, dim)).to(DTYPES[dtype]))


@pytest.mark.parametrize("method", dict(METHODS))
def test_a_cuda_graph_captures_and_replays(library, method):
    """Capture fails where the host waits or memory is allocated; a replay sees new tokens and leaves nothing behind."""
    first, second = (draw("normal", (2, 144, 96), seed).half().cuda() for seed in (1, 2))
    tokens = first.clone()
    compressor = make(method)
    read = signals_of(compressor, tokens.cpu())
    params = params_of(compressor, Case(144, 96, 90, "float16"), *read.values())
    signals = [signal if signal is None else signal.cuda() for signal in pointers(method, read)]
    call, outputs = library.prepare(method, 90, params, tokens, *signals)

    call()  # CUDA loads kernels at their first launch, and not while a stream is captured
    torch.cuda.synchronize()
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call(torch.cuda.current_stream().cuda_stream)
    for content in (first, second, first):
        tokens.copy_(content)
        graph.replay()
        torch.cuda.synchronize()
        replayed = [part.clone() for part in vars(outputs).values()]
        call(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        for name, a, b in zip(vars(outputs), replayed, vars(outputs).values()):
            assert torch.equal(a, b), name


def test_two_runs_give_the_same_bits(library):
    tokens = draw("normal", (4, 576, 256)).half()
    runs = [library.run("kcenter_merge", 86, KcenterMerge(0), tokens) for _ in range(5)]
    assert len({run.tokens.tobytes() + run.assignment.tobytes() for run in runs}) == 1


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_compute_sanitizer(library, tool):
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        pytest.skip(f"compute-sanitizer {tool}: it is not installed")
    script = Path(__file__).with_name("every_kernel_once.py")
    command = [program, "--tool", tool, "--error-exitcode", "9", "--kernel-name", "kernel_substring=tokexport"]
    done = subprocess.run([*command, sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

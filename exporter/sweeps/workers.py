"""Several workers for the cells of a sweep: processes of this machine, or those of a Dask cluster.

A worker is sent the request and the key of a cell. It opens the model once, makes the same plan, and computes the cell
of that key. Times are measured in this process, after all other cells, when nothing else computes here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import MissingError, RequestError, TokexportError, first_line
from ..opening import NAMES
from .cells import Cell, Compute, Value, Values, in_turn
from .study import Request, Study

# Seconds that a scheduler has for its first answer.
_PATIENCE = 10


def compute_by(request: Request, workers: int, scheduler: str | None) -> Compute:
    """How the cells of a request are computed.

    Args:
        request: of the sweep.
        workers: processes of this machine; 1: this one alone.
        scheduler: the address of a Dask scheduler instead, whose workers see the files of the request at the same
            paths and have the same tokexport.

    Raises:
        RequestError: both were given, or no worker is left.
        MissingError: the package distributed is not installed.
    """
    if workers < 1:
        raise RequestError(f"{workers} workers compute nothing", fix="Use --workers 1 or more.")
    if scheduler is not None and workers > 1:
        raise RequestError(
            "--workers and --scheduler are given, and a scheduler has workers of its own",
            fix="Give one of them.",
        )
    if scheduler is not None:
        return _clustered(request, scheduler)
    return in_turn if workers == 1 else _pooled(request, workers)


def compute(request: Request, name: str) -> Value:
    """In a worker: the figure of the cell of that name.

    Raises:
        RequestError: the same request has no such cell here.
    """
    with _ONE_AT_A_TIME:
        cell = _cells(request).get(name)
        if cell is None:
            raise RequestError(
                "a worker makes other cells of the same request: its versions of the packages, or its files, differ",
                fix="Give all workers the environment and the files of this machine.",
            )
        return cell.compute()


# Workers of a cluster may have several threads, and the model is opened once for all of them.
_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=1)
def _cells(request: Request) -> dict[str, Cell]:
    study = Study(request, tried=False)
    return {cell.name: cell for row in (study.whole, *study.rows) for cell in row.cells()}


def _pooled(request: Request, workers: int) -> Compute:
    def run(cells: Sequence[Cell]) -> Values:
        answers = [cell for cell in cells if not cell.timed]
        if answers:
            with _processes(workers) as pool:
                yield from _gathered(pool, request, answers)
        yield from in_turn([cell for cell in cells if cell.timed])

    return run


def _gathered(pool: ProcessPoolExecutor, request: Request, cells: Sequence[Cell]) -> Values:
    futures = {pool.submit(compute, request, cell.name): cell for cell in cells}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise RequestError(
            "a worker ended before it was done, as one does that is out of memory",
            fix="Use fewer --workers: the same command goes on with what is not measured yet.",
        ) from None


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that share the cores; at the end, also by Ctrl-C, none is left."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Not forked: the libraries that are loaded here have threads.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, context, _begin, (threads,))
    try:
        yield pool
    except BaseException:
        # What they compute can take minutes, and nobody waits for it any more.
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """First of all in a process: Ctrl-C is for the one that started it, and its cores are a share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _clustered(request: Request, address: str) -> Compute:
    try:
        import distributed
    except ImportError as error:
        raise MissingError(
            "--scheduler needs the package distributed, which is not installed", fix='pip install "tokexport[cluster]"'
        ) from error
    sent = _at_absolute_paths(request)

    def run(cells: Sequence[Cell]) -> Values:
        answers = [cell for cell in cells if not cell.timed]
        if answers:
            yield from _of_cluster(distributed, address, sent, answers)
        yield from in_turn([cell for cell in cells if cell.timed])

    return run


def _of_cluster(distributed: Any, address: str, request: Request, cells: Iterable[Cell]) -> Values:
    try:
        client = distributed.Client(address, timeout=_PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"no Dask scheduler answers at {address}: {first_line(error, 200)}",
            fix="Start one with `dask scheduler`, and give the address that it prints: --scheduler tcp://HOST:8786.",
        ) from None
    with client:
        futures = {client.submit(compute, request, cell.name): cell for cell in cells}
        try:
            for future in distributed.as_completed(futures):
                yield futures[future], future.result()
        except TokexportError:
            raise
        except Exception as error:
            # Whatever a worker raises comes back as itself.
            raise RequestError(
                f"a worker of the cluster failed: {type(error).__name__}: {first_line(error, 300)}",
                where=address,
                fix="Workers need the environment of this machine, and the files of the request at the same paths.",
            ) from error
        finally:
            client.cancel(list(futures))


def _at_absolute_paths(request: Request) -> Request:
    """The same for a process in another folder."""
    source, inputs = request.source, request.inputs
    path = Path(source).expanduser() if source and source not in NAMES else None
    return replace(
        request,
        source=str(path.absolute()) if path is not None and path.exists() else source,
        inputs=inputs.absolute() if inputs else None,
    )

"""Cells of a sweep that other processes compute: the same figures, times alone, and Ctrl-C keeps what is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import types
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bad_input import plain

pytest.importorskip("torch")

from tokexport.errors import MissingError, RequestError
from tokexport.exporter.evaluate import answers, bench
from tokexport.exporter.sweeps import workers
from tokexport.exporter.sweeps.cells import FILE, Cell, Cells
from tokexport.exporter.sweeps.study import Request, Study


@pytest.fixture
def request_(tmp_path, monkeypatch) -> Request:
    """An encoder of 12 tokens, judged on two arrays."""
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.chdir(tmp_path)
    plain(tmp_path / "enc.onnx")
    (tmp_path / "in").mkdir()
    for number in range(2):
        array = np.random.default_rng(number).normal(size=(1, 12, 8)).astype(np.float32)
        np.save(tmp_path / f"in/{number}.npy", array)
    return Request("enc.onnx", ("kcenter_merge",), ("0.5",), inputs=Path("in"), seam="tensor:features")


def cells_of(request: Request) -> list[Cell]:
    study = Study(request)
    return list({cell.name: cell for row in (study.whole, *study.rows) for cell in row.cells()}.values())


def answers_in(folder: str) -> dict[str, Any]:
    lines = map(json.loads, (Path(folder) / FILE).read_text().splitlines())
    return {json.dumps(one["key"], sort_keys=True): one["value"] for one in lines if one["key"]["what"] == "answers"}


def test_two_processes_find_what_one_does_and_times_are_taken_when_they_are_gone(request_, monkeypatch):
    cells, there = cells_of(request_), []
    for name in ("times", "prefill_times"):
        monkeypatch.setattr(
            bench.Bench, name, lambda *_, **__: there.append(multiprocessing.active_children()) or {"ms": 1}
        )
    Cells(Path("one")).complete(cells, lambda cell: None)
    seen: list[Cell] = []

    def stop(cell: Cell) -> None:
        seen.append(cell)
        if len(seen) == 2:
            raise KeyboardInterrupt

    before = multiprocessing.active_children()
    compute = workers.compute_by(request_, 2, None)
    with pytest.raises(KeyboardInterrupt):
        Cells(Path("two")).complete(cells, stop, compute)
    assert multiprocessing.active_children() == before and len(answers_in("two")) == 2
    there.clear()
    seen.clear()
    Cells(Path("two")).complete(cells, seen.append, compute)
    assert answers_in("two") == answers_in("one") and len(seen) == len(cells)
    assert [cell.timed for cell in seen] == sorted(cell.timed for cell in seen) and seen[-1].timed
    assert there and all(children == before for children in there)


class Client:
    """What is used of distributed.Client, in this process."""

    made: ClassVar[list[Client]] = []

    def __init__(self, address: str, timeout: float) -> None:
        if address == "tcp://nobody:1":
            raise OSError(f"Timed out trying to connect to {address} after {timeout} s")
        self.sent: list[str] = []
        self.cancelled = 0
        self.made.append(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed = True

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        function, (request, name) = pickle.loads(pickle.dumps((function, arguments)))
        assert Path(request.source).is_absolute() and request.inputs.is_absolute()
        self.sent.append(name)
        future: Future[Any] = Future()
        try:
            future.set_result(function(request, name))
        except RequestError as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        return future

    def cancel(self, futures: list[Future[Any]]) -> None:
        self.cancelled += len(futures)


@pytest.fixture
def dask(monkeypatch) -> type[Client]:
    module = types.SimpleNamespace(Client=Client, as_completed=lambda futures: iter([*futures][::-1]))
    monkeypatch.setitem(sys.modules, "distributed", module)
    monkeypatch.setattr(Client, "made", [])
    return Client


def test_a_cluster_is_sent_the_keys_of_answers_and_no_times(request_, dask):
    cells = cells_of(request_)
    Cells(Path("one")).complete(cells, lambda cell: None)
    Cells(Path("far")).complete(cells, lambda cell: None, workers.compute_by(request_, 1, "tcp://far:8786"))
    assert answers_in("far") == answers_in("one")
    (client,) = dask.made
    assert set(client.sent) == {cell.name for cell in cells if not cell.timed} and client.closed


def test_an_interrupted_cluster_is_told_to_stop(request_, dask):
    def stop(cell: Cell) -> None:
        raise KeyboardInterrupt

    compute = workers.compute_by(request_, 1, "tcp://far:8786")
    with pytest.raises(KeyboardInterrupt):
        Cells(Path("far")).complete(cells_of(request_), stop, compute)
    assert dask.made[0].cancelled == len(dask.made[0].sent) and dask.made[0].closed and len(answers_in("far")) == 1


def test_a_worker_that_has_another_model_is_refused(request_, dask):
    compute = workers.compute_by(request_, 1, "tcp://far:8786")
    foreign = Cell({**cells_of(request_)[0].key, "source": "another"}, dict)
    with pytest.raises(RequestError, match=r"other cells of the same request.*environment and the files"):
        list(compute([foreign]))


def test_a_scheduler_that_is_not_there_is_named(request_, dask):
    with pytest.raises(RequestError, match=r"no Dask scheduler answers at tcp://nobody:1.*dask scheduler"):
        list(workers.compute_by(request_, 1, "tcp://nobody:1")(cells_of(request_)))


def test_without_distributed_its_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingError, match=r'pip install "tokexport\[cluster\]"'):
        workers.compute_by(Request(), 1, "tcp://far:8786")


def test_a_worker_that_was_killed_is_not_the_end_of_what_was_measured():
    class Pool:
        def submit(self, *_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("gone"))
            return future

    with pytest.raises(RequestError, match=r"out of memory.*fewer --workers"):
        list(workers._gathered(Pool(), Request(), [Cell({"what": "answers"}, dict)]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "used"), [("3", 3), ("", os.cpu_count()), ("0", os.cpu_count()), ("many", os.cpu_count())]
)
def test_a_process_uses_its_share_of_the_cores(monkeypatch, said, used):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert answers.cores() == used


@pytest.mark.slow
def test_dask_itself_computes_the_same(request_):
    distributed = pytest.importorskip("distributed")
    cells = cells_of(request_)
    Cells(Path("one")).complete(cells, lambda cell: None)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        compute = workers.compute_by(request_, 1, cluster.scheduler_address)
        Cells(Path("far")).complete(cells, lambda cell: None, compute)
    assert answers_in("far") == answers_in("one")

"""The task of `builder.py` in the child process: parses a graph, builds its engine, and lists the layers of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..api import Api, Settings
from ..failures import describe
from ..layers import Layer
from ..plugins import load_plugins
from .file import unwritable


def run(request: dict[str, Any], tell: Callable[[float, str], None]) -> dict[str, Any]:
    """Parse and build.

    Args:
        request: kind (of TensorRT), model (file), weights (a path beside its data
            files), plan and timing (files to write), timing_in (file to read, may be
            missing), settings (of `api.Settings`), plugins (operators), library (file or None), inspect
            (whether a GPU that can load the engine is here).
        tell: called with (share done 0..1, phase of the build).

    Returns:
        stage (parse, cache, build or done), errors (of the parser), log (TensorRT's errors and warnings), network and
        engine (lists of layers, the second None where it was not inspected).

    Raises:
        MissingError: TensorRT or a plugin is not here.
        BundleError: the plan cannot be written.
    """
    api = Api(request["kind"])
    trt = api.trt
    load_plugins(api, request["plugins"], request["library"] and Path(request["library"]))
    builder = trt.Builder(api.logger)
    network = api.network(builder)
    parser = trt.OnnxParser(network, api.logger)
    # Not `parse_from_file`: the graph lies in a temporary folder, its weights in another, and TensorRT refuses links.
    if not parser.parse(Path(request["model"]).read_bytes(), request["weights"]):
        errors = [describe(parser.get_error(i)) for i in range(parser.num_errors)]
        return {"stage": "parse", "errors": errors, "log": api.take_log()}
    layers = _plain(api.layers_of_network(network))
    config = api.config(builder, Settings(**request["settings"]), _monitor(trt, tell))
    earlier = Path(request["timing_in"])
    if not api.set_timing_cache(config, earlier.read_bytes() if earlier.is_file() else b""):
        return {"stage": "cache", "log": api.take_log()}
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"stage": "build", "log": api.take_log()}
    timing = api.timing_cache(config)
    try:
        Path(request["plan"]).write_bytes(plan)
        if timing is not None:
            Path(request["timing"]).write_bytes(timing)
    except OSError as error:
        raise unwritable(Path(request["plan"]), error) from error
    answer = {"stage": "done", "log": api.take_log(), "network": layers, "engine": None}
    if request["inspect"]:
        engine = trt.Runtime(api.logger).deserialize_cuda_engine(plan)
        if engine is None:
            return {"stage": "build", "log": api.take_log()}
        answer["engine"] = _plain(api.layers_of_engine(engine))
    return answer


def _plain(layers: list[Layer]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(layer) for layer in layers]


def _monitor(trt: Any, tell: Callable[[float, str], None]) -> Any:
    """A progress monitor: the share done of nested phases, each of which is one step of its parent."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            # name -> [parent, steps, steps done]
            self.phases: dict[str, list[Any]] = {}
            self.furthest = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = [parent, steps, 0]
            self._tell(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.phases:
                self.phases[name][2] = step + 1
            self._tell(name)
            return True

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def _tell(self, name: str) -> None:
            share, phase = 0.0, self.phases.get(name)
            while phase:
                parent, steps, done = phase
                share = min((done + share) / max(steps, 1), 1.0)
                phase = self.phases.get(parent)
            # A phase starts with no step done; a progress bar must not go back.
            self.furthest = max(self.furthest, share)
            tell(self.furthest, name)

    return Monitor()

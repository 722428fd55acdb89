"""Runs a bundle with TensorRT or TensorRT-RTX, from the engines that `tokexport build` put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingError, RequestError, TokexportError, nearest
from ...plugins.library import require_code
from ..bundle.reader import Bundle
from ..generate import Run
from ..session import Session, checked, checked_outputs
from . import layers as engine_layers
from .api import Api, title, version_of
from .cuda import Cuda, compute_capability
from .engines import file as engine_file
from .engines.file import EngineRecord
from .failures import translate
from .graph import EngineGraph, OnDevice
from .plugins import found, load_plugins

# Caches and states, and what is written into them.
STAY = ("present_", "new_", "cross_", "state_")


class TensorRTSession(Session):
    """A bundle in TensorRT; each engine is checked and loaded when it is first run.

    Args:
        bundle: opened.
        variant: see `Session`.
        device: device whose engines are run; None: the one that this machine can run.
        cuda_graphs: False: launch kernels one by one.

    Attributes:
        device: whose engines are run.
        kind: the TensorRT that runs them.
        title: its name and version.

    Raises:
        MissingError: no GPU, no engines, or not the TensorRT that built them.
        EngineError: there are engines, and none is for this machine; the error of the first of them.
        RequestError: there are none for that device, or several devices have engines that this machine can run.
    """

    def __init__(
        self, bundle: Bundle, *, variant: str | None = None, device: str | None = None, cuda_graphs: bool = True
    ) -> None:
        super().__init__(bundle, variant=variant)
        self._capability = compute_capability()
        self.device = self._choose(device)
        self.kind = engine_file.read(bundle, self.device, self.variant.name, "encoder").runtime
        self._api, self._cuda, self._capture = Api(self.kind), Cuda(), cuda_graphs
        self.title = str(self._api)
        self._runtime = self._api.trt.Runtime(self._api.logger)
        self._graphs: dict[str, EngineGraph] = {}

    def execute(self, role: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        return self.graph(role).run(feeds)  # type: ignore[return-value]

    def steps(self) -> Run:
        """Runs graphs with their KV caches left on the device: only ids and logits are copied to and from the host.

        Prefill's buffers are those that decode reads, and into which its slices and states are copied.
        """

        def run(role: str, /, **inputs: Any) -> Mapping[str, Any]:
            record, graph = self.bundle.graph(role, self.variant.name), self.graph(role)
            known = checked(role, record, inputs, (np.ndarray, OnDevice))
            stay = {one.name for name, one in record.outputs.items() if name.startswith(STAY)}
            results = graph.run({record.inputs[name].name: value for name, value in known.items()}, stay)
            return checked_outputs(role, record, results)

        return run

    def graph(self, role: str) -> EngineGraph:
        """The loaded engine of a role.

        Raises:
            RequestError: the bundle has no such graph.
            MissingError: no engine of it, a plugin it needs, or memory on the GPU.
            EngineError: it is not for this machine, or the bundle has changed since; see `engines.file.check`.
            GateError: its layers do not compute in the types of the graph.
        """
        if role not in self._graphs:
            self.bundle.graph(role, self.variant.name)
            record = engine_file.read(self.bundle, self.device, self.variant.name, role)
            path = engine_file.check(self.bundle, record, self.kind, self._api.version, self._capability)
            self._graphs[role] = self._load(record, path)
        return self._graphs[role]

    def notes(self) -> list[str]:
        """See `Session`."""
        return [f"{role}: {note}" for role, graph in self._graphs.items() for note in graph.notes]

    def load(self, path: Path, *, cache: bytes | None = None) -> EngineGraph:
        """The engine in a plan, which must have been checked (`engines.file.check`); its plugins must be loaded.

        Raises:
            EngineError: TensorRT rejects it.
            MissingError: the GPU has no memory for it.
        """
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise translate(self._api.take_log(), doing=f"{self._api} cannot load the engine", where=str(path))
        return EngineGraph(self._api, self._cuda, engine, str(path), cache=cache, capture=self._capture)

    def library(self, record: EngineRecord) -> Path | None:
        """The plugin library that an engine runs with; None where it has no plugins.

        Raises:
            MissingError: there is no library here, there was none where the engine was built, or it is for another GPU.
        """
        if not record.plugins.names:
            return None
        library = found()
        if library is None or record.plugins.library is None:
            names = ", ".join(sorted(set(record.plugins.names)))
            again = engine_file.build_command(self.bundle, record.variant)
            raise MissingError(
                f"the engine needs the plugins {names}, and there is no plugin library "
                f"{'on this machine' if library is None else 'in its build'}",
                where=f"graph {record.role}",
                fix=f"Run: tokexport plugins build && {again}" if library is None else f"Build it again: {again}",
            )
        require_code(library, self._capability)
        return library

    def load_plugins(self, record: EngineRecord) -> list[str]:
        """Load the plugins of an engine into TensorRT; returns notes about them.

        Raises:
            MissingError: see `library`; or TensorRT does not find them in it.
        """
        library = self.library(record)
        load_plugins(self._api, record.plugins.names, library)
        if library is None or engine_file.sha256(library) == record.plugins.library:
            return []
        return ["the plugin library is not the one the engine was built with"]

    def _choose(self, asked: str | None) -> str:
        there = engine_file.devices(self.bundle, self.variant.name)
        where, build = str(self.bundle.path), engine_file.build_command(self.bundle, self.variant.name)
        if asked is not None and asked not in there:
            raise RequestError(
                f"the bundle has no engines for {asked!r}", where=where, fix=nearest(asked, there, kind="devices")
            )
        if not there:
            raise MissingError("the bundle has no engines", where=where, fix=f"Run: {build}")
        fit, wrong = [], []
        for device in [asked] if asked else there:
            try:
                record = engine_file.read(self.bundle, device, self.variant.name, "encoder")
                engine_file.check(self.bundle, record, record.runtime, _here(record), self._capability, content=False)
            except TokexportError as error:
                wrong.append(error)
            else:
                fit.append(device)
        if not fit:
            raise wrong[0]
        if len(fit) > 1:
            raise RequestError(
                f"the engines for {' and '.join(fit)} all run here", where=where, fix=f"Name one: device={fit[0]!r}."
            )
        return fit[0]

    def _load(self, record: EngineRecord, path: Path) -> EngineGraph:
        notes = self.load_plugins(record)
        kept = engine_file.runtime_cache_path(path)
        cache = engine_file.cached(self.bundle, kept)
        graph = self.load(path, cache=cache)
        if not any(check.stage == "engine" for check in record.layers):
            check = self._check_types(record, graph.engine).require(str(path))
            notes.append(f"{check.compared} tensors of the engine have the types that the graph asks for")
        graph.notes += notes
        if graph.runtime_cache is not None and cache is None:
            graph.after_first_run = lambda: self._keep_cache(graph, kept)
        return graph

    def _check_types(self, record: EngineRecord, engine: Any) -> engine_layers.Check:
        """Compare the types of an engine that could not be loaded where it was built, for want of its GPU."""
        from ...graph_passes.forms import to_inlined
        from ...graph_passes.ir_tools.model_io import load_model

        file_form = "portable" if record.form == "inlined" else record.form
        with self.bundle.reading(record.role, file_form, record.variant) as path:
            model = load_model(path)
        wanted = engine_layers.asked(to_inlined(model) if record.form == "inlined" else model)
        return engine_layers.compare("engine", wanted, self._api.layers_of_engine(engine), record.plugins.names)

    def _keep_cache(self, graph: EngineGraph, path: Path) -> None:
        """Keep the kernels that were compiled at load, for the next process; a bundle may be read-only."""
        assert graph.runtime_cache is not None
        try:
            engine_file.put(path, graph.runtime_cache())
        except TokexportError as error:
            graph.notes.append(f"kernels are compiled again at every start: {error.what}")


def _here(record: EngineRecord) -> str:
    """The version here of the TensorRT that built an engine."""
    version = version_of(record.runtime)
    if version is None:
        raise MissingError(
            f"the engine was built by {title(record.runtime)} {record.version}, which is not installed here",
            fix="`tokexport build` builds it with what is.",
        )
    return version

"""Engines without a bundle: a plan file that somebody else built, and parts of a graph that are built here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import GraphError, MissingError, RequestError, reason
from .api import KINDS, Api, Kind, Settings, install, version_of
from .cuda import Cuda, compute_capability
from .engines.builder import Builder
from .engines.target import EngineTarget
from .failures import translate
from .graph import EngineGraph

if TYPE_CHECKING:
    import onnx_ir as ir


class LooseEngines:
    """TensorRT on the GPU of this machine.

    Args:
        kind: of TensorRT; None: the one that is installed.

    Raises:
        MissingError: no TensorRT, no `cuda-bindings`, or no GPU.
    """

    def __init__(self, kind: Kind | None = None) -> None:
        if kind is None:
            kind = next((one for one in KINDS if version_of(one) is not None), None)
        if kind is None:
            raise MissingError("no TensorRT is installed here", fix=install(KINDS[0]))
        self._api, self._capability = Api(kind), compute_capability()
        self._cuda = Cuda()
        self._runtime: Any = self._api.trt.Runtime(self._api.logger)
        self._scratch = tempfile.TemporaryDirectory(prefix="tokexport-parts-")
        self._built = 0

    def __str__(self) -> str:
        return str(self._api)

    def load(self, path: Path) -> EngineGraph:
        """The engine of a plan file.

        Raises:
            RequestError: there is no such file.
            GraphError: TensorRT rejects it, as one of another version or GPU.
        """
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {reason(error)}", fix="Give the path of an engine.") from None
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise translate(self._api.take_log(), doing=f"{self._api} cannot load the engine", where=str(path))
        return EngineGraph(self._api, self._cuda, engine, str(path), capture=False)

    def build(self, model: ir.Model) -> EngineGraph:
        """Build an engine of a graph, in the graph's own types, and load it.

        Raises:
            GraphError: a node is refused, or there is no engine for it.
            MissingError: no memory, or a plugin that is not here.
        """
        if model.functions:
            raise GraphError("an engine is built of a graph without functions", where=f"graph {model.graph.name}")
        self._built += 1
        target = EngineTarget("debug", Settings(None, self._capability), "")
        builder = Builder(self._api.kind, self._api.version, target, None, Path(self._scratch.name))
        plan, _ = builder.build(model, f"part-{self._built}", "inlined")
        return self.load(plan)

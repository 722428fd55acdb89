"""Runs any graph in TensorRT: a part that was extracted for a proof, or a whole graph in the bundle's own engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ...graph_passes.forms import to_inlined
from ...graph_passes.ir_tools.model_io import load_model
from .api import Settings
from .engines import file as engine_file
from .engines.builder import Builder
from .engines.target import EngineTarget
from .session import TensorRTSession

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..bundle.manifest import Role
    from ..bundle.reader import Bundle

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class EngineRunner:
    """Makes a graph callable, as `ort.graph.ort_runner` does: arrays by input name -> arrays by output name.

    A graph of `models` runs in the bundle's engine. For a part an engine is built in the same way: same TensorRT, form,
    workspace and timing cache; and its types are checked likewise.

    Args:
        session: of the bundle.
        scratch: a folder for the engines of parts.

    Attributes:
        models: by role, the graph that the bundle's engine was built from.
        parts: how many engines were built for parts.
    """

    def __init__(self, session: TensorRTSession, scratch: Path) -> None:
        bundle, variant = session.bundle, session.variant
        self.session, self.parts = session, 0
        records = {role: engine_file.read(bundle, session.device, variant.name, role) for role in variant.graphs}
        self._forms = {role: record.form for role, record in records.items()}
        self.models: dict[Role, ir.Model] = {role: self._model(role) for role in variant.graphs}
        record = records["encoder"]
        target = EngineTarget(record.device, Settings(record.workspace, record.compute_capability), "")
        self._builder = Builder(session.kind, record.version, target, session.library(record), scratch)
        # A part may contain the plugin, and is built before the engine of the whole graph is loaded.
        session.load_plugins(record)
        timing = engine_file.cached(bundle, engine_file.timing_path(bundle, session.device, variant.name))
        if timing is not None:
            self._builder.timing.write_bytes(timing)

    def __call__(self, model: ir.Model) -> Run:
        """See the class.

        Raises:
            TokexportError: as `Builder.build`, and as `TensorRTSession.graph`.
        """
        own = next((role for role, one in self.models.items() if one is model), None)
        if own is not None:
            graph = self.session.graph(own)
        else:
            self.parts += 1
            name = f"part-{self.parts}"
            plan, _ = self._builder.build(model, name, self._forms["encoder"])
            graph = self.session.load(plan)
        types = {value.name: value.dtype.numpy() for value in model.graph.inputs if value.dtype is not None}

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            cast_to_graph = {name: np.ascontiguousarray(x.astype(types[name], copy=False)) for name, x in feeds.items()}
            return cast("dict[str, np.ndarray]", graph.run(cast_to_graph))

        return run

    def _model(self, role: Role) -> ir.Model:
        bundle, form = self.session.bundle, self._forms[role]
        with bundle.reading(role, "portable" if form == "inlined" else form, self.session.variant.name) as path:
            model = load_model(path)
        return to_inlined(model) if form == "inlined" else model


@contextmanager
def engine_runner(bundle: Bundle, variant: str | None = None) -> Iterator[EngineRunner]:
    """An `EngineRunner` for a variant of a bundle, the first where none is named.

    Raises:
        TokexportError: as `TensorRTSession`.
    """
    with tempfile.TemporaryDirectory(prefix="tokexport-parts-") as scratch:
        yield EngineRunner(TensorRTSession(bundle, variant=variant), Path(scratch))

"""Builds one graph into one plan in a child process, and explains a failure."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ....errors import GraphError
from ....graph_passes.ir_tools.model_io import external_tensors
from ....plugins.library import needed
from ...bundle.manifest import Form
from .. import child
from .. import cuda as tensorrt_cuda
from .. import layers as engine_layers
from ..api import Kind, title
from ..failures import EngineStaleError, ParserError, refusals, refused, translate

if TYPE_CHECKING:
    from ..child import Progress
    from .target import EngineTarget


@dataclass(frozen=True)
class Builder:
    """What every engine of one build shares.

    Attributes:
        kind: of TensorRT.
        version: its version.
        target: what is built for.
        library: of `plugins.found`.
        scratch: a folder on the file system of the bundle, for plans that are not in place yet.
    """

    kind: Kind
    version: str
    target: EngineTarget
    library: Path | None
    scratch: Path

    @property
    def timing(self) -> Path:
        """The timing cache: read and replaced by every build."""
        return self.scratch / "timing.cache"

    def build(
        self,
        model: ir.Model,
        name: str,
        form: Form,
        others: tuple[Form, ...] = (),
        progress: Progress = lambda share, text: None,
    ) -> tuple[Path, list[engine_layers.Check]]:
        """Build the engine of one graph.

        Args:
            model: in `form`; external weights are read from their own folder.
            name: for files and errors.
            form: of the model.
            others: forms to name where a node is refused.
            progress: see `child.call`.

        Returns:
            (the plan, in `scratch`; the type checks of the network and, where a GPU can load it, of the engine).

        Raises:
            GraphError: a node is refused, or there is no engine for it.
            MissingError: no memory, or a plugin that is not here.
            GateError: it does not compute in the types of the graph.
        """
        doing, where = f"{title(self.kind)} {self.version} cannot build the engine", f"graph {name}"
        plan, plugins = self.scratch / f"{name}.plan", plugin_nodes(model)
        with tempfile.NamedTemporaryFile(prefix="tokexport-graph-", suffix=".onnx") as graph:
            graph.write(ir.to_proto(model).SerializeToString())
            graph.flush()
            request = {
                "kind": self.kind,
                "model": graph.name,
                "weights": str(_weights(model)),
                "plan": str(plan),
                "timing": str(self.timing),
                "timing_in": str(self.timing),
                "settings": dataclasses.asdict(self.target.settings),
                "plugins": plugins,
                "library": str(self.library) if self.library else None,
                "inspect": tensorrt_cuda.gpu_here() == self.target.compute_capability,
            }
            called = child.call("engine", request, doing=doing, where=where, progress=progress)
        answer = called.result
        # TensorRT reports that a plugin failed, and not why.
        if answer["stage"] != "done" and plugins and (found := refusals(called.stderr)):
            raise refused(found[0], doing=doing, where=where, form=form, others=others)
        if answer["stage"] == "parse" and answer["errors"]:
            first = ParserError(**answer["errors"][0])
            raise refused(first, doing=doing, where=where, form=form, others=others)
        if answer["stage"] == "cache":
            raise EngineStaleError(
                f"{title(self.kind)} {self.version} does not take the timing cache of an earlier build: it is of "
                "another version, another GPU, or damaged",
                where=where,
                fix=f"Delete engines/{self.target.name}/*.timing.cache in the bundle, and build again.",
            )
        if answer["stage"] != "done":
            raise translate(answer["log"], doing=doing, where=where)
        wanted = engine_layers.asked(model)
        stages = [("network", answer["network"])] + ([("engine", answer["engine"])] if answer["engine"] else [])
        checks = []
        for stage, found in stages:
            layers = [engine_layers.Layer(**layer) for layer in found]
            checks.append(engine_layers.compare(stage, wanted, layers, plugins).require(where))  # type: ignore[arg-type]
        return plan, checks


def plugin_nodes(model: ir.Model) -> list[str]:
    """The operator of every node that only a plugin can compute."""
    wanted = set(needed(model))
    return [node.op_type for node in model.graph if node.op_type in wanted]


def _weights(model: ir.Model) -> Path:
    """A path in the folder of the graph's data files: the parser looks for them beside it."""
    folders = {Path(tensor.base_dir).resolve() for tensor in external_tensors(model)} or {Path()}
    if len(folders) > 1:
        raise GraphError(f"external weights lie in {len(folders)} folders", fix="Save the model into one folder first.")
    return folders.pop() / "graph.onnx"

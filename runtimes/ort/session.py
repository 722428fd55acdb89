"""Runs a bundle with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, GraphError, MissingError, RequestError, first_line
from ...files import utf8_name
from ..bundle.reader import Bundle
from ..generate import Run
from ..session import Session
from .bound import BoundSteps, can_be_bound

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime


class OrtSession(Session):
    """A bundle in ONNX Runtime; each graph is loaded when it is first run.

    Args:
        bundle: opened.
        variant: see `Session`.
        form: portable or inlined; ONNX Runtime cannot run TensorRT plugins.
        threads: inside one operator (intra-op); None: one per core.
        inter_threads: operators in parallel (inter-op); None: ONNX Runtime runs them one after the other.
        providers: execution providers, best first.

    Raises:
        MissingError: onnxruntime, or one of the providers, is not installed.
        RequestError: the plugin form was asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        form: str = "portable",
        threads: int | None = None,
        inter_threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        super().__init__(bundle, variant=variant)
        self._ort = _onnxruntime()
        if form == "plugin":
            raise RequestError("ONNX Runtime cannot run the plugin form", fix="Use form='portable'.")
        absent = [name for name in providers if name not in self._ort.get_available_providers()]
        if absent:
            raise MissingError(f"this onnxruntime has no {absent[0]}", fix="pip install tokexport[ort-gpu]")
        self._form, self._providers = form, list(providers)
        self._options = self._ort.SessionOptions()
        # Its warnings are about nodes that its own optimizer removes; errors are raised as exceptions.
        self._options.log_severity_level = 3
        # Each graph has its own threads, which would spin for a while after it ran, on the cores of the next graph.
        self._options.add_session_config_entry("session.force_spinning_stop", "1")
        if threads is not None:
            self._options.intra_op_num_threads = threads
        if inter_threads is not None:
            self._options.inter_op_num_threads = inter_threads
            self._options.execution_mode = self._ort.ExecutionMode.ORT_PARALLEL
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def execute(self, role: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        session = self.session(role)
        wanted = [tensor.name for tensor in self.bundle.graph(role, self.variant.name).outputs.values()]
        try:
            return dict(zip(wanted, session.run(wanted, feeds)))
        except Exception as error:
            # onnxruntime's exceptions have no public base class.
            raise GraphError(f"ONNX Runtime failed: {first_line(error)}", where=role) from error

    def steps(self) -> Run:
        """See `Session`; on the CPU prefill and decode of schema 2 share the memory of the KV caches."""
        on_cpu = self._providers == ["CPUExecutionProvider"]
        return BoundSteps(self, self.session) if on_cpu and can_be_bound(self.variant) else self.run

    def session(self, role: str) -> onnxruntime.InferenceSession:
        """The ONNX Runtime session of a role.

        Raises:
            RequestError: the bundle has no such graph or form.
            GraphError: ONNX Runtime cannot load it.
            BundleError: it lacks a tensor that the manifest names; or its files are not those that were opened.
        """
        if role in self._sessions:
            return self._sessions[role]
        with self.bundle.reading(role, self._form, self.variant.name) as path:
            name = utf8_name(path)
            try:
                session = self._ort.InferenceSession(name, self._options, providers=self._providers)
            except Exception as error:
                what, fix = f"ONNX Runtime cannot load it: {first_line(error)}", "Check it with `tokexport verify`."
                raise GraphError(what, where=str(path), fix=fix) from error
        record = self.bundle.graph(role, self.variant.name)
        sides: list[tuple[Any, Any]] = [(record.inputs, session.get_inputs()), (record.outputs, session.get_outputs())]
        for tensors, nodes in sides:
            lacking = {tensor.name for tensor in tensors.values()} - {node.name for node in nodes}
            if lacking:
                raise BundleError(
                    f"the graph of {role} has no tensor {sorted(lacking)[0]!r}, which the manifest names",
                    where=str(path),
                    fix="Export the bundle again.",
                )
        self._sessions[role] = session
        return session


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed", fix="pip install tokexport[ort]") from error
    return onnxruntime

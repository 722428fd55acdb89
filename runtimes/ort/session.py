"""Runs a bundle with ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import BundleError, GraphError, MissingError, RequestError, first_line
from ...files import utf8_name
from ...graph_passes.ir_tools import providers
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
        provider: ``cpu``, ``cuda`` or ``tensorrt``, or another that this onnxruntime has, by its own name. It runs
            every graph or is refused; operators that it lacks run on the CPU, and `notes` says how many.

    Raises:
        MissingError: onnxruntime is not installed, or is a build without the provider.
        RequestError: no such provider; or the plugin form was asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        form: str = "portable",
        threads: int | None = None,
        inter_threads: int | None = None,
        provider: str = "cpu",
    ) -> None:
        super().__init__(bundle, variant=variant)
        self._ort = providers.onnxruntime()
        if form == "plugin":
            raise RequestError("ONNX Runtime cannot run the plugin form", fix="Use form='portable'.")
        self._form, self._provider = form, providers.provider_of(provider)
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
        """See `Session`; on the CPU prefill and decode of schema 2 share the memory of the KV caches.

        Other providers are given arrays of the CPU, which they copy at every run.
        """
        return BoundSteps(self, self.session) if self._on_cpu and can_be_bound(self.variant) else self.run

    def notes(self) -> list[str]:
        """See `Session`."""
        if self._on_cpu:
            return []
        name, counted = providers.short(self._provider), []
        for role, session in self._sessions.items():
            on_the_cpu, nodes = providers.on_the_cpu(session) or (0, 0)
            if on_the_cpu:
                counted.append(f"{role}: {on_the_cpu} of {nodes} nodes run on the CPU, where ONNX Runtime puts them")
        copied = ["KV caches are copied to it at every token"] if "decode" in self._sessions else []
        return [f"provider {name}: {note}" for note in (*counted, *copied)]

    @property
    def _on_cpu(self) -> bool:
        return self._provider == providers.CPU

    def session(self, role: str) -> onnxruntime.InferenceSession:
        """The ONNX Runtime session of a role.

        Raises:
            RequestError: the bundle has no such graph or form.
            MissingError: the provider does not load here.
            GraphError: ONNX Runtime cannot load it.
            BundleError: it lacks a tensor that the manifest names; or its files are not those that were opened.
        """
        if role in self._sessions:
            return self._sessions[role]
        with self.bundle.reading(role, self._form, self.variant.name) as path:
            name = utf8_name(path)
            try:
                session = providers.opened(name, self._options, self._provider)
            except MissingError:
                raise
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

"""One engine, ready to run: buffers are allocated once, its launches are captured in a CUDA graph and replayed.

The first run with a set of addresses is enqueued directly, because kernels are loaded at their first launch and that
cannot be captured; the second is captured; from then on the graph is replayed. A graph has two sets of addresses only
where an input comes from the host at one time and at another is what stayed on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import GraphError
from .api import Api
from .cuda import Cuda, CudaError, Memory

# By TensorRT's names. bfloat16 comes from ml_dtypes, whose types numpy knows once it was imported.
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}
_TYPES |= {"INT8": "int8", "UINT8": "uint8", "BOOL": "bool"}


@dataclass(frozen=True)
class OnDevice:
    """An output that stayed on the device, to be an input of a next run. It is valid until its graph runs again."""

    cuda: Cuda
    memory: Memory
    dtype: np.dtype
    shape: tuple[int, ...]

    def write(self, new: OnDevice, at: np.ndarray) -> None:
        """Write a slice into this cache in stream order; see `runtimes.kv_cache.Buffer`."""
        _, heads, capacity, channels = self.shape
        width = channels * self.dtype.itemsize
        for row, slot in enumerate(at.tolist()):
            to, source = (row * heads * capacity + slot) * width, row * heads * width
            self.cuda.copy_rows((self.memory, to, capacity * width), (new.memory, source, width), width, heads)

    def replace(self, new: OnDevice) -> None:
        """Write a state over this one in stream order; see `runtimes.kv_cache.Buffer`."""
        self.cuda.copy(self.memory, new.memory)


class _Tensor:
    """An input or output of an engine. A buffer is allocated when it is first used: caches have none on the host."""

    def __init__(self, cuda: Cuda, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self._cuda, self.name, self.dtype, self.shape = cuda, name, dtype, shape
        self._size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    @cached_property
    def device(self) -> Memory:
        """Its own buffer on the device."""
        return self._cuda.device_memory(self._size)

    @cached_property
    def pinned(self) -> Memory:
        """Page-locked on the host."""
        return self._cuda.host_memory(self._size)

    @cached_property
    def host(self) -> np.ndarray:
        """`pinned` as an array."""
        return self.pinned.array(self.dtype, self.shape)


class EngineGraph:
    """Runs an engine.

    Args:
        api: of its TensorRT.
        cuda: the stream it runs on.
        engine: deserialized.
        name: for errors.
        cache: runtime cache of an earlier process.
        capture: False: every run is enqueued directly, without CUDA graphs.

    Attributes:
        engine: as given.
        inputs: by name.
        outputs: likewise.
        runtime_cache: returns the runtime cache for a next process; None where there is none.
        notes: remarks on its results or times, for the user.
        launches: how many runs were enqueued directly, were captured, and were replayed.
        after_first_run: called once, after the first run, when all kernels are compiled.

    Raises:
        GraphError: an axis without a fixed length, or a type that numpy does not have.
    """

    def __init__(
        self, api: Api, cuda: Cuda, engine: Any, name: str, *, cache: bytes | None = None, capture: bool = True
    ) -> None:
        self._cuda, self._name, self._capture = cuda, name, capture
        # It must outlive its context, which holds no reference to it.
        self.engine = engine
        self._context, self.runtime_cache = api.context(engine, cache)
        if self._context is None:
            raise GraphError("TensorRT gives no execution context: " + "; ".join(api.take_log()), where=name)
        self.notes: list[str] = [] if capture else ["no CUDA graph: it was switched off"]
        self.after_first_run: Callable[[], None] | None = None
        self.launches = {"direct": 0, "captured": 0, "replayed": 0}
        self.inputs: dict[str, _Tensor] = {}
        self.outputs: dict[str, _Tensor] = {}
        for tensor in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            side = self.inputs if engine.get_tensor_mode(tensor) == api.trt.TensorIOMode.INPUT else self.outputs
            side[tensor] = self._tensor(tensor)
        self._addresses: dict[str, int] = {}
        # Addresses -> None after a first run, then the captured graph.
        self._graphs: dict[tuple[int, ...], Any] = {}

    def run(
        self, feeds: Mapping[str, np.ndarray | OnDevice], stay: Collection[str] = ()
    ) -> dict[str, np.ndarray | OnDevice]:
        """Run it.

        Args:
            feeds: by the graph's own names, of its dtypes and shapes.
            stay: outputs that are not copied to the host.

        Returns:
            Every output: arrays of their own, or `OnDevice`.

        Raises:
            GraphError: an input is missing or of another dtype or shape; or the engine fails.
            MissingError: the GPU has no memory for it.
        """
        bound = {name: self._feed(tensor, feeds) for name, tensor in self.inputs.items()}
        bound |= {name: tensor.device for name, tensor in self.outputs.items()}
        self._bind({name: memory.address for name, memory in bound.items()})
        self._launch()
        for name, tensor in self.outputs.items():
            if name not in stay:
                self._cuda.download(tensor.pinned, tensor.device)
        self._cuda.synchronize()
        if self.after_first_run is not None:
            self.after_first_run()
            self.after_first_run = None
        return {
            name: OnDevice(self._cuda, tensor.device, tensor.dtype, tensor.shape)
            if name in stay
            else tensor.host.copy()
            for name, tensor in self.outputs.items()
        }

    def _tensor(self, name: str) -> _Tensor:
        shape = tuple(self.engine.get_tensor_shape(name))
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise GraphError(f"tensor {name!r} is {kind}, which no array holds", where=self._name)
        if -1 in shape:
            raise GraphError(
                f"tensor {name!r} has shape {list(shape)}, and buffers are allocated once",
                where=self._name,
                fix="Export it with static shapes.",
            )
        return _Tensor(self._cuda, name, _numpy(_TYPES[kind]), shape)

    def _feed(self, tensor: _Tensor, feeds: Mapping[str, np.ndarray | OnDevice]) -> Memory:
        """Where an input lies on the device: where it stayed, or where it is copied to."""
        value = feeds.get(tensor.name)
        found = None if value is None else (value.dtype, tuple(value.shape))
        if found != (tensor.dtype, tensor.shape):
            given = "is missing" if found is None else f"is {found[0]} {list(found[1])}"
            raise GraphError(
                f"input {tensor.name!r} {given}, and the engine takes {tensor.dtype} {list(tensor.shape)}",
                where=self._name,
                fix="Build the engines of this bundle again.",
            )
        if isinstance(value, OnDevice):
            if all(value.memory is not output.device for output in self.outputs.values()):
                return value.memory
            # In bundles of schema 1 decode reads the whole caches that it wrote before, and will write over them.
            self._cuda.copy(tensor.device, value.memory)
        else:
            np.copyto(tensor.host, value)  # type: ignore[arg-type]
            self._cuda.upload(tensor.device, tensor.pinned)
        return tensor.device

    def _bind(self, addresses: dict[str, int]) -> None:
        for name, address in addresses.items():
            if self._addresses.get(name) != address and not self._context.set_tensor_address(name, address):
                raise GraphError(f"TensorRT takes no buffer for tensor {name!r}", where=self._name)
        self._addresses = addresses

    def _launch(self) -> None:
        key = tuple(self._addresses.values())
        graph = self._graphs.get(key)
        if graph is not None:
            self._cuda.launch(graph)
            self.launches["replayed"] += 1
        elif self._capture and key in self._graphs:
            try:
                self._graphs[key] = self._cuda.capture(self._enqueue)
            except CudaError as error:
                self._without_graphs(error)
                self._enqueue()
                return
            self._cuda.launch(self._graphs[key])
            self.launches["captured"] += 1
        else:
            self._enqueue()
            self._graphs[key] = None
            self.launches["direct"] += 1

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise CudaError("TensorRT could not enqueue the engine", where=self._name)

    def _without_graphs(self, error: CudaError) -> None:
        self._capture = False
        self.notes.append(f"no CUDA graph: {error.what}")
        warnings.warn(f"{self._name} runs without a CUDA graph: {error.what}", RuntimeWarning, stacklevel=5)
        self.launches["direct"] += 1


def _numpy(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)

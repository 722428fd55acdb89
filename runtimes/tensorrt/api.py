"""Where TensorRT 10.3 to 11 and TensorRT-RTX differ, in one place: everything else talks to an `Api`.

                        TensorRT 10         TensorRT 11         TensorRT-RTX 1.7
strongly typed          a flag              always              always
precision flags         there, unused       gone                gone
builds for              the GPU it runs on  the GPU it runs on  the compute capabilities it is told
cache of a build        timing cache        timing cache        none: its timing cache does nothing
cache of a first run    none                none                runtime cache: kernels are compiled at load
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from ...errors import MissingError, first_line
from .layers import Layer, of_inspector
from .wheel import provide_missing_name

Kind = Literal["tensorrt", "tensorrt-rtx"]
KINDS: tuple[Kind, ...] = ("tensorrt", "tensorrt-rtx")

# Python module, distribution, first supported version, first that is not.
_PACKAGES: dict[Kind, tuple[str, str, tuple[int, ...], tuple[int, ...]]] = {
    "tensorrt": ("tensorrt", "tensorrt", (10, 3), (12,)),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx", (1, 7), (2,)),
}
_INSTALL: dict[Kind, str] = {
    "tensorrt": "On a Jetson JetPack has it: sudo apt-get install python3-libnvinfer. Elsewhere: "
    'pip install "tokexport[tensorrt]"',
    "tensorrt-rtx": 'Run: pip install "tokexport[rtx]"',
}


@dataclass(frozen=True)
class Settings:
    """How a network is built.

    Attributes:
        workspace: most bytes that a tactic may use; None: TensorRT's default, the whole memory of the GPU.
        compute_capability: such as ``8.6``.
    """

    workspace: int | None
    compute_capability: str


def version_of(kind: Kind) -> str | None:
    """The installed version, None where it is not installed; nothing is imported."""
    module, distribution, _, _ = _PACKAGES[kind]
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        # JetPack's Debian package may come without the metadata of a wheel.
        return str(getattr(importlib.import_module(module), "__version__", "0"))


def require(kind: Kind) -> str:
    """The installed version.

    Raises:
        MissingError: it is not installed, or of a version that is not supported.
    """
    found = version_of(kind)
    module, _, least, above = _PACKAGES[kind]
    if found is None:
        raise MissingError(f"{title(kind)} is not installed", where=f"Python module {module}", fix=_INSTALL[kind])
    if not least <= _numbers(found) < above:
        first = ".".join(map(str, least))
        raise MissingError(
            f"{title(kind)} {found} is installed, and versions {first} to {above[0] - 1}.x are supported",
            where=f"Python module {module}",
            fix=_INSTALL[kind],
        )
    return found


def install(kind: Kind) -> str:
    """How to install it, as a sentence."""
    return _INSTALL[kind]


def title(kind: Kind) -> str:
    """Its name as NVIDIA spells it."""
    return "TensorRT" if kind == "tensorrt" else "TensorRT-RTX"


class Api:
    """An imported TensorRT.

    Args:
        kind: which.

    Attributes:
        trt: the Python module.
        logged: errors and warnings since the last `take_log`, oldest first.

    Raises:
        MissingError: see `require`.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.version = require(kind)
        try:
            self.trt: ModuleType = importlib.import_module(_PACKAGES[kind][0])
        except (ImportError, OSError) as error:
            raise MissingError(
                f"{title(kind)} {self.version} cannot be imported: {first_line(error)}",
                fix="`tokexport doctor` says what is wrong with it.",
            ) from error
        if kind == "tensorrt-rtx":
            provide_missing_name()
        self.logged: list[str] = []
        self.logger = self._logger()

    def __str__(self) -> str:
        return f"{title(self.kind)} {self.version}"

    def take_log(self) -> list[str]:
        """What was logged since the last call."""
        taken, self.logged[:] = list(self.logged), []
        return taken

    def network(self, builder: Any) -> Any:
        """An empty network that is strongly typed: each type is the graph's own, in every version."""
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def config(self, builder: Any, settings: Settings, monitor: Any = None) -> Any:
        """A builder configuration."""
        trt = self.trt
        config = builder.create_builder_config()
        # fp32 in the graph means fp32: a top-k on scores with the ten mantissa bits of TF32 selects other tokens.
        config.clear_flag(trt.BuilderFlag.TF32)
        # Without it the inspector reports names only, and no types could be compared.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if settings.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
        if self.kind == "tensorrt-rtx":
            config.num_compute_capabilities = 1
            name = f"SM{settings.compute_capability.replace('.', '')}"
            config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
        if monitor is not None:
            config.progress_monitor = monitor
        return config

    def set_timing_cache(self, config: Any, content: bytes) -> bool:
        """Attach a timing cache, empty or of an earlier build; False where TensorRT rejects it.

        TensorRT-RTX has none: True, and nothing is done.
        """
        if self.kind == "tensorrt-rtx":
            return True
        cache = config.create_timing_cache(content)
        return cache is not None and bool(config.set_timing_cache(cache, False))

    def timing_cache(self, config: Any) -> bytes | None:
        """The timing cache after the build, serialized; None for TensorRT-RTX, which has none."""
        return None if self.kind == "tensorrt-rtx" else bytes(config.get_timing_cache().serialize())

    def layers_of_network(self, network: Any) -> list[Layer]:
        """The layers of a parsed network, and one for its inputs."""
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        layers = [Layer("", "inputs", {tensor.name: tensor.dtype.name for tensor in inputs})]
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            types = {tensor.name: tensor.dtype.name for tensor in outputs if tensor is not None}
            layers.append(Layer(layer.name, layer.type.name, types))
        return layers

    def layers_of_engine(self, engine: Any) -> list[Layer]:
        """The layers of an engine as its inspector reports them, and one for its inputs and outputs."""
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        ends = Layer("", "inputs and outputs", {name: engine.get_tensor_dtype(name).name for name in names})
        inspector = engine.create_engine_inspector()
        return [ends, *of_inspector(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))]

    def context(self, engine: Any, cache: bytes | None = None) -> tuple[Any, Callable[[], bytes] | None]:
        """An execution context, and a function that returns the runtime cache after a run, or None where there is none.

        Args:
            engine: deserialized.
            cache: runtime cache of an earlier process; TensorRT-RTX rejects one that does not fit, and compiles again.
        """
        if self.kind == "tensorrt":
            return engine.create_execution_context(), None
        config = engine.create_runtime_config()
        kept = config.create_runtime_cache()
        if cache:
            kept.deserialize(cache)
        config.set_runtime_cache(kept)
        return engine.create_execution_context(config), lambda: bytes(kept.serialize())

    def _logger(self) -> Any:
        trt, logged = self.trt, self.logged

        class Log(trt.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.WARNING:
                    logged.append(message)

        return Log()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])

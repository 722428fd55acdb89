"""Where ONNX Runtime runs a graph: on the CPU, or on an NVIDIA GPU by CUDA or TensorRT; never elsewhere than asked.

ONNX Runtime itself goes on with the CPU, without a word, where the libraries or the driver of a provider are missing.
So what it registered is looked at each time; and its cure is found by loading the provider's library once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import platform
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MissingError, RequestError, first_line, nearest

if TYPE_CHECKING:
    import onnxruntime as ort

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
# As the command line has them.
NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
# The CPU takes what a provider cannot run. With TF32, ONNX Runtime's default, float32 products would have 10 bits.
_CUDA: tuple[str, dict[str, str]] = (CUDA, {"use_tf32": "0"})
_ORDER: dict[str, list[Any]] = {CPU: [CPU], CUDA: [_CUDA, CPU], TENSORRT: [TENSORRT, _CUDA, CPU]}
# Beside onnxruntime's own module.
_LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
_GPU_BUILD = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
_CURES = {
    r"libcuda\.": "Install the GPU's driver: sudo ubuntu-drivers install, or NVIDIA's installer; then reboot.",
    r"libnv(infer|onnxparser)": 'Run: pip install "tensorrt<11"',
    "": f"Run: {_GPU_BUILD}",
}
_RECORD, _UNKNOWN = "session.record_ep_graph_assignment_info", "Check the GPU and its driver: tokexport doctor"
_TINY = '<ir_version: 10, opset_import: ["" : 18]> tiny (float[1] x) => (float[1] y) { y = Relu(x) }'


def onnxruntime() -> Any:
    """The module; MissingError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed", fix='pip install "tokexport[ort]"') from error
    return onnxruntime


def provider_of(name: str) -> str:
    """ONNX Runtime's name of a provider that this build of it has.

    Args:
        name: of `NAMES`, or as ONNX Runtime has it.

    Raises:
        MissingError: ONNX Runtime is not installed, or is a build without this provider.
        RequestError: there is no such provider.
    """
    here = onnxruntime().get_available_providers()
    provider = NAMES.get(name, name)
    if provider in here:
        return provider
    if provider not in NAMES.values():
        raise RequestError(f"unknown provider {name!r}", fix=nearest(name, [*NAMES, *here], kind="providers"))
    raise MissingError(
        f"this onnxruntime is a build without {provider}",
        fix="PyPI has no build with it for this machine: install NVIDIA's wheel for your JetPack, or use TensorRT."
        if platform.machine() == "aarch64"
        else f"Run: pip uninstall -y onnxruntime && {_GPU_BUILD}",
    )


def short(provider: str) -> str:
    """Its name of `NAMES`, or without its ending."""
    return {full: name for name, full in NAMES.items()}.get(provider, provider.removesuffix("ExecutionProvider"))


def opened(model: str | bytes, options: ort.SessionOptions, provider: str, **more: Any) -> ort.InferenceSession:
    """A session that runs with this provider.

    Args:
        model: path or content.
        options: for a GPU, that nodes are counted by provider is added.
        provider: as `provider_of` returns it.
        more: for `onnxruntime.InferenceSession`.

    Raises:
        MissingError: the provider does not load, or finds no GPU.
        Exception: what onnxruntime raises for the graph; its exceptions have no public base class.
    """
    runtime = onnxruntime()
    if provider == CPU:
        return runtime.InferenceSession(model, options, providers=[CPU], **more)
    with _quiet(runtime):
        options.add_session_config_entry(_RECORD, "1")
        _preload(provider)
        try:
            return _made(runtime, model, options, provider, **more)
        except MissingError:
            raise
        except Exception:
            # Either the graph is wrong, or the provider fails for any.
            _check_loads(runtime, provider)
            raise


def require(name: str) -> None:
    """Check that a provider loads here; raises as `provider_of` and `opened` do."""
    provider, runtime = provider_of(name), onnxruntime()
    with _quiet(runtime):
        _preload(provider)
        _check_loads(runtime, provider)


def on_the_cpu(session: ort.InferenceSession) -> tuple[int, int] | None:
    """How many nodes of a graph that `opened` opened for a GPU run on the CPU, and of how many.

    Copies that ONNX Runtime adds are not counted. None: this version does not tell.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:
        # Older ones have no such method; that of other sessions fails.
        return None
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.ep_name] += len(part.get_nodes())
    return counts[CPU], counts.total()


def _made(runtime: Any, model: str | bytes, options: ort.SessionOptions, provider: str, **more: Any) -> Any:
    order = _ORDER.get(provider, [provider, CPU])
    session = runtime.InferenceSession(model, options, providers=order, enable_fallback=0, **more)
    if provider not in session.get_providers():
        raise _not_loaded(provider, "")
    return session


def _check_loads(runtime: Any, provider: str) -> None:
    import onnx

    try:
        tiny = onnx.parser.parse_model(_TINY).SerializeToString()
        _made(runtime, tiny, runtime.SessionOptions(), provider)
    except MissingError:
        raise
    except Exception as error:
        raise _not_loaded(provider, first_line(error, 300)) from error


def _not_loaded(provider: str, said: str) -> MissingError:
    lacking = _lacking(provider)
    why = f"{lacking} is not found" if lacking else said or "ONNX Runtime does not say why"
    cure = next(cure for words, cure in _CURES.items() if re.match(words, lacking)) if lacking else _UNKNOWN
    return MissingError(f"{provider} does not load here: {why}", fix=cure)


def _lacking(provider: str) -> str:
    """The first library that the provider's own library needs and the loader does not find; empty where none is."""
    path = Path(onnxruntime().__file__).parent / "capi" / _LIBRARIES.get(provider, "")
    if not path.is_file():
        return ""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        missing = re.match(r"(\S+): cannot open shared object", str(error))
        return missing[1] if missing else ""
    return ""


@functools.cache
def _preload(provider: str) -> None:
    """Load what pip installed beside onnxruntime for it, which is not where the loader looks."""
    runtime = onnxruntime()
    if provider in (CUDA, TENSORRT) and hasattr(runtime, "preload_dlls"):
        # It prints what it does not find.
        with contextlib.redirect_stdout(io.StringIO()):
            runtime.preload_dlls()
    if provider == TENSORRT:
        with contextlib.suppress(ImportError):
            import tensorrt  # noqa: F401


@contextlib.contextmanager
def _quiet(runtime: Any) -> Iterator[None]:
    """No lines of ONNX Runtime's own on stderr, about what is raised as an error of ours."""
    fatal, warning = 4, 2
    runtime.set_default_logger_severity(fatal)
    try:
        yield
    finally:
        runtime.set_default_logger_severity(warning)

"""TensorRT-RTX parses a graph and builds its engine without a GPU: graphs that TensorRT cannot read are found early.

Both happen in a child process (`child.py`), so that a crash of TensorRT-RTX is a result and does not end this process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GraphError, MissingError, RequestError, TokexportError
from . import child
from .failures import ParserError, refusals

# Compute capabilities that TensorRT-RTX builds for on a machine that has no such GPU.
SMS = ("75", "86", "89", "120")
_INSTALL = "pip install 'tensorrt-rtx>=1.7'"


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        ok: whether there is an engine.
        seconds: of the build alone, without parsing and the start of the child process.
        bytes: size of the serialized engine; 0 where there is none.
        errors: why there is no engine.
    """

    ok: bool
    seconds: float
    bytes: int
    errors: tuple[ParserError, ...] = ()


def require_rtx() -> str:
    """The installed version of TensorRT-RTX.

    Raises:
        MissingError: it is not installed; the fix is the command that installs it.
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingError("TensorRT-RTX is not installed", where="Python module tensorrt_rtx", fix=f"Run: {_INSTALL}")
    return importlib.metadata.version("tensorrt-rtx")


def parse(model: str | Path | bytes, *, plugins: str | Path | None = None, timeout: float = 600) -> list[ParserError]:
    """What TensorRT's ONNX parser refuses in a model; empty where it accepts the model.

    Args:
        model: an ONNX file (external data beside it is read), or a serialized model without external data.
        plugins: where the plugins of the graph are: a library's path, or ``python`` for those in Python.
        timeout: seconds.

    Raises:
        MissingError: TensorRT-RTX is not installed, or there is no such library.
        GraphError: there is no such file.
    """
    return list(_run(model, {"build": False}, plugins, timeout)[0].errors)


def build(
    model: str | Path | bytes,
    *,
    sm: str = "86",
    engine: str | Path | None = None,
    plugins: str | Path | None = None,
    timeout: float = 600,
) -> Built:
    """Parse a model and build its engine, strongly typed, for a GPU that need not be here.

    Args:
        model: an ONNX file (external data beside it is read), or a serialized model without external data.
        sm: compute capability: one of `SMS`.
        engine: file to write the engine to.
        plugins: where the plugins of the graph are: a library's path, or ``python`` for those in Python.
        timeout: seconds.

    Raises:
        MissingError: TensorRT-RTX is not installed, or there is no such library.
        RequestError: a compute capability it does not build for.
        GraphError: there is no such file.
    """
    if sm not in SMS:
        raise RequestError(
            f"TensorRT-RTX does not build for compute capability {sm!r}", fix=f"Use one of {', '.join(SMS)}."
        )
    job = {"build": True, "sm": sm, "engine": str(engine) if engine else None}
    built, parsed = _run(model, job, plugins, timeout)
    if built.ok or not parsed:
        return built
    return Built(False, built.seconds, 0, (*built.errors, *_broken_rules(model)))


def _run(
    model: str | Path | bytes, job: Mapping[str, Any], plugins: str | Path | None, timeout: float
) -> tuple[Built, bool]:
    """The result, and whether the model was parsed."""
    require_rtx()
    if plugins and plugins != "python":
        plugins = Path(plugins).resolve()
        if not plugins.is_file():
            raise MissingError(f"there is no plugin library {plugins}", fix="Run: tokexport plugins build")
    with tempfile.TemporaryDirectory(prefix="tokexport-rtx-") as folder:
        if isinstance(model, bytes):
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
        else:
            path = Path(model).resolve()
            if not path.is_file():
                raise GraphError(f"there is no file {model}", fix="Give the path of an ONNX file.")
        request = {**job, "model": str(path), "plugins": str(plugins) if plugins else None}
        try:
            answer = child.call("rtx", request, doing="TensorRT-RTX failed", timeout=timeout)
        except TokexportError as error:
            return _failed(str(error))
    result = answer.result
    errors = tuple(ParserError(**error) for error in result["errors"])
    if errors:
        errors = (*refusals(answer.stderr), *errors)
    return Built(not errors, result["seconds"], result["bytes"], errors), result["parsed"]


def _failed(reason: str) -> tuple[Built, bool]:
    return Built(False, 0.0, 0, (ParserError("", "", reason),)), False


def _broken_rules(model: str | Path | bytes) -> list[ParserError]:
    """The rules that the graph breaks: they name the node, which the error of a failed build seldom does."""
    import onnx_ir as ir

    from ...devices.rules import violations

    if isinstance(model, bytes):
        import onnx

        loaded = ir.from_proto(onnx.load_from_string(model))
    else:
        loaded = ir.load(model)
    return [ParserError(v.node, v.op, v.why) for v in violations(loaded, "tensorrt-rtx", require_rtx())]

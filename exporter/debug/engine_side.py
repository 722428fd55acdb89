"""A TensorRT engine: it shows its outputs alone, and parts of the other side's graph can be built as it was."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import MissingError, RequestError
from .sides import Arrays, Feeds, Input, Run, Side, Value

if TYPE_CHECKING:
    import onnx_ir as ir

# What B may be called where it is to be built of A's graph.
WORDS = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}


class Engines(Protocol):
    """What `runtimes.tensorrt.loose.LooseEngines` is: all that is asked of a TensorRT."""

    def load(self, path: Path) -> Any:
        """An engine with `inputs`, `outputs` and `run`, as `EngineGraph`."""

    def build(self, model: ir.Model) -> Any:
        """Likewise, built of a graph."""


@dataclass
class EngineSide(Side):
    """An engine.

    Attributes:
        engine: loaded.
        engines: the TensorRT that loaded it.
        builder: the word that builds another.
    """

    engine: Any = None
    engines: Engines | None = None
    builder: str = "tensorrt"

    def read(self, feeds: Feeds, names: Collection[str]) -> Arrays:
        """See `Side`; only outputs can be read."""
        returned = _run(self.engine, feeds)
        return {name: returned[name] for name in names}

    def maker(self, model: ir.Model) -> Run:
        """A part of a graph in an engine of its own."""
        assert self.engines is not None
        engine = self.engines.build(model)
        return lambda feeds: _run(engine, feeds)


def open_engine(text: str, other: Side | None) -> EngineSide:
    """Load an engine, or build one.

    Args:
        text: a plan file, or one of `WORDS`: then it is built of the graph of `other`.
        other: side A; None where this is A.

    Raises:
        MissingError: TensorRT, or a GPU, is not here.
        RequestError: there is nothing to build.
        GraphError: the engine does not load, or cannot be built.
    """
    if text in WORDS and (other is None or other.model is None):
        raise RequestError(
            f"{text} builds the graph of A, and A has none" if other is not None else f"{text} cannot be A",
            fix=f"Write: tokexport debug MODEL.onnx --against {text}",
        )
    engines = _engines(text, other)
    if text in WORDS:
        assert other is not None and other.model is not None
        engine, runs = engines.build(other.model), f"{engines}, an engine of {other.text}"
    else:
        engine, runs = engines.load(Path(text).expanduser()), str(engines)
    half = any(str(tensor.dtype) == "float16" for tensor in (*engine.inputs.values(), *engine.outputs.values()))
    notes = [] if half else [f"{text}: that an engine computes in half precision inside is not seen from outside: "
                             "--cosine 0.999 --norm 0.01 is the threshold of float16"]  # fmt: skip
    return EngineSide(
        text=text,
        runs=runs,
        inputs={name: _input(tensor) for name, tensor in engine.inputs.items()},
        outputs=tuple(engine.outputs),
        values=tuple(Value(name, shape=tuple(tensor.shape)) for name, tensor in engine.outputs.items()),
        precision="fp16" if half else "fp32",
        notes=notes,
        makes=True,
        engine=engine,
        engines=engines,
        builder=text if text in WORDS else "rtx" if "RTX" in str(engines) else "tensorrt",
    )


def _engines(text: str, other: Side | None) -> Engines:
    from ...runtimes.tensorrt.loose import LooseEngines

    try:
        return LooseEngines(WORDS.get(text))  # type: ignore[arg-type]
    except MissingError as error:
        there = f"tokexport debug a.npz --against {text}"
        a = "A" if other is None else other.text
        elsewhere = (
            "Or run the same command on a machine with TensorRT and its GPU."
            if text in WORDS
            else f"Or compare where it runs: here `tokexport debug {a} --record a.npz`, then there `{there}`."
        )
        raise MissingError(
            f"{text} cannot run here: {error.what}", where=error.where, fix=f"{error.fix.rstrip('.')}. {elsewhere}"
        ) from error


def _input(tensor: Any) -> Input:
    half = str(tensor.dtype) in ("float16", "bfloat16")
    return Input(np.dtype(np.float32) if half else np.dtype(tensor.dtype), tuple(tensor.shape))


def _run(engine: Any, feeds: Feeds) -> Arrays:
    """Run it with what it takes of `feeds`, in its own types; half-precision outputs are float32."""
    given = {
        name: np.ascontiguousarray(feeds[name].astype(tensor.dtype, copy=False))
        for name, tensor in engine.inputs.items()
    }
    wide = ("float16", "bfloat16")
    return {
        name: array.astype(np.float32) if str(array.dtype) in wide else array
        for name, array in engine.run(given).items()
    }

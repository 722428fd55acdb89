"""What a compressor is: the protocol, the case it is used in, what it returns, and the decorator of its class.

A compressor is a frozen dataclass of parameters in a file of its own, which has the name of the method.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from ...errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

T = TypeVar("T")


@dataclass(frozen=True)
class Compressed(Generic[T]):
    """What every compressor returns, as torch tensors (reference) or graph values (ONNX body).

    Attributes:
        tokens: [B, K, D'] in the dtype of the input tokens.
        kept_indices: [B, K] int64, the position each slot inherits, in [0, N); ascending unless the method says not.
        sizes: [B, K] float32, how many input tokens each slot stands for; 1 where nothing was merged into it.
        assignment: [B, N] int64, the slot each token's content went into, -1 where it was lost.
    """

    tokens: T
    kept_indices: T
    sizes: T
    assignment: T


OUTPUTS = tuple(field.name for field in dataclasses.fields(Compressed))


@dataclass(frozen=True)
class Case:
    """The static facts of one use of a compressor: what its domain is checked against and its body is built for.

    Attributes:
        tokens: N, tokens per set, prefix tokens not counted.
        dim: D, channels.
        keep: K, tokens kept per set.
        dtype: of the tokens: float32, float16 or bfloat16. Selection arithmetic is float32 in every case.
        grid: (height, width), (length,), (frames, height, width), or None where tokens have no grid.
    """

    tokens: int
    dim: int
    keep: int
    dtype: str = "float32"
    grid: tuple[int, ...] | None = None


class Example:
    """Parameters and cases that the property tests run a method with.

    A class carries a few as its attribute `examples`: each of its branches once, on small cases. The tests add cases
    without a grid where `check` takes them, random tokens of several kinds, and random weights for a method that reads
    trained ones.

    Args:
        cases: small ones that the method is defined for, at least one.
        params: its parameters that differ from their defaults.
    """

    def __init__(self, *cases: Case, **params: Any) -> None:
        self.cases, self.params = cases, params


@dataclass(frozen=True)
class Method:
    """The card of a compressor, as `tokexport methods` prints it.

    Attributes:
        name: as typed after ``--method``.
        family: transformation, similarity, attention, query, algebraic or baseline.
        modalities: any of image, video, audio.
        merges: whether `sizes` can differ from 1; they count the assignment then.
        source: paper or "tokexport".
        seam: the seam of the paper, taken by ``--seam auto`` where the model has it.
        summary: one line.
        approximate: the paper is not followed exactly; the docstring says where.
        positions: whether slots have positions (a resampler has none and is refused where positions matter).
        plugin: whether TensorRT has a plugin for it, with a CUDA kernel: the plugin form of a graph calls that.
        fixed: which tokens a slot reads follows from N, K and the grid, not from the tokens, and it has no weights: a
            Gather, a Reshape or a pooling. Its body of standard operators stands in the plugin form too; no plugin.
        heavy: why its body takes more than 1,500 nodes or 1 % of an encoder's time at real size; empty where it takes
            neither (see docs/methods.md).
    """

    name: str
    family: str
    modalities: tuple[str, ...]
    merges: bool
    source: str
    summary: str
    seam: str = "encoder_output"
    approximate: bool = False
    positions: bool = True
    plugin: bool = False
    fixed: bool = False
    heavy: str = ""

    def __post_init__(self) -> None:
        kinds = {"str": str, "bool": bool}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds.get(str(field.type), tuple)):
                raise TypeError(f"{field.name}={value!r} on the card of method {self.name!r} is no {field.type}")

    @property
    def plugin_form(self) -> bool:
        """Whether a graph with this method has a plugin form: by its plugin, or with its body inlined."""
        return self.plugin or self.fixed


@runtime_checkable
class Compressor(Protocol):
    """What the class in a method's file provides; its dataclass fields are the method's parameters."""

    method: Method

    def signals(self) -> tuple[str, ...]:
        """Names of the signals read beside the tokens.

        cls_attention [B, N], received_attention [B, N], keys [B, N, Dk], text [B, L, Dt] (a row of zeros is padding).
        """
        ...

    def check(self, case: Case) -> None:
        """Raise `RequestError` where the method is not defined, naming the counts that are."""
        ...

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """Plain PyTorch that reads like the paper: tokens [B, N, D] -> `Compressed`. `case` was checked before."""
        ...

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Emit the static-shape body. Any batch size must work: B is not known here."""
        ...


@runtime_checkable
class Widens(Protocol):
    """A compressor whose slots have more channels than tokens: what reads them must have been made for that."""

    def width(self, case: Case) -> int:
        """D', channels of a slot."""
        ...


def width(compressor: Compressor, case: Case) -> int:
    """D', channels of a slot: D but for a compressor that `Widens`."""
    return compressor.width(case) if isinstance(compressor, Widens) else case.dim


@runtime_checkable
class Resolves(Protocol):
    """A compressor with parameters that say too little, or nothing a kernel can read, without the case."""

    def plugin_attributes(self, case: Case) -> dict[str, Any]:
        """What its plugin gets instead of the parameters of the same names, or beside them."""
        ...


def plugin_attributes(compressor: Compressor, case: Case) -> dict[str, Any]:
    """What its plugin is told beside K: its parameters, and for a compressor that `Resolves` what they come to here."""
    resolved = compressor.plugin_attributes(case) if isinstance(compressor, Resolves) else {}
    return {**parameters(compressor), **resolved}


@runtime_checkable
class Learned(Protocol):
    """A compressor with weights. They are further inputs of its node, behind the signals, and never inside its body.

    `reference` and `onnx` take them as keywords, behind the signals. They lie in the graph in the dtype of the tokens,
    and both compute with them in float32. One that chooses tokens has a `replay` that takes them likewise; a bundle's
    proof has no weights to judge a choice by, so there it must be the reference's own.
    """

    def arrays(self, case: Case) -> dict[str, np.ndarray]:
        """Name -> float32 array, from the file that the parameter `weights` names, or the method's own initial values.

        Raises:
            RequestError: a file that cannot be read, or whose arrays do not fit the case.
        """
        ...


def weights(compressor: Compressor, case: Case) -> dict[str, np.ndarray]:
    """The weights of a compressor that has `Learned`; nothing for all others."""
    return compressor.arrays(case) if isinstance(compressor, Learned) else {}


def ascending(compressor: Compressor) -> bool:
    """Whether kept_indices ascend; a class says otherwise by an attribute or a property `ascending`."""
    return bool(getattr(compressor, "ascending", True))


# Name -> class of the methods whose files were imported, and of those defined elsewhere in this process.
DEFINED: dict[str, type[Compressor]] = {}


@functools.cache
def built_in() -> frozenset[str]:
    """The methods that have a file in this folder, by the names of the files."""
    files = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return frozenset(files - {"__init__", "base"})


def compressor(name: str, **card: Any) -> Callable[[type[T]], type[T]]:
    """Make the decorated frozen dataclass the method `name`; the keywords are the fields of `Method`.

    Raises:
        RequestError: a class outside this folder takes the name of a method that has its file here.
    """

    def define(cls: type[T]) -> type[T]:
        if name in built_in() and cls.__module__ != f"{__package__}.{name}":
            what = f"{cls.__module__}.{cls.__qualname__} takes the name {name!r}, which is a built-in method's"
            raise RequestError(what, fix=f"Give it another name: @compressor({name + '_2'!r}, ...).")
        cls.method = Method(name=name, **card)  # type: ignore[attr-defined]
        DEFINED[name] = cast("type[Compressor]", cls)
        return cls

    return define


def parameters(compressor: Compressor) -> dict[str, Any]:
    """Parameter name -> value, in the order of the file; of a file of `weights` its name, without the folder."""
    values = dataclasses.asdict(compressor)  # type: ignore[call-overload]
    if values.get("weights"):
        values["weights"] = Path(values["weights"]).name
    return values


def changed(compressor: Compressor) -> dict[str, Any]:
    """The `parameters` that are not the defaults of the method."""
    default = parameters(type(compressor)())
    return {key: value for key, value in parameters(compressor).items() if value != default[key]}

"""What a compressor is: the protocol, what it returns, and the registry.

A compressor is a frozen dataclass of parameters in a file of its own, registered by the decorator `compressor`. The
file imports neither torch nor onnx tools at its top: `tokexport methods` reads every one of them in milliseconds.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from ...errors import RequestError, nearest

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
    and both compute with them in float32. Its outputs follow from no choice that rounding could turn.
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


_TABLE: dict[str, str] = {
    "a_tome": ".a_tome",
    "adafv": ".adafv",
    "apet": ".apet",
    "audio_topk": ".audio_topk",
    "cdpruner": ".cdpruner",
    "cls_topk": ".cls_topk",
    "codec_topk": ".codec_topk",
    "conv1d": ".conv1d",
    "dart": ".dart",
    "divprune": ".divprune",
    "dpc_knn": ".dpc_knn",
    "evit": ".evit",
    "evs": ".evs",
    "folder": ".folder",
    "framefusion": ".framefusion",
    "holitom": ".holitom",
    "holov": ".holov",
    "kcenter_merge": ".kcenter_merge",
    "ldp": ".ldp",
    "ldpv2": ".ldpv2",
    "lftr": ".lftr",
    "lftr_text": ".lftr_text",
    "llama_vid": ".llama_vid",
    "llava_mini": ".llava_mini",
    "longvu": ".longvu",
    "pixel_unshuffle": ".pixel_unshuffle",
    "pool": ".pool",
    "pool1d": ".pool1d",
    "pool3d": ".pool3d",
    "prumerge": ".prumerge",
    "prunevid": ".prunevid",
    "qformer": ".qformer",
    "random": ".random",
    "scope": ".scope",
    "slowfast": ".slowfast",
    "sparsevlm": ".sparsevlm",
    "speechprune": ".speechprune",
    "st_mean": ".st_mean",
    "stack": ".stack",
    "stc": ".stc",
    "temporal_pool": ".temporal_pool",
    "tokenlearner": ".tokenlearner",
    "tome": ".tome",
    "topk": ".topk",
    "trim": ".trim",
    "ttm": ".ttm",
    "two_scale": ".two_scale",
    "uniform": ".uniform",
    "visionzip": ".visionzip",
    "vispruner": ".vispruner",
    "window_qformer": ".window_qformer",
}
_REGISTERED: dict[str, type[Compressor]] = {}
_ENTRY_POINTS = "tokexport.compressors"


def compressor(name: str, **card: Any) -> Callable[[type[T]], type[T]]:
    """Register the decorated frozen dataclass as method `name`; the keywords are the fields of `Method`."""

    def register(cls: type[T]) -> type[T]:
        cls.method = Method(name=name, **card)  # type: ignore[attr-defined]
        _REGISTERED[name] = cast("type[Compressor]", cls)
        return cls

    return register


def names() -> list[str]:
    """Every known method: the built-in table and installed entry points."""
    return sorted({*_TABLE, *_REGISTERED, *(point.name for point in _entry_points())})


def compressor_class(name: str) -> type[Compressor]:
    """The class of a method.

    Raises:
        RequestError: unknown name; the nearest names are listed.
    """
    if name not in _REGISTERED:
        if name in _TABLE:
            importlib.import_module(_TABLE[name], __package__)
        else:
            point = next((p for p in _entry_points() if p.name == name), None)
            if point is None:
                raise RequestError(f"unknown method {name!r}", fix=nearest(name, names(), kind="methods"))
            point.load()
    return _REGISTERED[name]


def make(name: str, params: Mapping[str, Any] | None = None) -> Compressor:
    """A compressor with validated parameters; strings (from ``--set key=value``) are converted.

    Raises:
        RequestError: unknown method, unknown parameter, or a value out of range.
    """
    cls = compressor_class(name)
    if not params:
        return cls()
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(params, Mapping):
        raise RequestError(f"params {params!r} is not a mapping", fix="Write for example params={'basis': 16}.")
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = [key for key in params if key not in fields]
    if unknown:
        raise RequestError(
            f"method {name!r} has no parameter {unknown[0]!r}", fix=nearest(unknown[0], fields, kind="parameters")
        )
    try:
        return TypeAdapter(cls).validate_python(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"parameter {where} of method {name!r} is {first['input']!r}: {first['msg']}",
            fix=f"Change --set {where}=VALUE; `tokexport methods` lists parameters and defaults.",
        ) from None


def parameters(compressor: Compressor) -> dict[str, Any]:
    """Parameter name -> value, in the order of the file; of a file of `weights` its name, without the folder."""
    values = dataclasses.asdict(compressor)  # type: ignore[call-overload]
    if values.get("weights"):
        values["weights"] = Path(values["weights"]).name
    return values


def table() -> list[dict[str, Any]]:
    """What `tokexport methods` prints: the card of each method, its signals, and its parameters with their defaults.

    ``cacheable``: what it keeps follows from the input alone, so it holds for every turn of a dialogue.
    ``lacks``: target -> what is missing for this method there; ONNX Runtime runs every method.
    """
    rows = []
    for name in names():
        default = make(name)
        card, signals = dataclasses.asdict(default.method), list(default.signals())
        lacks = {} if default.method.plugin_form else {"tensorrt": "a plugin: use the portable or the inlined form"}
        facts = {"signals": signals, "cacheable": "text" not in signals, "lacks": lacks}
        rows.append({**card, **facts, "params": parameters(default)})
    return rows


def methods() -> list[Method]:
    """The cards of all methods, by name."""
    return [compressor_class(name).method for name in names()]


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=_ENTRY_POINTS))

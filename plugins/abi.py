"""The C ABI of kernels/tokexport_kernels.h in Python: a node's attributes as parameters, and calls on device pointers.

For the Python plugin, tests and benchmarks; the C++ plugins do the same from the same attributes. Which inputs a kernel
takes, and how, is one row of `KERNELS`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import GraphError, MissingError, TokexportError, nearest
from .structs import (
    Apet,
    Cdpruner,
    Dart,
    Evs,
    KcenterMerge,
    Outputs,
    Scope,
    Shape,
    Tome,
    Topk,
    Visionzip,
    Workspace,
)

STARTS = {"first": 0, "max_norm": 1, "farthest_from_mean": 2}
BASIS_SLOTS = {"overwrite": 0, "blend": 1, "none": 2}
ATTENTIONS = {"cls": 0, "received": 1}
SCORES = {"cls_attention": 0, "norm": 1, "distance_to_mean": 2}
OF_KEYS = {"keys": 0, "tokens": 1}
MERGES = {"add": 0, "mean": 1}


class Signal(NamedTuple):
    """What a kernel may have to know of an input beside the tokens: its dtype by number, its shape."""

    dtype: int
    shape: tuple[int, ...]


class Attributes:
    """Attributes of a plugin node, read with errors that name the node and what is allowed."""

    def __init__(self, node: str, values: Mapping[str, Any]) -> None:
        self.node, self.values = node, values

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise self.error(f"it has no attribute {name!r}")
        return self.values[name]

    def code(self, name: str, known: Mapping[str, int]) -> int:
        """The number of an enumeration's value."""
        if self[name] not in known:
            raise self.error(f"attribute {name} is {self[name]!r}", nearest(self[name], known, kind="values"))
        return known[self[name]]

    def grid(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        grid = self["grid"]
        if isinstance(grid, str) or len(grid) != 3:
            raise self.error(f"attribute grid is {grid!r}, not [frames, height, width]")
        frames, height, width = grid
        return frames, height, width

    def error(self, what: str, fix: str = "") -> GraphError:
        """An error about this node."""
        again = "Make the plugin form again with this version of tokexport."
        return GraphError(f"{self.node}: {what}", fix=fix or again)


@dataclass(frozen=True)
class Kernel:
    """How a plugin calls its kernel.

    Attributes:
        params: attributes, shape and signals -> its parameters; None for a kernel without any.
        attributes: those of the plugin's node beside ``keep``, with their types; ``list`` is of integers.
        signals: the pointers that it takes behind the tokens, null where the node has fewer inputs, by what their
            dtype must be: that of the tokens, float32, or any of `DTYPES`.
        entry: the method whose kernel computes it too; its own where empty.
    """

    params: Callable[[Attributes, Shape, Sequence[Signal]], ctypes.Structure | None]
    attributes: Mapping[str, type] = field(default_factory=dict)
    signals: tuple[Literal["tokens", "float32", "any"], ...] = ()
    entry: str = ""


def _apet(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Apet:
    slots, start = given.code("basis_slots", BASIS_SLOTS), given.code("start", STARTS)
    return Apet(given["basis"], given["merge"], slots, start, given["ridge"])


def _topk(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Topk:
    return Topk(given.code("score", SCORES), signals[0].dtype if signals else shape.dtype)


def _attended(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> int:
    """The dtype of the attention that a method reads."""
    given.code("attention", ATTENTIONS)
    return signals[0].dtype if signals else shape.dtype


def _by_attention(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Topk:
    return Topk(SCORES["cls_attention"], _attended(given, shape, signals))


def _keys_dim(signals: Sequence[Signal], which: int = 0) -> int:
    """Dk; 0 where there are no keys."""
    return signals[which].shape[-1] if len(signals) > which else 0


def _cdpruner(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Cdpruner:
    dtype, text = signals[0] if signals else (shape.dtype, (shape.batch, given["text_length"], shape.dim))
    if text[1:] != (given["text_length"], shape.dim):
        raise given.error(f"text is {list(text)}, not [B, {given['text_length']}, {shape.dim}]")
    return Cdpruner(given["text_length"], given["inverted"], dtype)


def _dart(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Dart:
    given.code("norm_of", OF_KEYS)
    return Dart(given["pivots"], _keys_dim(signals))


def _tome(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Tome:
    given.code("metric", OF_KEYS)
    return Tome(_keys_dim(signals), 0)


def _visionzip(given: Attributes, shape: Shape, signals: Sequence[Signal]) -> Visionzip:
    attention, merge = _attended(given, shape, signals), given.code("merge", MERGES)
    return Visionzip(given["contextual"], merge, attention, _keys_dim(signals, 1))


_BY_ATTENTION = Kernel(_by_attention, {"attention": str}, signals=("any",), entry="topk")

KERNELS: dict[str, Kernel] = {
    "apet": Kernel(_apet, {"basis": int, "merge": int, "basis_slots": str, "start": str, "ridge": float}),
    "audio_topk": _BY_ATTENTION,
    "cdpruner": Kernel(_cdpruner, {"text_length": int, "inverted": int}, signals=("any",)),
    "cls_topk": _BY_ATTENTION,
    "dart": Kernel(_dart, {"pivots": int, "norm_of": str}, signals=("tokens",)),
    "divprune": Kernel(lambda given, shape, signals: None),
    "evs": Kernel(lambda given, shape, signals: Evs(*given.grid()), {"grid": list}),
    "kcenter_merge": Kernel(lambda given, shape, signals: KcenterMerge(given.code("start", STARTS)), {"start": str}),
    "scope": Kernel(
        lambda given, shape, signals: Scope(given["alpha"], _attended(given, shape, signals)),
        {"alpha": float, "attention": str},
        signals=("any",),
    ),
    "tome": Kernel(_tome, {"metric": str}, signals=("tokens", "float32")),
    "topk": Kernel(_topk, {"score": str}, signals=("any",)),
    "visionzip": Kernel(_visionzip, {"attention": str, "contextual": int, "merge": str}, signals=("any", "tokens")),
}


def params_of(
    method: str, attributes: Mapping[str, Any], shape: Shape, signals: Sequence[Signal] = ()
) -> ctypes.Structure | None:
    """The parameters that a method's kernel takes; None where it takes none.

    Args:
        method: one of `KERNELS`.
        attributes: of its plugin node, as `forms.to_plugin` writes them.
        shape: of the call.
        signals: the node's inputs behind the tokens.

    Raises:
        GraphError: an attribute is not there, or not one of its values.
    """
    return KERNELS[method].params(Attributes(method, attributes), shape, signals)


def symbol(method: str) -> str:
    """The entry point that computes a method."""
    return f"tokexport_{(KERNELS[method].entry if method in KERNELS else '') or method}"


class KernelError(TokexportError):
    """A kernel refused its arguments, or CUDA failed; `status` is the code."""

    def __init__(self, method: str, status: int, message: str) -> None:
        super().__init__(f"kernel {method}: {message}", where=f"status {status}")
        self.status = status


class Library:
    """A library with the kernels in it: ``libtokexport_kernels.so`` or ``libtokexport_plugins.so``.

    Raises:
        MissingError: it cannot be loaded, or has no kernels.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.dll = ctypes.CDLL(str(path))
            for say in (self.dll.tokexport_message, self.dll.tokexport_architectures):
                say.restype = c_char_p
        except (OSError, AttributeError) as error:
            raise MissingError(
                f"this library cannot be used: {error}", where=str(path), fix="Run: tokexport plugins build"
            ) from None
        self.dll.tokexport_message.argtypes = [c_int]
        self.path = path

    def kernels(self) -> list[str]:
        """The methods of `KERNELS` that are really in it."""
        return [method for method in KERNELS if hasattr(self.dll, symbol(method))]

    def architectures(self) -> list[str]:
        """What it was compiled for, as CMake has it: ``87-real``, ...; empty where its build did not say."""
        return str(self.dll.tokexport_architectures().decode()).split()

    def message(self, status: int) -> str:
        """A status in words."""
        return str(self.dll.tokexport_message(status).decode())

    def workspace_bytes(self, method: str, shape: Shape, params: ctypes.Structure | None = None) -> int | None:
        """Bytes of scratch memory; None for a kernel that takes no workspace.

        Raises:
            KernelError: arguments that the kernel refuses.
        """
        name = f"{symbol(method)}_workspace"
        if not hasattr(self.dll, name):
            return None
        size = c_size_t(0)
        given = [ctypes.byref(part) for part in (shape, params) if part is not None]
        self._require(method, getattr(self.dll, name)(*given, ctypes.byref(size)))
        return size.value

    def call(
        self,
        method: str,
        shape: Shape,
        params: ctypes.Structure | None,
        inputs: Sequence[int | None],
        outputs: Sequence[int],
        workspace: Workspace | None,
        stream: int = 0,
    ) -> None:
        """Enqueue a kernel.

        Args:
            method: whose.
            shape: B, N, D, K, dtype.
            params: as `params_of` gives them.
            inputs: device pointers to tokens and to every signal that the kernel takes, None for one left out.
            outputs: device pointers to tokens, kept_indices, sizes, assignment.
            workspace: None exactly where `workspace_bytes` is.
            stream: a cudaStream_t.

        Raises:
            KernelError: arguments that the kernel refuses, or a launch that failed.
        """
        arguments = [
            *(ctypes.byref(part) for part in (shape, params) if part is not None),
            *map(c_void_p, inputs),
            Outputs(*outputs),
            *([] if workspace is None else [workspace]),
            c_void_p(stream),
        ]
        self._require(method, getattr(self.dll, symbol(method))(*arguments))

    def _require(self, method: str, status: int) -> None:
        if status != 0:
            raise KernelError(method, status, self.message(status))

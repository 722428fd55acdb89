"""What `tokexport debug` compares: anything that runs and gives its values by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

Arrays = dict[str, np.ndarray]
Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], Arrays]
Shape = tuple[int | None, ...] | None


def numbers(shape: Shape) -> int | None:
    """How many numbers an array of that shape holds; None where that is not known."""
    axes = [axis for axis in shape or () if axis is not None]
    return math.prod(axes) if shape is not None and len(axes) == len(shape) else None


@dataclass(frozen=True)
class Value:
    """A value that a side can show.

    Attributes:
        name: unique within the side.
        op: the operator, or the class of the PyTorch module; empty where neither is known.
        node: what computes it: a node, or the path of a module.
        scope: path of the PyTorch module that it belongs to; empty where that is not known.
        shape: None where the rank is not known, and in it for an axis of unknown length.
    """

    name: str
    op: str = ""
    node: str = ""
    scope: str = ""
    shape: Shape = None


@dataclass(frozen=True)
class Input:
    """What a side takes.

    Attributes:
        dtype: numpy's; of half-precision graphs float32, which is rounded on the way in.
        shape: as of `Value`.
        limit: integers are smaller than this, because they index a table; 0: nothing is known.
    """

    dtype: np.dtype
    shape: Shape
    limit: int = 0


@dataclass
class Side(ABC):
    """One of the two that are compared.

    Attributes:
        text: what was typed.
        runs: what runs it, for people.
        inputs: by name.
        outputs: names of values, in order.
        values: in the order in which they are computed; those that follow from weights alone are left out.
        precision: fp32, fp16 or bf16.
        model: the graph, where there is one.
        examples: inputs that it brought along.
        notes: what a user must know of it.
        makes: whether parts of a graph can be run as it runs.
    """

    text: str
    runs: str
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    precision: str = "fp32"
    model: ir.Model | None = None
    examples: Arrays | None = None
    notes: list[str] = field(default_factory=list)
    makes: bool = False

    @abstractmethod
    def read(self, feeds: Feeds, names: Collection[str]) -> Arrays:
        """Run it and return these values; to look at a value may keep what fuses operators from fusing across it.

        Args:
            feeds: every input by name, of the dtype and shape that it takes.
            names: of `values` or `outputs`.
        """

    def run(self, feeds: Feeds) -> Arrays:
        """The outputs, as it computes them when nobody looks inside."""
        return self.read(feeds, self.outputs)

    @cached_property
    def producers(self) -> dict[str, ir.Node]:
        """The node of each value of the graph."""
        nodes = self.model.graph if self.model is not None else ()
        return {output.name: node for node in nodes for output in node.outputs if output.name}

    def in_order(self) -> list[Value]:
        """The values in the order in which outputs need them, which does not depend on the order in the file."""
        if self.model is None:
            return list(self.values)
        known, seen, order = self.by_name, set[Any](), list[Value]()
        stack: list[tuple[ir.Value, bool]] = [(value, False) for value in reversed(self.model.graph.outputs)]
        while stack:
            value, done = stack.pop()
            node = value.producer()
            if done and node is not None:
                order += [known[output.name] for output in node.outputs if output.name in known]
            elif node is not None and node not in seen:
                seen.add(node)
                stack.append((value, True))
                stack += [(read, False) for read in reversed(node.inputs) if read is not None]
        return order

    def maker(self, model: ir.Model) -> Run:
        """A graph, or a part of one, as this side runs its own; only where `makes`."""
        raise NotImplementedError

    def value(self, name: str) -> Value:
        """The record of a value, by name."""
        return self.by_name.get(name) or Value(name)

    @cached_property
    def by_name(self) -> dict[str, Value]:
        """All `values`."""
        return {value.name: value for value in self.values}


# Makes a part of a graph run as the side it was cut from runs.
Maker = Callable[["ir.Model"], Run]

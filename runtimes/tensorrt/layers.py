"""Checks that an engine computes in the types of its graph, and contains the plugins of its graph.

Two stages. The *network* is what TensorRT's parser made of the graph: it is strongly typed, so the builder keeps its
types, and any machine can check it. The *engine* is what the builder made of the network: the engine inspector
reports its layers on a machine whose GPU can load it. Tensors are matched by name; a tensor that was fused away in an
engine is not compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ...errors import GateError

if TYPE_CHECKING:
    import onnx_ir as ir

# ONNX's name of each floating type -> the names that TensorRT's API and its inspector give it.
_FLOATS = {"FLOAT": ("FLOAT", "FP32"), "FLOAT16": ("HALF", "FP16"), "BFLOAT16": ("BF16", "BFLOAT16")}
_SPELLED = {spelling: name for name, spellings in _FLOATS.items() for spelling in spellings}


@dataclass(frozen=True)
class Layer:
    """A layer of a network or an engine.

    Attributes:
        name: TensorRT's.
        kind: its type.
        outputs: tensor name -> type, in TensorRT's words.
    """

    name: str
    kind: str
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """The result of a comparison.

    Attributes:
        stage: ``network`` or ``engine``.
        layers: how many there are.
        compared: tensors of a floating type that are in both, by name.
        differing: "tensor x: asked FLOAT16, is FLOAT" for each that differs.
        missing: plugins of the graph that are not in it.
    """

    stage: Literal["network", "engine"]
    layers: int
    compared: int
    differing: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something was compared and nothing differs: comparing no tensor at all proves nothing."""
        return self.compared > 0 and not self.differing and not self.missing

    def to_json(self) -> dict[str, Any]:
        """For the sidecar."""
        return {"stage": self.stage, "layers": self.layers, "compared": self.compared}

    def require(self, where: str) -> Check:
        """Return itself.

        Raises:
            GateError: it is not ok.
        """
        if self.ok:
            return self
        reasons = [*self.differing[:3], *(f"plugin {name} is not in it" for name in self.missing)]
        more = f", and {len(self.differing) - 3} more" if len(self.differing) > 3 else ""
        raise GateError(
            f"the {self.stage} is not what the graph asks for: "
            f"{'; '.join(reasons) or 'it names none of the tensors of the graph'}{more}",
            where=where,
            fix="Do not use it. Try another --form, and report this with the version of TensorRT.",
        )


def asked(model: ir.Model) -> dict[str, str]:
    """Every input and node output of a graph, with its type in ONNX's words, where the graph has one."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {value.name: value.dtype.name for value in values if value.name and value.dtype is not None}


def compare(
    stage: Literal["network", "engine"], wanted: Mapping[str, str], layers: Iterable[Layer], plugins: Iterable[str] = ()
) -> Check:
    """Compare the types and plugins of a graph with those of its network or engine.

    Args:
        stage: what `layers` are of.
        wanted: see `asked`.
        layers: of the network or the engine, its inputs and outputs among them.
        plugins: the operator of every node of the graph that a plugin must compute.
    """
    layers = list(layers)
    compared, differing = 0, []
    for name, found in ((name, found) for layer in layers for name, found in layer.outputs.items()):
        want, have = wanted.get(name), _SPELLED.get(_type_in(found))
        if want not in _FLOATS or have is None:
            continue
        compared += 1
        if want != have:
            differing.append(f"tensor {name}: asked {want}, is {have}")
    there = sum("PLUGIN" in layer.kind.upper() for layer in layers)
    plugins = tuple(plugins)
    # The inspector says that a layer is a plugin, not always which one.
    missing = plugins if there < len(plugins) else ()
    return Check(stage, len(layers), compared, tuple(dict.fromkeys(differing)), missing)


def of_inspector(text: str) -> list[Layer]:
    """The layers in the JSON that an engine inspector gives, at detailed verbosity."""
    layers = []
    for entry in json.loads(text).get("Layers", []):
        # Without detailed verbosity an entry is a name alone.
        entry = {"Name": entry} if isinstance(entry, str) else entry
        outputs = {one["Name"]: one.get("Format/Datatype", "") for one in entry.get("Outputs", [])}
        kind = " ".join(str(entry[key]) for key in ("LayerType", "ParameterType", "PluginType") if key in entry)
        layers.append(Layer(entry.get("Name", ""), kind, outputs))
    return layers


def _type_in(text: str) -> str:
    """The type in "Half", "FLOAT" or "Row major linear FP16 format", as upper case."""
    words = re.findall(r"[A-Za-z]+\d*", text.upper())
    return next((word for word in words if word in _SPELLED), "")

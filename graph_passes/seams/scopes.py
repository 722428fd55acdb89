"""Where modules begin and end in a graph, read from the module paths that exporters attach to each node.

torch.onnx (dynamo) writes the module path of every node into its metadata; TorchScript exports have it in node names,
``/vision_tower/encoder/layers.1/Add``. A module boundary is where values leave the nodes of its path.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import onnx_ir as ir

from ..ir_tools.attention import Attention
from ..ir_tools.walk import FLOATS, Walk, dims

NAME_SCOPES = "pkg.torch.onnx.name_scopes"

_LAYER = re.compile(r"^((?:.*?\.)??(?:layers?|blocks?|resblocks|h)\.(\d{1,9}))(?:\.|$)")
_DECODER = re.compile(r"(^|\.)(decoder|language_model|text_model|llm|lm)(\.|$)")
_PROJECTOR = re.compile(
    r"""^((?:.*?\.)??(?:multi_modal_projector|multimodal_projector|mm_projector|\w*_projector|projector|connector|merger|
    aligner|mlp1|visual_projection|language_projection|modality_projection|embed_vision|embed_audio|
    vision_embed_tokens|img_projection|proj_out))(?:\.|$)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Layer:
    """A layer of an encoder or decoder and its output value; None if it has several."""

    index: int
    path: str
    output: ir.Value | None


class Scopes:
    """Module path of every node, and the values that cross module boundaries.

    Attributes:
        found_by: ``scopes`` (dynamo metadata), ``names`` (TorchScript node names), or empty if the graph has neither.
        partial: whether nodes that compute features lack a path.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.paths: dict[ir.Node, str] = {}
        self.found_by = ""
        for read, found_by in ((module_of, "scopes"), (_from_name, "names")):
            paths = {node: path for node in walk.nodes if (path := read(node)) is not None}
            if any(paths.values()):
                self.paths, self.found_by = paths, found_by
                break
        self.partial = any(
            self._tokens(output) for node in walk.nodes if node not in self.paths for output in node.outputs
        )
        self._inside: dict[str, list[ir.Node]] = {}
        for node, path in self.paths.items():
            for parent in self._chain(path):
                self._inside.setdefault(parent, []).append(node)

    def inside(self, path: str) -> list[ir.Node]:
        """Nodes of a module and its children, in the order of the graph."""
        return self._inside.get(path, [])

    def around(self, node: ir.Node) -> list[str]:
        """The modules that a node is in, innermost first."""
        return self._chain(self.paths.get(node, ""))

    def leaving(self, path: str) -> list[ir.Value]:
        """Computed float values of rank 2 or more that other modules or the caller read from this module."""
        inside = set(self.inside(path))
        outputs = [value for node in self.walk.sorted(inside) for value in node.outputs if self._tokens(value)]
        return [x for x in outputs if x.is_graph_output() or any(user not in inside for user in x.consumers())]

    def entering(self, path: str) -> list[ir.Value]:
        """Computed float values of rank 2 or more that this module reads from other modules."""
        inside = set(self.inside(path))
        found = dict.fromkeys(
            value
            for node in self.walk.sorted(inside)
            for value in node.inputs
            if value is not None and value.producer() not in inside and self._tokens(value)
        )
        return list(found)

    def layers(self, attentions: list[Attention]) -> dict[str, list[Layer]]:
        """Stacks of layers that hold attention: path of the stack -> its layers, in the order of the graph.

        A layer whose output nothing reads (``hidden_states[-2]`` skips the last one) is left out.
        """
        stacks: dict[str, dict[int, str]] = {}
        for attention in attentions:
            hit = _LAYER.match(self.paths.get(attention.node, ""))
            if hit:
                path, index = hit.group(1), int(hit.group(2))
                stacks.setdefault(path.rsplit(".", 1)[0], {})[index] = path
        found: dict[str, list[Layer]] = {}
        for stack, paths in stacks.items():
            live = [(index, path) for index, path in sorted(paths.items()) if self.leaving(path)]
            if live:
                found[stack] = [Layer(index, path, self._layer_output(path)) for index, path in live]
        return found

    def final_norm(self, value: ir.Value) -> ir.Value:
        """The output of the encoder's final norm, if that norm is the only reader of `value`; else `value` itself."""
        for path in self._common_chain(value):
            named = "norm" in path.rsplit(".", 1)[-1] or path.rsplit(".", 1)[-1].startswith("ln")
            if not named or is_projector(path) or value.is_graph_output() or self.entering(path) != [value]:
                continue
            leaving = self.leaving(path)
            if len(leaving) == 1 and dims(leaving[0]) == dims(value):
                return leaving[0]
        return value

    def projector(self) -> str:
        """Path of the projector, or empty if no module, or several unrelated ones, have such a name."""
        hits = dict.fromkeys(
            hit.group(1) for path in self.paths.values() if (hit := _PROJECTOR.match(path)) and not _LAYER.match(path)
        )
        # A vision tower may contain a small module with such a name: the last one to run is the projector.
        return list(hits)[-1] if hits else ""

    def boundary(self, value: ir.Value, *, below: str = "") -> tuple[str, str]:
        """The module of which a value is the only output or only input, as (path, side); empty if there is none.

        Args:
            value: the value.
            below: search only inside this module, the outermost first. Without it, the innermost module comes first.
        """
        producer = value.producer()
        outputs = self._chain(self.paths.get(producer, "") if producer is not None else "")
        inputs = self._common_chain(value)
        if below:
            outputs, inputs = ([p for p in reversed(c) if (p + ".").startswith(below + ".")] for c in (outputs, inputs))
        for path in outputs:
            if self.leaving(path) == [value]:
                return path, "output"
        for path in inputs:
            if self.entering(path) == [value]:
                return path, "input"
        return ("", "output") if not below else self.boundary(value)

    def _layer_output(self, path: str) -> ir.Value | None:
        leaving, entering = self.leaving(path), self.entering(path)
        if len(leaving) > 1:
            # Tables computed in one layer and shared by later ones leave it too; the hidden states keep their shape.
            shapes = {dims(value) for value in entering}
            leaving = [value for value in leaving if dims(value) in shapes]
        return leaving[0] if len(leaving) == 1 else None

    def _chain(self, path: str) -> list[str]:
        """A path and its parents, innermost first."""
        parts = path.split(".") if path else []
        return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]

    def _common_chain(self, value: ir.Value) -> list[str]:
        chains = [self._chain(self.paths.get(node, "")) for node in value.consumers()]
        return [path for path in chains[0] if all(path in chain for chain in chains)] if chains else []

    def _tokens(self, value: ir.Value) -> bool:
        shape = dims(value)
        return not self.walk.learned(value) and value.dtype in FLOATS and shape is not None and len(shape) >= 2


def is_decoder(path: str) -> bool:
    """Whether a path names a part of a language model."""
    return _DECODER.search(path) is not None


def is_projector(path: str) -> bool:
    """Whether a path lies inside a module named like a projector."""
    return _PROJECTOR.match(path) is not None


def module_of(node: ir.Node) -> str | None:
    """Path of the module that a node of a dynamo export comes from; None if the metadata does not name one."""
    text = node.metadata_props.get(NAME_SCOPES)
    if text is None:
        return None
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    # The last entry is the operator itself, the first the exported module.
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _from_name(node: ir.Node) -> str | None:
    if not node.name or not node.name.startswith("/"):
        return None
    path: list[str] = []
    for part in node.name.split("/")[1:-1]:
        # A Sequential repeats its name: /projector/projector.0/Gemm.
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)

"""The description of a seam: a named place in a graph where tokens flow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Key of ir.Model.metadata_props under which graphs that we export carry their seams, as a JSON list of `Seam.to_json`.
METADATA_KEY = "tokexport.seams"
# How the names of seams inside an encoder begin: behind a layer, and between its attention and its feed-forward.
INSIDE = ("encoder_layer:", "encoder_attention:")


@dataclass(frozen=True)
class Signal:
    """Where a signal can be read in the graph.

    Attributes:
        kind: ``attention`` (one value [B, H, n, n] or [B * H, n, n], the softmax of a self-attention), ``query_key``
            (queries and keys of an Attention node, whose product gives it) or ``keys`` (one value).
        tensors: the value names.
        scale: for ``query_key``, what multiplies Q K^T; for ``keys``, what the exporter multiplied the keys with.
        prefix: leading tokens of the attention's own sequence n = prefix + N. It can be more than the seam's: a tower
            that drops its CLS token at the end still has an attention with it.
        layout: axes of queries and keys: B batch, H heads, N tokens, D channels of a head, E channels of all heads.
        heads: where the layout has E.
        output: for ``query_key``, the first output of the Attention node, whose mask and softcap apply.
        module: for models we export, the torch module in which the attention runs.
    """

    kind: str
    tensors: tuple[str, ...]
    scale: float = 1.0
    prefix: int = 0
    layout: str = "BHND"
    heads: int | None = None
    output: str = ""
    module: str = ""


@dataclass(frozen=True)
class Seam:
    """A place where a compressor can go.

    Attributes:
        name: ``encoder_output``, ``projector_input``, ``projector_output``, ``encoder_layer:<i>``,
            ``encoder_attention:<i>``, ``decoder_layer:<i>`` or ``tensor:<value name>``.
        tensor: name of the value [B, prefix + N, D] in the graph, or [prefix + N, D].
        tokens: N, the prefix not counted; 0 where the token axis is dynamic.
        dim: D; 0 where it is dynamic.
        dtype: of the value: float32, float16 or bfloat16.
        batch: B, or None where it is dynamic.
        prefix: leading tokens (CLS, registers) that are not counted and not touched.
        grid: (height, width), (length,), or None.
        signals: signal name -> where it is read: cls_attention, received_attention, keys.
        valid: whether tokens can be selected here; `why` says why not.
        found_by: metadata, scopes, names, structure or user.
        module: for models we export, the torch module whose input or output this is, with `side`.
        side: ``output`` or ``input`` of `module`.
        merged_rows: whether a slot of several tokens may read the row of a position table that belongs to the token
            whose place it inherits; where not, methods that merge are refused upstream of such a table.
        rank: of the value: 3, or 2 for [prefix + N, D], which is compressed as a batch of one.
        placeholder: name of the output [B, N, D'] of the placeholder at this seam (see `exporter.source.GraphSource`),
            or empty. A compressor that widens tokens replaces it, and no other compressor can be inserted here.
    """

    name: str
    tensor: str
    tokens: int
    dim: int
    dtype: str = "float32"
    batch: int | None = 1
    prefix: int = 0
    grid: tuple[int, ...] | None = None
    signals: dict[str, Signal] = field(default_factory=dict)
    valid: bool = True
    why: str = ""
    found_by: str = "user"
    module: str = ""
    side: str = "output"
    placeholder: str = ""
    rank: int = 3
    merged_rows: bool = False

    @property
    def axis(self) -> int:
        """The axis of the value on which the tokens lie."""
        return self.rank - 2

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Seam:
        """Read what `to_json` wrote."""
        grid = tuple(data["grid"]) if data.get("grid") else None
        signals = {
            name: Signal(**{**value, "tensors": tuple(value["tensors"])})
            for name, value in data.get("signals", {}).items()
        }
        return cls(**{**data, "grid": grid, "signals": signals})

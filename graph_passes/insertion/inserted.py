"""What `insert` did, step by step: the names by which everything about a compressor is found again in its graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..compressors.base import Compressor, parameters
from ..seams.seam import Seam


@dataclass(frozen=True)
class Read:
    """How a compressor reads a signal.

    Attributes:
        value: name of what it reads.
        source: name of what the seam gives: the same, or what was read in front of earlier compressors.
        through: names of their kept_indices, front to back, at which that was gathered.
    """

    value: str
    source: str
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inserted:
    """What `insert` did.

    Attributes:
        seam: where.
        compressor: what was put there.
        keep: K.
        node_name: the compressor's node.
        function_name: its op_type, which is also the name of its function.
        rewritten: one line for each constant behind the seam that held the old token count.
        outputs: kept_indices, sizes, assignment -> name of the graph output that was added for it.
        tokens_in: name of the value before compression, [B, prefix + N, D].
        tokens_out: name of the value after it, [B, prefix + K, D'].
        gives: tokens, kept_indices, sizes, assignment -> name of the value that the node gives.
        total: kept_indices, sizes, assignment -> name of the value that says it of the tokens of the first step.
        reads: signal -> how it is read; not a text, which is an input of the graph.
        biased: attentions behind the seam that now read log(sizes).
        onward: axes of the value at which the next step will sit on which the slots lie.
        before: the step that it comes after.
    """

    seam: Seam
    compressor: Compressor
    keep: int
    node_name: str
    function_name: str
    rewritten: list[str]
    outputs: dict[str, str]
    tokens_in: str
    tokens_out: str
    node_outputs: dict[str, str]
    composed_outputs: dict[str, str]
    reads: dict[str, Read]
    biased: list[str] = field(default_factory=list)
    token_axes: tuple[int, ...] = ()
    before: Inserted | None = None

    @property
    def method(self) -> str:
        """The compressor's name."""
        return self.compressor.method.name

    @property
    def params(self) -> dict[str, Any]:
        """The compressor's parameters."""
        return parameters(self.compressor)

    @property
    def adjoins(self) -> bool:
        """Whether it sits right behind the step before it, with nothing in between."""
        return self.before is not None and self.tokens_in == self.before.tokens_out

    @property
    def steps(self) -> list[Inserted]:
        """The steps up to this one, front to back."""
        return [*(self.before.steps if self.before else []), self]

    @property
    def merges(self) -> bool:
        """Whether a slot can stand for several tokens of the first step."""
        return any(step.compressor.method.merges for step in self.steps)

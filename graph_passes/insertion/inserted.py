"""What `insert` did: the names of a compressor's node, tensors and signals, by which they are found in the graph."""

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
        source: name of the seam's own signal: the same, or the one upstream of earlier compressors.
        through: names of the kept_indices of those compressors, in order, at which it was gathered.
    """

    value: str
    source: str
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rebuilt:
    """Where tokens that were compressed inside an encoder leave its layers and are put back at their places.

    See `rebuild`.

    Attributes:
        seam: behind the layer, where the tokens are the slots.
        slots: name of the value there, [B, prefix + K, D] or [prefix + K, D].
        tokens: name of the value with all tokens again, [B, prefix + N, D] or [prefix + N, D]: that of `slots` where
            these are all tokens.
        steps: nodes of the compressors upstream, in the order in which tokens pass them.
        leaving: how many tokens leave the encoder, where no further step compresses them.
    """

    seam: Seam
    slots: str
    tokens: str
    steps: tuple[str, ...]
    leaving: int


@dataclass(frozen=True)
class Inserted:
    """What `insert` did.

    Attributes:
        seam: where.
        compressor: what was put there.
        keep: K.
        node_name: the compressor's node.
        function_name: its op_type, which is also the name of its function.
        rewritten: one line for each constant downstream that held the old token count.
        outputs: kept_indices, sizes, assignment -> name of the graph output that was added for it.
        tokens_in: name of the value before compression, [B, prefix + N, D] or [prefix + N, D].
        tokens_out: name of the value after it, [B, prefix + K, D'] or [prefix + K, D'].
        node_outputs: tokens, kept_indices, sizes, assignment -> name of the node's output.
        composed_outputs: kept_indices, sizes, assignment -> name of the value about the tokens of the first step.
        reads: signal -> how it is read; not a text, which is an input of the graph.
        biased: names of the attention nodes downstream that now read log(sizes).
        weighed: a line on each mean over the tokens that is now weighted by the sizes.
        placed: whether tables of positions downstream are read at kept_indices.
        token_axes: axes of the next step's tensor that run over the slots of this one.
        rebuilt: where its tokens, and those of the steps before it inside the encoder, are put back, in the order of
            the layers.
        before: the previous step, or None.
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
    weighed: list[str] = field(default_factory=list)
    placed: bool = False
    token_axes: tuple[int, ...] = ()
    rebuilt: tuple[Rebuilt, ...] = ()
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
    def sized(self) -> bool:
        """Whether anything downstream, up to the next step, reads the sizes."""
        return bool(self.biased or self.weighed)

    @property
    def adjoins(self) -> bool:
        """Whether it reads the tokens of the previous step directly."""
        if self.before is None:
            return False
        return self.tokens_in == (self.before.rebuilt[-1].tokens if self.before.rebuilt else self.before.tokens_out)

    @property
    def steps(self) -> list[Inserted]:
        """The steps up to this one, in the order in which tokens pass them."""
        return [*(self.before.steps if self.before else []), self]

    @property
    def follows(self) -> bool:
        """Whether what it outputs is composed with what the previous step did: tokens were not rebuilt in between."""
        return self.before is not None and not self.before.rebuilt

    @property
    def group(self) -> list[Inserted]:
        """The steps up to this one between which no tokens were rebuilt, in the order in which tokens pass them."""
        return [*(self.before.group if self.before is not None and self.follows else []), self]

    @property
    def merges(self) -> bool:
        """Whether several tokens of the first step of its group can be merged into one slot."""
        return any(step.compressor.method.merges for step in self.group)

    @property
    def leaving(self) -> int:
        """The number of tokens that leave the encoder behind this last step."""
        return self.rebuilt[-1].leaving if self.rebuilt else self.keep

    @property
    def counted(self) -> list[Inserted]:
        """The steps whose slots leave the encoder behind this last step; none where its tokens were rebuilt."""
        return [] if self.rebuilt else self.group

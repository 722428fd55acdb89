"""What every kernel takes: its parameters, their limits and the codes of their values, each stated once.

After a change run ``python -m tokexport.plugins.generate``: the structures for ctypes, the C header, the checks of the
kernels, the TensorRT plugins and the table of their README are written from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["tokens", "float32", "any"]

LIMITS = {"BATCH": 65535, "TOKENS": 32768, "DIM": 32768, "BASIS": 64}


@dataclass(frozen=True)
class Enum:
    """The values of an attribute; the code of each is its place.

    Attributes:
        words: as the node has them.
        prefix: the constant of a word in C is TOKEXPORT_<PREFIX>_<WORD>; None where no kernel reads the code.
        renamed: words whose constant ends in another word.
    """

    words: tuple[str, ...]
    prefix: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)

    def constant(self, word: str) -> str:
        """The name of a word's code in C."""
        ends = (self.prefix or "", self.renamed.get(word, word))
        return "_".join(["TOKEXPORT", *(end for end in ends if end)]).upper()


@dataclass(frozen=True)
class Integer:
    """An attribute from `least` to `most`, a number or a name in `LIMITS`; outside, a kernel returns `status`."""

    name: str
    least: int
    most: int | str
    status: str = "BAD_PARAMETER"
    note: str = ""


@dataclass(frozen=True)
class Flag:
    """An attribute that is 0 or 1."""

    name: str


@dataclass(frozen=True)
class Number:
    """A float attribute from `least` to `most`."""

    name: str
    least: float
    most: float


@dataclass(frozen=True)
class Choice:
    """An attribute that is one word of an enumeration; a kernel takes its code."""

    name: str
    enum: Enum


@dataclass(frozen=True)
class Grid:
    """The attribute ``grid``: three integers, frames, height and width of the tokens."""

    name: str = "grid"


Attribute = Integer | Flag | Number | Choice | Grid


@dataclass(frozen=True)
class Dtype:
    """A parameter: the dtype of the `input`-th input beside the tokens."""

    name: str
    input: int = 0


@dataclass(frozen=True)
class Width:
    """A parameter: the last dimension of the `input`-th input beside the tokens; 0 without it, where it is optional."""

    name: str
    input: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Constant:
    """A parameter that only callers of the C ABI may set: 0 from every plugin, and at most `most`."""

    name: str
    most: int | str
    note: str


Parameter = Attribute | Dtype | Width | Constant


@dataclass(frozen=True)
class Input:
    """A pointer that a kernel takes beside the tokens: its dtype is that of the tokens, float32, or any of `DTYPE`."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Kernel:
    """An entry point of the C ABI.

    Attributes:
        about: its comment in the header.
        parameters: the members of its structure, in order; without any it takes none.
        inputs: pointers beside the tokens, in order.
    """

    about: str
    parameters: tuple[Parameter, ...] = ()
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True)
class Signal:
    """An input of a plugin beside the tokens, for the kernel's input of the same place.

    Attributes:
        name: of it; in braces the name of an attribute whose word stands there.
        rows: whether it is [B, N, any] rather than [B, N].
        count: the attribute that is L where it is [B, L, D]; empty for the shapes above.
        when: (attribute, word) that it is read for; None: always.
    """

    name: str
    rows: bool = False
    count: str = ""
    when: tuple[str, str] | None = None


@dataclass(frozen=True)
class Plugin:
    """A plugin, and how it calls its kernel.

    Attributes:
        entry: the kernel's name.
        signals: inputs beside the tokens.
        more: attributes that are not parameters of the kernel.
        preset: parameters that no attribute says, by their word.
    """

    entry: str
    signals: tuple[Signal, ...] = ()
    more: tuple[Attribute, ...] = ()
    preset: Mapping[str, str] = field(default_factory=dict)

    @property
    def kernel(self) -> Kernel:
        """Whose entry point it calls."""
        return KERNELS[self.entry]

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Those of its node beside ``keep``, in the order in which they are read."""
        read = [one for one in self.kernel.parameters if isinstance(one, Attribute) and one.name not in self.preset]
        return (*self.more, *read)

    @property
    def types(self) -> dict[str, type]:
        """Name of an attribute -> its type; ``list`` is of integers."""
        python = {Integer: int, Flag: int, Number: float, Choice: str, Grid: list}
        return {one.name: python[type(one)] for one in self.attributes}


DTYPE = Enum(("float32", "float16", "bfloat16"), prefix="")
START = Enum(("first", "max_norm", "farthest_from_mean"), "START")
BASIS_SLOTS = Enum(("overwrite", "blend", "none"), "BASIS")
SCORE = Enum(("cls_attention", "norm", "distance_to_mean"), "SCORE", {"cls_attention": "given"})
MERGE = Enum(("add", "mean"), "MERGE")
ENUMS = (DTYPE, START, BASIS_SLOTS, SCORE, MERGE)

_ATTENTION = Choice("attention", Enum(("cls", "received", "words", "raters", "peak")))
_ATTENDED = Signal("{attention}_attention")
_KEYS_OR_TOKENS = Enum(("keys", "tokens"))
_START = Choice("start", START)

# Member -> its type in C, and what it is.
STRUCTS: dict[str, dict[str, tuple[str, str]]] = {
    "shape": {
        "batch": ("int32_t", "B, 1 to TOKEXPORT_MAX_BATCH"),
        "tokens": ("int32_t", "N, 1 to TOKEXPORT_MAX_TOKENS"),
        "dim": ("int32_t", "D, 1 to TOKEXPORT_MAX_DIM"),
        "keep": ("int32_t", "K, 1 to N"),
        "dtype": ("int32_t", "of the tokens, in and out"),
    },
    "outputs": {
        "tokens": ("void*", ""),
        "kept_indices": ("int64_t*", ""),
        "sizes": ("float*", ""),
        "assignment": ("int64_t*", ""),
    },
    "workspace": {"data": ("void*", "aligned to TOKEXPORT_ALIGNMENT bytes"), "bytes": ("size_t", "")},
    "grid": {
        "frames": ("int32_t", "N = frames * height * width, in reading order; 1 for an axis that is not there"),
        "height": ("int32_t", ""),
        "width": ("int32_t", ""),
    },
}

KERNELS: dict[str, Kernel] = {
    "kcenter_merge": Kernel("K farthest points; every token is averaged into the nearest of them.", (_START,)),
    "apet": Kernel(
        "keep the tokens that a basis of farthest points explains worst, merge the others into them by cosine. "
        "K > basis unless basis_slots is TOKEXPORT_BASIS_NONE or K = N; basis is at most N.",
        (
            Integer("basis", 1, "BASIS", status="BAD_BASIS"),
            Flag("merge"),
            Choice("basis_slots", BASIS_SLOTS),
            _START,
            Number("ridge", 1e-9, 1e9),
        ),
    ),
    "topk": Kernel(
        "keep the tokens of the highest score. `scores` [B, N] is read for TOKEXPORT_SCORE_GIVEN only, and may be "
        "null otherwise.",
        (Choice("score", SCORE), Dtype("scores_dtype")),
        (Input("scores", "any"),),
    ),
    "tome": Kernel(
        "rounds of bipartite soft matching. Even positions find their most similar odd one by the cosine of `metric` "
        "[B, N, metric_dim] (dtype of the tokens); those of highest similarity merge into it, weighted by `sizes_in` "
        "[B, N] (null: all 1), and sizes add up. The first `protect` tokens stay alone. A round on t tokens merges as "
        "many as K allows, at most (t - protect) / 2; between rounds a slot has the mean of its tokens' metrics. Slots "
        "are in spatial order. K > protect, or K = N. Where metric_dim is 0 the metric is the tokens, and `metric` may "
        "be null.",
        (Width("metric_dim", optional=True), Constant("protect", "TOKENS", "at most N")),
        (Input("metric", "tokens"), Input("sizes_in", "float32")),
    ),
    "dart": Kernel(
        "the `pivots` tokens of the largest L1 norm of their `keys` [B, N, keys_dim] (dtype of the tokens). Then each "
        "pivot, in spatial order, keeps of what is left the (K - pivots) / pivots tokens that are least similar to it "
        "by cosine, and the first (K - pivots) % pivots of them one more. Where keys_dim is 0 norms are of the tokens, "
        "and `keys` may be null.",
        (Integer("pivots", 1, "TOKENS", note="at most K"), Width("keys_dim", optional=True)),
        (Input("keys", "tokens"),),
    ),
    "visionzip": Kernel(
        "the K - contextual tokens of the highest `attention` [B, N], and of the R others, in spatial order, every "
        "floor(R / contextual)-th as a target. What is left goes to the target that is most similar by the cosine of "
        "`keys` [B, N, keys_dim] (dtype of the tokens). A target's slot is itself plus the mean of what went to it, "
        "or the mean of them all.",
        (
            Integer("contextual", 0, "TOKENS", note="at most K - 1"),
            Choice("merge", MERGE),
            Dtype("attention_dtype"),
            Width("keys_dim", input=1),
        ),
        (Input("attention", "any"), Input("keys", "tokens")),
    ),
    "divprune": Kernel(
        "the token farthest from its nearest neighbour, then the one farthest from all picked, by 1 - cosine."
    ),
    "cdpruner": Kernel(
        "greedy maximum of the determinant of L_ij = r_i r_j cosine_ij. Relevance r is the mean cosine of a token with "
        "the rows of `text` [B, text_length, D] that are not all zeros, its sign turned where `inverted`, brought to "
        "[0, 1] by the least and the largest of all tokens. A token that adds less than 1e-6 to the determinant is "
        "ranked by relevance, after all that add more. Its workspace grows as B N K.",
        (Integer("text_length", 1, "TOKENS"), Flag("inverted"), Dtype("text_dtype")),
        (Input("text", "any"),),
    ),
    "scope": Kernel(
        "the token whose pick raises sum_i max(0, cosine_ij, cosines to the picked) most, times its `attention` "
        "[B, N], which is not negative, to the power of alpha. Its workspace grows as B N^2.",
        (Number("alpha", 0.0, 10.0), Dtype("attention_dtype")),
        (Input("attention", "any"),),
    ),
    "evs": Kernel(
        "the first frame, and of all others the tokens that differ most by cosine from the one at their place a frame "
        "earlier. K is at least height * width.",
        (Grid(),),
    ),
}

_BY_ATTENTION = Plugin("topk", (_ATTENDED,), (_ATTENTION,), {"score": "cls_attention"})

PLUGINS: dict[str, Plugin] = {
    "apet": Plugin("apet"),
    "audio_topk": _BY_ATTENTION,
    "cdpruner": Plugin("cdpruner", (Signal("text", count="text_length"),)),
    "cls_topk": _BY_ATTENTION,
    "dart": Plugin(
        "dart",
        (Signal("keys", rows=True, when=("norm_of", "keys")),),
        (Choice("norm_of", _KEYS_OR_TOKENS),),
    ),
    "divprune": Plugin("divprune"),
    "evs": Plugin("evs"),
    "kcenter_merge": Plugin("kcenter_merge"),
    "scope": Plugin("scope", (_ATTENDED,), (_ATTENTION,)),
    "tome": Plugin("tome", (Signal("keys", rows=True, when=("metric", "keys")),), (Choice("metric", _KEYS_OR_TOKENS),)),
    "topk": Plugin("topk", (Signal("cls_attention", when=("score", "cls_attention")),)),
    "visionzip": Plugin("visionzip", (_ATTENDED, Signal("keys", rows=True)), (_ATTENTION,)),
}

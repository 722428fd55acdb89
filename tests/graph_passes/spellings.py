"""How one small encoder can be written as an ONNX graph: what exporters, models and the tools between them choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

METHODS: dict[str, dict[str, Any]] = {
    "topk": {"score": "norm"},
    "uniform": {},
    "kcenter_merge": {},
    "apet": {"basis": 3},
    "tome": {"metric": "tokens"},
    "pool": {},
    "cls_topk": {},
    "tome-keys": {"metric": "keys"},
}
# fmt: off
CHOICES: dict[str, tuple[Any, ...]] = {
    "opset": (17, 18, 20, 21, 22, 23),
    "batch": (1, 3, "batch"),
    "stem": ("image", "frames", "features"),
    "prefix": ("none", "parameter", "expand", "full", "tile", "two"),
    "appended": (False, False, False, False, True),
    "position": ("none", "table", "gathered", "input"),
    "layout": ("BND", "BND", "NBD"),
    "norm": ("op", "decomposed"),
    "post_norm": (False, False, True),
    "final_norm": (True, False),
    "linear": ("matmul", "bias first", "gemm"),
    "shapes": ("constant", "zeros", "arithmetic"),
    "attention": ("softmax", "softmax", "joined", "operator", "operator of heads"),
    "packed": ("no", "no", "split", "gather"),
    "keys": ("one transpose", "two transposes"),
    "scale": ("logits", "query", "both"),
    "gelu": ("erf", "operator", "sigmoid", "relu"),
    "mask": (*5 * ("none",), "attention_mask", "lengths"),
    "layers": (1, 2, 3),
    "mixed": (*7 * (False,), True),
    "drop": ("none", "slice"),
    "projector": (True, True, False),
    "extra": (*8 * ("none",), *2 * ("mean", "cls", "count"), "lengths", "mask", "features", "positions"),
    "names": ("torchscript", "dynamo", "plain", "none", "partial torchscript", "partial dynamo"),
    "half": ("no", "no", "no", "all", "inside"),
    "annotated": (False, True),
    "method": tuple(METHODS),
    "seam": ("auto", "auto", "auto", "encoder_layer:0"),
    "assume_no_padding": (False, True),
}
# fmt: on


@dataclass(frozen=True)
class Spelling:
    """One way to write the encoder, and what is asked for; see `CHOICES` for the values.

    Attributes:
        opset: of the standard operators.
        batch: rows, or the name of a dynamic axis.
        stem: what gives the tokens: a convolution of an image or of frames, or a product with weights.
        prefix: tokens of the model's own, and how they come to the batch.
        appended: whether these stand behind the tokens.
        position: what is added to the tokens.
        layout: of the tokens inside the layers.
        norm: one operator, or its arithmetic.
        post_norm: whether layers have their norm after the sum.
        final_norm: whether one follows the last layer.
        linear: how a product with weights and its bias are written.
        shapes: how the sizes of a reshape are given.
        attention: a softmax between two products, there with batch and heads joined, or the operator of opset 23.
        packed: whether queries, keys and values are one product, and how they are taken apart.
        keys: how they are transposed.
        scale: where the logits are scaled.
        gelu: the activation.
        mask: an input that says which tokens are padding.
        layers: how many.
        mixed: whether each place of a row is mixed with the same place of the other rows, in the projector.
        drop: whether the prefix is cut off behind the encoder.
        projector: whether two layers with weights follow.
        extra: what is returned beside the tokens.
        names: of the nodes.
        half: float16 everywhere, or between casts of inputs and outputs.
        annotated: whether the file has the shapes of its values.
        method: the compressor, a key of `METHODS`.
        seam: where it is asked for.
        assume_no_padding: as `compress`.
        cut: for partial names, the share of the nodes from where they are missing.
        gap: for partial names, the share of the nodes that miss them; negative: all before `cut`.
        tool: what the file went through.
        seed: of weights and inputs.
    """

    opset: int = 18
    batch: int | str = 1
    stem: str = "image"
    prefix: str = "none"
    appended: bool = False
    position: str = "table"
    layout: str = "BND"
    norm: str = "op"
    post_norm: bool = False
    final_norm: bool = True
    linear: str = "matmul"
    shapes: str = "zeros"
    attention: str = "softmax"
    packed: str = "no"
    keys: str = "one transpose"
    scale: str = "logits"
    gelu: str = "erf"
    mask: str = "none"
    layers: int = 2
    mixed: bool = False
    drop: str = "none"
    projector: bool = True
    extra: str = "none"
    names: str = "torchscript"
    half: str = "no"
    annotated: bool = False
    method: str = "topk"
    seam: str = "auto"
    assume_no_padding: bool = False
    cut: float = 0.5
    gap: float = 0.2
    tool: str = ""
    seed: int = 0

    @property
    def learned(self) -> int:
        """Tokens of the model's own."""
        return {"none": 0, "two": 2}.get(self.prefix, 1)

    @property
    def plain(self) -> bool:
        """Whether nothing in it is a reason to refuse."""
        known = self.norm == "op" or not self.post_norm
        static = self.batch != "batch" or (self.linear != "gemm" and self.shapes != "constant")
        asks = self.seam == "auto" and self.method not in ("cls_topk", "tome-keys")
        alone = (
            self.extra in ("none", "cls" if self.learned else "none")
            and self.mask == "none"
            and not self.appended
            and not self.mixed
        )
        return known and static and asks and alone and self.layout == "BND" and self.position != "input"

    @property
    def rows(self) -> int:
        """Rows of the batch that are run."""
        return self.batch if isinstance(self.batch, int) else 2


def possible(spelling: Spelling) -> Spelling:
    """The nearest spelling that an exporter could have written."""
    change: dict[str, Any] = {}
    if spelling.opset < 23 and spelling.attention.startswith("operator"):
        change["attention"] = "softmax"
    if spelling.opset < 20 and spelling.gelu == "operator":
        change["gelu"] = "erf"
    if spelling.layout == "NBD":
        change |= {"attention": "softmax", "mask": "none"}
        change |= {"packed": "split"} if spelling.packed == "gather" else {}
    if spelling.attention == "joined":
        change["mask"] = "none"
    if spelling.attention == "operator" and spelling.packed == "gather":
        change["packed"] = "split"
    if spelling.prefix == "none":
        change |= {"appended": False, "drop": "none"}
    # What is asked for has to be there: a layer by its name, attention of a CLS token, a grid.
    if not any(names in spelling.names for names in ("torchscript", "dynamo")):
        change["seam"] = "auto"
    if spelling.method == "cls_topk" and (spelling.prefix == "none" or spelling.appended):
        change["method"] = "topk"
    if spelling.method == "pool" and spelling.stem == "features":
        change["stem"] = "frames"
    if spelling.batch == 1 or not spelling.projector:
        change["mixed"] = False
    if spelling.tool in ("dynamic", "qdq", "half"):
        change["half"] = "no"
    if spelling.tool == "half":
        change["final_norm"] = True
    return replace(spelling, **change)


def spellings(tools: tuple[str, ...] = ("",)) -> st.SearchStrategy[Spelling]:
    """Any spelling that an exporter could write, after one of `tools`; most dimensions are drawn evenly."""
    drawn = {name: st.sampled_from(values) for name, values in CHOICES.items()}
    return st.builds(
        Spelling,
        **drawn,
        cut=st.sampled_from((0.1, 0.3, 0.5, 0.7, 0.85, 0.95)),
        gap=st.sampled_from((-1.0, 0.05, 0.2, 1.0)),
        tool=st.sampled_from(tools),
        seed=st.integers(0, 3),
    ).map(possible)

"""What the manifest says about the compressors of a variant: what they are, where they sit, and what follows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from .strict import LARGEST, Role, Size, Strict


class SeamRecord(Strict):
    """The seam at which the compressor is inserted.

    Attributes:
        span: [start, length] of the tokens in the sequence of a language model, where `graph` is prefill; of several
            images as in `image_span` of the generation record. Schema 2.5.
    """

    kind: str
    graph: Role
    tensor: str
    grid: list[Size] | None = None
    prefix: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    span: tuple[Annotated[int, Field(ge=0, le=LARGEST)], Size] | None = None


class RebuiltRecord(Strict):
    """Where compressed tokens are put back at their places, behind the layers of the encoder.

    Attributes:
        tensors: the values with all of them, one for each layer whose output goes on.
        tokens: that leave the encoder, where no further step compresses them.
        grid: of these; absent where it is not known.
    """

    tensors: list[str] = Field(min_length=1)
    tokens: Size
    grid: list[Size] | None = None


class CompressionRecord(Strict):
    """One compressor: its method, parameters, and the tokens before and after it.

    Attributes:
        assume_no_padding: inputs must fill the whole length: a mask of the graph was taken for one that masks nothing.
            Absent where nothing was assumed.
        tokens_out: 0 where `seam` is in prefill, and no token goes on behind it.
        rebuilt: where its tokens, and those of the steps before it, are put back at their places: kept_indices, sizes
            and assignment are then about the tokens behind that. Absent where they are not. Schema 2.4.
    """

    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    ratio: str
    tokens_in: Size
    tokens_out: Annotated[int, Field(ge=0, le=LARGEST)]
    size_bias: bool
    assume_no_padding: bool | None = None
    rebuilt: RebuiltRecord | None = None
    seam: SeamRecord

    @model_validator(mode="after")
    def _something_is_left(self) -> CompressionRecord:
        if not self.tokens_out and self.seam.graph != "prefill":
            raise ValueError(f"{self.method} leaves no token in front of the language model")
        return self

"""audio_topk: keep the K audio frames or patches that receive the most attention.

Source: token pruning of audio transformers (arXiv 2504.01690), inside the blocks of AST and AudioMAE: the top K by
CLS attention or, without CLS, by the mean attention that a patch receives, in order, nothing merged. Here it is applied
at one seam; the recipe `ast-blocks` has three, inside blocks as theirs. It is `cls_topk` with the attention that speech
encoders have. Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Case, Example, compressor
from .blocks.attended import Attention
from .cls_topk import ClsTopk


@compressor(
    "audio_topk",
    family="attention",
    modalities=("audio",),
    merges=False,
    source="Token pruning in audio transformers, arXiv 2504.01690",
    summary="keeps the frames that receive the most attention",
    approximate=True,
    plugin=True,
)
@dataclass(frozen=True)
class AudioTopk(ClsTopk):
    """The only parameter is the attention it ranks by."""

    attention: Attention = "received"

    examples = (Example(Case(24, 3, 11)),)

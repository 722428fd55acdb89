"""The graph `text` of a model whose text is its language model's input embeddings: one row per word of a prompt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...runtimes.bundle.manifest import TextRecord
from ..sources.source import GraphSource


class InputEmbeddings(nn.Module):
    """input_ids [B, L] int64 -> text [B, L, D] float32; the rows of special ids are zeros.

    Args:
        embedding: of the language model.
        blank: the special ids, which are no words of a question.
    """

    def __init__(self, embedding: nn.Embedding, blank: list[int]) -> None:
        super().__init__()
        self.embedding, self.blank = embedding, blank

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        word = torch.stack([input_ids != i for i in self.blank]).all(0)
        return torch.where(word[..., None], self.embedding(input_ids), 0.0)


def text_graph(embedding: nn.Embedding, record: TextRecord, length: int) -> GraphSource:
    """The graph `text` for prompts of up to `length` ids."""
    return GraphSource(
        role="text",
        module=InputEmbeddings(embedding, record.blank).eval(),
        inputs={"input_ids": torch.full((1, length), record.pad)},
        outputs=("text",),
    )

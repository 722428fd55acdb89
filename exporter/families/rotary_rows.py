"""Layers of transformers that read rotary tables, for fewer tokens: each takes the row of the place it inherits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def rows_at(layers: Iterable[nn.Module], kept: Tensor, prefix: int = 0) -> Iterator[None]:
    """Layers that are given `prefix` + K tokens take the last K for those at the positions `kept` [1, K] int64.

    Args:
        layers: called with ``position_embeddings``, tables [..., N, d] without rows for the prefix.
        kept: positions.
        prefix: tokens that do not rotate.
    """

    def turned(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        tables = named["position_embeddings"]
        if args[0].shape[1] == prefix + kept.shape[1]:
            tables = tuple(table.index_select(-2, kept[0]) for table in tables)
        return args, {**named, "position_embeddings": tables}

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(turned, with_kwargs=True).remove)
        yield

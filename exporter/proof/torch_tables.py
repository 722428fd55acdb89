"""Tables of positions that a module hands to its layers, or holds in them: their rows at the kept tokens alone.

A graph reads the rows of rotary tables and of masks at `kept_indices`. In the module, what runs downstream of a seam is
given the same rows, in the module's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ...graph_passes.seams.seam import Seam


@contextmanager
def tables_at(module: nn.Module, seam: Seam, kept: torch.Tensor, among: int = 0) -> Iterator[None]:
    """Inside, modules downstream of a seam take of [..., prefix + N, d] or [..., N, d] the rows of the tokens there.

    Of [..., N, N] they take rows and columns. Tables that a module makes for itself while it runs are not reached.

    Args:
        module: the whole encoder.
        seam: where tokens were removed.
        kept: [1, K] int64, positions.
        among: N, where tokens were removed upstream of the seam too; 0: those of the seam.
    """
    import torch

    count = among or seam.tokens
    tables = {count: kept[0]}
    tables[seam.prefix + count] = torch.cat([torch.arange(seam.prefix), seam.prefix + kept[0]])

    def rows(value: Any) -> Any:
        for axis in (-2, -1) if _is_square(value) else (-2,):
            value = value.index_select(axis, tables[value.shape[axis]])
        return value

    def told(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return (*args[:1], *_each(args[1:], rows, tables)), _each(named, rows, tables)

    with ExitStack() as undo:
        for later in _downstream(module, seam):
            undo.callback(later.register_forward_pre_hook(told, with_kwargs=True).remove)
            for part in later.modules():
                for name, buffer in list(part.named_buffers(recurse=False)):
                    if _is_table(buffer, tables):
                        undo.callback(setattr, part, name, buffer)
                        setattr(part, name, rows(buffer))
        yield


def _downstream(module: nn.Module, seam: Seam) -> Iterator[nn.Module]:
    """What stands behind the seam's module: its later neighbours, and those of each module around it."""
    path = seam.module.split(".")
    for depth in range(len(path), 0, -1):
        around = module.get_submodule(".".join(path[: depth - 1]))
        names = [name for name, _ in around.named_children()]
        at = names.index(path[depth - 1])
        itself = depth == len(path) and seam.side == "input"
        yield from (around.get_submodule(name) for name in names[at + (not itself) :])


def _each(value: Any, rows: Any, tables: dict[int, Any]) -> Any:
    """`rows` of every table in nested arguments."""
    from torch.utils import _pytree

    return _pytree.tree_map(lambda one: rows(one) if _is_table(one, tables) else one, value)


def _is_table(value: Any, tables: dict[int, Any]) -> bool:
    return len(getattr(value, "shape", ())) > 1 and value.shape[-2] in tables


def _is_square(value: Any) -> bool:
    return bool(value.shape[-2] == value.shape[-1])

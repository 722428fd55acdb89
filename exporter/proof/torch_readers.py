"""A tensor that several modules of a layer read, replaced for all of them: a layer adds to what its norm reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils import _pytree


class Readers(TorchFunctionMode):
    """While this is entered, what reads the tensor `of`, itself and no copy, reads another one.

    Attributes:
        of: [B, n, D]; None: nothing is replaced.
        new: what is read instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of: Any = None
        self.new: Any = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if self.of is not None:
            args, named = _pytree.tree_map(lambda one: self.new if one is self.of else one, (args, named))
        return func(*args, **named)

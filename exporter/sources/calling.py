"""How a module is called with inputs by name: in the order of its forward, and by keyword where that asks for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_IN_ORDER = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameters(module: nn.Module) -> list[str]:
    """Names of forward's parameters, in its order; ``*args`` and ``**kwargs`` are none."""
    found = inspect.signature(module.forward).parameters.values()
    return [one.name for one in found if one.kind in (*_IN_ORDER, _KEYWORD_ONLY)]


def arguments(module: nn.Module, inputs: Mapping[str, T]) -> tuple[tuple[T, ...], dict[str, T]]:
    """Inputs as (arguments in order, arguments by keyword).

    Those that follow a parameter that has no input, or that forward takes by keyword only, go by keyword. Where a name
    is none of forward's parameters, names are roles and all go in order.
    """
    found = inspect.signature(module.forward).parameters
    if not set(inputs) <= {*parameters(module)}:
        return tuple(inputs.values()), {}
    leading = 0
    for name, own in zip(inputs, found):
        if name != own or found[name].kind not in _IN_ORDER:
            break
        leading += 1
    names = list(inputs)
    return tuple(inputs[name] for name in names[:leading]), {name: inputs[name] for name in names[leading:]}


def call(module: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the module returns for inputs by name."""
    positional, keywords = arguments(module, inputs)
    return module(*positional, **keywords)

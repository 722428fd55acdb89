"""Answers a wrong keyword of a public function with the right one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from .errors import RequestError, nearest

F = TypeVar("F", bound=Callable[..., Any])

# What people write, from other tools and from habit -> the arguments that may be meant, best first.
_MEANT: Mapping[str, tuple[str, ...]] = {
    "compressor": ("method",),
    "algorithm": ("method",),
    "compression": ("ratio",),
    "rate": ("ratio",),
    "ratios": ("ratio",),
    "k": ("keep",),
    "num_tokens": ("keep",),
    "tokens_out": ("keep",),
    "n_keep": ("keep",),
    "layer": ("seam",),
    "where": ("seam",),
    "dtype": ("precision",),
    "output": ("out",),
    "output_dir": ("out",),
    "path": ("out", "bundle", "model"),
    "model": ("source", "model"),
    "providers": ("provider",),
    "execution_provider": ("provider",),
    "backend": ("runtime",),
}


def answered(function: F) -> F:
    """Make a wrong keyword a `RequestError` with the one that is meant, instead of a bare `TypeError`."""
    signature = inspect.signature(function)
    takes = [
        name for name, one in signature.parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        refuse_unknown(function.__name__, kwargs, takes)
        return function(*args, **kwargs)

    return cast("F", call)


def refuse_unknown(function: str, given: Mapping[str, Any], takes: list[str]) -> None:
    """Raise where a keyword is none of `takes`.

    Raises:
        RequestError: with the argument that is meant; or, where it is none, with all of them.
    """
    for name in given:
        if name in takes:
            continue
        meant = [other for other in _MEANT.get(name.lower(), ()) if other in takes]
        fix = f"Did you mean {meant[0]}=?" if meant else nearest(name, takes, kind="arguments")
        raise RequestError(f"{function}() has no argument {name!r}", fix=fix)

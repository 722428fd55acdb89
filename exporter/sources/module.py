"""Opens ``package.module:callable``: the user's own code that returns a PyTorch module and an example of its inputs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError, nearest
from .calling import call, parameters
from .source import GraphSource, Source
from .torch_export import need

if TYPE_CHECKING:
    import torch
    from torch import nn

_CONTRACT = (
    "It takes no arguments and returns (module, example): an nn.Module, and a tensor or a tuple or dict of tensors."
)

# Role of the first output, in every encoder.
_TOKENS = "tokens"


@dataclass
class ModuleSource(Source):
    """The user's module; its whole graph is the encoder."""

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """The example, and `n` - 1 inputs near it; a constant example is a placeholder, and replaced by noise."""
        return [{name: _vary(np.asarray(x), i) for name, x in self.encoder.inputs.items()} for i in range(n)]


def _vary(example: np.ndarray, number: int) -> np.ndarray:
    if example.dtype != np.float32:
        return example
    spread = float(example.std())
    noise = np.random.default_rng(number).standard_normal(example.shape).astype(np.float32)
    if spread == 0:
        return noise
    return example + 0.1 * spread * noise if number else example


def open_module(text: str) -> Source:
    """Import and call what `text` names, with the working directory importable.

    Raises:
        RequestError: it cannot be imported, fails, or does not return a module and its inputs.
        MissingError: torch is not installed.
    """
    need("torch", to=f"open {text}")
    import torch
    from torch import nn

    result = _call(_find(text), text)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], nn.Module)):
        raise RequestError(f"{text} returned {_kind(result)}", fix=_CONTRACT)
    # The proof compares with float32, whatever the module computes in.
    module = result[0].eval().float()
    inputs = {name: x.float() if x.is_floating_point() else x for name, x in _inputs(module, result[1], text).items()}
    try:
        with torch.no_grad():
            returned = call(module, inputs)
    except Exception as error:
        raise RequestError(
            f"the module of {text} fails on its own example: {_one_line(error)}",
            fix="Make module(*example), or module(**example) where it is a dict, work in float32.",
        ) from error
    outputs = _outputs(returned, text)
    return ModuleSource(
        kind="module",
        name=text.rpartition(":")[2].rpartition(".")[2],
        # The modules that the user's module imports are the user's too, and cannot be told from the others.
        origin=tuple(Path(file) for each in list(sys.modules.values()) if (file := getattr(each, "__file__", None))),
        encoder=GraphSource(role="encoder", module=module, inputs=inputs, outputs=outputs),
    )


def _find(text: str) -> Callable[[], Any]:
    path, _, name = text.partition(":")
    # `python -m` adds the working directory; a console script has its own folder there instead.
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(path)
    except Exception as error:
        raise RequestError(
            f"{path} cannot be imported: {_one_line(error)}",
            where=text,
            fix="It is looked for in the working directory and among the installed packages.",
        ) from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        public = [key for key in vars(importlib.import_module(path)) if not key.startswith("_")]
        raise RequestError(f"{path} has no {name!r}", fix=nearest(name, public, kind="names there")) from None
    if not callable(found):
        raise RequestError(f"{text} is {_kind(found)}, not a callable", fix=_CONTRACT)
    return found


def _call(function: Callable[[], Any], text: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise RequestError(f"{text} raised {_one_line(error)}", fix=f"{_CONTRACT} Use --debug to see where.") from error


def _inputs(module: nn.Module, example: Any, text: str) -> dict[str, torch.Tensor]:
    """Examples by name: a dict has names, a tensor or a tuple takes those of forward's parameters."""
    import torch

    names = parameters(module)
    if isinstance(example, Mapping):
        named = {name: example[name] for name in names if name in example}
        strange = [name for name in example if name not in names]
        if strange:
            raise RequestError(
                f"the example of {text} has {strange[0]!r}, which forward does not take",
                fix=nearest(strange[0], names, kind="parameters"),
            )
    else:
        values = tuple(example) if isinstance(example, (tuple, list)) else (example,)
        if len(values) > len(names):
            raise RequestError(f"the example of {text} has {len(values)} inputs, forward takes {names}", fix=_CONTRACT)
        named = dict(zip(names, values))
    if _TOKENS in named:
        raise RequestError(
            f"a parameter of forward is called {_TOKENS!r}, which is the name of the output",
            where=text,
            fix="Call the parameter something else, such as hidden_states.",
        )
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise RequestError(f"input {name!r} of {text} is {_kind(value)}, not a tensor", fix=_CONTRACT)
    if not named:
        raise RequestError(f"the example of {text} is empty", fix=_CONTRACT)
    return named


def _outputs(returned: Any, text: str) -> tuple[str, ...]:
    """Output roles: the first output has the role `tokens`."""
    import torch

    values = returned if isinstance(returned, (tuple, list)) else (returned,)
    strange = next((value for value in values if not isinstance(value, torch.Tensor)), None)
    if strange is not None or not values:
        raise RequestError(
            f"forward of the module of {text} returns {_kind(returned)}",
            fix="Wrap it in a module that returns a tensor or a tuple of tensors, the tokens [1, N, D] first.",
        )
    return (_TOKENS, *(f"output_{i}" for i in range(1, len(values))))


def _one_line(error: BaseException) -> str:
    """Type and message of an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of ({', '.join(type(each).__name__ for each in value)})"
    return f"a {type(value).__name__}"

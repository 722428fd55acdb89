"""A PyTorch module that shows its values: what each of its submodules returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import GraphError, RequestError, first_line
from ..sources.calling import call
from .sides import Arrays, Feeds, Input, Side, Value

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class ModuleSide(Side):
    """A module in PyTorch, in float32.

    Attributes:
        module: in eval mode.
    """

    module: nn.Module | None = field(default=None, repr=False)

    def read(self, feeds: Feeds, names: Collection[str]) -> Arrays:
        """See `Side`."""
        import torch

        assert self.module is not None
        kept: Arrays = {}

        def keep(name: str, op: str, path: str, tensor: torch.Tensor) -> None:
            if name in names and name not in self.outputs:
                kept[name] = _array(tensor)

        inputs = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
        returned = _returned(self.module, inputs, keep, self.text)
        kept |= {name: _array(tensor) for name, tensor in zip(self.outputs, returned) if name in names}
        return kept


def open_module_side(text: str) -> ModuleSide:
    """Open what `tokexport model` takes, but ONNX files: its encoder, as PyTorch runs it.

    Raises:
        RequestError: there is nothing of that name, or it has no PyTorch module.
        GraphError: the module fails.
        MissingError: torch is not installed.
    """
    from ..opening import open_source

    source = open_source(text)
    graph = source.encoder
    if graph.module is None:
        raise RequestError(f"{text} has no PyTorch module", fix="Give its .onnx file.")
    import torch

    example = {name: torch.as_tensor(array) for name, array in source.real_inputs(1)[0].items()}
    module, values = graph.module.eval(), list[Value]()

    def note(name: str, op: str, path: str, tensor: torch.Tensor) -> None:
        values.append(Value(name, op, path, path if name == path else "", tuple(tensor.shape)))

    returned = _returned(module, example, note, text)
    again = {value.node for value in values if "@" in value.name}
    # Of a module that runs more than once, no value is what leaves it.
    values = [Value(v.name, v.op, v.node, "" if v.node in again else v.scope, v.shape) for v in values]
    outputs = graph.outputs
    values = [value for value in values if value.name not in outputs]
    values += [
        Value(name, type(module).__name__, "forward", shape=tuple(x.shape)) for name, x in zip(outputs, returned)
    ]
    arrays = {name: tensor.numpy() for name, tensor in example.items()}
    return ModuleSide(
        text=text,
        runs=f"PyTorch {torch.__version__}",
        inputs={name: Input(array.dtype, array.shape) for name, array in arrays.items()},
        outputs=tuple(outputs),
        values=tuple(values),
        examples=arrays,
        module=module,
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    # A module may write over what it returned before.
    return (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).cpu().numpy().copy()


def _returned(
    module: nn.Module, inputs: dict[str, torch.Tensor], see: Callable[[str, str, str, torch.Tensor], None], text: str
) -> tuple[torch.Tensor, ...]:
    """What the module returns; `see` is called with each value of a submodule: name, class, path, tensor."""
    import torch

    try:
        with torch.no_grad(), _watched(module, see):
            returned = call(module, inputs)
    except Exception as error:
        raise GraphError(
            f"the module of {text} fails: {first_line(error, 300)}", fix="--debug shows the traceback."
        ) from error
    return tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)


@contextmanager
def _watched(module: nn.Module, see: Callable[[str, str, str, torch.Tensor], None]) -> Iterator[None]:
    calls: Counter[str] = Counter()

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(own: nn.Module, _: Any, returned: Any) -> None:
            calls[path] += 1
            base = path if calls[path] == 1 else f"{path}@{calls[path]}"
            for i, tensor in enumerate(_tensors(returned)):
                see(base if i == 0 else f"{base}:{i}", type(own).__name__, path, tensor)

        return after

    with ExitStack() as stack:
        for path, child in module.named_modules():
            if path:
                stack.callback(child.register_forward_hook(hook(path)).remove)
        yield


def _tensors(returned: Any) -> list[torch.Tensor]:
    """The tensors of what a module returned, in order: of a tensor, a sequence, or an output class of transformers."""
    import torch

    if isinstance(returned, torch.Tensor):
        return [returned]
    if isinstance(returned, dict):
        returned = list(returned.values())
    return [x for x in returned if isinstance(x, torch.Tensor)] if isinstance(returned, (tuple, list)) else []

"""The PyTorch side of the proof: a module's activations at a seam, and its outputs for compressed tokens there.

This does not depend on how the graph was rewritten. A hook at the seam reads the tokens or injects others. A tap on
`scaled_dot_product_attention` reads attention and keys, or adds the size bias, in the model's own code; one on `mean`
weights what is pooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import GraphError
from ..sources.calling import call
from .torch_tables import tables_at

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ...graph_passes.seams.seam import Seam


@dataclass
class Head:
    """A module's values at a seam.

    Attributes:
        tokens: [B, prefix + N, D], with B = 1 where the module has none.
        signals: name -> value as a compressor reads it: cls_attention [B, N], received_attention [B, N],
            keys [B, N, Dk].
    """

    tokens: torch.Tensor
    signals: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Injected:
    """Tokens that replace a module's own.

    Attributes:
        seam: where.
        tokens: [B, prefix + K, D'].
        sizes: [B, K], whose logarithm is added to the logits of the attention downstream, and which weight means over
            the tokens; None: no size bias.
        kept: [B, K] int64, their positions, for a module with tables of positions: it has a method `at` (see
            `GraphSource.merged_rows`), or gives the tables to its layers; None: there are none downstream.
        among: N, which `kept` counts, where that is not the number of tokens at the seam; else 0.
        further: tokens that replace its own at other seams, upstream of this one.
    """

    seam: Seam
    tokens: torch.Tensor
    sizes: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    among: int = 0
    further: tuple[Injected, ...] = ()

    def instead(self, _: torch.Tensor) -> torch.Tensor:
        """The tokens in the rank of what they replace."""
        return self.tokens if self.seam.rank == 3 else self.tokens[0]


class _Read(Exception):
    """The seam was read: what follows need not run, and may not take as many tokens."""


@contextmanager
def attention_tap(calls: list[dict[str, Any]], bias: list[torch.Tensor], prefix: int = 0) -> Iterator[None]:
    """Record every scaled_dot_product_attention; once `bias` holds a [B, n] tensor, add it to the logits of n keys.

    `calls` receives query and key [B, H, n, d], the scale, the mask added to the logits (None without one), and
    whether the bias was added; `bias` may be filled while the tap is open. nn.MultiheadAttention, which computes its
    own products where weights are asked for, gets the bias too; it is recorded without query and key. A mean over the
    n tokens, or over those behind the `prefix`, is weighted by the sizes that the bias is the logarithm of.
    """
    from torch.nn import functional

    from .torch_means import weighted_means

    original = functional.scaled_dot_product_attention
    whole = functional.multi_head_attention_forward

    def tapped(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        biased = bool(bias) and key.shape[-2] == bias[0].shape[-1]
        mask = _added_mask(query, key, attn_mask, is_causal)
        if biased:
            extra = bias[0][:, None, None, :].to(query.dtype)
            attn_mask, is_causal = extra if mask is None else mask + extra, False
            mask = attn_mask
        calls.append({"query": query, "key": key, "scale": scale, "mask": mask, "biased": biased})
        return original(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)

    def tapped_whole(query: Any, key: Any, value: Any, embed_dim: int, heads: int, *args: Any, **kwargs: Any) -> Any:
        if not bias or kwargs.get("attn_mask") is not None or key.shape[0] != bias[0].shape[-1]:
            return whole(query, key, value, embed_dim, heads, *args, **kwargs)
        extra = bias[0].to(query.dtype).repeat_interleave(heads, 0)[:, None].expand(-1, query.shape[0], -1)
        calls.append({"query": None, "biased": True})
        held = [bias.pop() for _ in list(bias)]
        try:
            return whole(query, key, value, embed_dim, heads, *args, **{**kwargs, "attn_mask": extra})
        finally:
            bias.extend(held)

    functional.scaled_dot_product_attention = tapped  # type: ignore[assignment]
    functional.multi_head_attention_forward = tapped_whole  # type: ignore[assignment]
    try:
        with weighted_means(calls, bias, prefix):
            yield
    finally:
        functional.scaled_dot_product_attention = original
        functional.multi_head_attention_forward = whole


def head(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    seam: Seam,
    signals: tuple[str, ...],
    injected: Injected | None = None,
) -> Head:
    """Run `module` up to the seam, with other tokens `injected` upstream of it, and read it.

    Raises:
        GraphError: the module never reached the seam, or it has no scaled_dot_product_attention to read a signal from
            or to add the size bias to.
    """
    import torch

    found: list[torch.Tensor] = []
    calls: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []

    def read(tokens: torch.Tensor) -> None:
        found.append((tokens if seam.rank == 3 else tokens[None]).detach().clone())
        before.extend(calls)
        raise _Read

    attention_modules = {seam.signals[name].module for name in signals if name in seam.signals} - {""}
    with torch.no_grad(), _injecting(module, injected, calls), _at(module, seam, read), ExitStack() as hooks:
        for path in attention_modules:
            # A tower may run layers after the one whose states it returns: its last attention is then not the seam's.
            handle = module.get_submodule(path).register_forward_hook(lambda *_: own.extend(calls[-1:]))
            hooks.callback(handle.remove)
        with suppress(_Read):
            call(module, inputs)
    _check_bias(injected, before)
    if not found:
        raise GraphError(f"the PyTorch module never ran {seam.module!r}", where=f"seam {seam.name}")
    if signals and not before:
        raise GraphError(
            f"no scaled_dot_product_attention ran before {seam.module!r}, so {signals[0]} cannot be read in PyTorch",
            where=f"seam {seam.name}",
            fix="Load the model with attn_implementation='sdpa'.",
        )
    read_from = [call for call in own or before if call["query"] is not None]
    return Head(found[0], {name: _signal(name, read_from[-1], seam) for name in signals})


def tail(module: nn.Module, inputs: Mapping[str, torch.Tensor], injected: Injected) -> tuple[torch.Tensor, ...]:
    """Run `module` with other tokens instead of its own, or its placeholder's, at a seam.

    Args:
        module: the whole encoder, as it was before compression.
        inputs: of the module, by name, in order.
        injected: the prefix and the compressor's output, and where.

    Returns:
        The module's outputs.

    Raises:
        GraphError: there are sizes, but no scaled_dot_product_attention downstream of the seam to add them to. Or the
            module does not run on fewer tokens.
    """
    import torch

    calls: list[dict[str, Any]] = []
    with torch.no_grad(), _injecting(module, injected, calls):
        try:
            result = call(module, inputs)
        except RuntimeError as error:
            raise GraphError(
                "the PyTorch module does not run on fewer tokens, as where it has a table of positions, so what lies "
                f"downstream cannot be proved: {' '.join(str(error).split())[:120]}",
                where=f"seam {injected.seam.name}",
                fix="Choose a seam downstream of that, or add --no-verify.",
            ) from error
    _check_bias(injected, calls)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _check_bias(injected: Injected | None, calls: list[dict[str, Any]]) -> None:
    """Raise `GraphError` where there are sizes, but they were added to no attention."""
    if injected is not None and injected.sizes is not None and not any(call["biased"] for call in calls):
        raise GraphError(
            "the module's attention after the seam is not scaled_dot_product_attention, so PyTorch cannot add the "
            "size bias",
            where=f"seam {injected.seam.name}",
            fix="Load the model with attn_implementation='sdpa', or leave the bias out with --size-bias off.",
        )


@contextmanager
def _injecting(module: nn.Module, injected: Injected | None, calls: list[dict[str, Any]]) -> Iterator[None]:
    """Record attention while other tokens, if any, replace the module's own, with their size bias."""
    import torch

    if injected is None:
        with attention_tap(calls, []):
            yield
        return
    bias: list[torch.Tensor] = []

    def replaced(_: torch.Tensor) -> torch.Tensor:
        if injected.sizes is not None:
            prefix = injected.sizes.new_zeros(injected.sizes.shape[0], injected.seam.prefix)
            bias.append(torch.cat([prefix, injected.sizes.log()], 1))
        return injected.instead(_)

    place = replace(injected.seam, side="output") if injected.seam.placeholder else injected.seam
    at: Any = getattr(module, "at", None)
    rows: Any = nullcontext()
    if injected.kept is not None:
        rows = at(injected.kept) if at else tables_at(module, injected.seam, injected.kept, injected.among)
    with attention_tap(calls, bias, injected.seam.prefix), rows, ExitStack() as places:
        for one in injected.further:
            places.enter_context(_at(module, one.seam, one.instead))
        places.enter_context(_at(module, place, replaced))
        yield


@contextmanager
def _at(module: nn.Module, seam: Seam, action: Any) -> Iterator[None]:
    """Call `action` with the tensor at the seam; a tensor it returns replaces that, for all that read it later."""
    from .torch_readers import Readers

    place, readers = module.get_submodule(seam.module), Readers()

    def on_output(_: nn.Module, __: Any, output: Any) -> Any:
        new = action(_first(output))
        return None if new is None else _with_first(output, new)

    def on_input(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = "" if args else next(name for name, value in named.items() if _is_at(value, seam))
        own = named[name] if name else args[0]
        new = action(own)
        if new is None:
            return None
        readers.of, readers.new = own, new
        return (args, {**named, name: new}) if name else ((new, *args[1:]), named)

    if seam.side == "input":
        handle = place.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        # First, so that hooks of the model's own that collect hidden states see the new tokens too.
        handle = place.register_forward_hook(on_output, prepend=True)
    try:
        with readers if seam.side == "input" else nullcontext():
            yield
    finally:
        handle.remove()


def _first(value: Any) -> Any:
    """The first tensor that a module returns: alone, in a tuple, or by name as models of transformers do."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return value[0] if isinstance(value, (tuple, list)) else value


def _with_first(value: Any, new: Any) -> Any:
    if isinstance(value, Mapping):
        return type(value)(**{**value, next(iter(value)): new})
    return type(value)((new, *value[1:])) if isinstance(value, (tuple, list)) else new


def _is_at(value: Any, seam: Seam) -> bool:
    """Whether a keyword argument can be the tensor at a seam."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    return len(shape) == seam.rank and shape[-1] == seam.dim and value.is_floating_point()


def _added_mask(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, is_causal: bool
) -> torch.Tensor | None:
    """What scaled_dot_product_attention adds to its logits, broadcastable to [B, H, n, n]; None without a mask."""
    import torch

    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is None or mask.is_floating_point():
        return mask
    return query.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))


def _signal(name: str, call: dict[str, Any], seam: Seam) -> torch.Tensor:
    query, key = call["query"].float(), call["key"].float()
    prefix = key.shape[-2] - seam.tokens
    if name == "keys":
        return key[:, :, prefix:].mean(1)
    logits = query @ key.transpose(-1, -2) * call["scale"]
    weights = (logits if call["mask"] is None else logits + call["mask"]).softmax(-1)[..., prefix:]
    return (weights[:, :, 0] if name == "cls_attention" else weights.mean(2)).mean(1)

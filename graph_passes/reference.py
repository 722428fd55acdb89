"""The PyTorch reference of any method, under one public function."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..errors import MissingError, RequestError
from ..keywords import refuse_unknown
from .blame import blamed
from .budget import check_budget, tokens_kept, whole_keep
from .compressors import Case, Compressed, Compressor, make
from .compressors.base import parameters, weights

if TYPE_CHECKING:
    import torch

_KEYWORDS = ("keep", "ratio", "params", "grid")
_SIGNALS = ("cls_attention", "received_attention", "keys", "text")


def reference(
    method: str,
    tokens: torch.Tensor,
    *,
    keep: int | None = None,
    ratio: float | str | Fraction | None = None,
    params: Mapping[str, Any] | None = None,
    grid: tuple[int, ...] | None = None,
    **signals: torch.Tensor,
) -> Compressed[torch.Tensor]:
    """Compress `tokens` in plain PyTorch, as described in the method's paper.

    Args:
        method: its name; `tokexport.methods()` lists them.
        tokens: [B, N, D] float32, float16 or bfloat16; a video [B, T, N, D].
        keep: K, tokens kept.
        ratio: share of tokens removed, instead of `keep`; ``"8/9"`` is read exactly.
        params: the method's parameters; defaults are the paper's.
        grid: (height, width) if the method needs one; of each frame if the tokens are a video.
        signals: what the method reads besides the tokens, such as ``cls_attention`` [B, N], of a video [B, T N], or
            ``text`` [B, L, D].

    Raises:
        RequestError: unknown method or parameter, K outside the method's domain, tokens that are not
            finite floating point [B, N, D], a signal that is missing, not read by the method, or does not match the
            tokens; neither `keep` nor `ratio`, or both.
        MissingError: torch is not installed.
    """
    compressor = make(method, params)
    required = compressor.signals()
    _refuse_unknown(method, compressor, signals)
    torch = _torch()
    if set(signals) != set(required):
        raise RequestError(
            f"method {method!r} reads the signals {list(required)}, but was given {sorted(signals)}",
            fix="Pass each as a keyword: reference(..., cls_attention=scores).",
        )
    if not hasattr(tokens, "is_floating_point"):
        raise RequestError(
            f"tokens are a {type(tokens).__name__}", fix="Pass a torch.Tensor, floating point [B, N, D]."
        )
    if len(tokens.shape) == 4:
        grid = (tokens.shape[1], *(grid or (tokens.shape[2], 1)))
        tokens = tokens.flatten(1, 2)
    if len(tokens.shape) != 3 or not tokens.is_floating_point():
        raise RequestError(f"tokens are {tokens.dtype} {list(tokens.shape)}", fix="Pass floating point [B, N, D].")
    bad = int((~tokens.isfinite()).sum())
    if bad:
        raise RequestError(f"{bad} values of the tokens are NaN or inf", fix="No method is defined for such values.")
    for name in signals.keys() & {"cls_attention", "received_attention", "keys"}:
        if signals[name].shape[:2] != tokens.shape[:2]:
            raise RequestError(
                f"signal {name!r} is {list(signals[name].shape)} and the tokens are {list(tokens.shape)}",
                fix="Pass one entry per token, without those of CLS or other prefix tokens.",
            )
    text = signals.get("text")
    if text is not None and (len(text.shape) != 3 or (*text.shape[::2],) != (*tokens.shape[::2],)):
        raise RequestError(
            f"the text is {list(text.shape)} and the tokens are {list(tokens.shape)}",
            fix="Pass [B, L, D]: one row per token of the prompt, in the embedding space of the tokens.",
        )
    _, n, dim = tokens.shape
    kept = tokens_kept(n, ratio=ratio) if keep is None else whole_keep(keep)
    if keep is not None:
        check_budget(ratio=ratio, keep=keep)
    case = Case(n, dim, kept, str(tokens.dtype).removeprefix("torch."), grid)
    with blamed(compressor, "check"):
        compressor.check(case)
    learned = {name: torch.from_numpy(array).to(tokens) for name, array in weights(compressor, case).items()}
    with blamed(compressor, "reference"):
        return compressor.reference(case, tokens, **signals, **learned)


def _refuse_unknown(method: str, compressor: Compressor, given: Mapping[str, Any]) -> None:
    """Refuse a keyword that is no signal of any method, and say where it belongs."""
    for name in given:
        if name in parameters(compressor):
            raise RequestError(
                f"{name!r} is a parameter of method {method!r}", fix=f"Write params={{{name!r}: {given[name]!r}}}."
            )
    refuse_unknown("reference", given, [*_KEYWORDS, *_SIGNALS])


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingError(
            "torch is needed to compute a method's reference, and not installed",
            fix='Install with: pip install "tokexport[export]"',
        ) from None
    return torch

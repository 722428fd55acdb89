"""The cards at the top of the page: what a bundle loses, and what it saves."""

from __future__ import annotations

from typing import Any

from ...files import size
from ..render import milliseconds
from ..result import Exported
from .bars import metric


def cards(result: Exported, tokens: list[int], disk_bytes: int) -> list[tuple[str, str]]:
    """(figure, what it is), the loss beside what it buys.

    Args:
        result: of the export.
        tokens: before the first compressor and after each.
        disk_bytes: of all files of the bundle.
    """
    found = [(" → ".join(map(str, tokens)), f"tokens, {1 - tokens[-1] / tokens[0]:.1%} removed"), _loss(result)]
    if result.cost:
        found += _speed(result.cost)
    return [*found, (size(disk_bytes), "on disk, all variants" if result.further else "on disk")]


def _loss(result: Exported) -> tuple[str, str]:
    if not result.accuracy:
        return "?", "loss: not measured; tokexport sweep --inputs FOLDER measures it on your own inputs"
    own, whole = result.accuracy["compressed"], result.accuracy["uncompressed"]
    return f"{100 * (own - whole):+.1f}", f"points: {own:.1%} {metric(result.accuracy)}, uncompressed {whole:.1%}"


def _speed(cost: dict[str, Any]) -> list[tuple[str, str]]:
    """Of the encoder, and where there is a language model up to its first token; the memory of its caches."""
    own, plain = cost["encoder_ms"], cost["uncompressed_ms"]
    found = [(f"{plain / own:.2f}x", f"speed of the encoder: {milliseconds(own)}, uncompressed {milliseconds(plain)}")]
    if cost["prefill_ms"] is not None:
        parts = f"encoder {milliseconds(own)}, prefill {milliseconds(cost['prefill_ms'])}"
        more = f"; each further {milliseconds(cost['token_ms'])}"
        found.append((milliseconds(cost["first_token_ms"]), f"to the first token: {parts}{more}"))
    if cost["cache_bytes"]:
        now, whole = cost["cache_bytes"], cost["uncompressed_cache_bytes"]
        found.append((f"{whole / now:.1f}x less", f"KV cache: {size(now)}, uncompressed {size(whole)}"))
    return found

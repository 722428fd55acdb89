"""Accuracy against tokens, where a bundle has variants: which of them loses how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ..result import Exported

At = Callable[[int, float], tuple[float, float]]

_WIDE, _TALL, _LEFT, _BELOW, _ABOVE = 520, 260, 52, 44, 20
_FONT = "font-family='system-ui, sans-serif' font-size='14'"


@dataclass(frozen=True)
class Curve:
    """A chart.

    Attributes:
        label: it in words.
        size: of its view box.
        markup: the content of the svg element.
    """

    label: str
    size: tuple[int, int]
    markup: str


def curve(results: Sequence[Exported]) -> Curve | None:
    """The accuracy of each variant, of as many random tokens, and of all tokens; None with fewer than two of them."""
    measured = [one for one in results if one.accuracy]
    if len(measured) < 2:
        return None
    points = sorted((one.compression[-1]["tokens_out"], one) for one in measured)
    whole = measured[0].accuracy["uncompressed"]  # type: ignore[index]
    own = [(count, float(one.accuracy["compressed"])) for count, one in points]  # type: ignore[index]
    chance = [
        (count, float(one.accuracy["baselines"]["random"]["mean"]))  # type: ignore[index]
        for count, one in points
        if "random" in (one.accuracy or {}).get("baselines", {})
    ]
    values = [whole, *(value for _, value in (*own, *chance))]
    low = max(0.0, min(values) - 0.05)
    high = max(1.0, *values)
    most = own[-1][0]

    def at(count: int, value: float) -> tuple[float, float]:
        return (
            _LEFT + (_WIDE - _LEFT - 24) * count / most,
            _ABOVE + (_TALL - _ABOVE - _BELOW) * (1 - (value - low) / (high - low)),
        )

    parts = [*_axes(own, low, high, at), _line([(0, whole), (most, whole)], at, "plain", dashed=True)]
    x, y = at(0, whole)
    parts.append(f"<text x='{x + 4:.0f}' y='{y - 5:.0f}' {_FONT} fill='var(--soft)'>uncompressed {whole:.1%}</text>")
    for name, those, kind in (("random", chance, "baseline"), ("", own, "own")):
        if not those:
            continue
        parts.append(_line(those, at, kind))
        for count, value in those:
            x, y = at(count, value)
            told = f"{name or 'this bundle'}, {count} tokens: {value:.1%}"
            parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='var(--{kind})'><title>{told}</title></circle>")
        x, y = at(*those[-1])
        word = name or points[0][1].compression[-1]["method"]
        parts.append(
            f"<text x='{x:.0f}' y='{y + 20:.0f}' text-anchor='end' {_FONT} fill='var(--ink)'>{escape(word)}</text>"
        )
    told = ", ".join(f"{value:.1%} with {count} tokens" for count, value in own)
    return Curve(f"Accuracy against tokens: {told}; uncompressed {whole:.1%}", (_WIDE, _TALL), "".join(parts))


def _axes(own: list[tuple[int, float]], low: float, high: float, at: At) -> list[str]:
    parts = []
    for step in range(5):
        value = low + (high - low) * step / 4
        _, y = at(0, value)
        parts.append(
            f"<path d='M{_LEFT} {y:.1f}H{_WIDE - 24}' stroke='var(--line)'/>"
            f"<text x='{_LEFT - 8}' y='{y + 4:.0f}' text-anchor='end' {_FONT} fill='var(--soft)'>{value:.0%}</text>"
        )
    for count, _ in own:
        x, _ = at(count, low)
        parts.append(
            f"<text x='{x:.0f}' y='{_TALL - 20}' text-anchor='middle' {_FONT} fill='var(--soft)'>{count}</text>"
        )
    middle = (_LEFT + _WIDE) / 2
    parts.append(
        f"<text x='{middle:.0f}' y='{_TALL - 3}' text-anchor='middle' {_FONT} fill='var(--soft)'>tokens kept</text>"
    )
    return parts


def _line(points: list[tuple[int, float]], at: At, kind: str, *, dashed: bool = False) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in points))
    dash = " stroke-dasharray='6 5'" if dashed else ""
    return f"<path d='M{path}' fill='none' stroke='var(--{kind})' stroke-width='2.5'{dash}/>"

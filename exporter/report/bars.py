"""The accuracy as bars: the uncompressed model, this one, and the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        kind: own, plain (uncompressed), baseline or oracle; sets its colour, and oracles stand apart.
        value: 0..1; a value below 0 is drawn as 0.
        spread: standard deviation, None where it was measured once.
        note: an explanation.
    """

    label: str
    kind: str
    value: float
    spread: float | None = None
    note: str = ""

    @property
    def text(self) -> str:
        """The value as it is written beside the bar."""
        return f"{self.value:.1%}" + (f" ± {self.spread:.1%}" if self.spread is not None else "")

    def at(self, deviations: float = 0) -> float:
        """The end of the bar, or of its whisker, in 0..1000."""
        return round(1000 * min(1.0, max(0.0, self.value + deviations * (self.spread or 0))), 1)


def metric(accuracy: dict[str, Any]) -> str:
    """The name of what was measured."""
    return str(accuracy.get("metric", "answers right"))


def bars(method: str, accuracy: dict[str, Any]) -> list[Bar]:
    """The bars of a record of `accuracy.measure`, one for each figure that was measured."""
    drawn = [Bar("uncompressed", "plain", accuracy["uncompressed"], note="the model in PyTorch")]
    drawn.append(Bar(method, "own", accuracy["compressed"], accuracy.get("stderr"), "this bundle, ± standard error"))
    found = accuracy.get("baselines") or {}
    if "random" in found:
        random = found["random"]
        note = f"mean ± deviation over {random['seeds']} seeds"
        drawn.append(Bar("random", "baseline", random["mean"], random["deviation"], note))
    if "uniform" in found:
        drawn.append(Bar("uniform", "baseline", found["uniform"]["accuracy"], note="evenly spread tokens"))
    if "resolution" in found:
        note = f"a smaller picture, of which the uncompressed encoder gives {found['resolution']['keep']} tokens"
        drawn.append(Bar("resolution", "baseline", found["resolution"]["accuracy"], note=note))
    if "pool" in found:
        note = f"averages of a {found['pool']['keep']}-token grid, the largest that fits"
        drawn.append(Bar("pool", "baseline", found["pool"]["accuracy"], note=note))
    if "oracle" in found:
        note = "selects the tokens that the answer depends on"
        drawn.append(Bar("oracle", "oracle", found["oracle"]["accuracy"], note=note))
        note = "the same, each other token averaged into the nearest of them"
        drawn.append(Bar("oracle, merged", "oracle", found["oracle"]["merged"], note=note))
    return drawn

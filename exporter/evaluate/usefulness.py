"""Whether a bundle is of use: its accuracy against that of as many random and evenly spread tokens.

A proof says that the graphs compute what PyTorch computes. It says nothing about whether the tokens kept are the right
ones: a method may be proved and still be worse than chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Within so many standard errors the figures of two methods do not tell them apart.
ERRORS = 2
_TRY = "a smaller --ratio or another method loses less: `tokexport sweep {}` compares them"


@dataclass(frozen=True)
class Usefulness:
    """The second verdict on a bundle.

    Attributes:
        status: ``useful``: better than as many random tokens and than evenly spread ones; ``unclear``: not clearly
            better; ``worse``: worse than one of them; ``unknown``: not measured.
        text: it in one sentence, with the figures.
    """

    status: Literal["useful", "unclear", "worse", "unknown"]
    text: str

    @property
    def note(self) -> str:
        """What must stand beside the proof, where the figures speak against the bundle; else nothing."""
        return f"usefulness: {self.text}" if self.status in ("unclear", "worse") else ""


def judge(accuracy: Mapping[str, Any] | None, source: str = "SOURCE") -> Usefulness:
    """The verdict on a record of `accuracy.measure`, None where there is none.

    A record without baselines is not judged. `source` is what a command that is printed names, as it is typed.
    """
    found = (accuracy or {}).get("baselines") or {}
    rivals = {}
    if "random" in found:
        rivals["as many random tokens"] = float(found["random"]["mean"])
    if "uniform" in found:
        rivals["as many evenly spread tokens"] = float(found["uniform"]["accuracy"])
    if accuracy is None or not rivals:
        return Usefulness(
            "unknown", f"not measured; `tokexport sweep {source} --inputs FOLDER` measures it on your own inputs"
        )
    own, error = float(accuracy["compressed"]), float(accuracy.get("stderr") or 0)
    figures = f"{own:.1%} against " + " and ".join(f"{value:.1%} of {name}" for name, value in rivals.items())
    best = max(rivals.values())
    if own < best:
        names = " and ".join(name.removeprefix("as many ") for name, value in rivals.items() if own < value)
        return Usefulness("worse", f"worse than {names}: {figures}; {_TRY.format(source)}")
    if own <= best + ERRORS * error:
        return Usefulness("unclear", f"not clearly better than chance: {figures}")
    return Usefulness("useful", figures)

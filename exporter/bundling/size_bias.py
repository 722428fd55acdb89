"""How much merged tokens count in attention, as it can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from ...errors import RequestError

if TYPE_CHECKING:
    from ...graph_passes.insertion.sequence import Step
    from ..sources.source import Source

# ``auto``: log(sizes) is added to all attention over them, and weights means over them. ``positions``: so it is, and
# prefill reads them at the positions of all tokens in them. ``off``: they count as one token.
SizeBias = Literal["auto", "positions", "off"]


def check(size_bias: str, *known: SizeBias) -> None:
    """Raise `RequestError` where it is none of those that are `known`; none given: all of `SizeBias`."""
    known = known or get_args(SizeBias)
    if size_bias not in known:
        raise RequestError(f"size_bias {size_bias!r} is not known", fix=f"Give {' or '.join(known)}.")


def reading(source: Source, steps: Sequence[Step], size_bias: str) -> Source:
    """`source`, with a prefill that reads merged tokens as is asked.

    Args:
        source: of the model.
        steps: the compressors of its encoder, upstream first.
        size_bias: see `SizeBias`.

    Raises:
        RequestError: another way than these; what reaches prefill is not merged, or as `Source.read_by_position`.
    """
    check(size_bias)
    if size_bias != "positions":
        return source
    rebuilt = max((number for number, step in enumerate(steps) if step.rebuild), default=-1)
    reach = [step.compressor.method for step in steps[rebuilt + 1 :]]
    if source.inner or any(method.merges for method in reach):
        return source.read_by_position()
    if not reach:
        raise nothing(
            "all tokens are put back at their places",
            "Leave --rebuild or --size-bias out, or in a recipe merge behind the step that rebuilds.",
        )
    raise nothing(
        f"{reach[-1].name} merges no token",
        "Leave it out, or take a method that merges, such as --method kcenter_merge.",
    )


def nothing(why: str, fix: str) -> RequestError:
    """Why no merged token reaches prefill."""
    return RequestError(f"--size-bias positions does nothing here: {why}", fix=fix)

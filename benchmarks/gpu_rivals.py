"""The alternatives that a kernel is timed against, on the same tokens: eager, compiled, and other libraries.

An alternative that cannot be timed here is listed with the reason.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gpu_released as released
import torch
from gpu_clock import Clock

# torch.compile takes minutes to unroll more picks than this: the step is compiled instead, and the loop captured.
UNROLLED = 16

EAGER = {
    "apet": released.apet,
    "kcenter_merge": released.kcenter_merge,
    "divprune": released.divprune,
    "cdpruner": released.cdpruner,
}
STATIC = {
    "apet": (released.apet_static, released.farthest_step),
    "kcenter_merge": (released.kcenter_merge_static, released.farthest_step),
    "divprune": (released.divprune_static, released.max_min_step),
    "cdpruner": (released.cdpruner_static, released.determinant_step),
}


def eager(
    clock: Clock, method: str, sets: Sequence[torch.Tensor], keep: int, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The released code's operations, one by one; `more` are the method's inputs other than tokens and K."""
    return attempt(
        lambda: clock.microseconds([lambda x=x: EAGER[method](x, keep, **more) for x in sets], captured=False)
    )


def compiled(
    clock: Clock, method: str, sets: Sequence[torch.Tensor], keep: int, more: Mapping[str, Any]
) -> dict[str, dict]:
    """The static form under torch.compile: with its own CUDA graphs (`compiled`), and its kernels captured as ours
    are, without the copies and the host's time of these (`compiled, captured`)."""
    if importlib.util.find_spec("triton") is None:
        missing = {"reason": "torch.compile: there is no triton"}
        return {"compiled": missing, "compiled, captured": missing}
    function, step = STATIC[method]
    picks = more.get("basis", keep)

    def whole(mode: str) -> float:
        run = _compile(functools.partial(function, keep=keep, step=step, **more), mode)
        return clock.microseconds([lambda x=x: run(x) for x in sets], captured=mode != "max-autotune")

    def by_the_pick() -> float:
        run = functools.partial(function, keep=keep, step=_compile(step, "max-autotune-no-cudagraphs"), **more)
        return clock.microseconds([lambda x=x: run(x) for x in sets], captured=True)

    if picks > UNROLLED:
        reason = f"torch.compile unrolls {picks} picks for minutes: its loop is compiled by the pick, and captured"
        return {"compiled": {"reason": reason}, "compiled, captured": attempt(by_the_pick)}
    return {
        "compiled": attempt(lambda: whole("max-autotune")),
        "compiled, captured": attempt(lambda: whole("max-autotune-no-cudagraphs")),
    }


def _compile(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, mode=mode, dynamic=False, fullgraph=True)


def peers(clock: Clock, sets: Sequence[torch.Tensor], keep: int) -> dict[str, dict[str, Any]]:
    """Farthest-point sampling of others: indices only, from token 0, with what is installed here."""
    rows = {}
    for name, sample in PEERS.items():
        if importlib.util.find_spec(name) is None:
            rows[name] = {"reason": f"{name} is not installed"}
            continue
        points = [x.float() for x in sets]  # cast outside of the timing: these libraries compute in float32
        rows[name] = attempt(
            lambda sample=sample, points=points: clock.microseconds(
                [lambda x=x: sample(x, keep) for x in points], captured=False
            )
        )
    return rows


def _quickfps(x: torch.Tensor, keep: int) -> Any:
    import torch_quickfps

    return torch_quickfps.sample(x, keep, start_idx=0, return_points=False)


def _fpsample(x: torch.Tensor, keep: int) -> Any:
    import torch_fpsample

    return torch_fpsample.sample(x, keep, start_idx=0)


def _torch_fps(x: torch.Tensor, keep: int) -> Any:
    import torch_fps

    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return torch_fps.farthest_point_sampling(x, mask, keep)


PEERS = {"torch_quickfps": _quickfps, "torch_fpsample": _fpsample, "torch_fps": _torch_fps}


def attempt(measure: Callable[[], float]) -> dict[str, Any]:
    """``{"us": ...}``, or the reason why it could not be measured: out of memory, not capturable, not supported.

    Any failure of an alternative is a result, and must not end the run.
    """
    try:
        return {"us": round(measure(), 2)}
    except Exception as error:
        torch.cuda.empty_cache()
        lines = str(error).strip().splitlines() or [""]
        return {"reason": f"{type(error).__name__}: {lines[0][:200]}"}

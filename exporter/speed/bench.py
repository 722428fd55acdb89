"""`tokexport bench`: the times of a bundle, alone or against another, in turns; its memory and its energy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ...errors import RequestError, nearest
from ...keywords import answered
from ...runtimes.bundle.reader import open_bundle
from ...runtimes.load import check_options
from ..evaluate.machine import machine
from ..progress import Advance, log_of
from ..timing import turns
from . import busy, gauges
from .intervals import LEAST_ROUNDS, percentiles, ratio
from .sample import Prompt, of_proof, window_of
from .side import Side

TOKENS = (1, 20, 100)


@dataclass(frozen=True)
class _Asked:
    """What all bundles of a comparison are given alike."""

    runtime: str
    options: dict[str, Any]
    files: list[str]
    prompt: Prompt | None
    tokens: list[int]

    @property
    def on_gpu(self) -> bool:
        """Whether graphs run on a GPU."""
        return self.runtime == "tensorrt" or self.options["provider"] not in (None, "cpu")


@answered
def bench(
    bundle: Path | str,
    against: Path | str | None = None,
    *,
    runtime: str = "ort",
    provider: str | None = None,
    threads: int | None = None,
    variant: str | None = None,
    against_variant: str | None = None,
    inputs: Sequence[Path | str] = (),
    prompt: Prompt | None = None,
    tokens: Sequence[int] = TOKENS,
    rounds: int = 20,
    warmup: int = 2,
    max_regression: float | None = None,
    stages: Sequence[str] = (),
    advance: Advance = log_of,
) -> dict[str, Any]:
    """Measure how long a bundle takes, alone or against another one, which answer in turns.

    Args:
        bundle: its folder.
        against: the bundle that it is held against; None: there is none.
        runtime: ``ort``, or ``tensorrt`` for the engines in the bundles.
        provider: of ONNX Runtime; see `load`.
        threads: of ONNX Runtime, inside one operator; None: one per core.
        variant: of `bundle`; None: its first.
        against_variant: of `against`, likewise.
        inputs: images, or a video or a sound; none: what each bundle was proved with.
        prompt: the question, as text or ids; None: what each bundle was proved with, or an example.
        tokens: lengths of answers.
        rounds: how often each answers.
        warmup: how often before that.
        max_regression: how much longer than `against` it may take, 0.05 for 5 %; None: as long as it likes.
        stages: those that `max_regression` is about; none: all that both have.
        advance: called with (done, of, what); by default the logger ``tokexport`` gets it.

    Returns:
        ``{"bundles", "ratios", "rounds", "warmup", "runtime", "provider", "threads", "max_regression", "slower", "ok",
        "busy", "notes", "date", "machine"}``. Each of ``bundles`` (`bundle` first) has ``bundle``, ``variant``,
        ``input``, ``stages`` (name -> `percentiles`), ``left_out`` (name -> why), ``host_peak_bytes``,
        ``device_peak_bytes``, ``joules`` (mean of a round, by what counts it), ``unknown`` (name -> why) and ``notes``.
        ``ratios`` has for each stage of both how many times as long `bundle` takes: see `intervals.ratio`.
        ``slower`` names stages whose lower bound is above 1 + `max_regression`; ``ok`` says that there is none.

    Raises:
        RequestError: no such variant, input or stage, or numbers that do not fit together.
        BundleError: no bundle, or a damaged one.
        MissingError: the runtime or its provider is not installed, or there are no engines, or no GPU.
        GraphError: it fails while it runs.
    """
    _check(against, against_variant, rounds, warmup, tokens, max_regression, stages)
    check_options(runtime, provider=provider, threads=threads)
    options = {"provider": provider, "threads": threads}
    asked = _Asked(runtime, options, [str(one) for one in inputs], prompt, sorted({*tokens}))
    wanted = [(bundle, variant)] if against is None else [(against, against_variant), (bundle, variant)]
    rows, told, taken = _run(wanted, asked, rounds, warmup, stages, advance)
    ratios = _ratios(ours=taken[1], theirs=taken[0]) if against is not None else {}
    slower = [
        name for name in stages or ratios if max_regression is not None and ratios[name]["low"] > 1 + max_regression
    ]
    return {
        "bundles": rows[::-1],
        "ratios": ratios,
        "rounds": rounds,
        "warmup": warmup,
        "runtime": runtime,
        "provider": (provider or "cpu") if runtime == "ort" else None,
        "threads": threads,
        "max_regression": max_regression,
        "slower": slower,
        "ok": not slower,
        "busy": told,
        "notes": busy.notes(told),
        **machine(),
    }


def _run(
    wanted: Sequence[tuple[Path | str, str | None]],
    asked: _Asked,
    rounds: int,
    warmup: int,
    stages: Sequence[str],
    advance: Advance,
) -> tuple[list[dict[str, Any]], dict[str, Any], list[list[dict[str, Any]]]]:
    """What is said of each bundle, what else the machine did, and what each said in each round."""
    with ExitStack() as opened:
        counters, no_energy = opened.enter_context(gauges.energy())
        sides = []
        for path, variant in wanted:
            sides.append(_opened(Path(path), variant, asked, counters))
            opened.callback(sides[-1].close)
        _check_stages(stages, [set(side.opened["stages"]) for side in sides])
        told, taken = _measured(sides, rounds, warmup, advance)
        return [_row(side, said, asked, no_energy) for side, said in zip(sides, taken)], told, taken


def _check(
    against: Any,
    against_variant: str | None,
    rounds: int,
    warmup: int,
    tokens: Sequence[int],
    most: float | None,
    stages: Sequence[str],
) -> None:
    if rounds < 1 or warmup < 0:
        raise RequestError(f"{rounds} rounds after {warmup} of warm-up", fix="Give at least 1 and 0.")
    if not tokens or min(tokens) < 1:
        raise RequestError(f"answers of {list(tokens)} tokens", fix="Give lengths of at least 1: --tokens 1,20,100.")
    if against is None:
        needless = {"max_regression": most is not None, "stages": bool(stages), "against_variant": against_variant}
        for name in (name for name, given in needless.items() if given):
            option = {"stages": "--stage"}.get(name, f"--{name.replace('_', '-')}")
            raise RequestError(f"{option} is about two bundles", fix="Name the other: --against BUNDLE.")
    if stages and most is None:
        raise RequestError("--stage says what --max-regression is about", fix="Give it: --max-regression 5%.")
    if most is not None and (not math.isfinite(most) or most < 0):
        raise RequestError(f"max_regression {most} is below 0", fix="Write --max-regression 5%, or 0.05.")
    if most is not None and rounds < LEAST_ROUNDS:
        raise RequestError(
            f"{rounds} rounds are too few to be sure of a ratio", fix=f"Give at least --rounds {LEAST_ROUNDS}."
        )


def _opened(path: Path, variant: str | None, asked: _Asked, counters: list[gauges.Counter]) -> Side:
    bundle = open_bundle(path)
    chosen = bundle.variant(variant) if variant else window_of(bundle, bundle.variant(), asked.files)
    proven = of_proof(bundle, chosen)
    request = {
        "bundle": str(path.resolve()),
        "runtime": asked.runtime,
        "options": {**asked.options, "variant": chosen.name},
        "files": asked.files,
        "prompt": asked.prompt,
        "inputs": {} if asked.files else proven.inputs,
        "ids": proven.ids,
        "tokens": asked.tokens,
    }
    return Side(path, chosen.name, request, counters)


def _measured(
    sides: list[Side], rounds: int, warmup: int, advance: Advance
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """What else the machine did meanwhile, and what each side said in each round."""
    done, of = 0, (rounds + warmup) * len(sides)
    start = busy.now()
    before = _computed(sides)

    def turn(side: Side) -> Callable[[], dict[str, Any]]:
        def answer() -> dict[str, Any]:
            nonlocal done
            taken = side.once()
            done += 1
            advance(
                done, of, f"{'warming up' if done <= warmup * len(sides) else 'measuring'} {side.path} ({side.variant})"
            )
            return taken

        return answer

    taken = turns({str(at): turn(side) for at, side in enumerate(sides)}, rounds, warmup)
    return busy.between(start, busy.now(), _computed(sides) - before), list(taken.values())


def _computed(sides: list[Side]) -> float:
    """Seconds that our processes computed so far."""
    return time.process_time() + sum(side.cpu for side in sides)


def _row(side: Side, taken: list[dict[str, Any]], asked: _Asked, no_energy: str) -> dict[str, Any]:
    """What is said of one bundle."""
    if asked.on_gpu:
        side.look_at_gpu()
    times = {name: [one[name] for one in taken] for name in taken[0] if name != "joules"}
    if "token" in times:
        times["token"] = [each for one in times["token"] for each in one]
    unknown = {"energy": no_energy} if no_energy else {}
    if side.peak is None:
        unknown["host memory"] = "not known: there is no /proc"
    if not asked.on_gpu:
        unknown["device memory"] = "none: it runs on the CPU"
    elif side.gpu is None:
        unknown["device memory"] = f"not known: {gauges.why_no_gpu_memory()}"
    return {
        "bundle": str(side.path),
        "variant": side.variant,
        "input": side.opened["input"],
        "stages": {name: percentiles(values) for name, values in times.items() if values},
        "left_out": _left_out(side, asked.tokens),
        "host_peak_bytes": side.peak,
        "device_peak_bytes": side.gpu,
        "joules": {name: fmean(one["joules"][name] for one in taken) for name in taken[0]["joules"]},
        "unknown": unknown,
        "notes": [*side.opened["notes"], *side.notes],
    }


def _left_out(side: Side, tokens: list[int]) -> dict[str, str]:
    """Stages that the bundle does not have, and why."""
    most = side.opened["most"]
    why = f"its answers have at most {most} tokens" if most else "the bundle has no language graphs"
    wanted = [
        "prefill",
        "first_token",
        *(["token"] if max(tokens) > 1 else []),
        *(f"answer_{n}" for n in tokens if n > 1),
    ]
    return {name: why for name in wanted if name not in side.opened["stages"]}


def _ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each stage that both have, how many times as long ours takes."""

    def times(taken: list[dict[str, Any]], name: str) -> list[float]:
        return [median(one[name]) if isinstance(one[name], list) else one[name] for one in taken]

    both = [name for name, value in ours[0].items() if name != "joules" and value and theirs[0].get(name)]
    return {name: ratio(times(ours, name), times(theirs, name)) for name in both}


def _check_stages(asked: Sequence[str], measured: Sequence[set[str]]) -> None:
    both = set.intersection(*measured)
    for name in asked:
        if name not in both:
            raise RequestError(f"no stage {name!r} is measured of both", fix=nearest(name, both, kind="stages"))

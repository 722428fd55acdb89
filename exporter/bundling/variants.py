"""Several budgets and windows in one bundle, a variant for each: planned, and built one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...graph_passes.budget import check_budget, parse_ratio
from ...graph_passes.compress import NO_METHOD
from ...graph_passes.compressors import make, names
from ...graph_passes.compressors.blocks.weights import ReadsWeights
from ...graph_passes.insertion.sequence import Step, least_at
from ...graph_passes.recipes import load, recipe_file, refuse_with_recipe
from ...graph_passes.recipes import names as recipe_names
from ...graph_passes.seams.seam import INSIDE
from . import graphs

if TYPE_CHECKING:
    from ...graph_passes.compressors import Compressor
    from ...runtimes.bundle.manifest import Precision
    from ..progress import Progress
    from ..sources.source import Source
    from .graphs import Built, Plan

Ratio = str | float | Fraction
# (ratio, keep); one of them is None.
Budget = tuple[Ratio | None, int | None]


def requests(
    method: str | None,
    ratio: Ratio | Sequence[Ratio] | None,
    keep: int | Sequence[int] | None,
    seam: str | None,
    recipe: str | Path | None,
    params: Mapping[str, Any] | None,
    rebuild: bool = False,
) -> tuple[list[tuple[Step, ...]], str]:
    """The steps of each variant that was asked for, and the name of the recipe, where one was.

    Raises:
        RequestError: what `budgets`, `compressors.make` and `recipes.load` refuse; a method, a budget or a seam with a
            recipe.
    """
    if recipe is not None:
        refuse_with_recipe(method=method, ratio=ratio, keep=keep, seam=seam, rebuild=rebuild or None)
        found = load(recipe)
        return [found.made(params)], found.name
    if method is None:
        raise RequestError(NO_METHOD[0], fix=NO_METHOD[1])
    _refuse_recipe(method)
    compressor = make(method, params)
    place = "auto" if seam is None else seam
    return [(Step(compressor, one, count, place, rebuild=rebuild),) for one, count in budgets(ratio, keep, place)], ""


def _refuse_recipe(method: str) -> None:
    """Say of the name of a recipe what to type."""
    if method in names() or method not in recipe_names():
        return
    last = load(method).steps[-1]
    more = f", or at another budget --method {last.method} --seam {last.seam} --ratio R" if method == "fastv" else ""
    raise RequestError(f"{method} is a recipe, and no method", fix=f"Write --recipe {method}{more}.")


def check_places(source: Source, steps: Sequence[Step]) -> None:
    """Refuse a seam in front of what the model `joins`, or between layers with `windows`, before the export.

    Raises:
        RequestError: a step names one, or ``auto`` means one.
    """
    for number, step in enumerate(steps):
        seam = source.seam_for(step.compressor) if step.seam == "auto" else step.seam
        inside = seam.startswith(INSIDE)
        rebuilt = inside and any(later.rebuild for later in steps[number:])
        why = source.windows if inside and source.windows else "" if rebuilt else source.joins
        if why and (inside or seam == "encoder_output"):
            where = "between them" if inside and source.windows else "in front of that"
            back = "" if source.windows else ", or --seam encoder_layer:1/4 --rebuild, which puts them back there"
            raise RequestError(
                f"seam {seam} of {source.name} is not valid: {why}, by their places, so none may be missing {where}",
                fix=f"Take --seam projector_output, which is behind that{back}; in a recipe write it into the step.",
            )


def files(compressors: Iterable[Compressor], recipe: str | Path | None = None) -> list[Path]:
    """The user's files that a request reads: weights of compressors, and the recipe."""
    weights = [one.weights for one in compressors if isinstance(one, ReadsWeights) and one.weights]
    own = recipe_file(recipe) if recipe is not None else None
    return [*(Path(file) for file in weights), *([own] if own else [])]


def budgets(
    ratio: Ratio | Sequence[Ratio] | None, keep: int | Sequence[int] | None, seam: str = "auto"
) -> list[Budget]:
    """The budget of each variant, checked as far as is possible before N is known.

    Raises:
        RequestError: both ratios and counts, or neither; a value that is no ratio or count; one that was given twice.
    """
    ratios: list[Any] = list(ratio) if isinstance(ratio, (list, tuple)) else [ratio]
    keeps: list[Any] = list(keep) if isinstance(keep, (list, tuple)) else [keep]
    ratios, keeps = ratios or [None], keeps or [None]
    asked: list[Budget] = [(one, None) for one in ratios] if keeps == [None] else [(ratios[0], one) for one in keeps]
    for one, count in asked:
        check_budget(ratio=one, keep=count, least=least_at(seam))
    numbers = [count if one is None else parse_ratio(one) for one, count in asked]
    for i, number in enumerate(numbers):
        if number in numbers[:i]:
            option = "--keep" if asked[i][0] is None else "--ratio"
            raise RequestError(f"{option} {number} was given twice", fix="Every variant has a budget of its own.")
    return asked


def windows(source: Source, asked: float | Sequence[float] | None) -> list[Source]:
    """The source with each window of sound that was asked for; the source itself where none was.

    Raises:
        RequestError: one was given twice, or the source does not take it.
    """
    wanted = [] if asked is None else [float(one) for one in asked] if isinstance(asked, (list, tuple)) else [asked]
    for i, seconds in enumerate(wanted):
        if seconds in wanted[:i]:
            raise RequestError(f"--window {seconds:g} was given twice", fix="Every variant has a window of its own.")
    return [source.windowed(seconds) for seconds in wanted] or [source]  # type: ignore[arg-type]


def default_folder(plans: Sequence[Plan]) -> Path:
    """``./<source>-<recipe>``, or ``./<source>-<method>-<ratio>`` with all ratios; then all windows."""
    rates = dict.fromkeys(plan.budget.replace("/", "_") for plan in plans)
    name = plans[0].recipe or "-".join((plans[0].method, *rates))
    windows = dict.fromkeys(f"{plan.source.window:g}s" for plan in plans if plan.source.window is not None)
    return Path("-".join((plans[0].source.name, name, *windows)))


def build(
    plans: Sequence[Plan], precision: Precision, step: Progress, *, fp32_reference: bool
) -> Iterator[tuple[Plan, Built, Built]]:
    """Yield the graphs of one plan after the other; the uncompressed encoder of each window is exported once.

    ONNX Runtime's CPU cannot run bfloat16: what can be proved and measured of such graphs are the same ones in fp32.

    Args:
        plans: of one model, compressor and seam; those of one window follow each other.
        precision: of the graphs.
        step: called with the name of each stage.
        fp32_reference: whether graphs in bf16 are built in fp32 as well.

    Yields:
        (plan, graphs, their fp32 reference build); the graphs again where there is none.

    Raises:
        RequestError: a count that the method does not take, or two budgets that keep as many tokens.
    """
    for _, alike in groupby(plans, key=lambda plan: id(plan.source.encoder)):
        group = list(alike)
        source = group[0].source
        step("exporting the encoder")
        exported = graphs.encoder(source, precision)
        fp32_encoder = graphs.encoder(source, "fp32") if fp32_reference and precision == "bf16" else None
        if len(group) > 1:
            _check(group, exported[0])
        for plan in group:
            tell = step if len(plans) == 1 else _named(plan.name, step)
            built = graphs.build(plan, precision, tell, exported)
            yield plan, built, graphs.build(plan, "fp32", tell, fp32_encoder) if fp32_encoder else built


def _named(name: str, step: Progress) -> Callable[[str], None]:
    return lambda text: step(f"{name}: {text}")


def _check(plans: Sequence[Plan], encoder: Any) -> None:
    """Check the budgets of all variants before the first one is built and proved."""
    from ...graph_passes.compressors import Case
    from ...graph_passes.insertion.schedule import spread

    seen: dict[tuple[int, ...], str] = {}
    for plan in plans:
        steps = spread(encoder, plan.steps)
        seam = graphs.place(replace(plan, steps=steps), encoder)[0]
        keep = plan.steps[0].kept(seam.tokens)
        counts = (keep, *(case.keep for case in plan.source.inner_cases(keep)))
        if counts in seen:
            raise RequestError(
                f"{seen[counts]} and {plan.name} both keep {counts[-1]} of {seam.tokens} tokens",
                fix="Leave one of them out.",
            )
        seen[counts] = plan.name
        if len(steps) == 1:
            plan.compressor.check(Case(seam.tokens, seam.dim, keep, seam.dtype, seam.grid))

"""What a recipe is, and how it is read from a TOML file: one next to this file, or the user's own.

    name = "two-steps"            # optional: by default the file's
    summary = "what it does"

    [[steps]]                     # upstream first; each reads the tokens left by the step before
    method = "cls_topk"
    seam = "encoder_layer:1/4"    # optional: auto. A share of the layers fits encoders of any depth
    ratio = "1/2"                 # share removed, exact; or keep = 288, which fits one number of tokens

    [[steps]]
    method = "visionzip"
    ratio = "2/3"
    params = { merge = "mean" }   # optional: of the method
    shares = { contextual = "1/2" }  # optional: parameters that are counts, as a share of the tokens that are kept

A step at `seam = "encoder_layer:*"` removes an equal part of its ratio behind every layer but the last, and one at
"encoder_attention:*" in every layer, between its attention and its feed-forward.
A step inside the encoder may have `rebuild = true`: its tokens are put back at their places behind the last layer.

A recipe that follows a paper also has `source`, `approximate` (what differs) and `budget`: the tokens that enter the
language model, and the average over layers. "192 tokens" means the first in some papers and the second in others, so
both are given, for a named model, and both are computed from the steps when the file is read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ... import entry_points
from ...errors import RequestError, nearest
from ...files import parse_toml, read_bounded
from ..budget import check_budget, parse_ratio, tokens_kept
from ..compressors import compressor_class, make
from ..insertion.schedule import EVERY, kept_at
from ..insertion.sequence import Step, layers_up_to, least_at

_STEP = re.compile(r"(\d{1,9})\.(.+)")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Text = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


class Origin(_Strict):
    """What a recipe follows.

    Attributes:
        paper: title and number.
        place: the section, table or file that contains the numbers.
        code: the released code and its licence, where there is one.
    """

    paper: str = Field(min_length=8)
    place: str = Field(min_length=3)
    code: str = ""


class Budget(_Strict):
    """The token counts of a recipe on the model it was made for.

    Attributes:
        model: its name.
        tokens: N, before the first step.
        entering: tokens that enter the language model.
        average: over the layers of `over`: a number or a fraction.
        over: the language model, where that equals `entering` if all steps are upstream of it; or the encoder, for
            steps inside it.
        layers: number of layers of `over`.
        note: what the paper counts differently.
    """

    model: str
    tokens: int = Field(ge=1)
    entering: int = Field(ge=1)
    average: str
    over: Literal["language model", "encoder"]
    layers: int = Field(ge=1)
    note: Text = ""

    @field_validator("average")
    @classmethod
    def _is_number(cls, average: str) -> str:
        try:
            Fraction(average)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"average {average!r} is not a number") from None
        return average


class Entry(_Strict):
    """One step as written in the file; see `sequence.Step`."""

    method: str
    seam: str = "auto"
    ratio: str | float | None = None
    keep: int | None = None
    params: dict[str, Any] = {}
    shares: dict[str, str] = {}
    rebuild: bool = False

    @model_validator(mode="after")
    def _makes_a_step(self) -> Entry:
        try:
            check_budget(ratio=self.ratio, keep=self.keep, least=least_at(self.seam))
            known = _parameters(self.method)
            for name, share in self.shares.items():
                if name not in known or name in self.params:
                    why = "has a value in params too" if name in self.params else f"is not a parameter of {self.method}"
                    raise ValueError(f"{name} in shares {why}")
                parse_ratio(share)
            # A share becomes a count, so the parameter must accept a count.
            make(self.method, {**self.params, **dict.fromkeys(self.shares, 1)})
            layers_up_to(self.seam, 1)
            layers_up_to(self.seam, 1, "decoder")
        except RequestError as error:
            raise ValueError(str(error)) from None
        return self

    def step(self, settings: Mapping[str, Any]) -> Step:
        """The step, with some parameters overridden."""
        shares = {name: Fraction(share) for name, share in self.shares.items() if name not in settings}
        compressor = make(self.method, {**self.params, **settings})
        return Step(compressor, self.ratio, self.keep, self.seam, shares, self.rebuild)


class Recipe(_Strict):
    """A recipe.

    Attributes:
        name: as typed after ``--recipe``, and the name of the variant it makes.
        summary: one line.
        steps: upstream first.
        source: the paper it follows.
        approximate: how it differs from the source; empty if it does not.
        budget: the token counts that result.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = ""
    steps: tuple[Entry, ...] = Field(min_length=1)
    source: Origin | None = None
    approximate: Text = ""
    budget: Budget | None = None

    @model_validator(mode="after")
    def _budget_is_right(self) -> Recipe:
        if self.budget is None:
            return self
        try:
            entering = self.entering(self.budget.tokens)
        except RequestError as error:
            raise ValueError(str(error)) from None
        if entering != self.budget.entering:
            raise ValueError(f"budget.entering is {self.budget.entering}, but the steps leave {entering} tokens")
        average = self.average(self.budget)
        if average != Fraction(self.budget.average):
            raise ValueError(f"budget.average is {self.budget.average}, but the steps average {average}")
        return self

    def counts(self, tokens: int) -> list[int]:
        """How many of `tokens` are left after each step."""
        left = []
        for entry in self.steps:
            tokens = tokens_kept(tokens, ratio=entry.ratio, keep=entry.keep, least=least_at(entry.seam))
            left.append(tokens)
        return left

    def entering(self, tokens: int) -> int:
        """How many of `tokens` enter the language model."""
        outer = [left for entry, left in zip(self.steps, self.counts(tokens)) if not _inner(entry)]
        return outer[-1] if outer else tokens

    def average(self, budget: Budget) -> Fraction:
        """The average number of tokens over the layers of a budget, computed from the steps."""
        counts, inside = self.counts(budget.tokens), budget.over == "language model"
        first, side = (self.entering(budget.tokens), "decoder") if inside else (budget.tokens, "encoder")
        # Layer i counts the tokens left by the last step in an earlier layer, even if its feed-forward has fewer.
        ends = [
            (layers_up_to(entry.seam, budget.layers, side), left)
            for entry, left in zip(self.steps, counts)
            if _inner(entry) == inside
        ]
        if not inside and self.steps[0].seam in EVERY:
            places = budget.layers - EVERY[self.steps[0].seam]
            each = kept_at(budget.tokens, counts[0], places)
            ends = [*zip(range(1, places + 1), each), *ends[1:]]
        seen = [next((left for end, left in reversed(ends) if end <= layer), first) for layer in range(budget.layers)]
        return Fraction(sum(seen), budget.layers)

    def made(self, settings: Mapping[str, Any] | None = None) -> tuple[Step, ...]:
        """The steps, with parameters overridden.

        Args:
            settings: ``KEY`` -> value for every step whose method has that parameter, ``N.KEY`` for step N alone.

        Raises:
            RequestError: no step has such a parameter, or the parameter does not accept that value.
        """
        own: list[dict[str, Any]] = [{} for _ in self.steps]
        for key, value in (settings or {}).items():
            hit = _STEP.fullmatch(key)
            name = hit[2] if hit else key
            takes = [number for number, entry in enumerate(self.steps, 1) if name in _parameters(entry.method)]
            chosen = [int(hit[1])] if hit else takes
            if not set(chosen) & set(takes) or not set(chosen) <= set(takes):
                known = [f"{i}.{one}" for i, entry in enumerate(self.steps, 1) for one in _parameters(entry.method)]
                what = f"recipe {self.name} has no parameter {key!r}"
                raise RequestError(what, fix=nearest(key, known, kind="parameters"))
            for number in chosen:
                # A setting for one step overrides a setting for all steps.
                own[number - 1] = {**own[number - 1], name: value} if hit else {name: value, **own[number - 1]}
        return tuple(entry.step(mine) for entry, mine in zip(self.steps, own))


def _inner(entry: Entry) -> bool:
    """Whether a step is between the layers of the language model."""
    return entry.seam.startswith("decoder_layer:")


def names() -> list[str]:
    """The recipes that come with tokexport, and those that other packages add."""
    return sorted([*_built_in_names(), *_added().found])


def skipped() -> tuple[entry_points.Skipped, ...]:
    """The recipes of other packages that cannot be used."""
    return _added().skipped


def load(recipe: str | Path) -> Recipe:
    """A recipe by its name, or from a file: anything with a slash or that ends in ``.toml``.

    Raises:
        RequestError: an unknown name; a file that is missing, is not TOML, or has a wrong key or value.
    """
    text, file = str(recipe), recipe_file(recipe)
    if file is not None:
        return _read(file)
    if text not in names():
        raise RequestError(
            f"unknown recipe {text!r}",
            fix=f"{entry_points.because(_added(), text)}{nearest(text, names(), kind='recipes')} "
            "Name a file with its .toml suffix.",
        )
    return _built_in(text) if text in _built_in_names() else _added().found[text]


def recipe_file(recipe: str | Path) -> Path | None:
    """The file that `load` reads a recipe from; None if it is the name of a built-in recipe."""
    text = str(recipe)
    is_file = isinstance(recipe, Path) or "/" in text or text.endswith(".toml")
    return Path(text).expanduser() if is_file else None


def refuse_with_recipe(**options: Any) -> None:
    """Raise `RequestError` for an option that was given together with a recipe, which sets it itself.

    Args:
        options: option -> its value, None or empty if it was left out.
    """
    for option, value in options.items():
        if value is not None and value != () and value != []:
            raise RequestError(
                f"--{option} {value} was given together with --recipe, which sets its own",
                fix="Leave it out, or copy the recipe's TOML file and change it there: --recipe FILE.toml.",
            )


def table() -> list[dict[str, Any]]:
    """What `tokexport methods --recipes` prints."""
    return [load(name).model_dump(mode="json", exclude_defaults=True) for name in names()]


@functools.cache
def _built_in(name: str) -> Recipe:
    return _read(Path(__file__).with_name(f"{name}.toml"))


@functools.cache
def _built_in_names() -> frozenset[str]:
    return frozenset(path.stem for path in Path(__file__).parent.glob("*.toml"))


@functools.cache
def _added() -> entry_points.Added[Recipe]:
    """What the group ``tokexport.recipes`` adds: an entry is a name, and the package in which NAME.toml lies."""
    accept = functools.partial(entry_points.from_file, "recipe", _read)
    return entry_points.read("tokexport.recipes", built_in=_built_in_names(), accept=accept)


def _read(path: Path) -> Recipe:
    try:
        data = {"name": path.stem, **parse_toml(read_bounded(path))}
        return Recipe.model_validate(data)
    except OSError as error:
        why = error.strerror or str(error)
        raise RequestError(
            f"the recipe cannot be read: {why}",
            where=str(path),
            fix=f"Name a file, or one of {', '.join(sorted(_built_in_names()))}.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        fix = "docs/recipes.md describes the format; `tokexport methods --recipes` lists the built-in recipes."
        raise RequestError(_wrong(first), where=str(path), fix=fix) from None
    except ValueError as error:
        raise RequestError(f"the recipe is not TOML: {error}", where=str(path)) from None


def _wrong(error: Any) -> str:
    """What pydantic found, in this project's words: the key's position, steps counted from 1."""
    loc = [part for part in error["loc"] if part != "steps"] or list(error["loc"])
    place = ", ".join(f"step {part + 1}" if isinstance(part, int) else str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return f"the recipe has an unknown key {place}"
    if error["type"] == "missing":
        return f"the recipe has no {place}"
    what = error["msg"].removeprefix("Value error, ")
    return f"the recipe is wrong{f' at {place}' if place else ''}: {what}"


def _parameters(method: str) -> set[str]:
    return {field.name for field in fields(compressor_class(method))}  # type: ignore[arg-type]

"""What a sweep was asked, and what it is once the model is open: its rows, whose cells are figures by key.

A `Request` can be sent to another process. There the same `Study` is made of it, with the same cells: that is how
workers compute them (`workers.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...graph_passes.budget import check_budget, parse_ratio
from ...graph_passes.compressors import Compressor, make, methods
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.insertion.sequence import Step
from ..bundling import size_bias as biases
from ..bundling import variants
from ..evaluate.bench import Bench
from ..evaluate.judges import Folder, Judge, Questions
from ..opening import open_source
from ..sources.clip import clip_of
from ..sources.texts import refuse_text
from .rows import BASELINES, Budget, Plan, Row, method_of

if TYPE_CHECKING:
    from ..sources.source import Parts, Source

RATIOS = ("0.5", "0.75", "0.85", "0.9")


@dataclass(frozen=True)
class Request:
    """What is measured; the fields are the arguments of `sweep.sweep`.

    Attributes:
        keep: K of all methods, instead of `ratios`.
    """

    source: str | None = None
    methods: tuple[str, ...] = ()
    ratios: tuple[str, ...] = RATIOS
    seeds: int = 3
    questions: int = 1024
    inputs: Path | None = None
    prompt: str | None = None
    parts: Parts = "all"
    seam: str = "auto"
    keep: int | None = None
    frames: int | None = None
    fps: float | None = None
    rebuild: bool = False
    size_bias: str = "auto"

    @property
    def budgets(self) -> list[Budget]:
        """Each once."""
        if self.keep is not None:
            return [Budget(keep=self.keep)]
        return [Budget(ratio) for ratio in dict.fromkeys(self.ratios)]

    def check(self) -> None:
        """Refuse what is wrong whatever the model is.

        Raises:
            RequestError: a budget, a number or a seam that cannot be.
        """
        for ratio in self.ratios:
            parse_ratio(ratio)
        if self.keep is not None:
            check_budget(ratio=None, keep=self.keep)
        if self.seeds < 1 or self.questions < 1:
            raise RequestError(
                f"{self.seeds} seeds of {self.questions} questions are no questions", fix="Ask at least one of each."
            )
        biases.check(self.size_bias, "auto", "positions")
        if self.rebuild and self.size_bias == "positions":
            raise biases.nothing("all tokens are put back at their places", "Leave --rebuild or --size-bias out.")
        if self.seam.startswith("decoder_layer:"):
            raise RequestError(
                f"a sweep compares what encoders keep, and seam {self.seam} is in the language model",
                fix=f"Export each: tokexport model SOURCE --method cls_topk --seam {self.seam} --ratio 0.5.",
            )


class Study:
    """A request with its model open.

    Attributes:
        request: what was asked.
        tried: as of `Plan`; a worker, which is sent keys that were tried, need not try them again.
        source: of the model.
        judge: scores the encoded inputs.
        bench: the model's graphs.

    Raises:
        RequestError, GraphError: exit 2. MissingError: exit 3.
    """

    def __init__(self, request: Request, *, tried: bool = True) -> None:
        request.check()
        asked = [method_of(text) for text in request.methods]
        self.request, self.tried, self._asked = request, tried, asked
        opened = open_source(request.source, parts=request.parts, clip=clip_of(request.frames, request.fps))
        self.source = opened.read_by_position() if request.size_bias == "positions" else opened
        _check_task(self.source, asked, request.inputs, request.prompt)
        variants.check_places(self.source, [Step(make("uniform"), None, 1, request.seam, rebuild=request.rebuild)])
        self.bench = Bench(self.source, request.seam, request.rebuild)
        self.judge: Judge = (
            Folder(self.bench, request.inputs, request.prompt)
            if request.inputs
            else Questions(self.bench, request.questions, request.seeds)
        )

    @property
    def files(self) -> list[Path]:
        """The user's files that it reads, but for `inputs`."""
        return [*self.source.files, *variants.files(self._asked)]

    @cached_property
    def whole(self) -> Row:
        """All tokens."""
        return self._plan.uncompressed()

    @cached_property
    def rows(self) -> list[Row]:
        """Every method at every budget, and the baselines.

        Raises:
            RequestError: a budget that the model's tokens do not allow.
        """
        chosen = self._asked or [make(name) for name in fitting(self.source, _asks(self.source))]
        return [row for budget in self.request.budgets for row in self._plan.rows(chosen, budget)]

    @cached_property
    def _plan(self) -> Plan:
        return Plan(self.bench, self.judge, tried=self.tried)


def _check_task(opened: Source, asked: Sequence[Compressor], inputs: Path | None, prompt: str | None) -> None:
    """Refuse a model without questions where no inputs are given, and methods that read one where none is asked."""
    for method in () if _asks(opened) else asked:
        fix = "Leave it out; tokexport model --parts encoder takes it."
        refuse_text(method, f"a sweep asks {opened.name} no question", fix)
    if inputs is None and not opened.has_task:
        raise RequestError(
            f"{opened.name} has no questions with known answers",
            fix="Give a folder of your images, videos or sounds: --inputs FOLDER. Agreement with the uncompressed "
            "model is judged then.",
        )
    if inputs is None and prompt is not None:
        raise RequestError("--prompt goes with --inputs", fix="Give the folder whose files it is asked about.")


def _asks(source: Source) -> bool:
    """Whether a question about each input reaches the model, as text that a method can read too."""
    return bool(source.text_seam) and source.generation(1) is not None


def fitting(source: Source, asks: bool) -> list[str]:
    """The methods, without baselines, for the model's modality."""
    suited = [method for method in methods() if source.takes in method.modalities and method.family != "baseline"]
    known = [method.name for method in suited if method.name not in BASELINES]
    return [name for name in known if asks or TEXT not in make(name).signals()]

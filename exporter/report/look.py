"""What the pictures show: inputs, the tokens that the exported encoder kept, and the model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import TokexportError
from ..evaluate.accuracy import SEED
from ..evaluate.agreement import read_folder
from ..sources.texts import with_text
from .picks import Picks

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..bundling.graphs import Built, Plan
    from ..proof.prove import Encoded
    from ..sources.source import Source

LOOKS = 3
# With this many tokens two inputs are enough to see what a method does.
_MANY_TOKENS = 1000


@dataclass(frozen=True)
class Look:
    """One input and what the compressed model made of it.

    Attributes:
        input: the encoder's main input, [1, ...].
        picks: of its tokens.
        prompt: the question about it; empty without one.
        said: the compressed model's answer, None where it was not asked.
        answer: the right answer.
    """

    input: np.ndarray
    picks: Picks
    prompt: str = ""
    said: str | None = None
    answer: str = ""


def collect(
    plan: Plan,
    built: Built,
    folder: Path,
    encoded: Sequence[Encoded],
    *,
    runs: bool,
    asks: bool,
    own: Sequence[dict[str, np.ndarray]] = (),
) -> tuple[list[Look], str]:
    """The looks of a bundle that was just written.

    Args:
        plan: of the export.
        built: the graphs, or in bf16 their fp32 reference build.
        folder: of the bundle.
        encoded: inputs of the proof and the encoder's outputs; empty where nothing was proved.
        runs: whether ONNX Runtime's CPU can run these types.
        asks: whether the bundle at `folder` is finished and answers the source's questions.
        own: the user's inputs, which are shown instead of those of the source.

    Returns:
        (looks, why there are none).
    """
    if own and runs:
        return of_samples(_encode(plan.source, folder, own), built.inserted.outputs), ""
    if own:
        return of_samples(_run(plan.source, built.models["encoder"], own), built.inserted.outputs), ""
    if asks:
        return of_task(plan.source, folder), ""
    if not encoded:
        if not runs:
            return [], "ONNX Runtime's CPU cannot run bf16, and without a proof there is no fp32 reference build"
        try:
            encoded = _encode(plan.source, folder, plan.source.real_inputs(LOOKS - 1))
        except TokexportError as error:
            return [], str(error)
    return of_samples(encoded, built.inserted.outputs), ""


def of_samples(encoded: Iterable[Encoded], outputs: Mapping[str, str]) -> list[Look]:
    """Looks of inputs of the proof, the main input first, and the encoder's outputs for each.

    Args:
        encoded: (inputs by role, outputs by the graph's names).
        outputs: role -> that name, for kept_indices, sizes and assignment.
    """
    looks = []
    for sample, got in encoded:
        picks = Picks.of({role: got[name] for role, name in outputs.items()})
        looks.append(Look(next(iter(sample.values())), picks))
    return looks[: LOOKS if not looks or looks[0].picks.tokens < _MANY_TOKENS else LOOKS - 1]


def own_inputs(folder: str | Path | None, source: Source) -> list[dict[str, np.ndarray]]:
    """The encoder's inputs of the first files of a user's folder; none without a folder.

    Raises:
        RequestError: see `agreement.read_folder`.
    """
    if folder is None:
        return []
    arrays, _, _ = read_folder(Path(folder), source, LOOKS)
    (name,) = source.encoder.inputs
    return [{name: array} for array in arrays[:LOOKS]]


def _encode(source: Source, folder: Path, samples: Sequence[dict[str, np.ndarray]]) -> list[Encoded]:
    from ...graph_passes.ir_tools.model_io import load_model

    return _run(source, load_model(folder / "encoder.onnx"), samples)


def _run(source: Source, encoder: ir.Model, samples: Sequence[dict[str, np.ndarray]]) -> list[Encoded]:
    from ...runtimes.ort.graph import ort_runner

    run = ort_runner(encoder)
    return [(sample, run(sample)) for sample in with_text(list(samples), encoder, source)]


def of_task(source: Source, folder: Path) -> list[Look]:
    """Looks of questions of a built-in model, answered by the bundle at `folder`, each about another input.

    Raises:
        MissingError: a package that the source needs to make its questions, or the runtime, is not installed.
    """
    from ...runtimes.load import load
    from ...runtimes.media.encoder_input import encoder_input

    session = load(folder)
    record = session.preprocess
    looks: list[Look] = []
    for question in source.questions(2 * LOOKS, SEED):
        array = encoder_input(question.input, record, folder)
        if len(looks) == LOOKS or any(np.array_equal(array, look.input) for look in looks):
            continue
        picks = Picks.of(session.encode(array, question.prompt if session.reads_text else None))
        said = session.generate(question.input, question.prompt).text
        looks.append(Look(array, picks, question.prompt, said, question.answer))
    return looks

"""What a bundle is given while it is timed: the user's own input, or that of its proof, or noise of the right shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from ...graph_passes.compressors.blocks.texts import TEXT
from ...runtimes import speech
from ...runtimes.examples import question
from ...runtimes.images import check_count
from ...runtimes.media.audio import open_sound
from ...runtimes.media.encoder_input import encoder_input
from ...runtimes.media.recording import LONGEST_SECONDS
from ...runtimes.windows import shortest, windows
from ..proof import probes as proof
from .stages import Sample

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import GenerationRecord, SpeechRecord, Variant
    from ...runtimes.bundle.reader import Bundle
    from ...runtimes.session import Session

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Proven:
    """What the proof of a bundle holds of its inputs.

    Attributes:
        inputs: of the encoder, by role; those that are there.
        ids: of a prompt; None: there is none.
    """

    inputs: dict[str, np.ndarray]
    ids: list[int] | None = None


def of_proof(bundle: Bundle, variant: Variant) -> Proven:
    """The first inputs that a bundle was proved with; nothing where it was exported without its proof.

    Raises:
        BundleError: the proof is damaged.
    """
    if proof.FILE not in bundle.manifest.files:
        return Proven({})
    wanted = {tensor.name: (role, tensor) for role, tensor in variant.graphs["encoder"].inputs.items()}
    found, ids = dict[str, np.ndarray](), None
    for probe in proof.of_bundle(bundle):
        if (probe.variant or bundle.variant().name) != variant.name:
            continue
        if probe.part in proof.WHOLE:
            ids = ids or list(probe.method["prompt"])
        elif probe.role == "encoder":
            for name, array in probe.inputs.items():
                if name in wanted and list(array.shape) == wanted[name][1].shape:
                    found.setdefault(wanted[name][0], array)
    return Proven(found, ids)


def window_of(bundle: Bundle, variant: Variant, files: Sequence[str]) -> Variant:
    """The variant that `run` reads a sound with, where none was named: the shortest window that holds it.

    Raises:
        RequestError: the sound cannot be read.
    """
    if not files or variant.generation is None or variant.generation.speech is None:
        return variant
    found = windows(bundle.manifest, variant)
    rate = found[-1].record.sample_rate
    with open_sound(files[0], rate, LONGEST_SECONDS * rate) as sound:
        return bundle.variant(shortest(found, round(sound.seconds * rate)).variant)


def sample(session: Session, files: Sequence[str], prompt: Prompt | None, proven: Proven) -> Sample:
    """The sample of a session.

    Args:
        session: of the bundle.
        files: images, or a video or a sound; none: what the proof holds.
        prompt: the question, or what a transcript begins with; None: what the proof holds, or an example.
        proven: see `of_proof`.

    Raises:
        RequestError: a file or a prompt that the bundle cannot read.
    """
    generation, names = session.variant.generation, list(session.bundle.graph("encoder", session.variant.name).inputs)
    if session.reads_text:
        names.remove(TEXT)
    arrays = [dict(proven.inputs)]
    if files:
        if generation:
            check_count(generation, len(files))
        main = next(name for name in names if name != TEXT)
        arrays = [{main: encoder_input(Path(file), session.preprocess, session.bundle.path)} for file in files]
    random = [name for name in names if name not in arrays[0]]
    media = [{name: one.get(name, _noise(session, name)) for name in names} for one in arrays]
    ids, asked = _prompt(session, prompt, proven.ids, len(files))
    if generation and generation.images and not files:
        media *= max(1, sum(i == generation.placeholder for i in ids or ()))
    said = [*(Path(file).name for file in files), *([] if files or random == names else ["that of its proof"])]
    notes = [f"{', '.join(random)}: random, as its proof holds none"] if random else []
    if prompt and ids is None:
        notes.append("the bundle has no language graphs, so the question is not asked")
    return Sample(media, ids, ", ".join([*said, *(["random"] if random else []), *asked]), tuple(notes))


def _noise(session: Session, name: str) -> np.ndarray:
    """A seeded input of the encoder; axes of any length have one."""
    tensor = session.bundle.graph("encoder", session.variant.name).inputs[name]
    shape = [1 if size == -1 else size for size in tensor.shape]
    if not tensor.dtype.startswith("float"):
        return np.zeros(shape, tensor.dtype)
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(tensor.dtype)


def _prompt(
    session: Session, prompt: Prompt | None, proven: list[int] | None, images: int
) -> tuple[list[int] | None, list[str]]:
    """The ids, and in words what they are; None where nothing reads them."""
    generation = session.variant.generation
    if generation is None and not session.reads_text:
        return None, []
    told = f"{prompt!r}" if prompt is not None else ""
    if generation and generation.speech and not isinstance(prompt, list):
        words = session.text_processor().tokenize(f" {prompt.strip()}") if isinstance(prompt, str) and prompt else []
        ids = proven if proven and not words else [*_begun(generation.speech), *words]
        return list(ids), [told] if told else []
    if prompt is not None:
        return session.ids(prompt, images or 1), [told]
    counted = generation is not None and generation.images is not None and images
    if proven and (not counted or sum(i == generation.placeholder for i in proven) == images):  # type: ignore[union-attr]
        return proven, []
    try:
        return session.ids(question(session.bundle.manifest), images or 1), [repr(question(session.bundle.manifest))]
    except RequestError:
        # It has no words; which ids they are costs nothing, as graphs take a prompt of one length.
        return _blank(session, generation, images or 1), ["a blank prompt"]


def _begun(record: SpeechRecord) -> list[int]:
    """How a transcript begins; the language is English where there are several, and not listened for."""
    languages = record.languages
    return speech.prompt(record, speech.Asked("en" if "en" in languages else next(iter(languages), None)))


def _blank(session: Session, generation: GenerationRecord | None, images: int) -> list[int]:
    if generation is None:
        assert session.variant.text is not None
        return [session.variant.text.pad]
    ids = [generation.bos] * max(1, generation.image_span[0])
    return [*ids, *([generation.placeholder] * images if generation.placeholder is not None else [])]

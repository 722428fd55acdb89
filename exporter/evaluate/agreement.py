"""Agreement without labels: a folder of the user's inputs, and how near compressed output tokens are to full ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import GraphError, RequestError
from ...runtimes.media.encoder_input import encoder_input
from ...runtimes.media.video import PICTURES, VIDEOS, apart

if TYPE_CHECKING:
    from ...graph_passes.seams.seam import Seam
    from ..sources.source import Source
    from .answers import Encoded

# By the kind of preprocessing.
_SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
FILES = {"image": PICTURES, "video": VIDEOS, "log_mel": _SOUNDS, "waveform": _SOUNDS}
ARRAY = ".npy"


def read_folder(
    folder: Path, source: Source, most: int | None = None
) -> tuple[list[np.ndarray], dict[str, Any], list[str]]:
    """The encoder's input from every file of a folder, or of the first, in the order of their names.

    Hidden files are left alone.

    Of a video that is read frame by frame, that of each frame.

    Returns:
        Inputs with B = 1; ``{"inputs": how many, "sha256": of their values}``; notes on files of other kinds.

    Raises:
        RequestError: no such folder, nothing in it that the model takes, a file that is damaged or of another shape,
            or a model that does not say how a picture, a video or a sound becomes its input.
        MissingError: a sound file, and soundfile or soxr is not installed.
    """
    if not folder.is_dir():
        raise RequestError(f"no folder {folder}", fix="Check the path given by --inputs.")
    if len(source.encoder.inputs) > 1:
        raise RequestError(
            f"the encoder of {source.name} takes {', '.join(source.encoder.inputs)}, and files give one input",
            fix="Give an encoder with one input.",
        )
    known = (*FILES[source.preprocess.kind], ARRAY) if source.preprocess is not None else (ARRAY,)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    taken = [path for path in files if path.suffix.lower() in known]
    left = [path.name for path in files if path not in taken]
    if not taken:
        why = "" if source.preprocess else ", and it does not say how a picture, a video or a sound becomes its input"
        raise RequestError(
            f"nothing in the folder that {source.name} takes: it takes {' '.join(known)}{why}",
            where=f"{folder}, {len(files)} files",
            fix=f"Give a folder of such files; {ARRAY} holds the encoder's own input, {_shape(source)}.",
        )
    inputs = [one for path in taken[:most] for one in _read(path, source)]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in inputs)).hexdigest()
    notes = [f"{len(left)} files of other kinds were left out: {', '.join(left[:5])}"] if left else []
    return inputs, {"inputs": len(inputs), "sha256": digest}, notes


def cosine(full: np.ndarray, encoded: Encoded, seam: Seam) -> np.ndarray:
    """How near compressed tokens are to the full ones.

    Each position is represented by the slot that its content went into, and a lost one by the slot of the nearest kept
    position: on the grid where there is one, the lowest among equally near.

    Args:
        full: output tokens without compression [S, N, D], or [S, prefix + N, D].
        encoded: of the same inputs.
        seam: where the compressor sits.

    Returns:
        The mean cosine over the N positions [S] float64.

    Raises:
        GraphError: the output has another number of tokens than the seam, or holds NaN or inf.
    """
    prefix = full.shape[1] - seam.tokens
    if prefix not in (0, seam.prefix) or full.shape[2] != encoded.tokens.shape[2]:
        raise GraphError(
            f"the output {list(full.shape)} has not a row for each of the {seam.tokens} tokens at the seam",
            where=f"seam {seam.name}",
            fix="Agreement needs an encoder that keeps its tokens apart behind the seam.",
        )
    own = encoded.tokens[:, prefix:].astype(np.float64)
    shown = np.take_along_axis(own, slots(encoded, seam)[:, :, None], 1)
    wanted = full[:, prefix:].astype(np.float64)
    whole = int((np.isfinite(shown) & np.isfinite(wanted)).all((1, 2)).sum())
    if whole < len(wanted):
        raise GraphError(
            f"the encoder gives NaN or inf for {len(wanted) - whole} of {len(wanted)} inputs",
            where=f"seam {seam.name}",
            fix="See what the uncompressed graph gives for each of them in ONNX Runtime.",
        )
    lengths = np.linalg.norm(shown, axis=2) * np.linalg.norm(wanted, axis=2)
    result: np.ndarray = ((shown * wanted).sum(2) / np.maximum(lengths, 1e-300)).mean(1)
    return result


def same_answer(said: str, whole: str) -> float:
    """1 where an answer is that of the uncompressed model, else 0."""
    return float(said == whole)


def words_alike(said: str, whole: str) -> float:
    """1 - the word error rate of a transcript against that of the uncompressed model; 0 at least.

    Words are what stands between blanks: also the ids of a model that has no words of its own here.
    """
    ours, theirs = said.split(), whole.split()
    costs = list(range(len(ours) + 1))
    for row, word in enumerate(theirs, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(ours, 1):
            least = min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != other))
            diagonal, costs[column] = costs[column], least
    return max(0.0, 1 - costs[-1] / max(1, len(theirs)))


def of_answers(full: np.ndarray, fewer: np.ndarray, kind: str) -> np.ndarray:
    """How far the answers of an image tower agree with those of the uncompressed one.

    Args:
        full: [S, E] or [S, classes], uncompressed.
        fewer: of the same inputs, compressed.
        kind: ``logits``, of which the likeliest class is compared, or ``embedding``, of which the cosine is taken.

    Returns:
        1 or 0, or the cosine, for each input [S] float64.

    Raises:
        GraphError: an answer holds NaN or inf.
    """
    if not (np.isfinite(full).all() and np.isfinite(fewer).all()):
        raise GraphError(
            f"the encoder gives NaN or inf as its {kind}",
            fix="See what the uncompressed graph gives for each input in ONNX Runtime.",
        )
    one, other = full.astype(np.float64), fewer.astype(np.float64)
    if kind == "logits":
        return (one.argmax(1) == other.argmax(1)).astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    result: np.ndarray = (one * other).sum(1) / np.maximum(lengths, 1e-300)
    return result


def slots(encoded: Encoded, seam: Seam) -> np.ndarray:
    """The slot that represents each position [S, N] int64; see `cosine`."""
    grid = seam.grid if seam.grid else (seam.tokens,)
    places = np.stack(np.unravel_index(np.arange(seam.tokens), grid), 1)
    found = encoded.assignment.copy()
    for row, kept in zip(found, encoded.kept_indices):
        lost = np.flatnonzero(row < 0)
        away = ((places[lost][:, None] - places[kept][None]) ** 2).sum(2)
        row[lost] = away.argmin(1)
    return found


def _read(path: Path, source: Source) -> list[np.ndarray]:
    wanted = next(iter(source.encoder.inputs.values()))
    if path.suffix.lower() != ARRAY:
        return apart(encoder_input(path, source.preprocess, Path(source.name)), source.preprocess, wanted.shape)
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path} cannot be read as an array: {error}", fix="Write it with numpy.save.") from None
    if tuple(array.shape) != tuple(wanted.shape) or array.dtype.kind != "f":
        raise RequestError(
            f"{path} holds {array.dtype.name} {list(array.shape)}", fix=f"The encoder takes {_shape(source)}."
        )
    if not np.isfinite(array).all():
        raise RequestError(f"{path} holds NaN or inf", fix="Write what the encoder takes, without gaps.")
    return [array]


def _shape(source: Source) -> str:
    wanted = next(iter(source.encoder.inputs.values()))
    return f"float32 {list(wanted.shape)}"

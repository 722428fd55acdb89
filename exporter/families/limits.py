"""What a vision-language model can be asked at most: images of a prompt, and positions of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ...errors import RequestError
from ..sources.chat import CALLED

if TYPE_CHECKING:
    from ...graph_passes.insertion.sequence import Step
    from ..decoders.positions import Positions
    from ..sources.checkpoint import Checkpoint
    from .layout import Layout


# What a model takes -> why a prompt has one of it.
_ALONE = {
    "audio": "it hears sounds, and reads no pictures",
    "video": "with --frames it reads videos, of which a prompt has one",
}


class Model(Protocol):
    """What is read of a `Multimodal`."""

    name: str
    checkpoint: Checkpoint
    layout: Layout
    further: int
    marks: Any
    inner: tuple[Step, ...]
    inner_bias: bool

    @property
    def images(self) -> int:
        """I."""

    @property
    def tokens(self) -> int:
        """N."""

    @property
    def language_config(self) -> Any:
        """Configuration of the language model."""

    def positions(self) -> Positions:
        """Of the uncompressed tokens."""


def check_images(source: Model) -> None:
    """Raise `RequestError` where a prompt cannot have as many images as were asked for."""
    why, images = _ALONE.get(source.layout.media, source.layout.alone), source.checkpoint.lengths.images
    if images > 1 and why:
        raise RequestError(
            f"--images {images} cannot be had of {source.name}: {why}",
            where=str(source.checkpoint.folder / "config.json"),
            fix="Leave --images out, and ask about each.",
        )


def check_by_position(source: Model) -> None:
    """Raise `RequestError` where merged tokens cannot be read at the positions of all that is in them."""
    why = ""
    if source.marks is None:
        why, fix = "its language graphs are not exported", "Leave --parts out."
    elif source.images > 1:
        why, fix = (
            f"a prompt of it has {source.images} {source.layout.called}, each compressed by itself",
            "Leave --size-bias out: log(size) gives merged tokens their weight.",
        )
    elif source.inner:
        why, fix = (
            f"tokens are compressed again between layers of its language model, at {source.inner[0].seam}",
            "Leave that step or --size-bias out.",
        )
    if why:
        raise RequestError(f"--size-bias positions cannot be had of {source.name}: {why}", fix=fix)


def check_lengths(source: Model) -> None:
    """All that a sequence may hold must fit the positions that the model was made for, or RequestError."""
    lengths, text = source.checkpoint.lengths, source.language_config
    whole, images = lengths.prompt + lengths.answer + source.images * source.positions().advance, source.images
    further = f", or fewer --{source.layout.called}" if images > 1 else ""
    fewer = f"Give a smaller --prompt-length or --answer-length{further}"
    for name, says, fix in (
        ("max_position_embeddings", "max_position_embeddings of config.json is {}", f"{fewer}."),
        (
            "sliding_window",
            "layers of this model see {} (sliding_window)",
            f"{fewer}: within the window all layers see all.",
        ),
    ):
        most = getattr(text, name, None)
        if most is not None and whole > most:
            called = CALLED[source.layout.media] if images == 1 else f"{images} {source.layout.called}"
            raise RequestError(
                f"a prompt of {lengths.prompt} ids, {called} of {source.tokens} tokens and an answer of "
                f"{lengths.answer} take {whole} positions, and {says.format(most)}",
                where=str(source.checkpoint.folder / "config.json"),
                fix=fix,
            )

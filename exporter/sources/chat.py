"""How a checkpoint wants to be asked: its chat template, rendered once around a question that stands for all.

What the template makes of one turn with one image or sound is kept as text; no bundle carries a template. See
`rendering` for how it is kept from doing harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, StringConstraints

from ...errors import RequestError, first_line
from ...files import read_bounded
from ...runtimes.bundle.manifest import PromptRecord
from ...runtimes.tokenizer_file import TokenizerFile
from .configuration import read_json, typed
from .rendering import rendered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .checkpoint import Checkpoint

_FILE, _OLDER = "chat_template.jinja", "chat_template.json"
# Two questions, so that a template that rewrites them is noticed.
_QUESTIONS = ("What is in the picture?", "tokexport asks: how many, and where?")
# The last shows whether white space is left out.
_ASKED = (*_QUESTIONS, f"  {_QUESTIONS[0]} ")
_LONGEST = 1 << 16

# What a question is about, as chat templates call it -> as messages do.
Media = Literal["image", "video", "audio"]
CALLED: dict[Media, str] = {"image": "an image", "video": "a video", "audio": "a sound"}

_Template = Annotated[str, StringConstraints(max_length=_LONGEST)]


class _Named(BaseModel):
    name: str
    template: _Template


class _Content(BaseModel):
    content: str


class _Tokenizer(BaseModel):
    """What is read of tokenizer_config.json."""

    chat_template: _Template | list[_Named] | None = None
    bos_token: str | _Content | None = None
    eos_token: str | _Content | None = None


class _Older(BaseModel):
    """chat_template.json."""

    chat_template: _Template


def prompt_of(
    checkpoint: Checkpoint,
    tokenizer: bytes,
    image: int,
    mark: str,
    becomes: str,
    asks: tuple[str, str] | None = None,
    media: Media = "image",
    *,
    written: bool = False,
    images: int = 1,
    frames: Sequence[str] = (),
    template: str = "",
) -> tuple[PromptRecord, int] | str:
    """How a question about one image, video or sound, or about several images, is asked.

    Args:
        checkpoint: the folder.
        tokenizer: its tokenizer.json.
        image: id of the placeholder.
        mark: what the chat template writes for it.
        becomes: what the processor of the model makes of that, with the placeholder once.
        asks: what that puts before a question, with `mark`, and behind it, where it has no chat template; ``{bos}``
            stands for the token that begins a text.
        media: which of both.
        written: whether templates of this model take one text with `mark` in it, and no list of parts.
        images: as many as a question may be about.
        frames: of videos whose frames have words between them: what the processor makes of `mark` for one frame, for
            two, ..., each with the placeholder; then a question about so many images is one about a video.
        template: the chat template, where it is not the folder's.

    Returns:
        The record, and how many ids stand before the one placeholder; where there is none, why.

    Raises:
        RequestError: the template cannot be read or rendered.
    """
    path = checkpoint.folder / "tokenizer_config.json"
    config: _Tokenizer = typed(_Tokenizer, checkpoint.optional(path.name)[1], path)
    if asks is not None:
        before, after = (part.replace("{bos}", _text(config.bos_token)) for part in asks)
        fronts = [before.replace(mark, becomes * count) for count in range(1, images + 1)]
        record = PromptRecord(before=fronts[0], after=after, image=image, several=fronts[1:] or None)
    else:
        asked = template or _template(checkpoint, config)
        count = 1 if frames else images
        turn = _turn(checkpoint, config, asked, image, mark, becomes, media, count, written=written)
        if isinstance(turn, str):
            return turn
        record = turn
        if frames:
            fronts = [turn.before.replace(becomes, one) for one in frames]
            record = turn.model_copy(update={"before": fronts[0], "several": fronts[1:]})
            becomes = frames[0]
    reader = TokenizerFile(tokenizer, checkpoint.folder / "tokenizer.json")
    token = next((text for text, i in reader.ids.items() if i == image), None)
    if token is not None and token not in becomes:
        raise RequestError(
            f"config.json says that {image} is the id of {CALLED[media]}, which the tokenizer reads as {token!r}, and "
            f"a prompt has {becomes!r}",
            where=str(checkpoint.folder),
            fix="Its files belong to different models: download the folder again. Or export the encoder alone with "
            "--parts encoder.",
        )
    found: list[list[int]] = []
    for count in range(1, images + 1):
        text = f"{record.in_front(count)}{_QUESTIONS[0]}{record.after}"
        found.append(reader.marked(text, add_special_tokens=record.add_special_tokens))
        if found[-1].count(image) != count:
            return f"the tokenizer does not read {becomes} as one placeholder"
    return record, found[0].index(image)


def _turn(
    checkpoint: Checkpoint,
    config: _Tokenizer,
    template: str | None,
    image: int,
    mark: str,
    becomes: str,
    media: Media,
    images: int,
    *,
    written: bool,
) -> PromptRecord | str:
    """What the chat template makes of a question, or why nothing; see `prompt_of`."""
    if template is None:
        return "the folder has no chat template"
    marks = {"bos_token": _text(config.bos_token), "eos_token": _text(config.eos_token)}
    turns, stripped = [], []
    every = _rendered(checkpoint, template, marks, media, mark if written else "", images)
    for count in range(1, images + 1):
        first, second, padded = every[len(_ASKED) * (count - 1) : len(_ASKED) * count]
        parts = _around(first, _QUESTIONS[0])
        if parts is None or parts != _around(second, _QUESTIONS[1]):
            return "its chat template changes the question"
        if parts[0].count(mark) != count or mark in parts[1]:
            return f"its chat template does not put {'one' if count == 1 else count} {mark} in front of the question"
        turns.append(parts)
        stripped.append(_around(padded, _QUESTIONS[0]) == parts)
    if len({after for _, after in turns}) > 1:
        return "its chat template goes on in another way behind a question about several images"
    (before, after), *further = turns
    begins = bool(marks["bos_token"]) and before.startswith(marks["bos_token"])
    return PromptRecord(
        before=before.replace(mark, becomes),
        after=after,
        image=image,
        several=[front.replace(mark, becomes) for front, _ in further] or None,
        add_special_tokens=not begins,
        strips=all(stripped),
    )


def _template(checkpoint: Checkpoint, config: _Tokenizer) -> str | None:
    path = checkpoint.folder / _FILE
    if path.is_file():
        try:
            return read_bounded(path, _LONGEST).decode()
        except (OSError, ValueError) as error:
            raise RequestError(
                f"{_FILE} cannot be read: {first_line(error, 200)}",
                where=str(path),
                fix="Copy or download this file again.",
            ) from None
    if (older := checkpoint.folder / _OLDER).is_file():
        found: _Older = typed(_Older, read_json(older), older)
        return found.chat_template
    if isinstance(config.chat_template, list):
        return next((one.template for one in config.chat_template if one.name == "default"), None)
    return config.chat_template


def _rendered(
    checkpoint: Checkpoint, template: str, marks: dict[str, str], media: Media, written: str, images: int
) -> list[str]:
    try:
        return rendered(template, _ASKED, marks["bos_token"], marks["eos_token"], media, written, images)
    except ValueError as error:
        about = CALLED[media] if images == 1 else f"up to {images} images"
        raise RequestError(
            f"the chat template fails on one question about {about}: {first_line(error, 200)}",
            where=str(checkpoint.folder),
            fix="Copy or download the folder again, or export the encoder alone with --parts encoder.",
        ) from None


def _around(text: str, question: str) -> tuple[str, str] | None:
    """What stands before and behind a question; None where it is not there once."""
    parts = text.split(question)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _text(token: str | _Content | None) -> str:
    return token.content if isinstance(token, _Content) else token or ""

"""How a checkpoint wants to be asked: its chat template, rendered once around a question that stands for all.

The template comes with the checkpoint. It is rendered in the sandbox of transformers, where it can call nothing, and
what it makes of one turn with one image is kept as text; no bundle carries a template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, StringConstraints

from ...errors import RequestError, first_line
from ...files import read_bounded
from ...runtimes.bundle.manifest import PromptRecord
from ...runtimes.tokenizer_file import TokenizerFile
from .configuration import read_json, typed

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

_FILE, _OLDER = "chat_template.jinja", "chat_template.json"
# Two questions, so that a template that rewrites them is noticed.
_QUESTIONS = ("What is in the picture?", "tokexport asks: how many, and where?")
_LONGEST = 1 << 16

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


def prompt_of(checkpoint: Checkpoint, tokenizer: bytes, image: int, mark: str, becomes: str) -> PromptRecord | str:
    """How a question about one image is asked.

    Args:
        checkpoint: the folder.
        tokenizer: its tokenizer.json.
        image: id of the placeholder.
        mark: what the chat template writes for an image.
        becomes: what the processor of the model makes of it, with the placeholder once.

    Returns:
        The record; where there is none, why.

    Raises:
        RequestError: the template cannot be read or rendered.
    """
    path = checkpoint.folder / "tokenizer_config.json"
    config: _Tokenizer = typed(_Tokenizer, checkpoint.optional(path.name)[1], path)
    template = _template(checkpoint, config)
    if template is None:
        return "the folder has no chat template"
    marks = {"bos_token": _text(config.bos_token), "eos_token": _text(config.eos_token)}
    parts = [_around(checkpoint, template, question, marks) for question in _QUESTIONS]
    if None in parts or parts[0] != parts[1]:
        return "its chat template changes the question"
    assert parts[0] is not None
    before, after = parts[0]
    if before.count(mark) != 1 or mark in after:
        return f"its chat template does not put one {mark} in front of the question"
    padded = _around(checkpoint, template, f"  {_QUESTIONS[0]} ", marks, _QUESTIONS[0])
    begins = bool(marks["bos_token"]) and before.startswith(marks["bos_token"])
    record = PromptRecord(
        before=before.replace(mark, becomes),
        after=after,
        image=image,
        add_special_tokens=not begins,
        strips=padded == parts[0],
    )
    ids = TokenizerFile(tokenizer, checkpoint.folder / "tokenizer.json").marked(
        record.before, add_special_tokens=record.add_special_tokens
    )
    return record if ids.count(image) == 1 else f"the tokenizer does not read {becomes} as one placeholder"


def offset_of(record: PromptRecord, tokenizer: bytes, checkpoint: Checkpoint) -> int:
    """How many ids stand before the image."""
    file = TokenizerFile(tokenizer, checkpoint.folder / "tokenizer.json")
    whole = f"{record.before}{_QUESTIONS[0]}{record.after}"
    return file.marked(whole, add_special_tokens=record.add_special_tokens).index(record.image)


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


def _around(
    checkpoint: Checkpoint, template: str, question: str, marks: dict[str, str], kept: str = ""
) -> tuple[str, str] | None:
    """What stands before and behind a question; None where it is not there as it was asked, or not as `kept`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": question}]
    try:
        rendered, _ = render_jinja_template(
            [[{"role": "user", "content": content}]], chat_template=template, add_generation_prompt=True, **marks
        )
    except Exception as error:
        # Templates raise errors of any kind.
        raise RequestError(
            f"the chat template fails on one question about one image: {first_line(error, 200)}",
            where=str(checkpoint.folder),
            fix="Copy or download the folder again, or export the encoder alone with --parts encoder.",
        ) from None
    parts = rendered[0].split(kept or question)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _text(token: str | _Content | None) -> str:
    return token.content if isinstance(token, _Content) else token or ""

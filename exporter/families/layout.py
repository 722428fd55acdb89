"""Where a model of transformers that reads pictures or sounds has its parts, and how it is asked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from transformers import AutoModelForMultimodalLM

from ..sources.chat import Media
from ..sources.configuration import built
from ..sources.weights import without_weights

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint


@dataclass(frozen=True)
class Layout:
    """Where the parts of a model lie, in transformers and in the folders that people have.

    Attributes:
        language: the language model inside of the whole one.
        language_keys: prefixes of its weights; the first one that the folder has counts.
        head_keys: prefixes of the output layer; where the folder has none, it is the transposed input embeddings.
        media: what the tokens are of, as chat templates call it.
        mark: what the chat template writes for it.
        becomes: what the processor makes of that, with the placeholder once.
        asks: what the processor of the model puts before a question, with `mark`, and behind it; None: the folder's
            chat template says that. ``{bos}`` stands for the token that begins a text.
        written: whether a user's turn is one text with `mark` in front of the question; else a list of both.
        question: what the proof asks; empty: what is seen, or said.
        image_sees: see `LanguageDecoder`.
        tiles: whether the model reads tiles beside a large picture, which are left out here.
        joins: see `Source.joins`.
        windows: see `Source.windows`.
        mark_is_zero: whether the model reads the id of a mark that it said itself as id 0.
        frames: of videos whose frames have words between them, and go through the encoder one by one: what the
            processor makes of `mark` for one frame, for two, ..., each with the placeholder; empty: `becomes`.
        template: the chat template, where the processor of the model has one that it takes instead of the folder's.
        alone: why a prompt has one image, as a clause; empty where it may have several.
    """

    language: str = "model.language_model"
    language_keys: tuple[str, ...] = ("language_model.model", "language_model")
    head_keys: tuple[str, ...] = ("language_model.lm_head", "lm_head")
    media: Media = "image"
    mark: str = "<image>"
    becomes: str = "<image>"
    asks: tuple[str, str] | None = None
    written: bool = False
    question: str = ""
    image_sees: Literal["before", "image", "prompt"] = "before"
    tiles: bool = False
    joins: str = ""
    windows: str = ""
    mark_is_zero: bool = False
    frames: tuple[str, ...] = ()
    template: str = ""
    alone: str = ""

    @property
    def called(self) -> str:
        """What several inputs of a prompt are."""
        return "frames" if self.frames else "images"


def prefix_of(checkpoint: Checkpoint, layout: Layout) -> str:
    """Of the weights of the language model; empty where the folder has none."""
    return next((one for one in layout.language_keys if checkpoint.weights.has(f"{one}.embed_tokens")), "")


def shell(checkpoint: Checkpoint, config: Any, attention: str) -> Any:
    """The whole model of transformers that config.json names, without weights.

    Args:
        checkpoint: the folder.
        config: of it.
        attention: name of a registered implementation.

    Raises:
        RequestError: transformers cannot build it.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = attention
    path = checkpoint.folder / "config.json"
    with without_weights():
        return built(lambda: AutoModelForMultimodalLM.from_config(config).eval(), path)

"""How a language model ends an answer: generation_config.json, or where it is silent the language model's config."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from ...errors import RequestError
from ..sources.chat import CALLED
from ..sources.configuration import typed

if TYPE_CHECKING:
    from ..sources.chat import Media
    from ..sources.checkpoint import Checkpoint

_Id = Annotated[int, Field(ge=0)]


class _Ids(BaseModel):
    """What is read of either."""

    bos_token_id: _Id | None = None
    pad_token_id: _Id | None = None
    eos_token_id: _Id | list[_Id] | None = None


# What generation_config.json may ask for that changes which answer is given -> the value at which it changes nothing.
# Answers here are the most likely ids, one after the other.
_SAMPLED: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1,),
}


def unlike_greedy(checkpoint: Checkpoint, followed: Collection[str] = ()) -> str:
    """What generation_config.json asks for that our answers do without, as a note; empty where there is nothing.

    Args:
        checkpoint: the folder.
        followed: settings that the generation record holds.
    """
    _, said = checkpoint.optional("generation_config.json")
    told = said if isinstance(said, dict) else {}
    found = [
        f"{name}={json.dumps(told[name])[:60]}"
        for name, nothing in _SAMPLED.items()
        if name not in followed and told.get(name) is not None and told[name] not in nothing
    ]
    if not found:
        return ""
    return (
        f"generation_config.json asks for {', '.join(found)}: answers here are the most likely tokens, one after the "
        "other, and differ from those of its `generate`"
    )


def a_word(vocabulary: int, barred: Collection[int], checkpoint: Checkpoint) -> int:
    """The lowest id that may follow a prompt.

    Raises:
        RequestError: none may.
    """
    found = next((i for i in range(vocabulary) if i not in barred), None)
    if found is None:
        raise RequestError(
            "generation_config.json and config.json let no word follow a prompt: every id is suppressed, or ends it",
            where=str(checkpoint.folder),
            fix="Copy or download generation_config.json again.",
        )
    return found


def check_placeholder(checkpoint: Checkpoint, placeholder: int, vocabulary: int, media: Media) -> None:
    """Refuse an id of the place of an image or a sound that is no id of the model.

    Raises:
        RequestError: it is outside the vocabulary.
    """
    if not 0 <= placeholder < vocabulary:
        raise RequestError(
            f"config.json says that {placeholder} is the id of {CALLED[media]}, and its vocab_size is {vocabulary}",
            where=str(checkpoint.folder / "config.json"),
            fix="Its files belong to different models: download the folder again.",
        )


@dataclass(frozen=True)
class Marks:
    """The special ids of a generation record; its names are those of `GenerationRecord`."""

    bos: int
    pad: int
    eos: list[int]


def marks(checkpoint: Checkpoint, text: Any, vocabulary: int) -> Marks:
    """Read them.

    Args:
        checkpoint: the folder.
        text: configuration of the language model.
        vocabulary: of the model.

    Raises:
        RequestError: nothing ends an answer, or an id is outside the vocabulary.
    """
    path, said = checkpoint.optional("generation_config.json")
    own: _Ids = typed(_Ids, said, path)
    config = checkpoint.folder / "config.json"
    outer: _Ids = typed(_Ids, checkpoint.config, config)
    inner: _Ids = typed(_Ids, {name: getattr(text, name, None) for name in _Ids.model_fields}, config)
    found = inner.model_copy(update={**outer.model_dump(exclude_none=True), **own.model_dump(exclude_none=True)})
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    eos = [i for i in ends if i is not None]
    if not eos:
        raise RequestError(
            "neither generation_config.json nor config.json says eos_token_id, so no answer would end",
            where=str(checkpoint.folder),
            fix="Copy generation_config.json of the model into the folder, or export the encoder alone: tokexport "
            f"model {checkpoint.folder} --parts encoder ...",
        )
    first = eos[0]
    made = Marks(
        bos=first if found.bos_token_id is None else found.bos_token_id,
        pad=first if found.pad_token_id is None else found.pad_token_id,
        eos=eos,
    )
    if max(made.bos, made.pad, *eos) >= vocabulary:
        raise RequestError(
            f"the folder names the id {max(made.bos, made.pad, *eos)}, and vocab_size of config.json is {vocabulary}",
            where=str(checkpoint.folder),
            fix="Its files belong to different models: download the folder again.",
        )
    return made

"""How a language model ends an answer: generation_config.json, or where it is silent the language model's config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from ...errors import RequestError
from ..sources.configuration import typed

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_Id = Annotated[int, Field(ge=0)]


class _Ids(BaseModel):
    """What is read of either."""

    bos_token_id: _Id | None = None
    pad_token_id: _Id | None = None
    eos_token_id: _Id | list[_Id] | None = None


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

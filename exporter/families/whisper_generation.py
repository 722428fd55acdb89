"""How a recogniser generates: generation_config.json, or in older folders the same fields of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

from ...errors import RequestError
from ...runtimes.bundle.manifest import SpeechRecord
from ...runtimes.speech import Asked, prompt
from ..sources.configuration import typed

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

# The smallest vocabulary of a multilingual model: the English-only ones have one id less.
_MULTILINGUAL = 51865
_TASKS = ("transcribe", "translate")
_NO_TIMES = "<|notimestamps|>"


_Id = Annotated[int, Field(ge=0)]


class _Generation(BaseModel):
    """What is read of generation_config.json and of config.json."""

    decoder_start_token_id: _Id | None = None
    bos_token_id: _Id | None = None
    pad_token_id: _Id | None = None
    eos_token_id: _Id | list[_Id] | None = None
    suppress_tokens: list[_Id] | None = None
    begin_suppress_tokens: list[_Id] | None = None
    is_multilingual: bool | None = None
    lang_to_id: dict[str, _Id] | None = None
    task_to_id: dict[str, _Id] | None = None
    no_timestamps_token_id: _Id | None = None
    max_initial_timestamp_index: _Id | None = None


@dataclass(frozen=True)
class Settings:
    """What a generation record says beside the sizes of the graphs; its names are those of `GenerationRecord`."""

    bos: int
    pad: int
    eos: list[int]
    suppress: list[int]
    begin_suppress: list[int]
    speech: SpeechRecord

    def prompt(self) -> list[int]:
        """The ids that a transcript without times begins with, in English where the model knows several languages."""
        codes = self.speech.languages
        return prompt(self.speech, Asked("en" if "en" in codes else next(iter(codes), None)))


def settings(checkpoint: Checkpoint, vocabulary: int, ids: Mapping[str, int], seconds: float) -> Settings:
    """Read them.

    Args:
        checkpoint: the folder; what generation_config.json does not say, config.json does.
        vocabulary: of the model.
        ids: token -> id of its tokenizer: the marks of languages and tasks, where no file lists them.
        seconds: from one time of a transcript to the next.

    Raises:
        RequestError: an id that transcripts need is missing, or is outside the vocabulary.
    """
    path, said = checkpoint.optional("generation_config.json")
    own: _Generation = typed(_Generation, said, path)
    older: _Generation = typed(_Generation, checkpoint.config, checkpoint.folder / "config.json")
    config = older.model_copy(update=own.model_dump(exclude_none=True))
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    start, ends = config.decoder_start_token_id, [i for i in eos if i is not None]
    if start is None or not ends:
        lacking = "decoder_start_token_id" if start is None else "eos_token_id"
        raise RequestError(
            f"neither generation_config.json nor config.json says {lacking}, so no transcript can be written",
            where=str(checkpoint.folder),
            fix="Copy generation_config.json of the model into the folder, or export the encoder alone: tokexport "
            f"model {checkpoint.folder} --parts encoder ...",
        )
    languages, tasks = _languages_and_tasks(config, vocabulary, ids)
    silent = ids.get(_NO_TIMES) if config.no_timestamps_token_id is None else config.no_timestamps_token_id
    times = silent is not None and silent + 1 < vocabulary
    found = Settings(
        bos=start if config.bos_token_id is None else config.bos_token_id,
        pad=ends[0] if config.pad_token_id is None else config.pad_token_id,
        eos=ends,
        suppress=config.suppress_tokens or [],
        begin_suppress=config.begin_suppress_tokens or [],
        speech=SpeechRecord(
            start=start,
            languages=languages,
            tasks=tasks,
            no_timestamps=silent,
            timestamps=silent + 1 if times and silent is not None else None,
            timestamp_seconds=seconds,
            latest_start=config.max_initial_timestamp_index,
        ),
    )
    named = (start, found.bos, found.pad, *ends, *found.suppress, *found.begin_suppress, *found.speech.ids())
    if max(named) >= vocabulary:
        raise RequestError(
            f"{path.name} names the id {max(named)}, and vocab_size of config.json is {vocabulary}",
            where=str(checkpoint.folder),
            fix="The two files belong to different models: download the folder again.",
        )
    return found


def _languages_and_tasks(
    config: _Generation, vocabulary: int, ids: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Code -> id and task -> id; empty for a model that knows English alone, whose tokenizer has the marks too."""
    knows = bool(config.lang_to_id) or vocabulary >= _MULTILINGUAL
    if not (knows if config.is_multilingual is None else config.is_multilingual):
        return {}, {}
    if config.lang_to_id is not None:
        languages = {mark.strip("<|>"): i for mark, i in config.lang_to_id.items()}
    else:
        from transformers.models.whisper.tokenization_whisper import LANGUAGES

        languages = {code: ids[mark] for code in LANGUAGES if (mark := f"<|{code}|>") in ids}
    tasks = config.task_to_id
    if tasks is None:
        tasks = {task: ids[mark] for task in _TASKS if (mark := f"<|{task}|>") in ids}
    return languages, tasks

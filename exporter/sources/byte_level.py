"""A tokenizer.json of the files that folders of Whisper had before it: vocab.json, merges.txt, added_tokens.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import MissingError, RequestError, first_line
from ...files import parse_json, read_bounded

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

FILES = ("vocab.json", "merges.txt")
_ADDED = "added_tokens.json"
# Others split a text at other places before its bytes are merged, and their files do not say where.
_CLASSES = {"WhisperTokenizer", "WhisperTokenizerFast"}


def can_be_made(checkpoint: Checkpoint) -> bool:
    """Whether the folder has the files, of a tokenizer that they describe in full."""
    _, config = checkpoint.optional("tokenizer_config.json")
    own = "WhisperTokenizer" if checkpoint.config.get("model_type") == "whisper" else ""
    named = config.get("tokenizer_class", own)
    return named in _CLASSES and all((checkpoint.folder / name).is_file() for name in FILES)


def made(checkpoint: Checkpoint) -> bytes:
    """The tokenizer.json; a mark such as ``<|en|>`` is special, but for times.

    Raises:
        RequestError: a file is damaged, or the ids of the added tokens leave gaps.
        MissingError: tokenizers is not installed.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise MissingError("tokenizers is not installed", fix='pip install "tokexport[export]"') from error
    words = _ids(checkpoint, "vocab.json")
    added = _ids(checkpoint, _ADDED) if (checkpoint.folder / _ADDED).is_file() else {}
    try:
        lines = read_bounded(checkpoint.folder / "merges.txt").decode().splitlines()
        begin = bool(lines) and lines[0].startswith("#version")
        merges = [(one, other) for one, _, other in (line.partition(" ") for line in lines[begin:] if line)]
        tokenizer: Any = Tokenizer(models.BPE(words, merges))
    except Exception as error:
        # The library's exceptions have no base class.
        raise _damaged(checkpoint, "merges.txt", first_line(error, 200)) from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = {word: i for word, i in words.items() if word.startswith("<|") and word.endswith("|>")} | added
    for word in sorted(marks, key=marks.__getitem__):
        time = word[2:-2].replace(".", "", 1).isdigit()
        tokenizer.add_tokens([AddedToken(word, normalized=False, special=not time)])
        if tokenizer.token_to_id(word) != marks[word]:
            raise _damaged(checkpoint, _ADDED, f"no token has the id before {word!r}, {marks[word]}")
    text: str = tokenizer.to_str()
    return text.encode()


def _ids(checkpoint: Checkpoint, name: str) -> dict[str, int]:
    try:
        found = parse_json(read_bounded(checkpoint.folder / name))
    except (OSError, ValueError) as error:
        raise _damaged(checkpoint, name, first_line(error, 200)) from None
    if not isinstance(found, dict) or not all(type(i) is int and i >= 0 for i in found.values()):
        raise _damaged(checkpoint, name, "it is no table of tokens and ids")
    return found


def _damaged(checkpoint: Checkpoint, name: str, why: str) -> RequestError:
    return RequestError(
        f"{name} cannot be read: {why}",
        where=str(checkpoint.folder / name),
        fix="Copy or download this file again, or put the model's tokenizer.json into the folder.",
    )

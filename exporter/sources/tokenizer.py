"""The tokenizer of a checkpoint folder, as the file that a bundle carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import BundleError, RequestError, first_line
from ...files import read_bounded
from ...runtimes.tokenizer_file import TokenizerFile
from . import byte_level

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

FILE = "tokenizer.json"
# What folders of Mistral have in its place.
_TEKKEN = "tekken.json"


def tokenizer_of(checkpoint: Checkpoint, vocabulary: int) -> tuple[bytes, dict[str, int]]:
    """The folder's tokenizer.json, or one made of the files before it; and the id of each of its tokens.

    Args:
        checkpoint: the folder.
        vocabulary: of the model; every id must be below it.

    Raises:
        RequestError: there is none, it cannot be read, or it belongs to another model.
        MissingError: tokenizers is not installed.
    """
    path = checkpoint.folder / FILE
    written = path.is_file()
    if not written and not byte_level.can_be_made(checkpoint):
        raise RequestError(
            f"the folder has no {FILE}, which turns the model's ids into text",
            where=str(checkpoint.folder),
            fix=f"{_how_to_write(checkpoint)} Or export the encoder alone: tokexport model {checkpoint.folder} --parts "
            "encoder ...",
        )
    try:
        content = read_bounded(path) if written else byte_level.made(checkpoint)
        known = TokenizerFile(content, path).ids
    except (OSError, BundleError) as error:
        why = error.what if isinstance(error, BundleError) else first_line(error, 200)
        raise RequestError(
            f"{FILE} cannot be read: {why}", where=str(path), fix="Copy or download this file again."
        ) from None
    if not known or max(known.values()) >= vocabulary:
        raise RequestError(
            f"{FILE} has ids up to {max(known.values(), default=-1)}, and vocab_size of config.json is {vocabulary}",
            where=str(path),
            fix="The two files belong to different models: download the folder again.",
        )
    return content, known


def _how_to_write(checkpoint: Checkpoint) -> str:
    """What to type for a tokenizer.json of the files that the folder has instead."""
    folder = checkpoint.folder
    if (folder / _TEKKEN).is_file():
        return (
            f'Write one of its {_TEKKEN}: python -c "from transformers.integrations.mistral import '
            f"convert_tekken_tokenizer as made; made('{folder / _TEKKEN}').save_pretrained('{folder}')\"."
        )
    if all((folder / name).is_file() for name in byte_level.FILES):
        return (
            f'Write one of its {" and ".join(byte_level.FILES)}: python -c "import transformers; '
            f"transformers.AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')\"."
        )
    return "Copy the file of the model into the folder."

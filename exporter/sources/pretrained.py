"""Models that transformers reads itself: it knows the names that their weights had in each of its versions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from .configuration import built
from .weights import quantised

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

_AGAIN = "Download the folder again: it is incomplete, or config.json belongs to other weights."


def pretrained(checkpoint: Checkpoint, kind: Any, config: Any, attention: str, **options: Any) -> Any:
    """A model in float32 and eval mode, with the folder's weights.

    Args:
        checkpoint: the folder; of its weights only those of the model are read.
        kind: a class of transformers.
        config: of that class.
        attention: name of a registered implementation.
        options: of the class.

    Raises:
        RequestError: no weights, damaged ones, one that is missing, or of another shape than config.json says.
    """
    import torch

    where = str(checkpoint.folder)
    if isinstance(how := checkpoint.config.get("quantization_config"), dict):
        raise quantised(
            f"config.json says that the weights are quantised by {how.get('quant_method')}", checkpoint.folder
        )
    # Opened first: what is wrong with a file is then said by its name.
    assert checkpoint.weights.files, "a folder with weights has files"
    with _quiet():
        model, found = built(
            lambda: kind.from_pretrained(
                where,
                config=config,
                dtype=torch.float32,
                attn_implementation=attention,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            ),
            checkpoint.folder / "config.json",
        )
    for name, *shapes in sorted(found["mismatched_keys"]):
        ours, theirs = (list(shape) for shape in shapes)
        raise RequestError(f"weight {name} is {ours}, config.json says {theirs}", where=where, fix=_AGAIN)
    for name in sorted(found["missing_keys"]):
        raise RequestError(f"the checkpoint has no weight {name}", where=where, fix=_AGAIN)
    return model.requires_grad_(False).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and the tables of weights that transformers prints: what is wrong is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

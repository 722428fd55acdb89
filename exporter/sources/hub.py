"""A hub id becomes a folder: from the cache of huggingface_hub, else by a download; else the error says how."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from ...errors import MissingError, RequestError

_SECONDS = 5


def is_hub_id(text: str) -> bool:
    """Whether this reads like ``owner/name``."""
    return re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", text) is not None


def fetch(hub_id: str) -> Path:
    """The folder of a snapshot.

    Raises:
        MissingError: huggingface_hub is not installed, or the hub cannot be reached.
        RequestError: the hub has no such model, or wants a login for it.
    """
    by_hand = f"hf download {hub_id} --local-dir {hub_id.partition('/')[2]}"
    if find_spec("huggingface_hub") is None:
        raise MissingError(
            f"{hub_id} is not a folder here; huggingface_hub, which downloads it, is not installed",
            fix=f"Install with: pip install huggingface_hub. Or, on a machine with network: {by_hand}",
        )
    import huggingface_hub as hub
    from huggingface_hub import errors

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(hub.snapshot_download(hub_id, local_files_only=True, allow_patterns=wanted))
    except errors.LocalEntryNotFoundError:
        pass
    except errors.HFValidationError as error:
        raise RequestError(f"{hub_id} is not a hub id: {error}") from None
    try:
        # One short request first: a download that cannot work would retry for minutes.
        hub.HfApi().model_info(hub_id, timeout=_SECONDS)
        return Path(hub.snapshot_download(hub_id, allow_patterns=wanted))
    except errors.RepositoryNotFoundError as error:
        raise RequestError(
            f"the hub has no model {hub_id}, or it wants a login", fix="Check the name; log in with `hf auth login`."
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingError(
            f"{hub_id} is neither a folder here nor in the cache, and the hub cannot be reached: {reason}",
            fix=f"On a machine with network: {by_hand}, then give that folder.",
        ) from error

"""What an image tower says of a picture: the likeliest classes, by the names in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ..errors import BundleError, GraphError
from ..files import parse_json, read_bounded

if TYPE_CHECKING:
    from .bundle.reader import Bundle


def labels_of(bundle: Bundle) -> list[str] | None:
    """The names of the classes in their order; None where the bundle has none.

    Raises:
        BundleError: their file is damaged or has changed.
    """
    name = bundle.manifest.processor.labels
    if name is None:
        return None
    with bundle.unchanged([name]):
        return _read(bundle.file(name))


def likeliest(logits: np.ndarray, labels: list[str] | None, most: int = 5) -> list[dict[str, Any]]:
    """The classes of the highest probability, the highest first, the lowest number among equals.

    Args:
        logits: [1, classes].
        labels: the name of each class; None: it goes by its number.
        most: at most so many.

    Returns:
        ``{"class": number, "label": name, "probability": of 1}`` of each.

    Raises:
        GraphError: the logits are not finite.
        BundleError: another number of labels than of classes.
    """
    row = logits[0].astype(np.float64)
    if not np.isfinite(row).all():
        raise GraphError(
            "the encoder gives logits that are NaN or inf", fix="Export with --precision fp32, and see what it gives."
        )
    if labels is not None and len(labels) != len(row):
        raise BundleError(
            f"the bundle names {len(labels)} classes, and its encoder gives {len(row)}", fix="Export the bundle again."
        )
    weights = np.exp(row - row.max())
    shares = weights / weights.sum()
    order = np.argsort(-shares, kind="stable")[:most].tolist()
    return [{"class": i, "label": labels[i] if labels else str(i), "probability": float(shares[i])} for i in order]


def _read(file: Path) -> list[str]:
    try:
        return TypeAdapter(list[str]).validate_python(parse_json(read_bounded(file)), strict=True)
    except (OSError, ValueError, ValidationError) as error:
        raise BundleError(
            f"the names of the classes cannot be read: {str(error).splitlines()[0]}",
            where=str(file),
            fix="Export the bundle again.",
        ) from None

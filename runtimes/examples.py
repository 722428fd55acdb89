"""A question as an example in messages: one that the model of the bundle knows the words of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle.manifest import Manifest

_DRAWN = "what colour is the circle ?"
_OF = {"tiny-vlm": _DRAWN, "tiny-ocr": "read the red number", "tiny-video": "which object moved first ?"}


def question(manifest: Manifest) -> str:
    """An example of a question for the model of a bundle."""
    sound = manifest.preprocess is not None and manifest.preprocess.kind in ("log_mel", "waveform")
    asked = "What is said?" if sound else "What is in the picture?"
    other = _DRAWN if manifest.source.kind == "builtin" else asked
    return _OF.get(manifest.source.name, other)

"""A way out for a folder that no family reads: its ONNX files by name, and a module of the user's own to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What hub folders call the graph that tokens come from; others, such as decoders, are listed after these.
_ENCODERS = ("encoder", "vision", "visual", "image", "audio")
_MOST_LISTED = 4
# Where a configuration gives no size: that of most image towers.
_IMAGE_SIZE = 224

_MODULE = """\
import torch, transformers
class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        model = transformers.AutoModel.from_pretrained({folder!r}, attn_implementation="sdpa")
        self.tower = model.get_encoder({modality})
    def forward(self, {name}):
        return self.tower({name}={name}).last_hidden_state
def tower():
    return Tower(), {{"{name}": torch.zeros({shape})}}"""


def onnx_instead(folder: Path) -> str:
    """A sentence that names the ONNX files of a folder with the command for them; empty without any."""
    files = [*sorted(folder.glob("*.onnx")), *sorted((folder / "onnx").glob("*.onnx"))]
    files.sort(key=lambda file: not any(word in file.name.lower() for word in _ENCODERS))
    if not files:
        return ""
    names = [file.relative_to(folder).as_posix() for file in files]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"The folder holds {', '.join(names[:_MOST_LISTED])}{more}: tokexport model {files[0]} ... "


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    return part if isinstance(part, dict) else {}


def example(folder: Path, config: Mapping[str, Any]) -> str:
    """Lines of Python that open a folder of transformers as ``package.module:callable`` takes it.

    Args:
        folder: of the checkpoint.
        config: the content of its config.json, which says what the tower takes.
    """
    image, audio = (_part(config, key) for key in ("vision_config", "audio_config"))
    mels = (audio or config).get("num_mel_bins")
    if mels and not image:
        name, modality = "input_features", '"audio"' if audio else ""
        frames = (audio or config).get("max_source_positions")
        shape = f"1, {mels}, {2 * frames if frames else 3000}"
    else:
        name, modality, given = "pixel_values", '"image"', image or config
        size = given.get("image_size") or _IMAGE_SIZE
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        shape = f"1, {given.get('num_channels', 3)}, {height}, {width}"
    return _MODULE.format(folder=str(folder), name=name, modality=modality, shape=shape)

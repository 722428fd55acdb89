"""LLaVA-1.5 and models like it: a ViT, one or more of its hidden states without CLS, and a projector.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, D], N = (H / patch) (W / patch), D of the language model

Of the folder's language model only the input embeddings are read, and only for a method that reads text:

    input_ids [1, L] int64 -> text [1, L, D]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from transformers import AutoModel, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from ...errors import RequestError
from ...runtimes.bundle.manifest import TextRecord
from ..sources.configuration import Layers, Pixels, Vocabulary, Width, built, typed
from ..sources.images import preprocess_of
from ..sources.own_module import example
from ..sources.source import GraphSource, Source
from ..sources.synthetic import image
from ..sources.weights import without_weights
from .input_embeddings import text_graph

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Towers that take only pixels and return a square grid of tokens -> how many CLS tokens precede it.
_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}

# Where the input embeddings are depends on the version of transformers that wrote the folder.
_EMBEDDINGS = ("language_model.model.embed_tokens", "language_model.embed_tokens")

# Pooling heads: not in the graph, and not in every checkpoint.
_UNUSED = ("post_layernorm", "vision_model.post_layernorm", "head", "vision_model.head")


class _Vision(BaseModel):
    """What is read of the vision tower; what is not there has the default of transformers."""

    model_type: str | None = None
    image_size: Pixels | None = None
    patch_size: Pixels | None = None
    num_channels: Annotated[int, Field(ge=1, le=16)] | None = None
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None
    projection_dim: Width | None = None


class _Text(BaseModel):
    """What is read of the language model."""

    model_type: str | None = None
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    vocab_size: Vocabulary | None = None
    num_hidden_layers: Layers | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class _Config(BaseModel):
    """What is read of config.json."""

    vision_config: _Vision | None = None
    text_config: _Text | None = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_select_strategy: Literal["default", "full"] | None = None
    image_token_index: int | None = None
    image_token_id: int | None = None


class LlavaEncoder(nn.Module):
    """What `LlavaModel.get_image_features` computes, for one image; its submodules have the model's own names."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        layer = config.vision_feature_layer
        self.layers = [layer] if isinstance(layer, int) else list(layer)
        self.prefix = int(config.vision_feature_select_strategy == "default")
        self.vision_tower = AutoModel.from_config(config.vision_config, attn_implementation="sdpa")
        self.multi_modal_projector = LlavaMultiModalProjector(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] float32 -> [1, N, D]."""
        states = self.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        features = [states[layer][:, self.prefix :] if self.prefix else states[layer] for layer in self.layers]
        joined = torch.cat(features, dim=-1) if len(features) > 1 else features[0]
        return self.multi_modal_projector(joined)


@dataclass
class LlavaSource(Source):
    """A LLaVA folder; see the module docstring."""

    checkpoint: Checkpoint = field(kw_only=True)
    mean: tuple[float, ...] = field(default=_CLIP_MEAN)
    std: tuple[float, ...] = field(default=_CLIP_STD)

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures, normalised as the checkpoint's photographs are."""
        _, _, height, width = self.encoder.inputs["pixel_values"].shape
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return [{"pixel_values": ((image(i, height, width) - mean) / std)[None]} for i in range(n)]

    def text(self, length: int) -> GraphSource | None:
        """The input embeddings of the language model: the projector maps the tokens into their space."""
        where = _embeddings(self.checkpoint)
        if not (self.text_seam and where):
            return None
        config: Any = LlavaConfig.from_dict(self.checkpoint.config).text_config
        with without_weights():
            embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.checkpoint.weights.load(embedding, where)
        return text_graph(embedding, self.text_record(), length)

    def text_record(self) -> TextRecord:
        """The image's own id counts as special, like those that begin, end and pad a prompt."""
        config = LlavaConfig.from_dict(self.checkpoint.config)
        text: Any = config.text_config
        marks = [config.image_token_id, text.pad_token_id, text.bos_token_id, text.eos_token_id]
        found = {i for mark in marks for i in (mark if isinstance(mark, list) else [mark]) if i is not None}
        pad = config.image_token_id if text.pad_token_id is None else text.pad_token_id
        return TextRecord(vocabulary=text.vocab_size, pad=pad, blank=sorted(found))

    def real_prompts(self, n: int, length: int) -> list[list[int]]:
        """Random ids: what they mean is unknown without the folder's tokenizer."""
        rng, vocabulary = np.random.default_rng(0), self.text_record().vocabulary
        return [rng.integers(0, vocabulary, max(1, 3 * length // 4)).tolist() for _ in range(n)]


def _embeddings(checkpoint: Checkpoint) -> str:
    """The prefix of the input embeddings; empty where the folder has none, for example only a vision tower."""
    return next((prefix for prefix in _EMBEDDINGS if checkpoint.weights.has(prefix)), "")


def open_family(checkpoint: Checkpoint) -> LlavaSource:
    """Open the image encoder of a LlavaForConditionalGeneration folder.

    Raises:
        RequestError: a vision tower that takes more than pixels, or weights that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: LlavaConfig.from_dict(checkpoint.config), path)
    vision: Any = config.vision_config
    if vision.model_type not in _TOWERS:
        raise RequestError(
            f"the vision tower {vision.model_type} is not supported for LLaVA",
            where=str(checkpoint.folder / "config.json"),
            fix=f"Known towers: {', '.join(sorted(_TOWERS))}. Or give package.module:callable: the lines on stdout are "
            "one for this tower; save them as mine.py and run tokexport model mine:tower ... .",
            example=example(checkpoint.folder, checkpoint.config),
        )
    with without_weights():
        module = built(lambda: LlavaEncoder(config), path)
    checkpoint.weights.load(module.vision_tower, "vision_tower", optional=_UNUSED)
    checkpoint.weights.load(module.multi_modal_projector, "multi_modal_projector")
    preprocess = preprocess_of(checkpoint, (vision.image_size, vision.image_size))
    side = vision.image_size // vision.patch_size
    # Strategy "full" keeps CLS as the first token: then the tokens form no grid.
    whole = module.prefix == _TOWERS[vision.model_type]
    extra: dict[str, Any] = {"mean": preprocess.mean, "std": preprocess.std} if preprocess else {}
    return LlavaSource(
        kind="checkpoint",
        name=checkpoint.name,
        modality="image",
        encoder=GraphSource(
            role="encoder",
            module=module.eval(),
            inputs={"pixel_values": torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size)},
            outputs=("tokens",),
            grid=(side, side) if whole else None,
        ),
        files=checkpoint.weights.files,
        auto_seam={name: name for name in ("encoder_output", "projector_input", "projector_output")},
        text_seam="projector_output" if _embeddings(checkpoint) else "",
        preprocess=preprocess,
        checkpoint=checkpoint,
        **extra,
    )

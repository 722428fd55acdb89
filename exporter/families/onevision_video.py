"""LLaVA-OneVision that is asked about a video: LLaVA's encoder of each frame, whose tokens are pooled.

    pixel_values [1, T, 3, S, S] float32 -> tokens [1, N, D], N = T (S / 2 patch)^2, each side rounded up

Behind the tokens of all frames the model reads one more, which is learned and ends them. It is no token of the video
that a compressor could take: in a prompt the id of an image, of which there is none, stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...errors import RequestError
from ..decoders.attention import UNMASKED
from ..decoders.language import LanguageDecoder
from ..sources.images import media_of, preprocess_of
from .joined import encoder_of, joined
from .layout import Layout, shell
from .llava import UNUSED, StackedEncoder, check_square
from .visual import VisionLanguage, colours

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.clip import Clip

_LAYOUT = Layout(
    media="video",
    mark="<video>",
    becomes="<video><image>",
    joins="it pools the tokens of each frame",
    windows="its layers see each frame by itself",
)


class Pooled(nn.Module):
    """The projector of a model of transformers, and its pool of the tokens of a frame."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.multi_modal_projector, self.image_newline = model.multi_modal_projector, model.image_newline
        # Not a submodule: it is called for its pool, which has no weights.
        self._pool = model.apply_pooling

    def forward(self, features: Tensor) -> Tensor:
        """[T, (S / patch)^2, C] -> [1, N, D]."""
        return self._pool(self.multi_modal_projector(features)).flatten(0, 1)[None]


@dataclass
class OneVisionVideo(VisionLanguage):
    """A folder; see the module docstring.

    Attributes:
        ends: what stands behind the tokens of all frames, [D].
    """

    ends: Tensor | None = None

    @cached_property
    def decoder(self) -> LanguageDecoder:
        """The language model, whose prompts hold the end of a video."""
        assert self.ends is not None, "a source of this family has one"
        return replace(super().decoder, learned=(self.config.image_token_id, self.ends))

    def add_language(self) -> None:
        """See `Multimodal`; RequestError also where the tokenizer has another id for an image than config.json."""
        super().add_language()
        if self.asked is not None and self.proof_prompt()[self.offset] != self.config.image_token_id:
            raise RequestError(
                f"config.json says that {self.config.image_token_id} is the id of an image, and the tokenizer reads "
                "<image> as another",
                where=str(self.checkpoint.folder),
                fix="Its files belong to different models: download the folder again.",
            )

    def _random(self, n: int, length: int) -> list[list[int]]:
        """With the end of a video behind its place."""
        found = super()._random(n, length)
        return [[*ids[: self.offset], self.config.image_token_id, *ids[self.offset :]] for ids in found]


def open_video(checkpoint: Checkpoint, config: Any, clip: Clip) -> OneVisionVideo:
    """Open a LlavaOnevisionForConditionalGeneration folder whose vision tower is known.

    Raises:
        RequestError: tokens that form no square; weights or a tokenizer that do not belong to config.json.
    """
    vision, path = config.vision_config, checkpoint.folder / "config.json"
    model = shell(checkpoint, config, UNMASKED).model
    pooled = Pooled(model)
    encoder = StackedEncoder(config, model.vision_tower, pooled)
    check_square(encoder, config, path)
    checkpoint.weights.load(encoder.vision_tower, "vision_tower", optional=UNUSED)
    checkpoint.weights.load(pooled, "")
    side = vision.image_size
    grid = (clip.frames, *[-(-side // vision.patch_size // 2)] * 2)
    frame = preprocess_of(checkpoint, (side, side), squeezed=True)
    note = f"of every video {clip.frames} frames are stretched to {side} x {side} pixels, {grid[1] ** 2} tokens each"
    return joined(
        OneVisionVideo,
        checkpoint,
        config,
        encoder_of(encoder, "pixel_values", (1, clip.frames, 3, side, side), grid),
        _LAYOUT,
        media_of(checkpoint, frame),
        (note,),
        ends=pooled.image_newline,
        **colours(frame),
    )

"""What PaliGemma does as no other family: how it is asked, and what a prompt sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
from PIL import Image
from tokexport.exporter.opening import open_source
from tokexport.graph_passes.compressors import make
from tokexport.runtimes.media.image import pixel_values
from tokexport.runtimes.tokenizer_file import TokenizerFile

pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
TOKENS, IMAGE = 16, 95


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.paligemma(tmp_path_factory.mktemp("checkpoints") / "tiny-paligemma")


def test_paligemma_is_asked_as_its_processor_asks(paligemma):
    import transformers
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil.from_pretrained(paligemma)
    images.image_seq_length = TOKENS
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(paligemma)
    picture = np.random.default_rng(0).integers(0, 255, (30, 90, 3), dtype=np.uint8)
    asked = transformers.PaliGemmaProcessor(images, tokenizer)(images=picture, text=f"<image>{QUESTION}")
    source = open_source(str(paligemma), parts="all")
    file = TokenizerFile.load(paligemma / "tokenizer.json", source.generation(5))
    assert [IMAGE] * TOKENS + file.prompt(QUESTION) == list(asked["input_ids"][0])
    pixels = pixel_values(Image.fromarray(picture), source.preprocess)
    assert np.abs(pixels - asked["pixel_values"]).max() <= 1e-6


def test_paligemma_compresses_behind_its_tower_too(paligemma):
    assert open_source(str(paligemma)).seam_for(make("topk")) == make("topk").method.seam == "encoder_output"


def test_a_token_of_paligemma_sees_the_words_behind_it(paligemma):
    """And none behind the last, which fill the graph."""
    import torch

    decoder = open_source(str(paligemma), parts="all").decoder
    seen = decoder.mask(5, torch.tensor([7]))[0, 0] == 0
    assert seen[:, :8].all() and not seen[:8, 8:].any() and torch.equal(seen[8:, 8:], seen[8:, 8:].tril())


def test_the_second_version_caps_its_logits(paligemma):
    import torch

    head = open_source(str(paligemma), parts="all").decoder.head
    hidden = 10 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(head(hidden), 2 * torch.tanh(hidden @ head.weight.T / 2), atol=1e-6)

"""tiny-vlm: what is drawn is what is asked, the exported modules equal the trained model, the weights can see."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokexport.errors import RequestError
from tokexport.exporter.zoo.tiny_vlm.questions import KINDS, questions
from tokexport.exporter.zoo.tiny_vlm.scenes import SIZE, pixel_values, scene
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS, SHAPES, VOCABULARY, detokenize, prompt, tokenize

if TYPE_CHECKING:
    from tokexport.exporter.zoo.tiny_vlm.model import TinyVLM
    from torch import Tensor

    Asked = tuple[Tensor, Tensor, Tensor]


def test_importing_the_zoo_imports_no_torch() -> None:
    code = (
        "import sys, tokexport.exporter.zoo.tiny_vlm.scenes, tokexport.exporter.zoo.tiny_vlm.questions; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_seed_is_a_scene() -> None:
    first, again, other = (scene(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (SIZE, SIZE, 3)
    assert first.image.dtype == np.uint8


def test_the_mask_covers_the_objects_and_little_else() -> None:
    drawn = [scene(np.random.default_rng(seed)) for seed in range(50)]
    for item in drawn:
        for index, thing in enumerate(item.objects):
            patch = int(thing.y // 8) * 12 + int(thing.x // 8)
            assert item.covered[patch]
            assert item.owner[patch] == index
        assert (item.owner[item.coverage == 0] == -1).all()
    assert 0.05 < np.mean([item.covered.mean() for item in drawn]) < 0.3


def test_answers_are_true() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        item = scene(rng)
        number = Counter(word for thing in item.objects for word in (thing.colour, thing.shape))
        for question in questions(item, rng):
            words, answer = question.text.split(), question.answer.split()
            name = next(word for word in words if word.removesuffix("s") in COLOURS + SHAPES).removesuffix("s")
            if question.kind == "count":
                assert ["zero", "one", "two", "three", "four", "five"].index(answer[-1]) == number[name]
            elif question.kind == "existence":
                pair = tuple(words[3:5])
                assert (answer == ["yes"]) == (pair in {(thing.colour, thing.shape) for thing in item.objects})
            else:
                thing = next(thing for thing in item.objects if name in (thing.colour, thing.shape))
                assert number[name] == 1
                assert answer[-1] == (thing.colour if question.kind == "colour" else thing.shape)


def test_blind_guessing_stays_below_half() -> None:
    rng = np.random.default_rng(1)
    asked = [question for _ in range(1000) for question in questions(scene(rng), rng, 4)]
    best = sum(max(Counter(q.answer for q in asked if q.kind == kind).values()) for kind in KINDS)
    assert best / len(asked) < 0.45


def test_words_survive_a_round_trip() -> None:
    text = "how many green objects are there ?"
    assert detokenize(tokenize(text)) == text
    assert tokenize("What color is the star?") == tokenize("what colour is the star ?")
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_an_unknown_word_is_named_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'pink'.*knows \d+ words, and none like it"):
        tokenize("is there a pink star ?")
    with pytest.raises(RequestError, match="at most 15 words"):
        prompt("is " * 16, 16)


# --- the model; torch from here on -----------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model() -> TinyVLM:
    from tokexport.exporter.zoo.tiny_vlm.model import load

    return load()


@pytest.fixture(scope="module")
def asked() -> Asked:
    """Four questions of different length, one per scene: pixels, ids [4, P], last [4]."""
    from tokexport.exporter.zoo.tiny_vlm.evaluate import question_set

    paper = question_set(8, 3)
    pixels = torch.from_numpy(pixel_values(paper.pixels[paper.scene[::2]]))
    return pixels, torch.from_numpy(paper.ids[::2]), torch.from_numpy(paper.last[::2])


def test_weights_are_small_and_finite(model: TinyVLM) -> None:
    from tokexport.exporter.zoo.tiny_vlm.model import WEIGHTS

    assert WEIGHTS.stat().st_size < 3_000_000
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_encoder_drops_cls_before_the_projector(model: TinyVLM, asked: Asked) -> None:
    from tokexport.exporter.zoo.tiny_vlm.model import Encoder

    hidden, attention = model.vision.with_cls_attention(asked[0])
    assert hidden.shape == (4, 145, model.config.vision_dim)
    torch.testing.assert_close(hidden, model.vision(asked[0]))
    assert attention.shape == (4, 144)
    assert bool((attention.sum(1) < 1).all())
    torch.testing.assert_close(Encoder(model)(asked[0]), model.projector(hidden[:, 1:]))


@torch.inference_mode()
def test_prefill_and_decode_equal_the_training_pass(model: TinyVLM, asked: Asked) -> None:
    from tokexport.exporter.zoo.decoding import write
    from tokexport.exporter.zoo.tiny_vlm.model import Decode, Embed, Encoder, Prefill

    pixels, ids, last = asked
    config, tokens = model.config, Encoder(model)(pixels)
    keep = config.tokens
    kept, bias = torch.arange(keep).expand(len(ids), -1), torch.zeros(len(ids), keep)
    logits, *cache = Prefill(model, keep)(Embed(model)(ids, tokens), kept, bias, last + keep)
    assert cache[0].shape == (4, config.heads, config.capacity(keep), config.head_dim)
    texts = [row[: end + 1].tolist() for row, end in zip(ids, last.tolist(), strict=True)]
    index = last + keep
    for _ in range(4):
        whole = [model(pixels[n : n + 1], torch.tensor([text]))[0, -1] for n, text in enumerate(texts)]
        torch.testing.assert_close(logits, torch.stack(whole), rtol=1e-4, atol=1e-4)
        word, index = logits.argmax(-1), index + 1
        texts = [[*text, int(add)] for text, add in zip(texts, word, strict=True)]
        logits, *new = Decode(model, keep)(word[:, None], index, bias, *cache)
        write(cache, new, index)


@torch.inference_mode()
def test_the_bias_makes_merging_of_equal_tokens_exact() -> None:
    """Three copies of a token at one position are one token with bias log 3.

    In one layer only: deeper, causality lets the copies see different numbers of each other.
    """
    from tokexport.exporter.zoo.tiny_vlm.model import Decode, Embed, Prefill, TinyVLM, TinyVLMConfig

    torch.manual_seed(0)
    model = TinyVLM(TinyVLMConfig(layers=1)).eval()
    ids, last = torch.randint(3, model.config.vocab, (2, 16)), torch.tensor([7, 15])
    tokens, places = torch.randn(2, 4, model.config.dim), torch.tensor([[3, 9, 60, 143]]).expand(2, -1)
    heard = {}
    for name, copies, size in (("copies", 3, 1.0), ("merged", 1, 3.0), ("merged, no bias", 1, 1.0)):
        keep = 4 * copies
        bias = torch.full((2, keep), size).log()
        embeds = Embed(model)(ids, tokens.repeat_interleave(copies, 1))
        first, *cache = Prefill(model, keep)(embeds, places.repeat_interleave(copies, 1), bias, last + keep)
        second, *_ = Decode(model, keep)(ids[:, :1], last + keep + 1, bias, *cache)
        heard[name] = torch.stack([first, second])
    torch.testing.assert_close(heard["merged"], heard["copies"], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(heard["merged, no bias"], heard["copies"], rtol=1e-3, atol=1e-3)


def test_the_shipped_weights_see() -> None:
    from tokexport.exporter.zoo.tiny_vlm.evaluate import evaluate
    from tokexport.exporter.zoo.tiny_vlm.model import load

    result = evaluate(load(), 256, seed=11)
    assert result["accuracy"] > 0.97
    assert min(result.values()) > 0.93


def test_the_second_projector_sees() -> None:
    from tokexport.exporter.zoo.tiny_vlm.evaluate import by_method, evaluate
    from tokexport.exporter.zoo.tiny_vlm.model import PROJECTOR, load, load_wide_projector

    assert PROJECTOR.stat().st_size < 500_000
    model = load()
    model.projector = load_wide_projector(model.config)
    result = evaluate(model, 256, seed=11, compress=by_method("pixel_unshuffle", 36))
    assert result["accuracy"] > 0.95
    assert min(result.values()) > 0.9


def test_the_second_projector_starts_as_the_mean_of_the_first_over_a_block() -> None:
    from train_tiny_vlm_projector import Blocks

    blocks = Blocks()
    model = blocks.frozen[0]
    features = torch.randn(1, 144, 96, generator=torch.Generator().manual_seed(0))
    grid = model.projector(features).reshape(6, 2, 6, 2, 96)
    found = blocks.model(blocks.compressor.reference(blocks.case, features).tokens)
    torch.testing.assert_close(found, grid.mean((1, 3)).reshape(1, 36, 96), rtol=1e-4, atol=1e-5)
    # <bos>, the upper left patch of each block, then text where it always was.
    assert blocks.positions[0, :8].tolist() == [0, 1, 3, 5, 7, 9, 11, 25]
    assert blocks.positions[0, 37] == 145 and blocks.mask.shape[-1] == blocks.positions.shape[1]
    assert [name for name, _ in blocks.named_parameters()] == [
        f"model.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    ]

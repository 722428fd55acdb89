"""tiny-video: what is drawn is what is asked, every frame is seen alone, the exported modules equal the model."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tokexport.exporter.zoo.tiny_video.clips import FRAMES, SIZE, Clip, Thing, clip, clip_values, draw
from tokexport.exporter.zoo.tiny_video.questions import KINDS, Asked, questions
from tokexport.exporter.zoo.tiny_video.text import VOCABULARY, detokenize, tokenize
from tokexport.exporter.zoo.tiny_vlm.text import NUMBERS

if TYPE_CHECKING:
    from tokexport.exporter.zoo.tiny_video.model import TinyVideo

# A red circle goes 16 pixels to the right between frames 1 and 3, a blue star comes in 2, a green square goes in 5.
RED = Thing("red", "circle", "move", 12, 12, 5, 1, 3, "right", 16)
BLUE = Thing("blue", "star", "come", 12, 36, 5, 2)
GREEN = Thing("green", "square", "go", 36, 36, 5, 5)
RNG = partial(np.random.default_rng, 0)


@pytest.fixture(scope="module")
def drawn() -> list[Clip]:
    return [clip(np.random.default_rng(seed)) for seed in range(60)]


def test_importing_the_zoo_imports_no_torch() -> None:
    code = (
        "import sys, tokexport.exporter.zoo.tiny_video.clips, tokexport.exporter.zoo.tiny_video.questions; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_seed_is_a_clip() -> None:
    first, again, other = (clip(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first.frames, again.frames) and first.things == again.things
    assert not np.array_equal(first.frames, other.frames)
    assert first.frames.shape == (FRAMES, SIZE, SIZE, 3) and first.frames.dtype == np.uint8
    shown = Image.open(io.BytesIO(first.to_png()))
    assert shown.n_frames == FRAMES
    shown.seek(3)
    np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), first.frames[3])


def test_a_clip_by_hand_shows_what_its_things_do() -> None:
    made = draw([RED, BLUE, GREEN], RNG())
    assert RED.path[:, 0].tolist() == [12, 12, 20, 28, 28, 28, 28, 28] and set(RED.path[:, 1]) == {12}
    # Patches are 8 pixels wide: row 1 of the grid, from column 1 to column 3.
    covered = made.covered.reshape(3, FRAMES, 6, 6)
    assert covered[0, 0, 1, 1] and covered[0, 1, 1, 1] and not covered[0, 0, 1, 3]
    assert covered[0, 3, 1, 3] and covered[0, 7, 1, 3] and not covered[0, 3, 1, 1]
    assert covered[1, :, 4, 1].tolist() == [False] * 2 + [True] * 6
    assert covered[2, :, 4, 4].tolist() == [True] * 5 + [False] * 3
    colour = made.frames[:, [12, 36, 36], [28, 12, 36]].astype(int)
    red, blue, green = colour[:, 0], colour[:, 1], colour[:, 2]
    assert ((red[:, 0] - red[:, 2] > 100).tolist()) == [False] * 3 + [True] * 5
    assert ((blue[:, 2] - blue[:, 0] > 80).tolist()) == [False] * 2 + [True] * 6
    assert ((green[:, 1] - green[:, 0] > 60).tolist()) == [True] * 5 + [False] * 3
    # The background does not move; the noise of the frames differs.
    still = made.frames[:, 20:28, 40:].astype(int)
    assert 0 < np.abs(still[1:] - still[:-1]).mean() < 6


def test_no_two_things_share_a_colour_or_touch(drawn: list[Clip]) -> None:
    for item in drawn:
        assert 1 <= len(item.things) <= 4
        assert len({thing.colour for thing in item.things}) == len(item.things)
        for index, one in enumerate(item.things):
            for other in item.things[:index]:
                assert (np.hypot(*(one.path - other.path).T) > one.radius + other.radius).all()


def truth(item: Clip, question: Asked) -> str:
    """The answer by what is drawn: where each thing is in each frame, not by what it was told to do."""
    things = {thing.name: thing for thing in item.things}
    moved = {name: np.ptp(thing.path, 0).max() > 0 for name, thing in things.items()}
    came = {name: not thing.there[0] for name, thing in things.items()}
    went = {name: not thing.there[-1] for name, thing in things.items()}
    did = {"moved": moved, "came": came, "went": went}

    def first_change(name: str) -> int:
        thing = things[name]
        seen = np.column_stack([thing.path, thing.there])
        return int(np.flatnonzero((seen[1:] != seen[:-1]).any(1))[0])

    def last_change(name: str) -> int:
        path = things[name].path
        return int(np.flatnonzero((path[1:] != path[:-1]).any(1))[-1])

    named = [name for name in things if name in question.text]
    if question.kind == "direction":
        right, down = (things[named[0]].path[-1] - things[named[0]].path[0]).tolist()
        return {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}[(np.sign(right), np.sign(down))]
    if question.kind == "motion":
        return next((motion for motion, which in did.items() if which[named[0]]), "stayed")
    word = next((word for word in question.text.split() if word in did), "")
    if question.kind == "count":
        return NUMBERS[sum(did[word].values())]
    if question.kind == "order":
        ranked = sorted((name for name, yes in did[word].items() if yes), key=first_change)
        return ranked[0 if "first" in question.text else -1]
    one, other = sorted(named, key=question.text.index)
    moment = last_change if " stop " in question.text else first_change
    return "yes" if moment(one) < moment(other) else "no"


def test_answers_are_true_and_the_content_is_where_the_things_are(drawn: list[Clip]) -> None:
    rng, kinds = np.random.default_rng(0), Counter()
    for item in drawn:
        for question in questions(item, rng):
            assert question.answer == truth(item, question), question
            kinds[question.kind] += 1
            content = question.content(item)
            assert content.shape == (FRAMES * 36,) and content.any() and not content.all()
            seen = item.covered[list(question.about)].any(0).ravel()
            assert content[seen].all()
    assert set(kinds) == set(KINDS)


def test_where_a_thing_came_or_went_its_place_is_content_in_every_frame() -> None:
    made = draw([RED, BLUE, GREEN], RNG())
    places = Asked("motion", "", "", (1,)).content(made).reshape(FRAMES, 36)
    assert (places == places[0]).all() and np.array_equal(places[0], made.covered[1, 4])
    follows = Asked("motion", "", "", (0,)).content(made).reshape(FRAMES, 36)
    np.testing.assert_array_equal(follows, made.covered[0])


def test_blind_guessing_stays_below_half() -> None:
    rng = np.random.default_rng(1)
    asked = [question for _ in range(300) for question in questions(clip(rng), rng, 4)]
    best = sum(max(Counter(q.answer for q in asked if q.kind == kind).values()) for kind in KINDS)
    assert best / len(asked) < 0.45


def test_words_survive_a_round_trip() -> None:
    text = "did the red circle stop before the blue star ?"
    assert detokenize(tokenize(text)) == text
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_lessons_name_what_happens_in_each_patch_and_what_happened_before() -> None:
    from lessons_tiny_video import CAME, GROUND, MOVES, RESTS, WENT, seen
    from lessons_tiny_vlm import IGNORED

    taught = {name: value.reshape(FRAMES, 6, 6, -1) for name, value in seen(draw([RED, BLUE, GREEN], RNG())).items()}
    events, stories = taught["events"][..., 0], taught["stories"][..., 0]
    began, ended = np.moveaxis(taught["moments"], 3, 0)
    right = MOVES + 1
    assert events[3:, 1, 3].tolist() == [right, *[RESTS] * 4] and stories[3:, 1, 3].tolist() == [right] * 5
    assert began[3:, 1, 3].tolist() == [1] * 5 and ended[3:, 1, 3].tolist() == [IGNORED, *[3] * 4]
    assert events[0, 1, 1] == stories[0, 1, 1] == RESTS and began[0, 1, 1] == IGNORED
    assert events[:, 4, 1].tolist() == [GROUND] * 2 + [CAME] + [RESTS] * 5
    assert stories[:, 4, 1].tolist() == [GROUND] * 2 + [CAME] * 6 and began[2:, 4, 1].tolist() == [2] * 6
    assert events[:, 4, 4].tolist() == [RESTS] * 5 + [WENT] + [GROUND] * 2
    assert stories[:, 4, 4].tolist() == [RESTS] * 5 + [WENT] * 3 and began[5:, 4, 4].tolist() == [5] * 3
    assert taught["looks"][7, 4, 1].tolist() == [3, 3]


# --- the model; torch from here on -----------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model() -> TinyVideo:
    from tokexport.exporter.zoo.tiny_video.model import load

    return load()


def test_weights_are_small_and_finite(model: TinyVideo) -> None:
    from tokexport.exporter.zoo.tiny_video.model import WEIGHTS

    assert WEIGHTS.stat().st_size < 2_000_000
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@torch.inference_mode()
def test_a_frame_is_seen_alone_and_knows_its_time(model: TinyVideo, drawn: list[Clip]) -> None:
    from tokexport.exporter.zoo.tiny_video.model import Encoder

    one, other = (torch.from_numpy(clip_values(item.frames[None])) for item in drawn[:2])
    mixed = one.clone()
    mixed[:, 3] = other[:, 3]
    tokens = [Encoder(model)(pixels).unflatten(1, (FRAMES, 36)) for pixels in (one, mixed, other)]
    assert tokens[0].shape == (1, FRAMES, 36, model.config.dim)
    torch.testing.assert_close(tokens[1][:, [0, 7]], tokens[0][:, [0, 7]])
    torch.testing.assert_close(tokens[1][:, 3], tokens[2][:, 3])
    frozen = Encoder(model)(one[:, :1].expand(-1, FRAMES, -1, -1, -1)).unflatten(1, (FRAMES, 36))
    assert not torch.allclose(frozen[:, 0], frozen[:, 7], atol=0.01)


@torch.inference_mode()
def test_prefill_and_decode_equal_the_training_pass(model: TinyVideo, drawn: list[Clip]) -> None:
    from tokexport.exporter.zoo.decoding import write
    from tokexport.exporter.zoo.tiny_video.model import Encoder
    from tokexport.exporter.zoo.tiny_video.text import prompt
    from tokexport.exporter.zoo.tiny_vlm.model import Decode, Embed, Prefill

    pixels = torch.from_numpy(clip_values(np.stack([item.frames for item in drawn[:2]])))
    asked = [prompt("how many objects moved ?", 16), prompt("did the red circle stop before the blue star ?", 16)]
    ids, last = torch.tensor([row for row, _ in asked]), torch.tensor([at for _, at in asked])
    keep, tokens = model.config.tokens, Encoder(model)(pixels)
    kept, bias = torch.arange(keep).expand(2, -1), torch.zeros(2, keep)
    logits, *cache = Prefill(model, keep)(Embed(model)(ids, tokens), kept, bias, last + keep)
    texts = [row[: at + 1].tolist() for row, at in zip(ids, last.tolist(), strict=True)]
    for step in range(2):
        whole = [model(pixels[n : n + 1], torch.tensor([text]))[0, -1] for n, text in enumerate(texts)]
        torch.testing.assert_close(logits, torch.stack(whole), rtol=1e-3, atol=1e-3)
        word = logits.argmax(-1)
        texts = [[*text, int(add)] for text, add in zip(texts, word, strict=True)]
        index = last + keep + step + 1
        logits, *new = Decode(model, keep)(word[:, None], index, bias, *cache)
        write(cache, new, index)


def test_the_shipped_weights_watch(model: TinyVideo) -> None:
    from tokexport.exporter.zoo.tiny_video.evaluate import evaluate

    result = evaluate(model, 192, seed=11)
    assert result["accuracy"] > 0.72
    assert min(result[kind] for kind in ("direction", "count", "order")) > 0.78


@torch.inference_mode()
def test_they_need_the_order_of_the_frames(model: TinyVideo) -> None:
    """Backwards, what went left goes right and what came goes."""
    from tokexport.exporter.zoo.tiny_video.evaluate import answers, question_set
    from tokexport.exporter.zoo.tiny_video.text import WORDS

    paper = question_set(96, 12)

    def backwards(pixels: np.ndarray) -> torch.Tensor:
        return model.vision(torch.from_numpy(clip_values(pixels[:, ::-1])))

    said = answers(model, paper, backwards, WORDS)
    pairs = [("left", "right"), ("up", "down"), ("came", "went")]
    opposite = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    turned = [(word, question.answer) for word, question in zip(said, paper.asked) if question.answer in opposite]
    assert np.mean([word == opposite[answer] for word, answer in turned]) > 0.6


def test_the_source_is_a_video_with_a_grid_in_time() -> None:
    from tokexport.exporter.opening import open_source

    source = open_source("tiny-video", parts="all")
    assert source.takes == "video" and source.encoder.grid == (8, 6, 6)
    first, again = source.questions(3, 1), source.questions(3, 1)
    assert [one.prompt for one in first] == [one.prompt for one in again]
    assert first[0].input.shape == (8, 48, 48, 3) and first[0].content.shape == (288,)
    inputs = [each["pixel_values"] for each in source.real_inputs(3)]
    assert inputs[0].shape == (1, 8, 3, 48, 48) and not np.array_equal(inputs[0], inputs[1])
    assert source.generation(30).tokens_in == 288


def test_it_starts_from_what_tiny_vlm_knows() -> None:
    from tokexport.exporter.zoo.tiny_video.model import TinyVideo
    from tokexport.exporter.zoo.tiny_vlm import model as still
    from tokexport.exporter.zoo.tiny_vlm.text import WORD_TO_ID
    from train_tiny_video import warm_start

    warm, known = TinyVideo(), still.load()
    warm_start(warm)
    assert torch.equal(warm.projector[0].weight, known.projector[0].weight)
    assert torch.equal(warm.vision.positions[0, 1], known.vision.positions[0, 1 + 3 * 12 + 3])
    red = warm.decoder.embedding.weight[VOCABULARY.index("red")]
    assert torch.equal(red, known.decoder.embedding.weight[WORD_TO_ID["red"]])

"""Compressors between the layers of a language model that reads several images, or a video frame by frame."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_hybrids
import tiny_qwen_vl
import tokexport
from click.testing import CliRunner
from cut_models import both, cut
from PIL import Image
from tokexport.exporter.cli import main
from tokexport.exporter.proof.generation import check_answers
from tokexport.exporter.proof.probes import of_bundle
from tokexport.exporter.sources.clip import Clip
from tokexport.graph_passes.ir_tools.model_io import load_model
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.generate import begin
from tokexport.runtimes.images import joined
from tokexport.runtimes.ort.graph import ort_runner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
FRAMES = 4
HYBRID = ["linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention"]
LOUD = partial(tiny_checkpoints.whole_llava, depth=3, loud=True)
DEEP = partial(tiny_checkpoints.whole_llava, depth=4, loud=True)
QWEN = {kind: partial(tiny_qwen_vl.qwen_vl, kind=kind) for kind in ("Qwen2VL", "Qwen3VL")}
MERGED = {"method": "kcenter_merge"}
HYBRIDS = {
    "Qwen3_5": partial(tiny_qwen_vl.qwen_vl, kind="Qwen3_5", num_hidden_layers=5, layer_types=HYBRID),
    "LFM2-VL": tiny_hybrids.lfm2_vl,
}


def command(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def agrees(source: Any, *counts: int, sizes: tuple[int, ...] = (1, 2, 3)) -> None:
    """About so many images prefill and decode say what transformers says: tokens left, and the scores of two words."""
    for images in counts:
        found, own = both(source, [*itertools.islice(itertools.cycle(sizes), images * source.tokens)], images)
        assert {name: found[name].tolist() for name in own.picks} == {k: v.tolist() for k, v in own.picks.items()}
        assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)


def test_each_image_is_read_and_replaced_by_itself():
    """Five words, and three images of two tokens; one that is not there is read as the first, and goes nowhere."""
    from tokexport.exporter.decoders.several import Places
    from tokexport.exporter.decoders.spans import Spans

    starts, last = torch.tensor([[1, 4, 99]]), torch.tensor([7])
    words, images = torch.arange(5.0)[None, :, None], torch.tensor([10.0, 11, 20, 21, 30, 31])[None, :, None]
    whole = Places.of(starts, 2, 11).woven(words, images)
    span = Spans(0, 2, starts, 11)
    assert span.tokens(whole)[..., 0].tolist() == [[10, 11], [20, 21], [10, 11]]
    assert (span.readers(whole)[..., 0] == torch.arange(5)).all() and span.rows(whole[:, None])[0, 0].equal(words[0])
    # The fifth word is padding.
    assert span.real(11, last).int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0]]
    paid = span.paid(whole.mT, lambda rows: rows[:, 0])
    assert paid.tolist() == [[10, 11], [20, 21], [10, 11]]
    left = torch.tensor([7.0, 8, 9])[:, None, None]
    assert span.replaced(whole, left)[0, :7, 0].tolist() == [0, 7, 1, 8, 2, 3, 4]
    assert span.replaced(whole, None)[0, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert [one.tolist() for one in span.behind(last, 1)] == [[5], [[1, 3, 97]]]
    # A prompt that ends in an image of one token.
    assert Spans(0, 1, torch.tensor([[2]]), 5).behind(torch.tensor([2]), 0)[0].tolist() == [1]
    six = torch.arange(6)[None]
    assert span.each(six).tolist() == [[0, 1], [2, 3], [4, 5]] and span.together(span.each(six)).equal(six)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LOUD(tmp_path_factory.mktemp("checkpoints") / "deep")


@pytest.mark.slow
def test_each_attention_is_read_of_the_words_behind_each_image(llava):
    found = {}
    for name in ("cls", "words", "raters", "peak"):
        source = cut(llava, ("decoder_layer:1", 9), attention=name, prompt=40, images=3)
        agrees(source, 2)
        found[name] = tuple(both(source, images=2)[0]["kept_indices_1"][0].tolist())
    assert len(set(found.values())) == 4


@pytest.mark.parametrize(
    ("make", "steps", "asked"),
    [
        (LOUD, [("decoder_layer:0", 9), ("decoder_layer:1", 0)], {"attention": "words"}),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                (DEEP, [("decoder_layer:0", 18), ("decoder_layer:1", 6), ("decoder_layer:2", 0)], MERGED),
                (DEEP, [("decoder_layer:1", 18)], {"method": "sparsevlm", "scores": "attention"}),
                (QWEN["Qwen2VL"], [("decoder_layer:0", 9)], MERGED),
                (QWEN["Qwen3VL"], [("decoder_layer:0", 18), ("decoder_layer:1", 5)], {}),
                (HYBRIDS["Qwen3_5"], [("decoder_layer:1", 12), ("decoder_layer:2", 5)], MERGED),
                (HYBRIDS["Qwen3_5"], [("decoder_layer:1", 12), ("decoder_layer:2", 0)], MERGED),
                (HYBRIDS["LFM2-VL"], [("decoder_layer:1", 9)], MERGED),
            )
        ),
    ],
)
def test_prompts_of_one_to_three_images_are_read_as_transformers_reads_them(tmp_path, make, steps, asked):
    """Merged, selected and removed; by several axes, with features of their own, and with states."""
    source = cut(make(tmp_path / "folder"), *steps, prompt=48, images=3, **asked)
    # Keys of small tokens are not of norm 1, as the many updates of a slot in one have it.
    agrees(source, 1, 2, 3, sizes=(1,) if make in HYBRIDS.values() else (1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (partial(tiny_checkpoints.internvl, loud=True), [("decoder_layer:0", 5)]),
        (partial(tiny_checkpoints.smolvlm, loud=True), [("decoder_layer:0", 0)]),
        (QWEN["Qwen3VL"], [("decoder_layer:0", 9), ("decoder_layer:1", 0)]),
    ],
)
def test_frames_with_words_between_are_read_as_transformers_reads_them(tmp_path, make, steps):
    source = cut(make(tmp_path / "folder"), *steps, prompt=96, clip=Clip(FRAMES, 0.5))
    agrees(source, source.images)


@pytest.fixture(scope="module")
def bundle(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For up to three images, a quarter of whose tokens are left: merged, and then selected between the layers."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    (out.parent / "steps.toml").write_text(STEPS)
    asked = ("--recipe", out.parent / "steps.toml", "--images", 3, "--prompt-length", 40, "--answer-length", 16)
    command("model", llava, *asked, "-o", out)
    return out


STEPS = """
[[steps]]
method = "kcenter_merge"
seam = "projector_output"
keep = 24

[[steps]]
method = "kcenter_merge"
seam = "decoder_layer:0"
keep = 12

[[steps]]
method = "cls_topk"
seam = "decoder_layer:1"
keep = 6
"""


def drawn(seed: int) -> np.ndarray:
    few = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(few.repeat(21, 0).repeat(21, 1))


def test_the_proof_is_of_prompts_of_one_to_three_images(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (variant,) = manifest["variants"]
    assert manifest["schema"] == "2.5" and variant["generation"]["images"] == 3
    assert variant["generation"]["kv_capacity"] == [40 + 3 * count + 16 for count in (24, 12, 6)]
    assert variant["graphs"]["prefill"]["outputs"]["kept_indices_2"]["shape"] == [1, 18]
    checks = manifest["parity"]["checks"]
    assert all(check["ok"] for check in checks)
    answers = next(check for check in checks if check["part"] == "generation")
    assert int(answers["detail"].split(" tokens of 3 answers compared")[0]) > 20


def test_a_bundle_answers_about_fewer_images_as_its_folder_does(llava, bundle):
    """From pictures, through the runtime's own caches."""
    session = tokexport.load(bundle)
    source = cut(llava, ("decoder_layer:0", 12), method="kcenter_merge", prompt=40, images=3)
    cls = cut(llava, ("decoder_layer:1", 6), prompt=40, images=3)
    source.inner = (*source.inner, *cls.inner)
    said = []
    for count in (1, 2, 3):
        pictures = [drawn(seed) for seed in range(count)]
        encoded = joined([session.encode(one) for one in pictures])
        ids = session.ids(QUESTION, count)
        source.prompts = lambda n, images=1, ids=ids: [ids] * n
        own = source.own_answer(encoded, np.log(encoded["sizes"]), 16, count)
        said.append(session.generate(pictures, QUESTION).ids)
        assert said[-1] == [i for i in own.ids if i != 2]
    assert len(set(map(tuple, said))) == 3 and all(len(set(ids)) > 3 for ids in said)


def test_picks_of_another_image_fail_the_proof(bundle):
    """Each counts from its own first token."""
    opened = open_bundle(bundle)
    variant, probes = opened.variant(), [probe for probe in of_bundle(opened) if probe.part == "generation"]
    models = {role: load_model(bundle / graph.forms["portable"]) for role, graph in variant.graphs.items()}
    for probe in probes:
        probe.expected["kept_indices_2"] = np.roll(probe.expected["kept_indices_2"], 6, 1)
    (found,) = check_answers(probes, variant, models, ort_runner, "fp32")
    assert not found.ok and "of 18 picks of kept_indices_2 differ" in found.detail


def test_one_image_is_followed_into_the_language_model(bundle, tmp_path):
    Image.fromarray(drawn(0)).save(tmp_path / "a.png")
    said = command("show", bundle, "--image", tmp_path / "a.png", "--prompt", QUESTION, "-o", tmp_path / "a.svg")
    assert "3. cls_topk at decoder_layer:1: 12 → 6" in said and "6 of 36 tokens" in (tmp_path / "a.svg").read_text()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An InternVL that reads four frames, half of whose tokens are left behind its first layer."""
    folder = tiny_checkpoints.internvl(tmp_path_factory.mktemp("checkpoints") / "internvl", loud=True)
    out = tmp_path_factory.mktemp("bundles") / "v"
    asked = ("--frames", FRAMES, "--method", "cls_topk", "--seam", "decoder_layer:0", "--ratio", "0.5")
    command("model", folder, *asked, "--prompt-length", 64, "--answer-length", 16, "-o", out)
    return out


@pytest.mark.slow
def test_a_video_is_proved_and_followed_frame_by_frame(video, tmp_path):
    manifest = json.loads((video / "manifest.json").read_text())
    checks = manifest["parity"]["checks"]
    assert all(check["ok"] for check in checks) and any(check["part"] == "generation" for check in checks)
    frames = [Image.fromarray(drawn(seed)) for seed in range(FRAMES)]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:])
    said = command("show", video, "--video", tmp_path / "clip.png", "--prompt", QUESTION, "-o", tmp_path / "kept.svg")
    assert "1. cls_topk at decoder_layer:0: 16 → 8: 64 tokens become 32, 32 dropped" in said
    session = tokexport.load(video)
    pixels = np.stack([drawn(seed) for seed in range(FRAMES)])
    read = [session.run("encoder", **one) for one in session.encoder_inputs(pixels)]
    kept = begin(session.run, session.variant, joined(read), [session.ids(QUESTION, FRAMES)]).state["kept_indices_1"]
    assert kept.shape == (1, 32) and all(len(set(one)) == 8 for one in kept.reshape(FRAMES, 8).tolist())

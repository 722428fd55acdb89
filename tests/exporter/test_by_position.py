"""Slots that prefill reads at the positions of their members: rules by hand, transformers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio
import tiny_checkpoints
import tiny_hybrids
import tiny_qwen_vl
import tiny_tiles
import torch
from click.testing import CliRunner
from tokexport.errors import GraphError, RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.evaluate.bench import Bench
from tokexport.exporter.opening import open_source
from tokexport.exporter.pipeline import export
from tokexport.exporter.sources.checkpoint import Lengths
from tokexport.exporter.zoo.decoding import MASKED, causal_mask
from tokexport.exporter.zoo.members import Members
from tokexport.exporter.zoo.tiny_video import model as zoo
from tokexport.exporter.zoo.tiny_vlm import model as graphs
from tokexport.runtimes.bundle.manifest import Manifest
from tokexport.runtimes.generate import begin


def members(kept: list[int], assignment: list[int], sizes: list[float]) -> tuple[list[int], list[float]]:
    bias = torch.tensor([sizes]).log()
    found = Members.of(torch.tensor([kept]), torch.tensor([assignment]), bias)
    return found.slot[0].tolist(), found.bias[0].tolist()


def test_members_of_a_slot_share_its_weight() -> None:
    slot, bias = members([0, 3], [0, 0, 1, 1, 1], [2, 3])
    assert slot == [0, 0, 1, 1, 1]
    assert bias == pytest.approx([0] * 5, abs=1e-6)


def test_a_slot_that_stands_for_more_than_its_members_keeps_its_size() -> None:
    _, bias = members([0, 2], [0, 0, 1, 1], [2, 6])
    assert bias == pytest.approx([0, 0, np.log(3), np.log(3)], abs=1e-6)


def test_a_token_that_was_lost_is_never_seen() -> None:
    slot, bias = members([1, 3], [-1, 0, 0, 1], [2, 1])
    assert slot[1:] == [0, 0, 1] and bias[0] == MASKED and bias[1:] == pytest.approx([0] * 3, abs=1e-6)


def test_a_slot_without_its_own_token_stands_at_its_place() -> None:
    """As those do that hold the basis of ApET: its content is another's, and nothing went into it."""
    slot, bias = members([1, 3], [0, 0, 0, -1], [3, 1])
    assert slot == [0, 0, 0, 1] and bias == pytest.approx([0] * 4, abs=1e-6)


def test_prefill_of_a_built_in_model_is_attention_to_the_whole_sequence() -> None:
    """Every token a copy of its slot, at its own position; of what all of them read, that of the slots is kept."""
    model, keep = zoo.load(), 29
    config, rng = model.config, torch.Generator().manual_seed(0)
    kept = torch.randperm(config.tokens, generator=rng)[:keep].sort().values[None]
    into = torch.randint(0, keep, (1, config.tokens), generator=rng)
    into[0, kept[0]] = torch.arange(keep)
    sizes = torch.nn.functional.one_hot(into, keep).sum(1).float()
    ids, last = torch.randint(3, 20, (1, config.prompt_length), generator=rng), torch.tensor([keep + 9])
    with torch.no_grad():
        embeds = graphs.Embed(model)(ids, torch.randn(1, keep, config.dim, generator=rng))
        found = graphs.Prefill(model, keep)(embeds, kept, sizes.log(), last, into)
        length = config.sequence(config.tokens)
        behind = torch.arange(1 + keep, config.sequence(keep))
        row = torch.cat([torch.tensor([0]), 1 + into[0], behind])
        own = torch.cat([torch.tensor([0]), 1 + kept[0], behind + config.tokens - keep])
        x, (cos, sin) = embeds, model.decoder.rotary(torch.arange(length)[None])
        for number, layer in enumerate(model.decoder.blocks):
            query, key, value = layer.qkv(x[:, row], cos, sin)
            torch.testing.assert_close(found[1 + 2 * number][:, :, : len(own)], key[:, :, own], atol=1e-4, rtol=1e-4)
            x = layer.attend(x[:, row], query, key, value, causal_mask(length))[:, own]
        torch.testing.assert_close(found[0], model.decoder.logits(x[:, int(last)]), atol=1e-4, rtol=1e-4)


_WHOLE: dict[str, Callable[[Path], Any]] = {
    "Llama": partial(tiny_checkpoints.whole_llava, loud=True),
    "SmolLM3, one of whose layers does not rotate": partial(tiny_checkpoints.whole_llava, kind="smollm3", depth=4),
    "Cohere 2, likewise": partial(tiny_checkpoints.whole_llava, kind="cohere2", depth=4),
    "EXAONE 4, likewise": partial(tiny_checkpoints.whole_llava, kind="exaone4", depth=4),
    "Ministral 3, whose queries are scaled by position": partial(tiny_checkpoints.whole_llava, kind="ministral3"),
    "Mistral": partial(tiny_checkpoints.whole_llava, kind="mistral"),
    "Gemma 3, whose kinds of layers rotate differently": tiny_checkpoints.gemma3,
    "PaliGemma, all of whose prompt is seen": tiny_checkpoints.paligemma,
    "Qwen2-VL, three axes": tiny_qwen_vl.qwen_vl,
    "Qwen3-VL, interleaved, with DeepStack": partial(tiny_qwen_vl.qwen_vl, kind="Qwen3VL"),
    "Qwen3.5, a hybrid": partial(tiny_qwen_vl.qwen_vl, kind="Qwen3_5"),
    "LFM2-VL": tiny_hybrids.lfm2_vl,
    "Voxtral": tiny_audio.voxtral,
    "Mistral 3": tiny_tiles.pixtral,
}


@pytest.mark.parametrize("family", _WHOLE)
def test_the_next_words_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """Its own code reads the whole sequence; the first two words by their scores, and the positions are read at all."""
    pytest.importorskip("transformers")
    _WHOLE[family](tmp_path / "f")
    source: Any = open_source(str(tmp_path / "f"), parts="all", lengths=Lengths(40, 20)).read_by_position()
    tokens = source.tokens
    keep, rng = tokens // 4, np.random.default_rng(1)
    kept = np.sort(rng.choice(tokens, keep, replace=False))
    into = rng.integers(0, keep, tokens)
    into[kept] = np.arange(keep)
    into[np.setdiff1d(np.arange(tokens), kept)[:2]] = -1
    bias = np.log([[np.sum(into == slot) for slot in range(keep)]]).astype(np.float32)
    values = rng.normal(0, 1, (1, keep, source.decoder.width)).astype(np.float32)
    embed, prefill, decode = source.language(keep)
    slots = {"kept_indices": torch.from_numpy(kept)[None], "token_bias": torch.from_numpy(bias)}
    own = source.own_answer({"tokens": values, "kept_indices": kept[None], "assignment": into[None]}, bias, 2)
    with torch.no_grad():
        embeds = embed.module(embed.inputs["input_ids"], torch.from_numpy(values))
        fed = {**prefill.inputs, **slots, "inputs_embeds": embeds, "assignment": torch.from_numpy(into)[None]}
        found = dict(zip(prefill.outputs, prefill.module(*fed.values()), strict=True))
        given = {name.replace("present_", "past_"): value for name, value in found.items()} | slots
        given |= {"input_ids": torch.tensor([own.ids[:1]]), "write_index": fed["last_index"] + 1}
        after = decode.module(*(given[name] for name in decode.inputs))[0]
        merged = prefill.module(*{**fed, "assignment": torch.full((1, tokens), -1)}.values())[0]
    np.testing.assert_allclose(found["logits"][0], own.scores[0], atol=1e-4)
    np.testing.assert_allclose(after[0], own.scores[1], atol=1e-4)
    assert (found["logits"] - merged).abs().max() > 1e-3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-video by the command, with a tenth of its tokens."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    asked = ["tiny-video", "--method", "kcenter_merge", "--ratio", "0.9", "--size-bias", "positions"]
    result = CliRunner().invoke(main, ["model", *asked, "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_videos_gain_by_it_and_the_bundle_says_so(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["schema"] == "2.6"
    (variant,) = manifest["variants"]
    assert variant["generation"]["by_position"] is True
    assert variant["graphs"]["prefill"]["inputs"]["assignment"]["shape"] == [1, 288]
    accuracy = json.loads((bundle / "parity.json").read_text()) | manifest["parity"]
    # .471 with log(size) alone: docs/ideas.md.
    assert accuracy["accuracy"]["compressed"] > 0.58
    assert any("compute 28 tokens, and its attention is over 288 positions" in note for note in accuracy["notes"])
    report = (bundle / "report.html").read_text(encoding="utf-8")
    assert (
        "prefill reads a merged token at the positions of all that is in it" in report
        and "--size-bias positions" in report
    )


def test_a_manifest_whose_prefill_takes_no_assignment_is_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["variants"][0]["graphs"]["prefill"]["inputs"]["assignment"]
    with pytest.raises(ValueError, match="`prefill` has no 'assignment'"):
        Manifest.model_validate(manifest)


def test_an_encoder_that_does_not_say_where_tokens_went_is_told_of(bundle: Path) -> None:
    variant = Manifest.model_validate_json((bundle / "manifest.json").read_text()).variants[0]
    encoded = {
        "tokens": np.zeros((1, 28, 96), np.float32),
        "kept_indices": np.arange(28)[None],
        "sizes": np.ones((1, 28), np.float32),
    }
    ran: list[str] = []

    def run(role: str, /, **_: np.ndarray) -> dict[str, np.ndarray]:
        ran.append(role)
        return {"inputs_embeds": np.zeros((1, 44, 96), np.float32)}

    with pytest.raises(GraphError, match=r"prefill reads an assignment \[1, 288\], and there is none"):
        begin(run, variant, encoded, [[1, 5]])
    assert ran == ["embed"]


def refusal(*asked: str, source: str = "tiny-video") -> str:
    result = CliRunner().invoke(main, ["model", source, *asked, "--size-bias", "positions"])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_what_has_no_positions_to_read_is_refused(tmp_path: Path) -> None:
    budget = ["--method", "kcenter_merge", "--ratio", "0.75"]
    assert "tiny-asr that are asked for have none" in refusal(*budget, source="tiny-asr")
    assert "tiny-video that are asked for have none" in refusal(*budget, "--parts", "encoder")
    assert "divprune merges no token" in refusal("--method", "divprune", "--ratio", "0.75")
    inside = ["--seam", "encoder_layer:1", "--rebuild"]
    assert "all tokens are put back at their places" in refusal(*budget, *inside, source="tiny-vlm")
    pytest.importorskip("transformers")
    folder = str(tiny_checkpoints.whole_llava(tmp_path / "f", depth=3))
    taken = refusal(*budget, "--seam", "encoder_layer:0", "--rebuild", source=folder)
    assert "Leave --rebuild or --size-bias out" in taken
    assert "again between layers" in refusal(*budget, "--seam", "decoder_layer:0", source=folder)
    assert "a prompt of it has 2 images, each compressed by itself" in refusal(*budget, "--images", "2", source=folder)
    assert "its language graphs are not exported" in refusal(*budget, "--parts", "encoder", source=folder)
    recipe = tmp_path / "two.toml"
    recipe.write_text(
        'summary = "two"\n[[steps]]\nmethod = "kcenter_merge"\nratio = "0.5"\n'
        '[[steps]]\nmethod = "cls_topk"\nratio = "0.5"\nseam = "decoder_layer:0"\n'
    )
    assert "again between layers of its language model" in refusal("--recipe", str(recipe), source=folder)


def test_a_way_that_is_not_known_is_refused_in_python() -> None:
    with pytest.raises(RequestError, match="size_bias 'on' is not known"):
        export("tiny-vlm", method="kcenter_merge", ratio="0.75", size_bias="on")


def test_what_is_recommended_is_typed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefill that reads more keys is timed for what merges, and for nothing else."""
    asked: list[tuple[int, int, bool]] = []

    def times(_: Any, tokens: int, keep: int, *, by_position: bool) -> dict[str, float]:
        asked.append((tokens, keep, by_position))
        return {"uncompressed_ms": 2.0, "prefill_ms": 1.0}

    monkeypatch.setattr(Bench, "times", lambda *_: {"uncompressed_ms": 2.0, "encoder_ms": 1.0, "compressor_ms": 0.1})
    monkeypatch.setattr(Bench, "prefill_times", times)
    words = ["--method", "kcenter_merge", "--tokens", "28", "--questions", "64", "--seeds", "1"]
    result = CliRunner().invoke(
        main, ["recommend", "tiny-video", *words, "--size-bias", "positions", "-o", str(tmp_path / "s"), "--json"]
    )
    found = json.loads(result.stdout)
    assert found["command"] == "tokexport model tiny-video --method kcenter_merge --keep 28 --size-bias positions"
    assert found["recommended"]["accuracy"] > 0.58
    assert set(asked) == {(288, 288, False), (288, 28, False), (288, 28, True)}

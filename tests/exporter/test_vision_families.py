"""Vision-language folders of other families than LLaVA: whole, and without compression the answers of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_hybrids
import tokexport
from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
# Idefics3 is SmolVLM under another name.
SELDOM = [pytest.param(name, marks=pytest.mark.slow) for name in ("idefics3", "lfm2_vl")]
FAMILIES = ("smolvlm", "internvl", "gemma3", "paligemma", *SELDOM)
TOKENS, IMAGE = 16, 95


def made(name: str, folder: Path) -> Path:
    if name == "idefics3":
        return tiny_checkpoints.smolvlm(folder, kind=name)
    if name == "lfm2_vl":
        return tiny_hybrids.lfm2_vl(folder)
    return getattr(tiny_checkpoints, name)(folder)


def _pixels(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    """A picture as the model of a folder takes it."""
    import torch

    given = torch.from_numpy(pixels)
    if folder.name == "tiny-lfm2_vl":
        return tiny_hybrids.patches(given, 6)
    return {"pixel_values": given[:, None] if folder.name in ("tiny-smolvlm", "tiny-idefics3") else given}


def _kinds(folder: Path, ids: Any) -> dict[str, Any]:
    """What the processors of Gemma 3 and PaliGemma say of each id."""
    if "gemma" not in folder.name:
        return {}
    return {"token_type_ids": ids.new_zeros(ids.shape) if "pali" in folder.name else (ids == IMAGE).long()}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(request.param, tmp_path_factory.mktemp("checkpoints") / f"tiny-{request.param}")


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tokexport.Exported:
    return tokexport.export(
        str(folder),
        tmp_path_factory.mktemp("bundles") / folder.name,
        method="kcenter_merge",
        keep=[TOKENS, 5],
        prompt_length=24,
        answer_length=16,
    )


def test_all_parts_and_the_answers_are_proved(exported):
    checks = {check["part"]: check for check in exported.proof["checks"]}
    assert {"head", "compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert all(check["ok"] for check in checks.values()) and "tokens of 3 answers" in checks["generation"]["detail"]
    joins = exported.source != "tiny-paligemma"
    assert exported.compression[0]["seam"]["kind"] == ("projector_output" if joins else "encoder_output")
    assert exported.compression[0]["size_bias"]


@pytest.mark.parametrize("number", range(2))
def test_without_compression_it_answers_as_transformers_does(folder, exported, number):
    from transformers import AutoModelForImageTextToText

    pixels = open_source(str(folder)).real_inputs(2)[number]["pixel_values"]
    session = tokexport.load(exported.bundle)
    ids = session.ids(QUESTION)
    place = session.variant.generation.image_span[0]
    whole = [*ids[:place], *[IMAGE] * TOKENS, *ids[place:]]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    said = model.generate(
        input_ids=torch.tensor([whole]),
        **_pixels(folder, pixels),
        **_kinds(folder, torch.tensor([whole])),
        attention_mask=torch.ones(1, len(whole), dtype=torch.long),
        max_new_tokens=16,
        do_sample=False,
    )[0, len(whole) :].tolist()
    assert len(set(said)) > 1 and session.generate(pixels, QUESTION).ids == [i for i in said if i != 2]


@pytest.mark.parametrize("make", [tiny_checkpoints.gemma3, tiny_checkpoints.whole_llava])
def test_a_cap_of_logits_that_the_class_of_transformers_does_not_read_is_not_read_here(tmp_path, make):
    """Gemma's own class caps its logits; those of Gemma 3 with pictures, and of a LLaVA over Gemma 2, do not."""
    folder = make(tmp_path / "capped", **({"kind": "gemma2"} if make is tiny_checkpoints.whole_llava else {}))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    source: Any = open_source(str(folder), parts="all")
    tokens = np.random.default_rng(0).standard_normal((1, source.tokens, 32)).astype(np.float32)
    kept = np.arange(source.tokens)[None]
    own = source.own_answer({"tokens": tokens, "kept_indices": kept}, np.zeros_like(kept, np.float32), 1).scores[0]
    graphs = {graph.role: graph for graph in source.language(source.tokens)}
    given = graphs["prefill"].inputs
    with torch.no_grad():
        embeds = graphs["embed"].module(graphs["embed"].inputs["input_ids"], torch.from_numpy(tokens))
        ours = graphs["prefill"].module(embeds, torch.from_numpy(kept), given["token_bias"], given["last_index"])[0]
    assert np.abs(own).max() > 1
    np.testing.assert_allclose(ours[0], own, atol=1e-4)


def test_a_picture_of_any_shape_is_read_at_the_towers_size(folder, exported):
    picture = np.random.default_rng(0).integers(0, 255, (30, 90, 3), dtype=np.uint8)
    assert tokexport.load(exported.bundle).encode(picture)["tokens"].shape == (1, TOKENS, 32)
    tiles = any("without the tiles" in note for note in exported.notes)
    assert tiles == (folder.name != "tiny-paligemma")


def test_a_sequence_longer_than_a_sliding_window_is_refused(tmp_path):
    folder = tiny_checkpoints.gemma3(tmp_path / "gemma3")
    with pytest.raises(RequestError, match="layers of this model see 512"):
        tokexport.export(str(folder), tmp_path / "b", method="topk", keep=8, prompt_length=400, answer_length=100)


@pytest.mark.parametrize("seam", ["encoder_output", "encoder_layer:0", "encoder_layer:1/2"])
def test_in_front_of_the_pixel_shuffle_no_token_may_go_and_nothing_is_exported_to_say_so(folder, tmp_path, seam):
    if folder.name == "tiny-paligemma":
        pytest.skip("it has none")
    steps = []
    with pytest.raises(RequestError, match=f"{seam} of .* is not valid: its (pixel (un)?shuffle|average pool)"):
        tokexport.export(str(folder), tmp_path / "b", method="topk", keep=8, seam=seam, step=steps.append)
    assert not (tmp_path / "b").exists() and steps == ["opening the model"]

"""Moonshine: from a folder to text by the real command line, token by token what transformers says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tiny_checkpoints  # noqa: E402
from click.testing import CliRunner, Result  # noqa: E402
from tokexport.exporter.cli import main  # noqa: E402
from tokexport.exporter.families.spoken import spoken  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.runtimes.load import load  # noqa: E402

# What three convolutions of 127 by 64, 7 by 3 and 3 by 2 leave of 4 s.
TOKENS = 165
SAMPLES = 64000
WORDS = 24


def tokexport(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.moonshine(tmp_path_factory.mktemp("checkpoints") / "tiny-moonshine")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    found = transformers.MoonshineForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    return found.eval()


def sounds() -> list[np.ndarray]:
    """Three sounds of 4 s, silence at their ends included; with a batch axis each is read as it is, in one piece."""
    return [np.pad(wave, (0, SAMPLES - len(wave))) for wave in spoken(3, SAMPLES)]


def exported(folder: Path, bundle: Path, *how: object) -> Any:
    tokexport("model", folder, "--parts", "all", "--window", "4", *how, "-o", bundle)
    (said,) = [one for one in json.loads((bundle / "parity.json").read_text())["checks"] if one["part"] == "generation"]
    assert said["ok"] and int(said["detail"].split()[0]) >= 3 * WORDS, said
    return load(bundle)


def test_with_every_token_a_transcript_is_that_of_generate(folder, model, tmp_path):
    session = exported(folder, tmp_path / "whole", "--method", "uniform", "--keep", TOKENS)
    seen = set()
    for sound in sounds():
        with torch.no_grad():
            wanted = model.generate(torch.from_numpy(sound)[None], max_new_tokens=WORDS, do_sample=False)
        answer = session.generate(sound[None], max_new_tokens=WORDS)
        assert answer.ids == wanted[0, 1:].tolist()
        assert answer.text == " ".join(f"w{i}" for i in answer.ids if i > 2)
        seen.update(answer.ids)
    assert len(seen) > 10, "a model that says one word proves nothing"


@pytest.mark.parametrize(
    ("seam", "kept"), [pytest.param("encoder_output", 40, marks=pytest.mark.slow), ("encoder_layer:0", 80)]
)
def test_with_fewer_tokens_it_is_that_of_the_decoder_with_log_size(folder, model, tmp_path, seam, kept):
    session = exported(folder, tmp_path / "fewer", "--method", "kcenter_merge", "--keep", kept, "--seam", seam)
    assert session.variant.generation.image_span == (0, kept)
    for sound in sounds()[:2]:
        encoded = session.encode(sound[None])
        bias = torch.from_numpy(encoded["sizes"]).log()[:, None, None]
        assert bias.max() > 0
        ids = [model.config.decoder_start_token_id]
        for _ in range(WORDS):
            with torch.no_grad():
                hidden = model.model.decoder(
                    input_ids=torch.tensor([ids]),
                    encoder_hidden_states=torch.from_numpy(encoded["tokens"]),
                    encoder_attention_mask=bias,
                    use_cache=False,
                ).last_hidden_state
            ids.append(int(model.proj_out(hidden[0, -1]).argmax()))
        assert session.generate(sound[None], max_new_tokens=WORDS).ids == ids[1:]


def test_a_slot_inside_the_encoder_turns_by_the_position_it_inherits(folder, model, tmp_path):
    """Layer 1 on the kept tokens alone, with the rows of the rotary table that belong to them."""
    session = exported(folder, tmp_path / "inside", "--method", "uniform", "--keep", 60, "--seam", "encoder_layer:0")
    sound, encoder = sounds()[0], model.model.encoder
    encoded = session.encode(sound[None])
    heard: list[Any] = []
    hook = encoder.layers[0].register_forward_hook(lambda _module, _args, made: heard.append(made))
    with torch.no_grad():
        encoder(torch.from_numpy(sound)[None])
        hook.remove()
        kept = torch.from_numpy(encoded["kept_indices"])
        tokens = heard[0][:, kept[0]]
        wanted = encoder.layer_norm(
            encoder.layers[1](tokens, position_embeddings=encoder.rotary_emb(tokens, position_ids=kept))
        )
    np.testing.assert_allclose(encoded["tokens"], wanted.numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_recipe_removes_inside_the_encoder_and_behind_it(folder, model, tmp_path):
    recipe = tmp_path / "twice.toml"
    step = '[[steps]]\nmethod = "{}"\nratio = "1/2"\nseam = "{}"\n'
    steps = step.format("uniform", "encoder_layer:0") + step.format("kcenter_merge", "encoder_output")
    recipe.write_text(f'summary = "half, twice"\n{steps}')
    session = exported(folder, tmp_path / "twice", "--recipe", recipe)
    kept = session.variant.generation.image_span[1]
    assert kept == session.variant.compression[1].tokens_out < session.variant.compression[1].tokens_in < TOKENS
    checks = json.loads((tmp_path / "twice/parity.json").read_text())["checks"]
    assert {"between", "sequence"} < {one["part"] for one in checks} and all(one["ok"] for one in checks)
    encoded = session.encode(sounds()[0][None])
    assert encoded["sizes"].sum() == session.variant.compression[1].tokens_in
    assert encoded["kept_indices"].max() > kept, "positions are those of the whole sound"


def test_run_prints_what_was_said_and_reads_a_long_sound_in_pieces(folder, tmp_path):
    import soundfile

    bundle = tmp_path / "two"
    how = ["--method", "kcenter_merge", "--ratio", "0.5", "--window", "4", "--window", "12", "--no-verify"]
    tokexport("model", folder, "--parts", "all", *how, "-o", bundle)
    soundfile.write(tmp_path / "long.wav", np.tile(np.concatenate(sounds()), 2), 16000)
    said = json.loads(tokexport("run", bundle, "--audio", tmp_path / "long.wav", "--json").stdout)
    assert len(said["pieces"]) > 1 and said["pieces"][-1]["end"] == 24.0
    assert said["text"].startswith("w")


def test_a_window_is_as_long_as_the_speech_it_was_trained_on(folder):
    source = open_source(str(folder), parts="all")
    assert source.encoder.grid == (1248,) and source.preprocess.samples == 480000 and not source.preprocess.normalize
    short = source.windowed(4)
    assert short.encoder.grid == (TOKENS,) and short.encoder.inputs["input_values"].shape == (1, SAMPLES)
    assert short.generation(40).tokens_in == TOKENS
    assert short.encoder.module.encoder is source.encoder.module.encoder
    for seconds, what in ((3, "too short"), (31, "too long")):
        refused = tokexport("model", folder, "--method", "uniform", "--ratio", "0.5", "--window", seconds, code=2)
        assert what in refused.stderr and "--window from 4 to 30" in refused.stderr


def test_what_cannot_be_opened_is_refused_by_name(folder, tmp_path):
    def refused(file: str, **changed: Any) -> str:
        copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        (copy / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changed))
        how = ["--parts", "all", "--method", "uniform", "--ratio", "0.5"]
        return tokexport("model", copy, *how, code=2).stderr

    assert "sampling_rate 8000, and only 16000" in refused("preprocessor_config.json", sampling_rate=8000)
    assert "padding_side left" in refused("preprocessor_config.json", sampling_rate=16000, padding_side="left")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "copy")
    assert "2 heads and 1 of keys and values in the decoder" in refused("config.json", decoder_num_key_value_heads=1)
    assert "max_position_embeddings 8 leaves no room" in refused("config.json", max_position_embeddings=8)


def test_a_folder_without_a_head_gives_its_encoder_and_a_sound_is_normalised_where_it_says_so(tmp_path):
    folder = tiny_checkpoints.moonshine(tmp_path / "bare", headless=True, extractor={"do_normalize": True})
    source = open_source(str(folder), parts="all")
    assert source.language(40) == [] and "MoonshineModel" in source.notes[0]
    (made,) = source.windowed(4).real_inputs(1)
    wave = spoken(1, SAMPLES)[0]
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    wanted = extractor(wave, sampling_rate=16000, padding="max_length", max_length=SAMPLES, return_tensors="np")
    np.testing.assert_allclose(made["input_values"], wanted["input_values"], atol=1e-5)

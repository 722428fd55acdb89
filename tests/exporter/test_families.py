"""Each family's graphs against the model that transformers, or the zoo, runs from the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny_checkpoints

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ort = pytest.importorskip("onnxruntime")

from tokexport.errors import RequestError  # noqa: E402
from tokexport.exporter.families import family_of  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.exporter.sources.source import Source  # noqa: E402
from tokexport.exporter.sources.torch_export import export_graph  # noqa: E402
from tokexport.graph_passes.seams.find import find_seams  # noqa: E402


def torch_tokens(source: Source, x: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return source.encoder.module(*map(torch.from_numpy, x.values())).numpy()


def llava_tokens(folder: Path, x: dict[str, np.ndarray]) -> np.ndarray:
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        return model.model.get_image_features(torch.from_numpy(x["pixel_values"])).pooler_output[0][None].numpy()


def run(path: Path, x: dict[str, np.ndarray]) -> np.ndarray:
    return ort.InferenceSession(str(path)).run(["tokens"], x)[0]


def agree(got: np.ndarray, wanted: np.ndarray) -> None:
    """Close, where the wanted values differ from token to token: parity of nothing is no parity."""
    assert wanted.std(1).min() > 1e-3
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


# --- LLaVA


def test_llava_graph_gives_the_image_features_of_transformers(tiny_llava_folder, tiny_llava_encoder_onnx):
    for x in open_source(str(tiny_llava_folder)).real_inputs(2):
        got = run(tiny_llava_encoder_onnx, x)
        assert got.shape == (1, 36, 48)
        agree(got, llava_tokens(tiny_llava_folder, x))


def test_llava_real_inputs_are_normalised_pictures_that_differ(tiny_llava_folder):
    first, second = (x["pixel_values"] for x in open_source(str(tiny_llava_folder)).real_inputs(2))
    back = first * np.array([0.27, 0.26, 0.28])[:, None, None] + np.array([0.48, 0.46, 0.41])[:, None, None]
    assert first.dtype == np.float32 and first.shape == (1, 3, 84, 84)
    assert back.min() >= -1e-5 and back.max() <= 1 + 1e-5 and np.abs(first - second).mean() > 0.1


def test_llava_seams_are_those_that_papers_name(tiny_llava_folder, tiny_llava_encoder_onnx):
    source = open_source(str(tiny_llava_folder))
    seams = {seam.name: seam for seam in find_seams(ir.load(tiny_llava_encoder_onnx))}
    assert set(source.auto_seam.values()) <= set(seams)
    for name in source.auto_seam.values():
        assert seams[name].grid == (6, 6) == source.encoder.grid and "cls_attention" in seams[name].signals


@pytest.mark.parametrize(
    "config",
    [
        {"vision_feature_layer": -1},
        {"vision_feature_layer": [0, -2], "vision_feature_select_strategy": "full"},
        {"vision_feature_layer": [1, -1]},
        {"tower": "siglip", "vision_feature_select_strategy": "full"},
    ],
    ids=str,
)
def test_llava_takes_the_hidden_states_that_its_config_names(tmp_path, config):
    folder = tiny_checkpoints.llava(tmp_path / "llava", size=28, **config)
    source = open_source(str(folder))
    (x,) = source.real_inputs(1)
    agree(torch_tokens(source, x), llava_tokens(folder, x))
    assert (source.encoder.grid is None) == (
        config.get("tower") != "siglip" and "vision_feature_select_strategy" in config
    )
    count = torch_tokens(source, x).shape[1]
    assert source.tokens == count and source.encoder.known == (0 if source.encoder.grid else count)


def test_llava_in_float16_is_opened_in_float32(tmp_path):
    folder = tiny_checkpoints.llava(tmp_path / "half", size=28, dtype="float16")
    source = open_source(str(folder))
    assert {parameter.dtype for parameter in source.encoder.module.parameters()} == {torch.float32}
    (x,) = source.real_inputs(1)
    agree(torch_tokens(source, x), llava_tokens(folder, x))


def test_a_vision_tower_that_wants_more_than_pixels_is_refused(tmp_path, tiny_llava_folder):
    config = json.loads((tiny_llava_folder / "config.json").read_text())
    config["vision_config"] = {"model_type": "dinov2", "hidden_size": 32, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="vision tower dinov2 is not supported"):
        open_source(str(tmp_path))


# --- Whisper


def test_whisper_graph_gives_the_last_hidden_state_of_transformers(tiny_whisper_folder, tiny_whisper_encoder_onnx):
    model = transformers.WhisperModel.from_pretrained(tiny_whisper_folder).eval()
    for x in open_source(str(tiny_whisper_folder)).real_inputs(2):
        assert x["input_features"].shape == (1, 80, 200) and x["input_features"].std() > 0.1
        with torch.no_grad():
            wanted = model.encoder(torch.from_numpy(x["input_features"])).last_hidden_state.numpy()
        got = run(tiny_whisper_encoder_onnx, x)
        assert got.shape == (1, 100, 32)
        agree(got, wanted)


def test_whisper_without_a_head_in_float16_with_128_bands(tmp_path):
    folder = tiny_checkpoints.whisper(tmp_path / "large", mels=128, tokens=50, headless=True, dtype="float16")
    source = open_source(str(folder))
    (x,) = source.real_inputs(1)
    model = transformers.WhisperModel.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        wanted = model.encoder(torch.from_numpy(x["input_features"])).last_hidden_state.numpy()
    assert x["input_features"].shape == (1, 128, 100) and source.encoder.grid == (50,)
    agree(torch_tokens(source, x), wanted)


def test_whisper_says_how_a_sound_becomes_its_input(tiny_whisper_folder):
    from tokexport.exporter.families.spoken import spoken

    source = open_source(str(tiny_whisper_folder))
    extract = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    wave = spoken(2, source.preprocess.samples)[1]
    made = extract(wave, sampling_rate=16000, return_tensors="np").input_features
    np.testing.assert_allclose(made, source.real_inputs(2)[1]["input_features"], atol=1e-4)


def test_whisper_has_one_place_behind_its_encoder(tiny_whisper_folder, tiny_whisper_encoder_onnx):
    names = {seam.name for seam in find_seams(ir.load(tiny_whisper_encoder_onnx))}
    assert set(open_source(str(tiny_whisper_folder)).auto_seam.values()) == {"encoder_output"} <= names


# --- tiny-vlm


@pytest.fixture(scope="module")
def tiny_vlm() -> Source:
    return open_source(parts="all")


def test_tiny_vlm_graph_gives_the_tokens_of_the_zoo(tiny_vlm, tiny_vlm_encoder_onnx):
    for x in tiny_vlm.real_inputs(2):
        with torch.no_grad():
            wanted = tiny_vlm.model.encode(torch.from_numpy(x["pixel_values"])).numpy()
        agree(run(tiny_vlm_encoder_onnx, x), wanted)


def test_tiny_vlm_language_graphs_run_on_their_examples(tiny_vlm):
    graphs = tiny_vlm.language(21)
    assert [graph.role for graph in graphs] == ["embed", "prefill", "decode"]
    for graph in graphs:
        with torch.no_grad():
            wanted = graph.module(*graph.inputs.values())
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        session = ort.InferenceSession(ir.to_proto(export_graph(graph)).SerializeToString())
        got = session.run(list(graph.outputs), {name: x.numpy() for name, x in graph.inputs.items()})
        for mine, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_tiny_vlm_generation_fits_its_graphs(tiny_vlm):
    record = tiny_vlm.generation(21)
    embed, prefill, decode = tiny_vlm.language(21)
    offset, keep = record.image_span
    length = prefill.inputs["inputs_embeds"].shape[1]
    assert (offset, keep, length, record.tokens_in) == (1, 21, record.prompt_length + 21, 144)
    caches = [x for name, x in decode.inputs.items() if name.startswith("past_key")]
    assert [x.shape[2] for x in caches] == record.kv_capacity == [length + record.max_new_tokens] * 3
    last = int(prefill.inputs["last_index"])
    assert int(decode.inputs["write_index"]) == last + 1
    # The example is a question: the word before the padding is its last.
    words = json.loads(tiny_vlm.processor_files["processor/vocabulary.json"])["words"]
    ids = embed.inputs["input_ids"][0].tolist()
    assert words[ids[last - keep]] == "?" and ids[last - keep + 1] == record.pad and len(words) == record.vocabulary
    assert words[record.bos] == "<bos>" and [words[i] for i in record.eos] == ["<eos>"]


def test_tiny_vlm_preprocessing_is_what_it_was_trained_with(tiny_vlm):
    from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values

    image = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    record = tiny_vlm.preprocess
    wanted = (image.transpose(0, 3, 1, 2) * record.rescale - record.mean[0]) / record.std[0]
    np.testing.assert_allclose(pixel_values(image), wanted, atol=1e-6)
    assert record.size == (96, 96)


def test_the_encoder_alone_has_no_language_graphs():
    source = open_source(parts="encoder")
    assert source.language(21) == [] and source.generation(21) is None


# --- the rest


def test_the_architecture_decides_and_the_model_type_only_without_one():
    assert family_of("llava", ["LlavaLlamaForCausalLM"]) is None
    assert family_of("whisper", []) is not None and family_of("bert", []) is None

"""Speech models that read sounds of any length, and adapters: what is read of their folders, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_audio
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources import adapter
from tokexport.exporter.sources.checkpoint import Checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = getattr(tiny_audio, family)(tmp_path_factory.mktemp("checkpoints") / f"tiny-{family}")
        return made[family]

    return folder


@pytest.fixture
def changed(folders: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a folder, with keys of one of its JSON files as given; None: without them."""

    def copy(family: str, file: str, part: str | None = None, **changes: Any) -> Path:
        folder = shutil.copytree(folders(family), tmp_path / family, dirs_exist_ok=True)
        data = json.loads((folder / file).read_text())
        (data[part] if part else data).update(changes)
        (folder / file).write_text(json.dumps(data))
        return folder

    return copy


# 1.28 s are one block of a conformer, and 0.3 s the places that its projector reads at a time.
@pytest.mark.parametrize(
    ("family", "seconds"),
    [
        ("granite_speech", 1.28),
        ("granite_speech", 3.0),
        ("granite_speech_plus", 0.64),
        ("qwen3_asr", 2),
        ("qwen3_asr", 5),
    ],
)
def test_the_encoder_is_that_of_transformers_for_any_length(folders, family, seconds):
    from transformers import AutoModelForMultimodalLM

    source = open_source(str(folders(family)), parts="encoder").windowed(seconds)
    frames = round(100 * seconds)
    features = torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(0))
    model = AutoModelForMultimodalLM.from_pretrained(folders(family), dtype=torch.float32).eval()
    with torch.no_grad():
        found = source.encoder.module(features)
        if family == "qwen3_asr":
            theirs = model.get_audio_features(features, torch.ones(1, frames)).pooler_output[None]
        else:
            theirs = model.get_audio_features(features.transpose(1, 2).reshape(1, -1, 160)).pooler_output
    assert found.shape == (1, source.tokens, 32) and source.sound.frames == frames
    assert f"read as one of {seconds:g} s" in source.notes[0]
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "seconds", "fix"),
    [("qwen3_asr", 1.5, "--window 2"), ("granite_speech", 0.01, "--window 0.02"), ("qwen3_asr", 301, "--window 300")],
)
def test_a_window_that_is_no_whole_number_of_tokens_is_refused(folders, family, seconds, fix):
    source = open_source(str(folders(family)), parts="encoder")
    with pytest.raises(RequestError, match=f"a window of {seconds:g} s is no multiple") as refused:
        source.windowed(seconds)
    assert fix in refused.value.fix
    assert source.windowed(float(fix.split()[1])).window


def test_a_window_too_long_for_the_language_model_is_refused(changed):
    folder = changed("qwen3_asr", "config.json", "text_config", max_position_embeddings=300)
    source = open_source(str(folder), parts="all")
    with pytest.raises(RequestError, match=r"a sound of 52 tokens .* take 308 positions"):
        source.windowed(4)


def test_the_adapter_is_added_to_the_matrices_that_it_names_and_a_sound_is_a_mark_in_the_text(folders):
    from safetensors.torch import load_file

    folder = folders("granite_speech")
    source = open_source(str(folder), parts="all")
    assert source.asked.before == "<|start_of_role|> user <|end_of_role|><|audio|>"
    assert source.asked.after.endswith("assistant <|end_of_role|>")
    weights, added = (load_file(folder / f"{name}.safetensors") for name in ("model", "adapter_model"))
    begins = "base_model.model.model.language_model.layers.1.self_attn.v_proj.lora_"
    found = source.decoder.model.layers[1].self_attn
    own = weights["language_model.model.layers.1.self_attn.v_proj.weight"]
    wanted = own + 2 * added[f"{begins}B.weight"] @ added[f"{begins}A.weight"]
    torch.testing.assert_close(found.v_proj.weight, wanted)
    torch.testing.assert_close(found.k_proj.weight, weights["language_model.model.layers.1.self_attn.k_proj.weight"])
    assert folder / "adapter_model.safetensors" in source.files


@pytest.mark.parametrize(("rslora", "scale"), [(False, 2.0), (True, 4.0)])
def test_the_scale_of_an_adapter(changed, rslora, scale):
    folder = changed("granite_speech", "adapter_config.json", use_rslora=rslora)
    assert adapter.scale_of(Checkpoint(folder, "tiny")) == scale


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"use_dora": True}, "has use_dora"),
        ({"bias": "all", "rank_pattern": {"q_proj": 8}}, "has bias, rank_pattern"),
        ({"peft_type": "VERA"}, "has peft_type VERA"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(changed, changes, what):
    folder = changed("granite_speech", "adapter_config.json", **changes)
    with pytest.raises(RequestError, match=f"{what}, and only plain LoRA") as refused:
        adapter.scale_of(Checkpoint(folder, "tiny"))
    assert "merge_and_unload" in refused.value.fix


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("language_model", "encoder"), "only pairs of lora_A and lora_B"),
        (("lora_A", "lora_C"), "only pairs of lora_A and lora_B"),
        (("v_proj", "o_proj"), r"is \[16, 4\] times \[4, 32\], and the weight is \[32, 32\]"),
    ],
)
def test_an_adapter_of_other_matrices_is_refused(changed, change, what):
    from safetensors.torch import load_file, save_file

    folder = changed("granite_speech", "config.json")
    file = folder / "adapter_model.safetensors"
    save_file({key.replace(*change): value for key, value in load_file(file).items()}, file)
    wide = {"q_proj": 32, "v_proj": 16, "o_proj": 32}
    nn = torch.nn
    layers = [{"self_attn": nn.ModuleDict({name: nn.Linear(32, wide[name]) for name in wide})} for _ in range(2)]
    model = nn.ModuleDict({"layers": nn.ModuleList(map(nn.ModuleDict, layers))})
    with pytest.raises(RequestError, match=what):
        adapter.merge(Checkpoint(folder, "tiny"), model, ("language_model.model", "language_model"))


def test_a_folder_without_the_adapter_that_it_speaks_of_is_refused(changed):
    folder = changed("granite_speech", "config.json")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"has adapter_config.json, and no adapter_model.safetensors"):
        open_source(str(folder))
    (folder / "adapter_config.json").unlink()
    with pytest.raises(RequestError, match="says has_lora_adapter") as refused:
        open_source(str(folder))
    assert "set has_lora_adapter of config.json to false" in refused.value.fix
    assert open_source(str(changed("granite_speech_plus", "config.json"))).files


@pytest.mark.parametrize(
    ("family", "file", "part", "changes", "what"),
    [
        ("qwen3_asr", "config.json", None, {"thinker_config": {}}, "has the format of Qwen's own code"),
        ("qwen3_asr", "config.json", "audio_config", {"n_window": 30}, "has n_window 30, n_window_infer 200"),
        ("qwen3_asr", "config.json", "audio_config", {"n_window_infer": 50}, "n_window_infer 50"),
        (
            "qwen3_asr",
            "preprocessor_config.json",
            None,
            {"n_window": 25},
            "has n_window 25, and config.json",
        ),
        ("qwen3_asr", "preprocessor_config.json", None, {"hop_length": 300}, "a chunk_length of 3 s, and 100 frames"),
        (
            "qwen3_asr",
            "preprocessor_config.json",
            None,
            {"feature_extractor_type": "WhisperFeatureExtractor"},
            "only Qwen3ASRFeatureExtractor is supported",
        ),
        ("granite_speech", "preprocessor_config.json", None, {"projector_window_size": 10}, "projector_window_size 10"),
        (
            "granite_speech",
            "preprocessor_config.json",
            None,
            {"feature_size": 64},
            "the width 128, and config",
        ),
        (
            "granite_speech",
            "preprocessor_config.json",
            None,
            {"melspec_kwargs": {"n_fft": 400}},
            "melspec_kwargs",
        ),
        ("granite_speech", "config.json", None, {"window_size": 16}, "a window_size of 16 and a downsample_rate of 5"),
        ("glmasr", "config.json", "audio_config", {"intermediate_size": 60}, "do not stack to whole tokens of 60"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(changed, family, file, part, changes, what):
    with pytest.raises(RequestError, match=what):
        open_source(str(changed(family, file, part, **changes)))


def test_a_prompt_may_be_empty_where_an_answer_begins_with_it(folders):
    asked = open_source(str(folders("qwen3_asr")), parts="all").asked
    assert asked.before.endswith("<|audio_end|><|im_end|>\n<|im_start|>assistant\n") and asked.after == ""


def test_several_sounds_are_refused():
    refused = CliRunner().invoke(main, ["run", "bundle", "--audio", "a.wav", "--audio", "b.wav", "--prompt", "Both?"])
    assert refused.exit_code == 2 and "--audio was given 2 times, and a bundle takes one" in str(refused.output)


@pytest.mark.parametrize(
    ("family", "why"),
    [("granite_speech", "blocks of neighbours"), ("qwen3_asr", "within windows"), ("glmasr", "neighbours")],
)
def test_a_seam_inside_is_refused_before_the_export(folders, tmp_path, family, why):
    asked = ["--method", "kcenter_merge", "--ratio", "0.5", "--seam", "encoder_layer:0", "-o", str(tmp_path / "b")]
    result = CliRunner().invoke(main, ["model", str(folders(family)), *asked])
    assert result.exit_code == 2 and why in " ".join(result.stderr.split())
    assert "--seam projector_output" in result.stderr
    # Between layers that see windows, not even tokens that are put back may be missing.
    assert ("--rebuild" in result.stderr) == (family == "glmasr")

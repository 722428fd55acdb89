"""What the user names is opened, or one paragraph says what was tried and what to type."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from tokexport.errors import GraphError, MissingError, RequestError, TokexportError  # noqa: E402
from tokexport.exporter.families.spoken import spoken  # noqa: E402
from tokexport.exporter.opening import open_checkpoint, open_source  # noqa: E402
from tokexport.exporter.sources import hub, synthetic, torch_export  # noqa: E402
from tokexport.graph_passes.ir_tools.model_io import save_model  # noqa: E402


def message(error: type[TokexportError], text: str) -> str:
    with pytest.raises(error) as caught:
        open_source(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names that are nothing


def test_a_wrong_name_lists_what_was_tried_and_the_nearest():
    said = message(RequestError, "tiny-vml")
    assert "no built-in name, no folder, no .onnx file and no package.module:callable" in said
    assert "Did you mean tiny-vlm or tiny-video or tiny-ocr?" in said


def test_a_file_that_is_no_onnx_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "checkpoint folder that this file lies in" in message(RequestError, str(tmp_path / "model.safetensors"))


def test_a_hub_that_cannot_be_reached_says_so_quickly_with_the_command(monkeypatch):
    import huggingface_hub

    def refused(*_, **__):
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refused)
    start = time.perf_counter()
    said = message(MissingError, "nobody-here/no-such-model-1b")
    assert "hf download nobody-here/no-such-model-1b --local-dir no-such-model-1b" in said
    assert "Name or service not known" in said and time.perf_counter() - start < 5


def test_a_hub_id_opens_the_cached_snapshot_under_the_name_of_the_model(monkeypatch, tiny_whisper_folder):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tiny_whisper_folder))
    assert open_source("openai/whisper-tiny").name == "whisper-tiny"


@pytest.mark.parametrize(
    ("text", "is_id"), [("a/b", True), ("llava-hf/llava-1.5", True), ("/a/b", False), ("./b", False)]
)
def test_hub_ids_are_told_from_paths(text, is_id):
    assert hub.is_hub_id(text) is is_id


# --- checkpoints


def test_a_folder_without_config(tmp_path):
    assert "no config.json" in message(RequestError, str(tmp_path))


def test_a_config_that_is_not_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not JSON" in message(RequestError, str(tmp_path))


def test_a_config_without_weights(tmp_path, tiny_llava_folder):
    (tmp_path / "config.json").write_bytes((tiny_llava_folder / "config.json").read_bytes())
    assert "but no weights" in message(RequestError, str(tmp_path))


def test_an_unknown_architecture_lists_the_known(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}')
    said = message(RequestError, str(tmp_path))
    assert "LlavaLlamaForCausalLM" in said
    assert "LlavaForConditionalGeneration, LlavaNextForConditionalGeneration" in said


def copy(folder: Path, target: Path) -> Path:
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("cut", [5, 3000, -1])
def test_weights_cut_short_are_named_with_their_size(tmp_path, tiny_llava_folder, cut):
    file = copy(tiny_llava_folder, tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    said = message(RequestError, str(tmp_path))
    assert "model.safetensors cannot be read" in said and f"{file.stat().st_size} bytes" in said


def test_a_git_lfs_pointer_is_recognised(tmp_path, tiny_llava_folder):
    file = copy(tiny_llava_folder, tmp_path) / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert "git lfs pull" in message(RequestError, str(tmp_path))


def test_a_shard_that_the_index_names_must_be_there(tmp_path, tiny_llava_folder):
    (copy(tiny_llava_folder, tmp_path) / "model.safetensors").unlink()
    index = {"weight_map": {"vision_tower.embeddings.class_embedding": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors" in message(RequestError, str(tmp_path))


def test_without_transformers_it_says_what_to_install(monkeypatch, tiny_llava_folder):
    monkeypatch.setattr(torch_export, "find_spec", lambda name: None if name == "transformers" else object())
    assert "transformers is needed to open a checkpoint" in message(MissingError, str(tiny_llava_folder))


def test_the_hash_of_shards_is_over_their_hashes_in_order_of_name(tmp_path, tiny_whisper_folder):
    source = open_source(str(tiny_whisper_folder))
    (weights,) = source.files
    assert source.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest() == source.record().sha256
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    shards = open_source(str(tiny_whisper_folder))
    shards.files = (tmp_path / "b", tmp_path / "a")
    both = hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()
    assert shards.sha256 == hashlib.sha256(both).hexdigest()


def test_a_record_names_no_path(tiny_whisper_folder):
    assert open_source(str(tiny_whisper_folder)).record().model_dump() == {
        "kind": "checkpoint",
        "name": "tiny-whisper",
        "sha256": hashlib.sha256((tiny_whisper_folder / "model.safetensors").read_bytes()).hexdigest(),
    }


def test_a_folder_is_called_by_its_own_name_from_inside(tiny_whisper_folder, monkeypatch):
    monkeypatch.chdir(tiny_whisper_folder)
    assert open_checkpoint(Path()).name == "tiny-whisper"


# --- modules

MODULE = """
import torch
class Encoder(torch.nn.Module):
    def forward(self, pixels, scale=None, mask=None):
        return pixels * (1 if scale is None else scale), pixels.sum(-1)
class Words(torch.nn.Module):
    def forward(self, pixels):
        return {"tokens": pixels}
class Tokens(torch.nn.Module):
    def forward(self, tokens):
        return tokens
X = torch.linspace(0, 1, 24).reshape(1, 4, 6)
def make(): return Encoder().half().train(), X.half()
def named(): return Encoder(), {"scale": torch.ones(1), "pixels": X}
def constant(): return Encoder(), torch.zeros(1, 4, 6)
def gap(): return Encoder(), {"pixels": X, "mask": X}
def strange(): return Encoder(), {"pixel": X}
def many(): return Encoder(), (X, X, X, X)
def array(): return Encoder(), X.numpy()
def nothing(): return Encoder()
def words(): return Words(), X
def tokens(): return Tokens(), X
def fails(): raise ValueError("no weights\\n   at home")
def wrong_shape(): return torch.nn.Linear(5, 5), X
class holder:
    make = staticmethod(make)
value = 3
"""


@pytest.fixture
def user_code(tmp_path, monkeypatch) -> str:
    """A file in the working directory, importable by nothing else."""
    name = f"user_code_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_a_module_from_the_working_directory_is_made_float32_in_eval_mode(user_code):
    source = open_source(f"{user_code}:make")
    assert (source.kind, source.name, source.sha256) == ("module", "make", None)
    assert list(source.encoder.inputs) == ["pixels"] and source.encoder.outputs == ("tokens", "output_1")
    assert source.encoder.inputs["pixels"].dtype == torch.float32 and not source.encoder.module.training
    assert open_source(f"{user_code}:holder.make").name == "make"


def test_named_examples_are_put_in_the_order_of_forward(user_code):
    assert list(open_source(f"{user_code}:named").encoder.inputs) == ["pixels", "scale"]


def test_inputs_near_the_example_stand_for_real_ones(user_code):
    source = open_source(f"{user_code}:make")
    example = source.encoder.inputs["pixels"].numpy()
    first, second, third = (each["pixels"] for each in source.real_inputs(3))
    np.testing.assert_array_equal(first, example)
    assert 0 < np.abs(second - example).mean() < 0.2 * example.std()
    assert not np.array_equal(second, third) and second.dtype == np.float32
    np.testing.assert_array_equal(second, source.real_inputs(2)[1]["pixels"])


def test_a_constant_example_is_only_a_shape(user_code):
    assert all(each["pixels"].std() > 0.5 for each in open_source(f"{user_code}:constant").real_inputs(2))


def test_an_example_that_skips_a_parameter_goes_by_keyword(user_code):
    assert list(open_source(f"{user_code}:gap").encoder.inputs) == ["pixels", "mask"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "raised ValueError: no weights at home"),
        ("nothing", "returned a Encoder"),
        ("array", "input 'pixels' of .* is a ndarray, not a tensor"),
        ("many", "has 4 inputs"),
        ("strange", "'pixel', which forward does not take. Did you mean pixels"),
        ("words", "returns a dict. Wrap it"),
        ("tokens", "a parameter of forward is called 'tokens'"),
        ("wrong_shape", "fails on its own example: RuntimeError"),
        ("value", "is a int, not a callable"),
        ("mak", "has no 'mak'. Did you mean make"),
    ],
)
def test_what_a_callable_must_return(user_code, name, said):
    with pytest.raises(RequestError, match=said) as caught:
        open_source(f"{user_code}:{name}")
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_imported(user_code):
    assert "No module named 'nowhere_at_all'" in message(RequestError, "nowhere_at_all.models:make")


# --- ONNX files


def onnx_file(path: Path, *inputs: tuple[str, ir.DataType, list[int | str]]) -> Path:
    values = [ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape)) for name, kind, shape in inputs]
    node = ir.node("Identity", [values[0]])
    node.outputs[0].name, node.outputs[0].type = "features", values[0].type
    save_model(ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 18}), ir_version=10), path)
    return path


def test_a_foreign_file_keeps_its_names_and_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    inputs = [("x.1", ir.DataType.FLOAT16, ["batch", 3, 8, 12]), ("mask", ir.DataType.INT64, [1, 5])]
    source = open_source(str(onnx_file(tmp_path / "vision.onnx", *inputs)))
    assert (source.kind, source.name, source.model_path) == ("onnx", "vision", tmp_path / "vision.onnx")
    assert source.encoder.module is None and source.encoder.outputs == ("features",)
    assert source.sha256 == hashlib.sha256((tmp_path / "vision.onnx").read_bytes()).hexdigest()
    first, second = source.real_inputs(2)
    assert first["x.1"].shape == (1, 3, 8, 12) and first["x.1"].dtype == np.float16 and first["x.1"].std() > 0.1
    assert not np.array_equal(first["x.1"], second["x.1"])
    assert first["mask"].dtype == np.int64 and (first["mask"] == 1).all()


def test_a_dynamic_axis_beside_the_batch_is_refused_with_the_command(tmp_path):
    file = onnx_file(tmp_path / "dynamic.onnx", ("x", ir.DataType.FLOAT, [1, 3, "height", 12]))
    with pytest.raises(GraphError, match=r"input x has the shape .*height.*--input-shape x=1,3,336,12"):
        open_source(str(file))


# --- built-in


def test_nothing_named_is_tiny_vlm(tmp_path):
    source = open_source()
    assert (source.kind, source.name, source.has_task) == ("builtin", "tiny-vlm", True)


# --- synthetic inputs


def test_pictures_are_smooth_and_tell_patches_apart():
    picture = synthetic.image(0, 84, 84)
    assert picture.shape == (3, 84, 84) and picture.dtype == np.float32 and 0 <= picture.min() < picture.max() <= 1
    noise = np.random.default_rng(0).uniform(size=(3, 84, 84))
    assert np.abs(np.diff(picture)).mean() < 0.1 * np.abs(np.diff(noise)).mean()
    patches = picture.reshape(3, 6, 14, 6, 14).mean((0, 2, 4))
    assert patches.std() > 0.03
    assert not np.array_equal(picture, synthetic.image(1, 84, 84))
    np.testing.assert_array_equal(picture, synthetic.image(0, 84, 84))


def test_speech_has_sounds_and_pauses_and_its_length():
    short, long, again = *spoken(2, 320_000), spoken(1, 320_000)[0]
    for wave in (short, long):
        energy = np.sqrt((wave[: len(wave) // 800 * 800].reshape(-1, 800) ** 2).mean(1))
        assert wave.dtype == np.float32 and energy.min() < 0.01 and energy.max() > 0.05 and np.abs(wave).max() <= 1
    assert len(long) > 3 * len(short) and len(spoken(2, 32_000)[1]) == 32_000
    np.testing.assert_array_equal(short, again)
    # The next round through the clips begins elsewhere.
    assert not np.array_equal(spoken(7, 32_000)[6], spoken(1, 32_000)[0])

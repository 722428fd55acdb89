"""Sources that cannot be compressed: the exit code, one paragraph that says what to do, nothing written."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from bad_input import plain, save

# Everything behind `features` mixes tokens by a fixed length: the position table has one row for each of 12 tokens.
FIXED = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[1,12,8] x) => (float[1,12,8] y)
<float[1,12,8] positions>
{ features = Tanh (x)
  y = Add (features, positions) }"""


def test_a_tensor_that_does_not_exist(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    refused(
        "model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:featurs", says=("featurs", "features")
    )


def test_a_signal_that_the_seam_lacks_names_methods_that_work(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    refused("model", file, "--method", "topk", "--keep", "3", "--seam", "tensor:features",
            says=("cls_attention", "apet", "kcenter_merge"))  # fmt: skip


def test_a_dynamic_token_axis_says_how_to_fix_it(refused, tmp_path):
    file = plain(tmp_path / "m.onnx", n="tokens")
    model = onnx.load(file)
    del model.graph.value_info[:]
    onnx.save(model, file)
    refused("model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:features",
            says=("not static", "--input-shape x=1,3000,8"))  # fmt: skip


def test_a_graph_whose_rest_cannot_live_with_fewer_tokens(refused, tmp_path):
    file = save(FIXED, tmp_path / "m.onnx", positions=np.random.default_rng(0).standard_normal((1, 12, 8)))
    refused("model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:features",
            says=("node_1_Add", "positions"))  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_truncated_or_foreign_file(refused, tmp_path, content):
    file = plain(tmp_path / "m.onnx")
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    refused("model", file, "--method", "apet", "--ratio", "0.5", says=("m.onnx",))


def test_missing_external_data_is_named(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    refused("model", file, "--method", "apet", "--ratio", "0.5", says=("m.data", "missing"))


def test_a_source_that_is_nothing(refused):
    refused("model", "tiny-vml", "--method", "apet", "--ratio", "0.5", says=("tiny-vml", "Did you mean tiny-vlm"))


def test_a_folder_without_config(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("model", "empty", "--method", "apet", "--ratio", "0.5", says=("config.json",))


def test_a_folder_without_weights(refused, tmp_path):
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/config.json").write_text(json.dumps({"model_type": "llava"}))
    refused("model", "llava", "--method", "apet", "--ratio", "0.5", says=("weights", ".safetensors"))


def test_an_unknown_architecture_lists_the_known(refused, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "bert"}))
    refused(
        "model", "bert", "--method", "apet", "--ratio", "0.5", says=("bert", "LlavaForConditionalGeneration", "Whisper")
    )


def test_nan_in_activations_names_the_tensor(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    model = onnx.load(file)
    model.graph.node[0].op_type = "Log"
    onnx.save(model, file)
    refused("model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:features",
            says=("NaN", "features", "[1, 12, 8]"))  # fmt: skip


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"vision_config": {"num_hidden_layers": 2**63}}, "vision_config.num_hidden_layers"),
        ({"vision_config": {"image_size": [336]}}, "vision_config.image_size"),
        ({"vision_config": 3}, "vision_config"),
        ({"vision_config": {"patch_size": None}}, "vision_config.patch_size"),
        ({"text_config": {"vocab_size": "many"}}, "text_config.vocab_size"),
        ({"vision_feature_layer": None, "vision_feature_select_strategy": "some"}, "vision_feature_select_strategy"),
        ({"architectures": [1]}, "architectures.0"),
        ({"vision_config": {"hidden_act": "none such"}}, "transformers"),
    ],
)
def test_a_configuration_of_wrong_values_is_refused_by_key(refused, tmp_path, config, says):
    pytest.importorskip("transformers")
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/config.json").write_text(json.dumps({"model_type": "llava", **config}))
    refused("model", "llava", "--method", "apet", "--ratio", "0.5", says=("config.json", says))


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../b"}}])
def test_an_index_of_another_form(refused, tmp_path, index):
    pytest.importorskip("transformers")
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/config.json").write_text(json.dumps({"model_type": "llava"}))
    (tmp_path / "llava/model.safetensors.index.json").write_text(json.dumps(index))
    refused("model", "llava", "--method", "apet", "--ratio", "0.5", says=("model.safetensors.index.json",))

"""`tokexport attach`: proved against the file, and against PyTorch; nothing is written where that fails."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from foreign_decoder import Graph, spelled, tables
from tokexport.exporter.cli import main
from tokexport.graph_passes.attach import bias
from tokexport.graph_passes.ir_tools.model_io import load_model, save_model
from tokexport.graph_passes.ir_tools.ort_session import open_session

LAYERS, HEADS, WIDTH = 2, 2, 8


@pytest.fixture
def foreign(tmp_path):
    save_model(spelled("softmax"), tmp_path / "decoder.onnx")
    return tmp_path / "decoder.onnx"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(a checkpoint, an ONNX file of it that counts its positions itself), exported as anyone does."""
    import torch
    from tiny_checkpoints import enliven
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.cache_utils import DynamicCache

    folder = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": HEADS * WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_attention_heads=HEADS, **sizes)).eval()
    enliven(model)
    model.save_pretrained(folder / "checkpoint")

    class Decoder(torch.nn.Module):
        def forward(self, input_ids, attention_mask, *past):
            cache = DynamicCache()
            for layer in range(LAYERS):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            return model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache).logits

    past = [torch.randn(1, HEADS, 6, WIDTH) for _ in range(2 * LAYERS)]
    any_size = torch.export.Dim.AUTO
    both = {0: any_size, 1: any_size}
    program = torch.onnx.export(
        Decoder().eval(),
        (torch.ones(1, 5, dtype=torch.long), torch.ones(1, 11, dtype=torch.long), *past),
        dynamo=True,
        verbose=False,
        opset_version=20,
        input_names=["input_ids", "attention_mask", *_caches()],
        output_names=["logits"],
        dynamic_shapes=(both, both, tuple({0: any_size, 2: any_size} for _ in past)),
    )
    program.save(folder / "decoder.onnx")
    return folder / "checkpoint", folder / "decoder.onnx"


def _caches() -> list[str]:
    return [f"past_key_values.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]


def attached(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["attach", *map(str, words), "-q"])
    return result.exit_code, result.output


def test_a_decoder_of_transformers_is_proved_against_pytorch(llama, tmp_path):
    checkpoint, decoder = llama
    code, output = attached(decoder, "-o", tmp_path / "sized.onnx", "--against", checkpoint, "--json")
    assert code == 0, output
    told = json.loads(output)
    assert {check["part"] for check in told["checks"]} == {"bias 0", "as masked", "PyTorch"}
    assert told["positions"]["name"] == "position_ids" and told["counted"] and len(told["attentions"]) == LAYERS
    inputs = {value.name for value in load_model(tmp_path / "sized.onnx").graph.inputs}
    assert inputs == {"input_ids", "attention_mask", "token_bias", "position_ids", *_caches()}


def test_other_weights_are_not_this_model(llama, tmp_path):
    from transformers import LlamaForCausalLM

    other = LlamaForCausalLM.from_pretrained(llama[0])
    other.model.layers[0].self_attn.q_proj.weight.data.mul_(2)
    other.save_pretrained(tmp_path / "other")
    code, output = attached(llama[1], "-o", tmp_path / "sized.onnx", "--against", tmp_path / "other")
    assert code == 1 and "does not give what the checkpoint gives in PyTorch" in output
    assert not (tmp_path / "sized.onnx").exists()


def test_a_layer_without_the_bias_is_noticed(llama, tmp_path, monkeypatch):
    whole = bias.add_bias
    monkeypatch.setattr(
        "tokexport.graph_passes.attach.attach.add_bias", lambda w, found, name: whole(w, found[1:], name)
    )
    code, output = attached(llama[1], "-o", tmp_path / "sized.onnx")
    assert code == 1 and "does not reach every layer" in output
    assert not (tmp_path / "sized.onnx").exists()


def test_positions_that_begin_at_two(tmp_path):
    """As OPT's do: the new input begins at 0."""
    g = Graph()
    count = g.b.op("Squeeze", g.b.op("Shape", g.inputs[0], start=1, end=2))
    g.rotated(g.b.op("Unsqueeze", g.b.op("Add", g.b.op("Range", 0, count, 1), 2), [0]))
    save_model(g.model(g.softmax()), tmp_path / "decoder.onnx")
    code, output = attached(tmp_path / "decoder.onnx", "-o", tmp_path / "sized.onnx")
    assert code == 0, output
    x = np.random.default_rng(0).standard_normal((1, 6, 32)).astype(np.float32)
    given = {"inputs_embeds": x, "token_bias": np.zeros((1, 6), np.float32), "position_ids": np.arange(6)[None]}
    made = [
        open_session(load_model(tmp_path / f"{name}.onnx"), threads=1).run(None, inputs)[0]
        for name, inputs in (("decoder", {"inputs_embeds": x}), ("sized", given))
    ]
    np.testing.assert_array_equal(*made)


def test_what_is_printed(foreign, tmp_path):
    code, output = attached(foreign, "-o", tmp_path / "sized.onnx", "--input", "log_sizes")
    assert code == 0, output
    assert "log_sizes [batch, total_sequence_length] float32, read by 1 attention" in output
    assert "no input attention_mask" in output and f"written: {tmp_path / 'sized.onnx'}" in output


def test_files_that_are_there_are_kept(foreign, tmp_path):
    assert "delete what it is made of" in attached(foreign, "-o", foreign, "--force")[1]
    out = tmp_path / "sized.onnx"
    out.write_text("mine")
    code, output = attached(foreign, "-o", out)
    assert code == 2 and "is there already" in output and out.read_text() == "mine"
    assert attached(foreign, "-o", out, "--force")[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["decoder.onnx", "sized.onnx"]


def test_weights_beside_the_file_are_not_copied(tmp_path):
    model = spelled("softmax")
    large = ir.Value(name="large", const_value=ir.tensor(np.ones((1, 512), np.float32)))
    model.graph.register_initializer(large)
    save_model(model, tmp_path / "decoder.onnx", "weights.data")
    assert attached(tmp_path / "decoder.onnx", "-o", tmp_path / "sized.onnx")[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["decoder.onnx", "sized.onnx", "weights.data"]
    assert attached(tmp_path / "decoder.onnx", "-o", tmp_path / "else/sized.onnx")[0] == 0
    assert sorted(file.name for file in (tmp_path / "else").iterdir()) == ["sized.onnx", "sized.onnx.data"]


def test_nothing_is_replaced_that_it_is_made_of(tmp_path):
    model = spelled("softmax")
    large = ir.Value(name="large", const_value=ir.tensor(np.ones((1, 512), np.float32)))
    model.graph.register_initializer(large)
    save_model(model, tmp_path / "decoder.onnx", "weights.onnx")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/model.onnx").write_text("theirs")
    for out in ("weights.onnx", "checkpoint/model.onnx"):
        ask = ("--against", tmp_path / "checkpoint", "-o", tmp_path / out, "--force")
        code, output = attached(tmp_path / "decoder.onnx", *ask)
        assert code == 2 and "delete what it is made of" in output, output
    assert (tmp_path / "checkpoint/model.onnx").read_text() == "theirs"


def counting_mask() -> ir.Model:
    """As ONNX Runtime GenAI's builder writes it: packed, rotating by positions of its own, and a mask that counts."""
    g = Graph()
    mask = g.input("attention_mask", ir.DataType.INT64, ["batch", "all"])
    past = [
        g.input(f"past_key_values.0.{one}", ir.DataType.FLOAT, ["batch", HEADS, "past", "d"])
        for one in ("key", "value")
    ]
    held = g.b.op("Cast", g.b.op("Sub", g.b.op("ReduceSum", mask, [1], keepdims=0), 1), to=int(ir.DataType.INT32))
    count = g.b.op("Squeeze", g.b.op("Shape", mask, start=1, end=2))
    count = g.b.op("Cast", count, to=int(ir.DataType.INT32))
    packed = g.b.op("Concat", g.q, g.k, g.v, axis=-1)
    packed.type, packed.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "n", 3 * 32])
    cos, sin = (g.b.const(table) for table in tables().values())
    read = [packed, None, None, *past, held, count, cos, sin]
    attributes = {"num_heads": HEADS, "kv_num_heads": HEADS, "do_rotary": 1}
    node = ir.node("GroupQueryAttention", read, attributes, domain="com.microsoft", num_outputs=3, name="attention")
    for value, name in zip(node.outputs, ("attended", "present.0.key", "present.0.value"), strict=True):
        value.name = name
    g.b.nodes.append(node)
    return g.model(node.outputs[0])


def test_where_a_mask_only_counts_a_token_without_weight_may_be_anything(tmp_path, monkeypatch):
    save_model(counting_mask(), tmp_path / "decoder.onnx")
    code, output = attached(tmp_path / "decoder.onnx", "-o", tmp_path / "sized.onnx", "--json")
    assert code == 0, output
    assert {check["part"] for check in json.loads(output)["checks"]} == {"bias 0", "hidden"}
    monkeypatch.setattr("tokexport.exporter.attach.proof._NOTHING", 0.0)
    code, output = attached(tmp_path / "decoder.onnx", "-o", tmp_path / "else.onnx")
    assert code == 1 and "the bias does not reach every layer" in output


def test_an_input_of_unknown_lengths_names_its_cure(tmp_path):
    g = Graph()
    extra = g.input("extra", ir.DataType.FLOAT, ["batch", "features", 4])
    out = g.b.op("Add", g.softmax(), g.b.op("ReduceMean", extra, [1, 2], keepdims=1))
    save_model(g.model(out), tmp_path / "decoder.onnx")
    code, output = attached(tmp_path / "decoder.onnx", "-o", tmp_path / "sized.onnx")
    assert code == 2 and "--input-shape extra=" in output
    ask = ("-o", tmp_path / "sized.onnx", "--input-shape", "extra=1,3,4")
    assert attached(tmp_path / "decoder.onnx", *ask)[0] == 0

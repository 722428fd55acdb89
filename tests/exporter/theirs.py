"""A language model's files as other tools write them, for transformers.js and for ONNX Runtime GenAI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tokexport.graph_passes.ir_tools.builder import Builder
from tokexport.graph_passes.ir_tools.model_io import load_model, save_model

LAYERS = 2
IMAGE = 95


def decoder(checkpoint: Path, file: Path) -> Any:
    """Export the language model of a vision-language checkpoint, as anyone does; returns its table of words."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.cache_utils import DynamicCache

    whole = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    model = getattr(whole.model, "language_model", None) or whole.model.text_model
    config = model.config
    assert config.num_hidden_layers == LAYERS

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = model, whole.lm_head

        def forward(self, inputs_embeds, attention_mask, position_ids, *past):  # type: ignore[no-untyped-def]
            cache = DynamicCache()
            for layer in range(LAYERS):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            made = self.model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
            ).last_hidden_state
            return self.head(made), *[one for layer in cache.layers for one in (layer.keys, layer.values)]

    past = [torch.randn(2, config.num_key_value_heads, 6, config.head_dim) for _ in range(2 * LAYERS)]
    batch, new, before, all_ = (torch.export.Dim(name) for name in ("batch_size", "new", "past", "all"))
    kinds = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    torch.onnx.export(
        Decoder().eval(),
        (
            torch.randn(2, 5, config.hidden_size),
            torch.ones(2, 11, dtype=torch.long),
            torch.arange(6, 11)[None].expand(2, -1),
            *past,
        ),
        dynamo=True,
        verbose=False,
        opset_version=20,
        input_names=["inputs_embeds", "attention_mask", "position_ids", *(f"past_key_values.{one}" for one in kinds)],
        output_names=["logits", *(f"present.{one}" for one in kinds)],
        dynamic_shapes=(
            {0: batch, 1: new},
            {0: batch, 1: all_},
            {0: batch, 1: new},
            tuple({0: batch, 2: before} for _ in past),
        ),
    ).save(file)
    return model.embed_tokens.weight.detach().numpy()


def words(table: Any, features: bool) -> ir.Model:
    """The table of words; with `features`, of an image's tokens too, as ONNX Runtime GenAI calls it."""
    b = Builder("words.")
    ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "n"]))
    given, row = [ids], b.op("Gather", b.const(table), ids)
    if features:
        shape = ir.Shape(["tokens", table.shape[1]])
        given.append(ir.Value(name="image_features", type=ir.TensorType(ir.DataType.FLOAT), shape=shape))
        here = b.op("Equal", ids, IMAGE)
        count = b.op("Mul", b.op("CumSum", b.cast(here, "int64"), 1), b.cast(here, "int64"))
        found = b.op("Gather", b.op("Pad", given[1], [1, 0, 0, 0], 0.0), count)
        row = b.op("Where", b.op("Unsqueeze", here, [2]), found, row)
    row.name, row.type = "inputs_embeds", ir.TensorType(ir.DataType.FLOAT)
    row.shape = ir.Shape(["batch", "n", table.shape[1]])
    return ir.Model(ir.Graph(given, [row], nodes=b.nodes, opset_imports={"": 20}, name="words"), ir_version=10)


def with_words_inside(file: Path, table: Any, scaled: bool = False) -> ir.Model:
    """The decoder as one that reads ids."""
    model = load_model(file)
    graph, b = model.graph, Builder("table.")
    embeds = next(value for value in graph.inputs if value.name == "inputs_embeds")
    assert embeds.shape is not None
    ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(embeds.shape[:2]))
    weight = ir.Value(name="table", const_value=ir.tensor(table), type=embeds.type, shape=ir.Shape(table.shape))
    graph.register_initializer(weight)
    row = b.op("Gather", weight, ids)
    row = b.op("Mul", row, 2.0) if scaled else row
    row.type, row.shape = embeds.type, embeds.shape
    for node, index in list(embeds.uses()):
        node.replace_input_with(index, row)
    graph.inputs[list(graph.inputs).index(embeds)] = ids
    graph.insert_before(graph[0], b.nodes)
    return model


def write(folder: Path, name: str, content: Any) -> None:
    """A JSON file."""
    (folder / name).write_text(json.dumps(content))


def javascript(checkpoint: Path, file: Path, table: Any, out: Path) -> Path:
    """A folder as transformers.js reads it, without its encoder."""
    (out / "onnx").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(checkpoint / name, out)
    write(out, "generation_config.json", {"eos_token_id": 2})
    shutil.copy(file, out / "onnx/decoder_model_merged.onnx")
    save_model(words(table, features=False), out / "onnx/embed_tokens.onnx")
    (out / "onnx/vision_encoder.onnx").write_bytes(b"theirs")
    processor = {"processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": 14}
    write(out, "processor_config.json", {**processor, "num_additional_image_tokens": 0})
    return out


def genai(checkpoint: Path, file: Path, table: Any, out: Path, *, inside: bool) -> Path:
    """A folder as ONNX Runtime GenAI reads it: of a model that sees, or with `inside` of one of words alone."""
    out.mkdir(parents=True)
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    decoder = {
        "filename": "model.onnx",
        "head_size": text["head_dim"],
        "hidden_size": text["hidden_size"],
        "num_attention_heads": text["num_attention_heads"],
        "num_key_value_heads": text["num_key_value_heads"],
        "num_hidden_layers": LAYERS,
        "session_options": {"provider_options": []},
        "inputs": {
            **({"input_ids": "input_ids"} if inside else {"inputs_embeds": "inputs_embeds"}),
            **{name: name for name in ("attention_mask", "position_ids")},
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    marks = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "vocab_size": 96, "context_length": 128}
    model: dict[str, Any] = {"type": "llama", **marks, "decoder": decoder}
    if inside:
        save_model(with_words_inside(file, table), out / "model.onnx")
    else:
        shutil.copy(file, out / "model.onnx")
        save_model(words(table, features=True), out / "embedding.onnx")
        model |= {"type": "gemma3", "image_token_id": IMAGE}
        model["embedding"] = {"filename": "embedding.onnx", "inputs": {"image_features": "image_features"}}
    search = {"do_sample": False, "max_length": 128, "num_beams": 1, "past_present_share_buffer": True}
    write(out, "genai_config.json", {"model": model, "search": search})
    shutil.copy(checkpoint / "tokenizer.json", out)
    return out

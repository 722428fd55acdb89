"""`export-to --llm`: beside a language model that somebody else exported, answers are those of the whole bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import as_they_call
import numpy as np
import onnx_ir as ir
import pytest
import theirs
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from PIL import Image
from test_other_runtimes import LENGTHS, MOST, QUESTION, _genai, made, transformers_js, with_places
from tokexport.errors import GraphError
from tokexport.exporter.cli import main
from tokexport.exporter.other_runtimes import beside, own_llm
from tokexport.exporter.other_runtimes.words_apart import words_apart
from tokexport.graph_passes.ir_tools.builder import Builder
from tokexport.graph_passes.ir_tools.model_io import load_model, save_model
from tokexport.graph_passes.ir_tools.ort_session import open_session

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

METHOD = ["--method", "kcenter_merge", "--ratio", "0.75"]
# The forms of language models: transformers.js', and ONNX Runtime GenAI's with their words beside or inside.
FORMS = ("js", "genai", "words-inside")


class Theirs:
    """A checkpoint, its encoder alone, the whole bundle, and the folders of its language model."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.encoder = made(checkpoint, folder / "encoder", *METHOD, "--parts", "encoder")
        self.whole = tokexport.load(made(checkpoint, folder / "whole", *METHOD, *LENGTHS))
        file = folder / "decoder.onnx"
        table = theirs.decoder(checkpoint, file)
        self.llm = {
            "js": theirs.javascript(checkpoint, file, table, folder / "js"),
            "genai": theirs.genai(checkpoint, file, table, folder / "genai", inside=False),
            "words-inside": theirs.genai(checkpoint, file, table, folder / "words-inside", inside=True),
        }

    def copy(self, form: str, out: Path) -> Path:
        return Path(shutil.copytree(self.llm[form], out))

    def asked(self, seed: int) -> tuple[list[int], np.ndarray]:
        ids = [1, 4, *np.random.default_rng(seed).integers(11, 90, 3 + 5 * seed).tolist()]
        (shape,) = (given.shape for given in self.whole.variant.graphs["encoder"].inputs.values())
        return ids, np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def prompt(self, ids: list[int], image: int) -> list[int]:
        return [image if word == self.image else word for word in with_places(self.whole, ids)]

    @property
    def image(self) -> int:
        return self.whole.variant.generation.prompt.image


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Theirs:
    folder = tmp_path_factory.mktemp("own-llm")
    # GroupQueryAttention of ONNX Runtime wants heads of at least 16 channels.
    language = tiny_checkpoints.answering(96, head_dim=16)
    return Theirs(folder, tiny_checkpoints.llava(folder / "llava", language=language, text=32, loud=True))


def target_of(form: str) -> str:
    return "transformers-js" if form == "js" else "ort-genai"


def exported(bundle: Path, form: str, llm: Path, out: Path, *options: str) -> dict[str, Any]:
    words = ["export-to", bundle, "--target", target_of(form), "--llm", llm, "-o", out, "--json", "-q", *options]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["files"].keys() == {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    return said


def answered(form: str, out: Path, ids: list[int], pixels: np.ndarray) -> list[int]:
    run = as_they_call.transformers_js_sees if form == "js" else as_they_call.genai_sees
    return run(out, ids, pixels, MOST)


def place(form: str) -> int:
    """The id of a placeholder: a language model of words alone has none, so it is the one behind its last."""
    return 96 if form == "words-inside" else theirs.IMAGE


@pytest.mark.parametrize("form", FORMS)
def test_the_answers_are_those_of_the_whole_bundle(llava, form, tmp_path):
    exported(llava.encoder, form, llava.llm[form], tmp_path / "out")
    exported(llava.encoder, form, llava.llm[form], tmp_path / "off", "--size-bias", "off")
    said: set[int] = set()
    for seed in range(2):
        ids, pixels = llava.asked(seed)
        wanted = llava.whole.generate(pixels, ids, max_new_tokens=MOST).ids
        prompt = llava.prompt(ids, place(form))
        assert answered(form, tmp_path / "out", prompt, pixels) == wanted
        assert answered(form, tmp_path / "off", prompt, pixels) != wanted
        said |= {*wanted}
    assert len(said) > 8


def test_the_folder_says_what_the_encoder_gives(llava, tmp_path):
    before = {file: file.read_bytes() for file in llava.llm["js"].rglob("*") if file.is_file()}
    exported(llava.encoder, "js", llava.llm["js"], tmp_path / "js")
    assert before == {file: file.read_bytes() for file in llava.llm["js"].rglob("*") if file.is_file()}
    processor = as_they_call.read_json(tmp_path / "js/processor_config.json")
    assert (processor["patch_size"], processor["num_additional_image_tokens"]) == (85, 9)
    assert processor["image_token"] == "<image>"
    config = as_they_call.read_json(tmp_path / "js/config.json")
    assert config["text_config"]["num_hidden_layers"] == theirs.LAYERS + 1
    said = exported(llava.encoder, "genai", llava.llm["genai"], tmp_path / "genai")
    model = as_they_call.read_json(tmp_path / "genai/genai_config.json")
    assert model["model"]["type"] == "phi3v" and model["search"]["past_present_share_buffer"] is False
    assert "a picture is 9 ids 95 in input_ids, with pixel_values and num_image_tokens = 9" in said["notes"]


def test_each_precision_of_a_decoder_is_changed(llava, tmp_path, monkeypatch):
    monkeypatch.setattr("tokexport.exporter.other_runtimes.export.merges", lambda variant: False)
    folder = llava.copy("js", tmp_path / "theirs")
    for name in ("decoder_model_merged", "embed_tokens"):
        (folder / f"onnx/{name}.onnx").rename(folder / f"onnx/{name}_q4.onnx")
    shutil.copy(folder / "onnx/decoder_model_merged_q4.onnx", folder / "onnx/decoder_model_merged_fp16.onnx")
    said = exported(llava.encoder, "js", folder, tmp_path / "out")
    own = as_they_call.read_json(tmp_path / "out/config.json")["transformers.js_config"]
    assert own["dtype"] == {"vision_encoder": "fp32", "decoder_model_merged": "fp16", "embed_tokens": "q4"}
    names = {"vision_encoder", "embed_tokens_q4", *(f"decoder_model_merged_{kind}" for kind in ("q4", "fp16"))}
    assert own["use_external_data_format"].keys() == names
    assert {file.stem for file in (tmp_path / "out/onnx").glob("*.onnx")} == names
    assert any("in fp32 alone" in note for note in said["notes"])


def test_a_method_that_only_chooses_needs_no_pass_over_attention(llava, tmp_path, monkeypatch):
    monkeypatch.setattr("tokexport.exporter.attach.run.proved", lambda *_: pytest.fail("attached"))
    monkeypatch.setattr("tokexport.exporter.other_runtimes.export.merges", lambda variant: False)
    exported(llava.encoder, "js", llava.llm["js"], tmp_path / "out")


def test_only_a_method_that_merges_has_sizes_to_tell(llava):
    variant = tokexport.load(llava.encoder).variant
    assert own_llm.merges(variant) and not variant.tells_sizes
    chosen = variant.compression[0].model_copy(update={"method": "cls_topk"})
    assert not own_llm.merges(variant.model_copy(update={"compression": [chosen]}))
    rebuilt = variant.compression[0].model_copy(update={"rebuilt": object()})
    assert not own_llm.merges(variant.model_copy(update={"compression": [rebuilt]}))


def positions_of(kept: list[list[float]], image: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What a decoder reads as positions and biases that is given rows chunk by chunk; each row's bias is its number."""
    b = Builder("d.")
    floats, ints = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
    x = ir.Value(name="inputs_embeds", type=floats, shape=ir.Shape(["b", "s", 1]))
    positions = ir.Value(name="position_ids", type=ints, shape=ir.Shape(["b", "s"]))
    bias = ir.Value(name="token_bias", type=floats, shape=ir.Shape(["b", "all"]))
    past = [ir.Value(name=f"past.{one}", type=floats, shape=ir.Shape(["b", 1, "past", 1])) for one in "kv"]
    out = [b.op("Add", b.cast(positions, "float32"), 0.0), b.op("Identity", bias)]
    out += [b.op("Concat", one, b.op("Unsqueeze", x, [1]), axis=2) for one in past]
    for value, name in zip(out, ("logits", "told", "now.k", "now.v"), strict=True):
        value.name, value.type = name, floats
    given = [x, positions, bias, *past]
    graph = ir.Graph(given, out, nodes=b.nodes, opset_imports={"": 20}, name="g")
    names = ("past.k", "past.v"), ("now.k", "now.v")
    reads = beside.Reads("inputs_embeds", "position_ids", "token_bias", *names, ("k", "v", "k.now", "v.now"))
    session = open_session(beside.decoder(ir.Model(graph, ir_version=10), reads, 1, *image), threads=1)
    caches = {name: np.zeros((1, 1, 0, 1), np.float32) for name in ("past.k", "past.v", "k", "v")}
    found, count = [], 0
    for chunk in kept:
        rows = np.array([[[0, index, count + i] for i, index in enumerate(chunk)]], np.float32)
        counted = np.arange(count, count + len(chunk))[None]
        made = session.run(None, {"inputs_embeds": rows, "position_ids": counted, **caches})
        logits, told, *now = made
        caches = dict(zip(("past.k", "past.v", "k", "v"), now, strict=True))
        found += logits[0].tolist()
        count += len(chunk)
    return np.array(found), told[0]


def test_tokens_stand_where_they_stood_and_text_behind_them_too():
    """Two of five tokens of each of two pictures, a word between the chunks, and what is decoded one by one."""
    found, told = positions_of([[-1, 1, 4, -1, 0, 2, -1], [-1], [-1, 3, 4], [-1]], (2, 5))
    #                             w   image    w   image     w    w   w   image      w
    assert found.tolist() == [0, 2, 5, 6, 7, 9, 12, 13, 14, 18, 19, 20]
    assert told.tolist() == list(range(12))


def test_half_of_an_image_stops_the_runtime():
    with pytest.raises(Exception, match="an image has 2 placeholders, one behind the other"):
        positions_of([[-1, 1, -1]], (2, 5))


@pytest.mark.parametrize(
    ("form", "file", "change", "says"),
    [
        ("js", "config.json", {"model_type": "paligemma"}, ("counts the image tokens of a paligemma", "without --llm")),
        (
            "js",
            "config.json",
            {"image_token_index": None, "image_token_id": None},
            ("which id stands", "image_token_index"),
        ),
        ("js", "config.json", {"text_config": {"num_hidden_layers": 7}}, ("has 2 layers", '"num_hidden_layers": 2')),
        ("genai", "genai_config.json", {"model.image_token_id": None}, ("which id stands", '"image_token_id": ID')),
        ("genai", "genai_config.json", {"model.embedding": None}, ("reads inputs_embeds", "without exclude_embeds")),
        ("genai", "genai_config.json", {"model.speech": {}}, ("it hears", "models.builder")),
        ("genai", "genai_config.json", {"model.decoder": {}}, ("its decoder is no single file",)),
    ],
)
def test_what_a_folder_does_not_say_is_refused(llava, form, file, change, says, tmp_path, refused):
    folder = llava.copy(form, tmp_path / "theirs")
    content = as_they_call.read_json(folder / file)
    for path, value in change.items():
        *tables, name = path.split(".")
        table = content
        for one in tables:
            table = table[one]
        table[name] = value
    theirs.write(folder, file, content)
    refused("export-to", llava.encoder, "--target", target_of(form), "--llm", folder, "-o", "out", says=says)


def test_what_is_no_folder_of_the_runtime_is_refused(llava, tmp_path, refused):
    asked = ["export-to", llava.encoder, "--target", "transformers-js", "-o", "out", "--llm"]
    refused(*asked, "nowhere", says=("--llm", "nowhere is no folder"))
    refused(*asked, llava.llm["genai"], says=("has no config.json",))
    folder = llava.copy("js", tmp_path / "theirs")
    (folder / "onnx/embed_tokens.onnx").unlink()
    refused(*asked, folder, says=("has no onnx/embed_tokens.onnx",))
    refused(*asked[:-3], "-o", folder, "--llm", folder, "--force", says=("delete what it is made of",))


def tower(llava: Theirs, width: int) -> own_llm.Tower:
    variant = tokexport.load(llava.encoder).variant
    outputs = variant.graphs["encoder"].outputs
    tokens = outputs["tokens"].model_copy(update={"shape": [1, 9, width]})
    graph = variant.graphs["encoder"].model_copy(update={"outputs": {**outputs, "tokens": tokens}})
    changed = variant.model_copy(update={"graphs": {"encoder": graph}})
    return own_llm.Tower(load_model(llava.folder / "decoder.onnx"), changed, None, sizes=False)


def test_an_encoder_of_another_width_is_refused(llava):
    with pytest.raises(GraphError, match="have 48 channels, and the decoder reads 32"):
        own_llm.decoder_of(llava.folder / "decoder.onnx", tower(llava, 48), own_llm.Names(), lambda text: None)


@pytest.mark.parametrize("name", ["position_ids", "past_conv.0"])
def test_positions_of_several_axes_and_states_are_refused(llava, name, tmp_path):
    model = load_model(llava.folder / "decoder.onnx")
    given = next((value for value in model.graph.inputs if value.name == name), None)
    if given is None:
        given = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        model.graph.inputs.append(given)
    given.shape = ir.Shape([3, "batch", "n"])
    save_model(model, tmp_path / "decoder.onnx", "decoder.onnx.data")
    with pytest.raises(GraphError, match=f"its input {name} .* is neither tokens nor a cache.*without --llm"):
        own_llm.decoder_of(tmp_path / "decoder.onnx", tower(llava, 32), own_llm.Names(), lambda text: None)


def test_words_that_are_scaled_are_refused(llava):
    model = theirs.with_words_inside(llava.folder / "decoder.onnx", np.zeros((96, 32), np.float32), scaled=True)
    with pytest.raises(GraphError, match="scaled behind their table"):
        words_apart(model, 32)


def test_onnxruntime_genai_itself(llava, tmp_path):
    """Also with what its own model builder makes: attention that rotates inside, and counts positions itself."""
    genai = pytest.importorskip("onnxruntime_genai")
    from transformers import AutoModelForImageTextToText, LlamaForCausalLM

    whole = AutoModelForImageTextToText.from_pretrained(llava.checkpoint)
    text = LlamaForCausalLM(whole.config.text_config)
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    text.save_pretrained(tmp_path / "text")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llava.checkpoint / name, tmp_path / "text")
    build = [
        "-m",
        "onnxruntime_genai.models.builder",
        "-m",
        "text",
        "-i",
        "text",
        "-o",
        "built",
        "-p",
        "fp32",
        "-e",
        "cpu",
    ]
    subprocess.run([sys.executable, *build, "-c", "cache"], cwd=tmp_path, check=True, capture_output=True)
    for form, folder in (("words-inside", tmp_path / "built"), *((form, llava.llm[form]) for form in FORMS[1:])):
        out = tmp_path / f"out-{folder.name}"
        exported(llava.encoder, form, folder, out)
        model = genai.Model(str(out))
        for seed in range(2):
            ids, pixels = llava.asked(seed)
            prompt = llava.prompt(ids, place(form))
            given = {"pixel_values": pixels, "num_image_tokens": np.array([9], np.int64)}
            assert _genai(genai, model, prompt, given, llava.whole) == llava.whole.generate(pixels, ids, MOST).ids


def js_itself(one: Theirs, size: int, tmp_path: Path, order: str = "image") -> None:
    exported(one.encoder, "js", one.llm["js"], tmp_path / "out")
    pixels = np.random.default_rng(3).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    job = {
        "kind": "sees",
        "folder": str(tmp_path / "out"),
        "image": str(tmp_path / "picture.png"),
        "question": QUESTION,
    }
    said = transformers_js({**job, "order": order}, tmp_path)
    wanted = one.whole.generate(tmp_path / "picture.png", QUESTION, MOST)
    assert [word for word in said["ids"] if word not in one.whole.variant.generation.eos] == wanted.ids
    assert said["prompt"].count(one.image) == one.whole.variant.generation.image_span[1]


def test_transformers_js_itself(llava, tmp_path):
    js_itself(llava, 84, tmp_path)


@pytest.mark.slow
def test_transformers_js_itself_with_a_smolvlm(tmp_path):
    """Whose processor counts by another file, writes marks around the image, and stacks pictures."""
    one = Theirs(tmp_path, tiny_checkpoints.smolvlm(tmp_path / "smolvlm", loud=True))
    folder = one.llm["js"]
    theirs.write(folder, "processor_config.json", {"processor_class": "Idefics3Processor", "image_seq_len": 16})
    picture = as_they_call.read_json(folder / "preprocessor_config.json")
    kinds = {"processor_class": "Idefics3Processor", "image_processor_type": "Idefics3ImageProcessor"}
    theirs.write(folder, "preprocessor_config.json", {**picture, **kinds})
    js_itself(one, 48, tmp_path, order="text")

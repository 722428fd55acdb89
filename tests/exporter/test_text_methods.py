"""Methods that read text: asked about each question where the model has the graph text, an open input elsewhere."""

import json

import numpy as np
import pytest
import tokexport
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.evaluate import bench as sweep_bench
from tokexport.exporter.evaluate.judges import Questions
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.texts import with_text
from tokexport.exporter.sweeps import rows as sweep_rows
from tokexport.exporter.zoo.tiny_vlm.scenes import scene
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.ir_tools.model_io import load_model

PROMPTS = ("what colour is the star ?", "how many red objects are there ?")


def command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def model(*arguments):
    result = command("model", *arguments, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    return data, {check["part"] for check in data["proof"]["checks"]}


def test_a_foreign_encoder_gets_a_text(tiny_vlm_encoder_onnx, tmp_path):
    asked = ("--method", "cdpruner", "--ratio", "0.85", "--set", "text_length=32", "--precision", "fp16")
    _, parts = model(tiny_vlm_encoder_onnx, *asked, "-o", tmp_path / "b")
    assert parts == {"compressor"}
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    inputs = manifest["variants"][0]["graphs"]["encoder"]["inputs"]
    assert list(inputs) == ["pixel_values", "text"]
    assert inputs["text"] == {"name": "text", "dtype": "float16", "shape": [1, 32, 96]}
    # The proof is stored, and holds of the files.
    assert command("verify", tmp_path / "b").exit_code == 0
    seen = command("inspect", tmp_path / "b/encoder.onnx").output
    assert "cdpruner chooses by the input 'text'" in seen

    samples = [{"pixel_values": np.zeros(1)}] * 2
    texts = [sample["text"] for sample in with_text(samples, load_model(tmp_path / "b/encoder.onnx"))]
    assert texts[0].dtype == np.float16 and texts[0].shape == (1, 32, 96) and not np.array_equal(*texts)
    assert (texts[0] != 0).any(2).tolist() == [[True] * 24 + [False] * 8]
    assert "text" not in samples[0]


# --- tiny-vlm, whose questions are embedded by its own decoder


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What the command says of a bundle that was asked a few questions, and the bundle."""
    folder = tmp_path_factory.mktemp("asked") / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokexport.exporter.pipeline.QUESTIONS", 16)
        data, parts = model("--method", "trim", "--ratio", "0.85", "--set", "text_length=16", "-o", folder)
    assert parts == {"head", "compressor", "text", "embed", "prefill", "decode"}
    return data, folder


def test_every_question_is_asked_of_its_own_tokens(asked):
    data, folder = asked
    assert data["accuracy"]["questions"] == 16 and data["compression"][0]["seam"]["kind"] == "projector_output"
    assert command("verify", folder).exit_code == 0
    source, session = open_source("tiny-vlm", parts="all"), tokexport.load(folder)
    said = [session.generate(question.input, question.prompt).text for question in source.questions(16, 0)]
    right = [question.answer for question in source.questions(16, 0)]
    assert data["accuracy"]["compressed"] == source.score(said, right)


def test_the_manifest_says_what_goes_in(asked):
    variant = json.loads((asked[1] / "manifest.json").read_text())["variants"][0]
    assert variant["text"] == {"vocabulary": 40, "pad": 0, "blank": [0, 1, 2]} and list(variant["graphs"])[:2] == [
        "encoder",
        "text",
    ]
    text = variant["graphs"]["text"]
    assert text["inputs"]["input_ids"]["shape"] == [1, 16] and text["outputs"]["text"]["shape"] == [1, 16, 96]
    page = (asked[1] / "report.html").read_text()
    assert "the kept tokens depend on the question" in page and "the embeddings of a question as the compressor" in page


def test_the_text_is_the_words_and_zeros_for_all_that_is_no_word(asked):
    session, source = tokexport.load(asked[1]), open_source("tiny-vlm", parts="all")
    ids = np.array([[1, *range(3, 15), 2, 0, 0]])
    text = session.run("text", input_ids=ids)["text"][0]
    assert not text[[0, 13, 14, 15]].view(np.int32).any()
    np.testing.assert_array_equal(text[1:13], source.model.decoder.embedding.weight.detach().numpy()[3:15])


def test_what_is_kept_follows_from_the_question(asked, tmp_path):
    session, drawn = tokexport.load(asked[1]), scene(np.random.default_rng(5))
    kept = [session.encode(drawn.image, prompt)["kept_indices"].tolist() for prompt in PROMPTS]
    assert kept[0] != kept[1]
    (tmp_path / "s.png").write_bytes(drawn.to_png())
    for prompt, own in zip(PROMPTS, kept):
        ran = command("run", asked[1], "--image", tmp_path / "s.png", "--prompt", prompt, "--json")
        assert [json.loads(ran.stdout)["kept_indices"]] == own
    with pytest.raises(RequestError, match="depend on the question, and there is none"):
        session.encode(drawn.image)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("tiny-vlm", "--method", "cdpruner", "--seam", "encoder_output"),
            "at projector_output, not at encoder_output",
        ),
        (("tiny-vlm", "--method", "trim", "--set", "text_length=15"), "Use --set text_length=16 or more"),
        (
            ("tiny-asr", "--method", "speechprune"),
            "reads a text, and the language graphs of tiny-asr have none to give",
        ),
    ],
)
def test_where_no_text_fits_it_is_refused(arguments, words, tmp_path):
    result = command("model", *arguments, "--ratio", "0.85", "-o", tmp_path / "b")
    assert result.exit_code == 2 and words in result.output and not (tmp_path / "b").exists()


# --- LLaVA


def test_a_checkpoint_gives_its_input_embeddings(tiny_llava_folder, tmp_path):
    settings = ("--method", "lftr_text", "--keep", "9", "--set", "text_length=8", "--prompt-length", "8")
    _, parts = model(tiny_llava_folder, *settings, "--precision", "fp16", "-o", tmp_path / "b")
    assert parts == {"head", "compressor", "text", "embed", "prefill", "decode", "generation"}
    session = tokexport.load(tmp_path / "b")
    # pad is not in its config: what stands for the image fills up.
    assert session.variant.text.model_dump() == {"vocabulary": 16, "pad": 15, "blank": [1, 2, 15]}
    text = session.run("text", input_ids=np.array([[1, 5, 15, 7, 2, 15, 15, 15]]))["text"]
    assert text.dtype == np.float16 and (text != 0).any(2).tolist() == [[False, True, False, True, *[False] * 4]]
    transformers = pytest.importorskip("transformers")
    whole = transformers.LlavaForConditionalGeneration.from_pretrained(tiny_llava_folder, dtype="float32")
    embedding = whole.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(text[0, [1, 3]], embedding[[5, 7]].astype(np.float16))
    pixels = np.random.default_rng(0).normal(size=(1, 3, 84, 84)).astype(np.float32)
    assert session.encode(pixels, [1, 5, 7])["kept_indices"].shape == (1, 9)
    page = (tmp_path / "b/report.html").read_text()
    assert "--prompt-length 8 --answer-length 128" in page


def test_without_language_parts_the_text_is_an_open_input(tiny_llava_folder, tmp_path):
    source = open_source(str(tiny_llava_folder))
    assert source.text(8) is None and source.seam_for(make("trim")) == "encoder_output"
    assert open_source(str(tiny_llava_folder), parts="all").seam_for(make("trim")) == "projector_output"


# --- sweeps


@pytest.fixture(scope="module")
def bench():
    return sweep_bench.Bench(open_source("tiny-vlm", parts="all"))


def test_a_sweep_asks_each_question_and_runs_the_head_once_for_an_input(bench, monkeypatch):
    monkeypatch.setattr(sweep_bench, "ROUNDS", 1)
    judge, method = Questions(bench, 6, 1), make("adafv")
    question_set, seam = judge.question_set(bench.base, 0), bench.base.seam(method)
    ran = []
    run = question_set._run
    monkeypatch.setattr(question_set, "_run", lambda *arguments: ran.append(run(*arguments)) or ran[-1])
    encoded = question_set.encode(seam, method, 21)
    assert [len(results) for results in ran] == [3, 6] and seam.name == "projector_output"
    assert encoded.of.tolist() == list(range(6)) and len({row.tobytes() for row in encoded.kept_indices}) > 3
    # Each is what its own text gives, alone.
    for number, prompt in [*enumerate(question_set.prompts)][3:5]:
        alone = type(question_set)(bench.source, bench.base.encoder, [question_set.inputs[number // 2]], [0], [])
        alone.prompts = [prompt]
        np.testing.assert_array_equal(alone.encode(seam, method, 21).kept_indices[0], encoded.kept_indices[number])
    row = sweep_rows.Plan(bench, judge)._row(method, "0.85", 21, 21)
    assert 0 <= row.runs[0][0].compute()["accuracy"] <= 1
    assert row.encoder[0].compute()["compressor_ms"] > 0


def test_a_sweep_without_questions_has_no_text(tiny_llava_folder, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    np.save(folder / "0.npy", np.zeros((1, 3, 84, 84), np.float32))
    ask = ("sweep", tiny_llava_folder, "--inputs", folder, "-o", tmp_path / "s")
    result = command(*ask, "--parts", "encoder", "--method", "cdpruner")
    assert result.exit_code == 2 and "cdpruner reads a text, and" in result.output and " no question" in result.output
    assert not (tmp_path / "s").exists()


def test_methods_says_what_cannot_be_cached():
    rows = {row["name"]: row for row in json.loads(command("methods", "--json").output)}
    assert not rows["cdpruner"]["cacheable"] and rows["cdpruner"]["signals"] == ["text"]
    assert rows["adafv"]["signals"] == ["cls_attention", "text"]
    assert rows["scope"]["cacheable"]
    assert "every turn of a dialogue" in " ".join(command("methods").output.split())
